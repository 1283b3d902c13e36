"""Many runs at once: seeds as an axis of one program, and what the command line shows of them."""

import jax
import numpy as np
import pytest

from metajax import ConfigError, Evaluation, MetaAgent, interval, train_seeds
from metajax.cli import console
from metajax.evaluation import Reported
from metajax.running.standing import Scale
from metajax.running.sweep import chunks, evaluate_together, learn_together, make_agents
from metajax.tasks import bandit

SEEN = Reported("episodes seen", {0: 0, 1: 1})
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
        columns = [list(column.cells) for column in console.members_table("rl2 on bandit", evaluations, SEEN).columns]
        return list(zip(*columns, strict=True))

    few, many = rows(3), rows(25)
    assert few[:3] == [(f"seed-{number}", f"{number}.00 ± 0.00", f"{number}.00 ± 0.00") for number in range(3)]
    assert few[3][0] == "mean of all 3 runs"
    assert len(many) == 21
    width = interval(np.arange(25.0))[1]
    assert many[-1] == ("mean of all 25 runs", f"12.00 ± {width:.2f}", f"12.00 ± {width:.2f}")


def test_the_table_of_runs_shows_the_most_probable_actions_and_the_score():
    scale = Scale(random=2.0, reference=6.0, name="Bayes-optimal", exact=True)
    returns = np.full((4, 2, 1), 2.0)  # 4 in a trial of two episodes
    table = console.members_table("rl2 on bandit", {"one": Evaluation(returns, returns + 1)}, SEEN, scale)
    cells = {column.header: list(column.cells) for column in table.columns}
    assert cells["most probable, last"] == ["3.00 ± 0.00"]
    assert cells["score"] == ["0.500 ± 0.000"]


def test_an_option_that_may_be_left_open_can_be_swept():
    agents = make_agents("rl2", "bandit", seed=0, num_seeds=1, sweep=("entropy_coef=0.01,0.05",), **TINY)
    assert [agent.config["options"]["entropy_coef"] for agent in agents] == [0.01, 0.05]


@pytest.mark.slow
def test_several_seeds_of_tasks_of_ones_own_are_each_what_one_alone_would_be():
    tasks = bandit(num_arms=2, horizon=3)
    options = {"width": 4, "num_tasks": 4, "minibatches": 2}
    agents = train_seeds(MetaAgent("rl2", tasks, seed=3, **options), 2, num_iterations=2)
    assert [agent.config["seed"] for agent in agents] == [3, 4]
    alone = MetaAgent("rl2", tasks, seed=4, **options).learn(2)
    for one, other in zip(jax.tree.leaves(agents[1].params), jax.tree.leaves(alone.params), strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)
    with pytest.raises(ConfigError, match="num_seeds=0"):
        train_seeds(MetaAgent("rl2", tasks, **options), 0)
