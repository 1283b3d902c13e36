"""A user's script as mypy sees it, which CI runs over this file.

Every line of `mistakes` has one that mypy must find; it reports a comment that ignores no error.
"""

import jax

import metajax
from metajax import MetaAgent, Network, TaskDistribution


def small(env: metajax.Environment) -> Network:
    return metajax.memory_policy(env, width=4, hidden=())


def main() -> float:
    tasks: TaskDistribution = metajax.tasks.bandit(num_arms=2, horizon=3)
    agent = MetaAgent("rl2", tasks, seed=1, num_tasks=4, network=small).learn(2, log_every=1)
    returns: list[float] = [progress.metrics["return_after"] for progress in agent.history]
    adapted: metajax.AdaptedAgent = agent.adapt(tasks.sample(jax.random.key(0)))
    adapted.act([0.0])
    evaluation: metajax.Evaluation = agent.evaluate(num_tasks=4)
    return float(evaluation.sampled.mean()) + returns[-1]


def mistakes(agent: MetaAgent) -> None:
    agent.learn(2, log_evry=1)  # type: ignore[call-arg]
    agent.learn("2")  # type: ignore[arg-type]
    agent.lern(2)  # type: ignore[attr-defined]
    agent.save(3)  # type: ignore[arg-type]
    metajax.maml(agent.tasks.env)  # type: ignore[call-arg]
    metajax.mlp(agent.tasks.env, hiden=(8,))  # type: ignore[call-arg]
    metajax.ppo(learning_rate="0.1")  # type: ignore[arg-type]
    metajax.MetaAgnt("maml")  # type: ignore[attr-defined]


if __name__ == "__main__":
    print(main())
