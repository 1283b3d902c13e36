"""Matrix products in bfloat16: what stays in float32, how close the results are, and that training still works."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_learning_curves import learned, sure_arms

from metajax.errors import ConfigError
from metajax.networks import MEMORIES, memory_policy, mlp
from metajax.replays import unroll
from metajax.rollouts import first_percept, stage_returns
from metajax.running.recipes import build, options
from metajax.tasks import bandit, point

STEPS = 6


def dtypes(tree):
    return {leaf.dtype.name for leaf in jax.tree.leaves(tree) if jnp.issubdtype(leaf.dtype, jnp.floating)}


def percepts(env):
    """Returns percepts [T] with random rewards."""
    first = first_percept(env, env.default_params, 1)
    row = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (STEPS, *leaf.shape[1:])), first)
    return row._replace(reward=jax.random.normal(jax.random.key(1), (STEPS,)), action=jnp.arange(STEPS) % 3)


@pytest.mark.parametrize(
    "memory",
    [
        pytest.param(name, marks=() if name in ("gru", "rg-lru") else pytest.mark.slow)
        for name in MEMORIES
        if name != "transformer"  # gtrxl has one within
    ],
)
def test_a_memory_in_bfloat16_is_close_to_float32_step_by_step_and_at_once(memory):
    env = bandit(num_arms=3).env
    row, valid = percepts(env), jnp.ones(STEPS, bool)
    params = memory_policy(env, memory=memory, width=8, heads=2).init(jax.random.key(0))

    def results(dtype):
        network = memory_policy(env, memory=memory, width=8, heads=2, context=STEPS, compute_dtype=dtype)
        assert jax.eval_shape(network.init, jax.random.key(0)) == jax.eval_shape(lambda: params)

        def run(params):
            at_once = network.unroll(params, None, row, valid)[1].distribution.logits
            return jnp.sum(jnp.sin(at_once)), at_once

        policy = partial(network.apply, params)
        stepped = unroll(policy, network.memory(), row, valid)[1].distribution.logits
        gradient, at_once = jax.grad(run, has_aux=True)(params)
        return gradient, at_once, stepped

    (exact, right, _), (close, at_once, stepped) = jax.jit(lambda: (results("float32"), results("bfloat16")))()
    assert dtypes((close, at_once, stepped)) == {"float32"}
    assert 0 < np.abs(right - at_once).max() < 0.03 * np.abs(right).max()
    np.testing.assert_allclose(stepped, right, atol=0.03 * np.abs(right).max())
    size = max(np.abs(leaf).max() for leaf in jax.tree.leaves(exact))
    for one, other in zip(jax.tree.leaves(exact), jax.tree.leaves(close), strict=True):
        np.testing.assert_allclose(one, other, atol=0.06 * size)


def test_a_meta_iteration_in_bfloat16_keeps_all_it_carries_in_float32():
    """Both start from the same parameters and use the same random numbers."""
    small = {"num_rollouts": 4, "horizon": 5, "hidden": (16,), "outer": "gradient"}
    runs = {}
    for dtype in ("float32", "bfloat16"):
        tasks, _, algorithm, *_ = build("maml", "point", small | {"compute_dtype": dtype})

        @jax.jit
        def run(tasks=tasks, algorithm=algorithm):
            state, batch = algorithm.init(jax.random.key(0)), tasks.batch(jax.random.key(1), 2)
            experience = algorithm.collect(jax.random.key(2), state, batch)
            return experience, *algorithm.update(jax.random.key(3), state, experience)

        *carried, runs[dtype] = run()
        assert dtypes((carried, runs[dtype])) == {"float32"}
        runs[dtype] |= stage_returns(carried[0])
    for name, tolerance in (("return_before", 0.02), ("gradient_norm", 0.2)):
        np.testing.assert_allclose(*(found[name] for found in runs.values()), rtol=tolerance)
    assert runs["float32"]["gradient_norm"] != runs["bfloat16"]["gradient_norm"]


@pytest.mark.slow
def test_rl2_learns_in_bfloat16_what_it_learns_in_float32():
    returns = learned(sure_arms(5), 1, 60, compute_dtype="bfloat16")[:, 0]
    assert returns.mean() > 4.3
    assert returns.mean() < 4.5 + 4 * returns.std() / 20


def test_it_is_an_option_of_every_recipe_and_a_wrong_one_is_refused():
    assert all("compute_dtype" in options(algorithm, "point") for algorithm in ("maml", "promp", "rl2", "cavia"))
    for make, env in ((mlp, point().env), (memory_policy, bandit().env)):
        with pytest.raises(ConfigError, match="unknown compute_dtype 'bfloat'; did you mean bfloat16"):
            make(env, compute_dtype="bfloat")
