"""Tasks shared over (simulated) devices: any number of devices learns the same."""

import importlib.util
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from conformance import BANDIT
from host_simulators import Corridor, set_length

from metajax import HostEnvironment, MetaAgent, TaskDistribution, compile_program, new_learner
from metajax.algorithms import e_maml, es_maml, maml, pearl, reptile, rl2, varibad
from metajax.base import Network
from metajax.cli.commands import main
from metajax.cli.launch import assign_devices
from metajax.devices import collectives, hardware, meshes
from metajax.errors import ConfigError
from metajax.learning.outer import assign_minibatches, policy_gradient, ppo, trust_region
from metajax.networks import belief_policy, memory_policy, mlp, posterior_policy
from metajax.running import report
from metajax.running.sweep import chunks, evaluate_together, learn_together, make_agents
from metajax.running.training import meta_iteration
from metajax.tasks import point

NUM_TASKS, COUNT = 8, "JAX_NUM_CPU_DEVICES"
POINT = point(horizon=5)
SIZES = {"num_steps": 5, "num_rollouts": 3}
GRADIENT = policy_gradient(optimizer=optax.sgd, learning_rate=1.0)  # so that the parameters change by the gradient


def network():
    """A network in JAX's default floating-point type; Flax's own default is always float32."""
    plain = mlp(POINT.env, hidden=(4,))
    return Network(
        lambda key: jax.tree.map(lambda leaf: leaf.astype(float), plain.init(key)), plain.memory, plain.apply
    )


def in_context(**options):
    return rl2(BANDIT.env, memory_policy(BANDIT.env, width=4), num_steps=6, **options), BANDIT


def by_gradients(factory, **options):
    return factory(POINT.env, network(), **SIZES, **options), POINT


MAKERS = {
    "maml": partial(by_gradients, maml, outer=GRADIENT),
    "e_maml": partial(by_gradients, e_maml, outer=GRADIENT, cvar_level=0.4),
    "reptile": partial(by_gradients, reptile),
    "es_maml": partial(by_gradients, es_maml, optimizer=optax.sgd),
    "rl2": partial(in_context, outer=ppo(epochs=2, minibatches=2, optimizer=optax.sgd, learning_rate=1.0)),
    "rl2-linear": partial(in_context, baseline="linear", outer=GRADIENT),
    "rl2-episode": partial(in_context, baseline="linear", credit="episode", outer=GRADIENT),
}


def moved(before, after):
    return np.concatenate(
        [np.ravel(new - old) for new, old in zip(*map(jax.tree.leaves, (after, before)), strict=True)]
    )


def after_learning(make, num_devices):
    """The change of the meta-parameters by one meta-iteration on `num_devices` devices, as one vector."""
    algorithm, tasks = make()
    learner, over = new_learner(algorithm, jax.random.key(0), tasks), meshes.mesh(num_devices)
    iterate = meshes.on_each(meta_iteration(algorithm, tasks, NUM_TASKS // num_devices), over)
    learnt, metrics = jax.jit(iterate)(meshes.to_each(learner, over))
    assert not metrics["skipped"]
    return moved(algorithm.params(learner.state), algorithm.params(meshes.to_first(learnt).state))


@pytest.mark.slow
def test_beliefs_are_fitted_to_the_same_stored_trials_on_any_number_of_devices():
    def make():
        policy = belief_policy(BANDIT.env, width=4, latent=2, hidden=(4,), decoder_hidden=(4,))
        outer = ppo(epochs=2, minibatches=2, optimizer=optax.sgd, learning_rate=1.0)
        options = {"num_steps": 6, "elbo_trials": 8, "elbo_updates": 2, "capacity": 16}
        return varibad(BANDIT.env, policy, outer=outer, **options), BANDIT

    alone, shared = after_learning(make, 1), after_learning(make, 4)
    assert np.abs(alone).max() > 1e-3
    np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-5)


@pytest.mark.slow
def test_devices_share_stored_trials():
    def make():
        policy = posterior_policy(POINT.env, latent=2, hidden=(4,), encoder_hidden=(4,))
        options = {"num_steps": 5, "batch_trials": 8, "batch_steps": 4, "gradient_steps": 2, "capacity": 16}
        return pearl(POINT.env, policy, **options), POINT

    alone, shared = after_learning(make, 1), after_learning(make, 4)
    np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", MAKERS)
def test_from_the_same_experience_devices_learn_the_same(name):
    algorithm, tasks = MAKERS[name]()
    state = algorithm.init(jax.random.key(0))
    batch = tasks.batch(jax.random.key(1), NUM_TASKS)
    experience = jax.jit(algorithm.collect)(jax.random.key(2), state, batch)
    before = algorithm.params(state)
    changes = {}
    for count in (1, 2, 4, 8) if name == "maml" else (1, 4):
        over = meshes.mesh(count)

        def update(key, state, experience):
            state, metrics = algorithm.update(key, state, collectives.share(experience))
            return algorithm.params(state), collectives.mean(metrics)

        given = meshes.to_each((jax.random.key(3), state, experience), over)
        params, metrics = jax.device_get(jax.jit(meshes.on_each(update, over))(*given))
        changes[count] = moved(before, params), metrics
    alone, told = changes.pop(1)
    assert np.abs(alone).max() > 1e-4
    for shared, told_too in changes.values():
        np.testing.assert_allclose(shared, alone, rtol=0, atol=1e-5)
        for metric, value in told.items():
            np.testing.assert_allclose(told_too[metric], value, rtol=1e-4, atol=1e-5, err_msg=metric)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("outer", "counts"),
    [
        (GRADIENT, (1, 2, 4, 8)),
        # One of every two tasks is in the Fisher matrix, so both must be on one device.
        (trust_region(fisher_fraction=0.5, damping=0.1), (1, 2)),
    ],
    ids=["gradient", "trpo"],
)
def test_in_float64_a_meta_iteration_is_the_same_to_the_twelfth_decimal(outer, counts):
    with jax.enable_x64(True):
        make = partial(by_gradients, maml, outer=outer)
        alone, *shared = (after_learning(make, count) for count in counts)
    for changed in shared:
        np.testing.assert_allclose(changed, alone, rtol=0, atol=1e-12)


@pytest.mark.slow
def test_arrays_are_reduced_once_an_update_and_once_a_fisher_product():
    """Checks the compiled program; its other reductions are of scalars, such as metrics and line-search values."""
    jax.config.update("jax_disable_most_optimizations", False)  # without optimisations, reductions are not combined
    try:
        reductions = {name: _reductions(outer) for name, outer in (("gradient", GRADIENT), ("trpo", trust_region()))}
    finally:
        jax.config.update("jax_disable_most_optimizations", True)
    carries_array = {name: [bool(re.search(r"\[\d", line)) for line in lines] for name, lines in reductions.items()}
    assert sum(carries_array["gradient"]) == 1
    assert sum(carries_array["trpo"]) == 2
    assert all(len(lines) <= 5 for lines in reductions.values())


def _reductions(outer):
    """The result types of all all-reduce operations of a compiled meta-iteration."""
    algorithm, tasks = by_gradients(maml, outer=outer)
    iterate = meshes.on_each(meta_iteration(algorithm, tasks, 2), meshes.mesh(4))
    learner = jax.eval_shape(lambda: new_learner(algorithm, jax.random.key(0)))
    text = jax.jit(iterate).lower(learner).compile().as_text()
    return re.findall(r"= (.*) all-reduce(?:-start)?\(", text)


def test_every_hand_has_one_of_every_few_neighbours():
    hands = np.asarray(assign_minibatches(jax.random.key(0), 12, 3))
    assert hands.shape == (3, 4)
    assert sorted(hands.ravel()) == list(range(12))
    assert (hands // 3 == np.arange(4)).all()
    assert len({tuple(group) for group in (hands % 3).T}) > 1  # each group is dealt by a key of its own
    assert (hands != np.asarray(assign_minibatches(jax.random.key(1), 12, 3))).any()


@pytest.mark.slow
def test_a_run_and_its_evaluation_are_the_same_on_four_devices():
    small = {"num_tasks": 8, "num_rollouts": 3, "horizon": 5, "hidden": (4,), "outer": "gradient"}
    alone, shared = (MetaAgent("maml", "point", num_devices=count, **small).learn(2) for count in (None, 4))
    for one, other in zip(jax.tree.leaves(alone.params), jax.tree.leaves(shared.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)
    played, played_too = (agent.evaluate(10) for agent in (alone, shared))  # 10 tasks do not split evenly
    assert played_too.sampled.shape == (10, 6, 3)
    np.testing.assert_allclose(played.sampled, played_too.sampled, atol=1e-4)
    np.testing.assert_allclose(played.greedy, played_too.greedy, atol=1e-4)


@pytest.mark.slow
def test_devices_share_runs_that_train_together():
    small = {"num_tasks": 2, "num_rollouts": 3, "horizon": 5, "hidden": (4,), "outer": "gradient"}
    states = []
    for num_devices in (1, 2, 3):  # three devices have two runs each; the last has one run twice
        agents = make_agents("maml", "point", seed=0, num_seeds=2, sweep=["inner_lr=0.1,0.2"], **small)
        (together,) = chunks(agents, ["inner_lr"], num_devices)
        list(learn_together(together, num_iterations=2, log_every=1))
        states.append([jax.tree.leaves(agent.params) for agent in agents])
    for alone, *shared in zip(*states, strict=True):
        for leaf, *leaves in zip(alone, *shared, strict=True):
            for leaf_too in leaves:
                np.testing.assert_allclose(leaf, leaf_too, atol=1e-6)
    evaluations = [evaluate_together(agents, ["inner_lr"], agents[0].protocol(4), count) for count in (1, 3)]
    for one, other in zip(*evaluations, strict=True):
        np.testing.assert_allclose(one.sampled, other.sampled, atol=1e-5)


def test_by_default_as_many_cores_share_as_can(monkeypatch):
    def places(algorithm, tasks="point", **options):
        return assign_devices([MetaAgent(algorithm, tasks, **options)], None)

    monkeypatch.setattr(hardware, "cores", lambda: 4)
    agents = make_agents("maml", "point", seed=0, num_seeds=6, sweep=(), num_tasks=20)
    assert [assign_devices(agents[:count], None) for count in (6, 3, 1)] == [4, 3, 4]
    monkeypatch.setattr(hardware, "cores", lambda: 16)
    assert places("maml", num_tasks=20) == 4  # one of every five tasks is in the Fisher matrix
    assert places("maml", num_tasks=20, outer="gradient") == 5
    assert places("maml", num_tasks=7) == 1
    assert places("reptile", num_tasks=16) == places("es_maml", num_tasks=16) == 8
    # Each minibatch has one of every four neighbouring tasks, so all four must be on one device.
    assert places("rl2", "bandit", num_tasks=12, minibatches=4) == 3
    assert places("rl2", "bandit", num_tasks=4, minibatches=4) == 1
    simulated = HostEnvironment(Corridor, set_length, task=jnp.zeros((), int), num_workers=1)
    on_host = TaskDistribution(simulated, lambda key: jnp.array(3), horizon=3)
    assert places("rl2", on_host, num_tasks=8) == 1


MADE = """
import os, sys
os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1])
from metajax.running import processes
import jax
if sys.argv[1] == "late":
    jax.devices()
try:
    processes.begin(sys.argv[1:])
    print(len(jax.devices()), jax.config.jax_platforms)
except ValueError as error:
    print(error)
"""
NO_GPU = "--device gpu: JAX finds no gpu here; install metajax[cuda12] or metajax[cuda13]"
without_gpus = pytest.mark.skipif(
    any(importlib.util.find_spec(f"jax_cuda{number}_plugin") for number in (12, 13)), reason="there may be a GPU"
)
TOO_LATE = (
    "CPU cores can be made JAX devices only before JAX is used; "
    "call make_of_cores() first, or set JAX_NUM_CPU_DEVICES before the program starts"
)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="a process chooses its cores on Linux alone")
@pytest.mark.parametrize(
    ("told", "variable", "said"),
    [
        pytest.param(["train", "--device", "cpu"], None, "1 cpu", marks=pytest.mark.slow),
        (["train", "--device", "cpu", "--devices", "3"], None, "3 cpu"),
        pytest.param(["train", "--device", "cpu"], "2", "2 cpu", marks=pytest.mark.slow),
        pytest.param(["train", "--device", "gpu"], None, NO_GPU, marks=without_gpus),
        pytest.param(["late"], None, TOO_LATE, marks=pytest.mark.slow),
    ],
)
def test_commands_make_devices_of_cores(told, variable, said):
    own = ("XLA_FLAGS", "JAX_PLATFORMS", COUNT)
    environment = {name: value for name, value in os.environ.items() if name not in own}
    environment |= {} if variable is None else {COUNT: variable}
    done = subprocess.run([sys.executable, "-c", MADE, *told], capture_output=True, text=True, env=environment)
    assert done.stdout.strip() == said, done.stderr


def test_a_platform_is_chosen_before_another_is_used(monkeypatch):
    before = jax.config.jax_platforms
    hardware.select_platform("cpu")  # JAX uses it already
    assert jax.config.jax_platforms == "cpu"
    jax.config.update("jax_platforms", before)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    with pytest.raises(ConfigError, match="--device cpu: JAX already runs on gpu; set JAX_PLATFORMS=cpu"):
        hardware.select_platform("cpu")
    assert jax.config.jax_platforms == before


def test_devices_collect_in_the_tasks_that_one_device_would():
    def goals(num_devices):
        algorithm = by_gradients(maml)[0]._replace(
            update=lambda key, state, experience: (state, {"goal": collectives.mean(experience.task.goal.sum())})
        )
        over = meshes.mesh(num_devices)
        learner = meshes.to_each(new_learner(algorithm, jax.random.key(0)), over)
        return jax.jit(meshes.on_each(meta_iteration(algorithm, POINT, 4 // num_devices), over))(learner)[1]["goal"]

    np.testing.assert_allclose(2 * goals(2), goals(1), rtol=1e-5)


def test_a_reward_that_is_not_finite_is_found_on_any_device():
    algorithm, tasks = by_gradients(maml, outer=GRADIENT)

    def collect(key, state, tasks):
        experience = algorithm.collect(key, state, tasks)
        reward = experience.steps.reward
        numbers = collectives.first_task(len(reward)) + jnp.arange(len(reward))
        reward = jnp.where(numbers == 5, jnp.nan, reward.T).T
        return experience._replace(steps=experience.steps._replace(reward=reward))

    program = compile_program(algorithm._replace(collect=collect), tasks, num_tasks=8, over=meshes.mesh(4))
    learner, _ = program.advance(new_learner(algorithm, jax.random.key(0)), jnp.asarray(3))
    assert (int(learner.iteration), int(learner.bad_task)) == (1, 5)


def test_what_cannot_be_shared_is_refused():
    algorithm, tasks = by_gradients(maml, outer=GRADIENT)
    with pytest.raises(ConfigError, match="num_tasks=6 must be a multiple of 4 devices; use 4 or 8"):
        compile_program(algorithm, tasks, num_tasks=6, over=meshes.mesh(4))
    with pytest.raises(ConfigError, match="does not sum over devices"):
        compile_program(algorithm._replace(task_group=0), tasks, num_tasks=8, over=meshes.mesh(4))
    with pytest.raises(ConfigError, match=r"devices=9, but JAX finds only 8 devices .*; call make_of_cores\(9\) bef"):
        MetaAgent("maml", "point", num_devices=9)
    with pytest.raises(ConfigError, match="num_tasks=3 must be a multiple of 2 devices"):
        MetaAgent("maml", "point", num_tasks=3, num_devices=2).learn(1)
    simulated = HostEnvironment(Corridor, set_length, task=jnp.zeros((), int), num_workers=1)
    with pytest.raises(ConfigError, match="simulated on the host"):
        compile_program(algorithm, tasks._replace(env=simulated), num_tasks=8, over=meshes.mesh(4))
    with pytest.raises(ConfigError, match="simulated on the host"):
        MetaAgent("rl2", TaskDistribution(simulated, lambda key: jnp.array(3), horizon=3), num_devices=2)


@pytest.mark.parametrize(("limit", "most"), [("150000 100000", 1), ("9900000 100000", 4), ("max 100000", 4)])
def test_a_container_limits_the_cores(limit, most, tmp_path, monkeypatch):
    (tmp_path / "cpu.max").write_text(limit)
    monkeypatch.setattr(hardware, "_CONTAINER", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0, 1, 2, 3}, raising=False)
    assert hardware.cores() == most


@pytest.mark.skipif(not Path("/proc/meminfo").exists(), reason="the system does not tell how much memory is free")
def test_a_container_limits_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(hardware, "_CONTAINER", tmp_path)
    everything = hardware.free_memory()
    (tmp_path / "memory.max").write_text("max\n")
    assert hardware.free_memory() > everything / 2  # other processes use some meanwhile
    (tmp_path / "memory.max").write_text("5000000\n")
    (tmp_path / "memory.current").write_text("3000000\n")
    (tmp_path / "memory.stat").write_text("active_file 700\ninactive_file 1000000\n")
    assert hardware.free_memory() == 3000700
    (tmp_path / "memory.current").write_text("9000000\n")
    assert hardware.free_memory() == 0


@pytest.mark.slow
def test_the_command_line_says_how_many_tasks_all_cores_could_share(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(hardware, "cores", lambda: 2)
    monkeypatch.setattr(hardware, "free_memory", lambda: 50_000)  # it ends before it trains
    small = ("--num-rollouts", "3", "--horizon", "5", "--hidden", "4", "--eval-tasks", "4")

    def said(*options):
        assert main(["train", "maml", "point", *small, *options, "--folder", str(tmp_path / "run")]) == 2
        printed = capsys.readouterr()
        assert re.search(r"needs \d+ MiB of memory, but only 0 MiB are free; reduce --num-tasks", printed.err)
        return printed.out

    assert "1 of 2 cores share the tasks; --num-tasks 20 would use all of them" in said("--num-tasks", "16")
    assert "cores share" not in said("--num-tasks", "20")
    assert "cores share" not in said("--num-tasks", "16", "--devices", "1")


@pytest.mark.slow
def test_the_command_line_shares_tasks_and_runs(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(report, "draw_pictures", lambda agent, evaluation, folder: None)
    small = ("--num-tasks", "6", "--num-rollouts", "3", "--horizon", "5", "--hidden", "4", "--outer", "gradient")
    few = (*small, "--num-iterations", "2", "--eval-tasks", "4")
    told = {
        "shared": ["--devices", "2"],
        "uneven": ["--devices", "4"],
        "one": ["--sweep", "inner_lr=0.1", "--devices", "4"],
        "none": ["--seeds", "2", "--devices", "0"],
        "debug": ["--debug", "--devices", "2"],
        "alone": ["--heartbeat", "5"],
    }
    codes, said = {}, {}
    for name, options in told.items():
        codes[name] = main(["train", "maml", "point", *few, *options, "--folder", str(tmp_path / name)])
        printed = capsys.readouterr()
        said[name] = printed.err + printed.out
    assert codes == dict.fromkeys(told, 2) | {"shared": 0}
    assert "2 of 8" in said["shared"]
    assert "num_tasks=6 must be a multiple of 4 devices; use 4 or 8" in said["uneven"]
    assert "num_tasks=6 must be a multiple of 4 devices" in said["one"]
    assert "devices=0 must be a whole number" in said["none"]
    assert "leave out --devices" in said["debug"]
    assert "give --coordinator" in said["alone"]
    assert {path.name for path in tmp_path.iterdir()} == {"shared"}
    evaluate = ["evaluate", str(tmp_path / "shared"), "--eval-tasks", "5"]
    assert [main([*evaluate, *how]) for how in (["--devices", "8"], ["--devices", "0"])] == [0, 2]
