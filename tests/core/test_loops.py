import jax
import jax.numpy as jnp
import numpy as np
import pytest

from metajax.loops import loop_over_time


def step(carry, time, noise):
    carry = carry + noise
    return carry, {"sum": carry, "late": time > 2, "large": jnp.outer(carry, carry), "even": carry > 1.0, "odd": ()}


def run(start):
    return loop_over_time(step, start, lambda time: jax.random.normal(jax.random.fold_in(jax.random.key(0), time)), 5)


def test_an_accelerator_has_the_results_of_a_plain_loop(monkeypatch):
    starts = jnp.arange(6.0).reshape(3, 2)
    expected = jax.vmap(lambda start: run(start))(starts)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    found = jax.vmap(lambda start: run(start))(starts)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_allclose(one, other, rtol=1e-5)


@pytest.mark.parametrize(("backend", "stored", "draws"), [("cpu", 4, 1), ("gpu", 2, 0)])
def test_an_accelerator_stores_one_array_of_each_dtype_and_draws_before_the_loop(backend, stored, draws, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    (scan,) = (
        one for one in jax.make_jaxpr(lambda start: run(start))(jnp.zeros(2)).eqns if one.primitive.name == "scan"
    )
    assert sum(one.aval.shape[:1] == (5,) for one in scan.outvars) == stored  # the carry has no axis of five steps
    assert str(scan.params["jaxpr"]).count("random_fold_in") == draws
