"""Many runs at once: seeds as an axis of one program, and what the command line shows of them."""

import jax
import numpy as np
import pytest

from metajax import Evaluation, MetaAgent, interval
from metajax.cli import console
from metajax.running.sweep import chunks, evaluate_together, learn_together, make_agents

TINY = {"num_tasks": 2, "num_arms": 2, "horizon": 3, "width": 2, "epochs": 1, "minibatches": 1}


@pytest.mark.slow
def test_a_thousand_seeds_of_a_bandit_are_one_program():
    agents = make_agents("rl2", "bandit", seed=0, num_seeds=1000, sweep=(), **TINY)
    (together,) = chunks(agents, [])
    assert list(together.agents) == agents
    list(learn_together(together, num_iterations=1, log_every=1))
    alone = MetaAgent("rl2", "bandit", seed=999, **TINY).learn(1)
    assert agents[999].config == alone.config
    for one, other in zip(jax.tree.leaves(agents[999].params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    evaluations = evaluate_together(agents, [], alone.protocol(4))
    assert len(evaluations) == 1000
    np.testing.assert_array_equal(evaluations[999].sampled, alone.evaluate(4).sampled)


def test_of_many_runs_the_first_have_a_row_each_and_all_have_one():
    def rows(count):
        evaluations = {f"seed-{number}": Evaluation(np.full((4, 2, 1), float(number))) for number in range(count)}
        columns = [list(column.cells) for column in console.members_table("rl2 on bandit", evaluations).columns]
        return list(zip(*columns, strict=True))

    few, many = rows(3), rows(25)
    assert few == [(f"seed-{number}", f"{number}.00 ± 0.00", f"{number}.00 ± 0.00") for number in range(3)]
    assert len(many) == 21
    width = interval(np.arange(25.0))[1]
    assert many[-1] == ("mean of all 25 runs", f"12.00 ± {width:.2f}", f"12.00 ± {width:.2f}")
