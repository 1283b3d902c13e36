"""Hand-written agents of a task distribution, by name."""

from metajax.agents.bounds import uniform
from metajax.agents.tabular import q_learning
from metajax.base import Agent, TaskDistribution
from metajax.errors import check_choice

Q_LEARNING = "q-learning"


def named_agent(tasks: TaskDistribution, name: str | None, num_episodes: int) -> Agent:
    """One of the agents of `tasks`, q-learning or uniform, for trials of `num_episodes` episodes.

    None: the last of the agents of `tasks` or, if there are none, q-learning. Raises ConfigError for an unknown name.
    """
    of_tasks = tasks.agents(num_episodes) if tasks.agents is not None else {}
    agents = {name.lower().replace(" ", "-"): agent for name, agent in of_tasks.items()}
    name = [Q_LEARNING, *agents][-1] if name is None else name
    check_choice("source", name, [*agents, Q_LEARNING, "uniform"])
    return q_learning(tasks.env) if name == Q_LEARNING else agents.get(name, uniform(tasks.env))
