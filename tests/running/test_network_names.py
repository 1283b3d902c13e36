"""Names of own networks: equal for equal networks, and different rows of tables for others."""

import subprocess
import sys
from functools import partial

import jax
import numpy as np
import pytest

from metajax import MetaAgent
from metajax.evaluation import Evaluation
from metajax.networks import memory_policy, mlp
from metajax.running import run_folder
from metajax.running.network_names import network_name
from metajax.running.table import method_of, read_evaluation, table
from metajax.tasks import point

TASKS = point(horizon=4)
ENV = TASKS.env
PRINT = (
    "from metajax.networks import mlp; from metajax.tasks import point; "
    "from metajax.running.network_names import network_name; env = point(horizon=4).env; "
    "print(network_name(mlp, mlp(env, activation='relu'), env))"
)


def test_a_name_tells_sizes_activations_and_memories_apart_and_nothing_else():
    networks = [
        mlp(ENV),
        mlp(ENV, hidden=(8,)),
        mlp(ENV, activation="relu"),
        memory_policy(ENV),
        memory_policy(ENV, width=8),
    ]
    names = [network_name(mlp, network, ENV) for network in networks]
    assert len(set(names)) == len(names)
    assert network_name(mlp, mlp(ENV), ENV) == names[0]
    assert network_name(partial(mlp, hidden=(8,)), networks[1], ENV) == names[1]
    assert network_name(networks[3], networks[3], ENV).startswith("memory_policy-")


@pytest.mark.slow
def test_a_name_is_the_same_in_another_process():
    said = subprocess.run([sys.executable, "-c", PRINT], capture_output=True, text=True, check=True).stdout.strip()
    assert said == network_name(mlp, mlp(ENV, activation="relu"), ENV)


def test_runs_of_different_networks_are_different_rows(tmp_path):
    folders = []
    for number, hidden in enumerate([(4,), (4,), (8,)]):
        agent = MetaAgent("maml", TASKS, network=partial(mlp, hidden=hidden), seed=number, num_tasks=2)
        folders.append(tmp_path / f"run-{number}")
        folders[-1].mkdir()
        agent.config["tasks"] = "point"  # a table needs a name
        agent.config["run"] = {"command": ["python"]}
        returns = np.asarray(jax.random.normal(jax.random.key(number), (3, 6, 20)))
        run_folder.write_evaluation(agent, Evaluation(returns), agent.protocol(3), folders[-1])
    methods = [method_of(read_evaluation(folder).about) for folder in folders]
    assert methods[0] == methods[1] != methods[2]
    assert all("network=mlp-" in method for method in methods)
    rows = [line for line in table(folders).splitlines() if line.startswith("| point")]
    assert [row.split(" | ")[2] for row in rows] == ["2", "1"]
