"""Supervised in-context reinforcement learning: a sequence model imitates agents over whole trials.

The network learns to predict the next action from everything that was seen in a task, at every step of a trial:

    minimise  - mean over valid steps t of  log pi(target_t | percepts up to t)

In algorithm distillation (AD; Laskin et al. 2022, arXiv:2210.14215) the target is the action of a source that learns
within the trial, so that the network learns to learn. In decision-pretrained transformers (DPT; Lee et al. 2023,
arXiv:2306.14892) the target is the optimal action of the task, whatever was played; its best prediction is posterior
sampling. The actions must be sampled: the most probable ones follow another algorithm than the source's.
"""

import os
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp

from metajax.agents import random_arms, uniform
from metajax.agents.named import named_agent
from metajax.base import (
    Agent,
    Algorithm,
    Array,
    Environment,
    Experience,
    Network,
    PyTree,
    Sizes,
    TaskDistribution,
    Transition,
)
from metajax.chunking import leading_axis
from metajax.devices import collectives
from metajax.errors import ConfigError, check_choice, check_count, check_flag
from metajax.learning.histories import Histories, linked, read_histories, windows
from metajax.learning.outer import Batch, Outer, annealed, imitation
from metajax.networks import check_fits
from metajax.networks.acting import check_trial_length, network_agent
from metajax.replays import replay
from metajax.rollouts import collect_trials, is_continuous, stage_returns, task_keys

_PLAYED = 8  # the network plays one of so many tasks of a meta-iteration, for the metrics of its returns


class DistilState(NamedTuple):
    params: PyTree
    outer: PyTree


def distil(
    env: Environment,
    network: Network,
    source: Agent | None,
    *,
    num_steps: int = 100,
    num_episodes: int = 2,
    num_copies: int = 1,
    episode_stride: int = 1,
    label: Callable[[PyTree, Transition], Array] | None = None,
    permute_actions: bool = False,
    data: Histories | None = None,
    outer: Outer | None = None,
) -> Algorithm:
    """A network that imitates `source`, or the targets of `label`, over whole trials.

    The metrics `return_before` and `return_after` are the network's own returns, in an eighth of the tasks;
    `source_return_before` and `source_return_after` are those of the source. Environment steps are reported as the
    network sees them, without the episodes that `episode_stride` leaves out and without the trials of the metrics.

    Args:
        env: the environment; its parameters are the task.
        network: the policy that learns, whose parameters are the meta-parameters.
        source: the agent that plays, without parameters, such as a hand-written one; None: the network itself plays.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial of the network.
        num_copies: parallel trials per task.
        episode_stride: the source plays `num_episodes` times as many episodes and the network sees one of as many, so
            that it learns to improve in fewer episodes than its source.
        label: `label(task, steps)` returns the target actions [K, B, T] of a trial in one task; None: the actions that
            were played.
        permute_actions: whether discrete actions are renamed at random in every trial, so that the network learns what
            they do from the trial alone.
        data: recorded trials, from which the network learns instead of trials of a source; None: the source plays.
        outer: the outer loop; None: `imitation`.

    >>> from metajax.agents import thompson
    >>> from metajax.networks import memory_policy
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=3).env
    >>> algorithm = distil(env, memory_policy(env, width=8), thompson(env), num_steps=10, num_episodes=1)
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes)
    check_count("num_copies", num_copies)
    check_count("episode_stride", episode_stride)
    check_flag("permute_actions", permute_actions)
    if not hasattr(env, "step_env"):
        raise ConfigError(f"{env.name} is a simulator on the host, where a source cannot play; use a JAX environment")
    check_fits(env, network)
    check_trial_length(network.context, num_episodes * num_steps)
    space = env.action_space(env.default_params)
    if permute_actions and is_continuous(space):
        raise ConfigError(f"permute_actions=True needs discrete actions, and those of {env.name} are continuous")
    if permute_actions and getattr(env, "action_mask", None) is not None:
        raise ConfigError(
            f"permute_actions=True renames actions, but {env.name} has an action_mask in their own names; leave it out"
        )
    if data is not None and (source is not None or label is not None):
        raise ConfigError("recorded trials have their own source and actions; leave out source and label")
    if data is not None and data.num_steps != num_steps:
        raise ConfigError(f"the recorded episodes have {data.num_steps} steps; give num_steps={data.num_steps}")
    if data is None and source is None and label is None:
        raise ConfigError("without a source the network plays, and needs a label(task, steps) to learn from")
    outer = outer or imitation()
    agent = network_agent(network)
    sizes = Sizes(num_episodes, num_copies, num_steps)
    played_sizes = sizes._replace(num_stages=num_episodes * episode_stride)
    draw = None
    if data is not None:
        draw = windows(data, env, num_episodes=num_episodes, stride=episode_stride, num_copies=num_copies)

    def init(key: Array) -> DistilState:
        params = network.init(key)
        return DistilState(params, outer.init(params))

    def collect(key: Array, state: DistilState, tasks: PyTree) -> Experience:
        key_play, key_names = jax.random.split(key)
        if draw is not None:
            experience = draw(task_keys(key_play, leading_axis(tasks)), tasks)
        else:
            player, params = (agent, state.params) if source is None else (source, ())
            experience = every_nth(collect_trials(key_play, player, params, env, tasks, played_sizes), episode_stride)
        target = experience.steps.action if label is None else jax.vmap(label)(tasks, experience.steps)
        experience = experience._replace(steps=experience.steps._replace(info={"target": target}))
        return renamed(key_names, experience, space.n) if permute_actions else experience

    def update(key: Array, state: DistilState, experience: Experience) -> tuple[DistilState, dict[str, Array]]:
        key_outer, key_play = jax.random.split(key)
        steps = experience.steps._replace(action=experience.steps.info["target"])
        weight = steps.valid / collectives.total(steps.valid.sum())
        batch = Batch(experience._replace(steps=steps), weight, None, weight, jnp.zeros_like(weight))
        params, outer_state, metrics = outer.step(key_outer, state.params, state.outer, partial(replay, agent), batch)
        state_after = DistilState(params, outer_state)
        if source is None and data is None:
            return state_after, metrics
        some = jax.tree.map(lambda leaf: leaf[: max(1, leading_axis(experience.task) // _PLAYED)], experience.task)
        own = stage_returns(collect_trials(key_play, agent, state.params, env, some, sizes))
        of_source = {f"source_{name}": value for name, value in stage_returns(experience).items()}
        return state_after, own | of_source | metrics

    return Algorithm(
        init,
        collect,
        update,
        params=lambda state: state.params,
        agent=agent,
        task_group=outer.task_group,
        anneal=annealed(outer),
    )


def every_nth(experience: Experience, number: int) -> Experience:
    """Every `number`-th stage of trials, from the first on, as if the stages between had not been played.

    The first percept of an episode shows the last action and reward of the episode that is kept before it.
    """
    if number == 1:
        return experience
    steps, last = jax.tree.map(lambda leaf: leaf[:, ::number], (experience.steps, experience.last))
    percept = linked(steps.percept, last)
    return experience._replace(steps=steps._replace(percept=percept), last=last)


def renamed(key: Array, experience: Experience, num_actions: int) -> Experience:
    """Trials with discrete actions, seen and to predict, that are permuted at random in every trial."""
    num_tasks = leading_axis(experience.task)
    keys = jax.vmap(partial(jax.random.fold_in, key))(collectives.first_task(num_tasks) + jnp.arange(num_tasks))
    num_copies = experience.steps.reward.shape[2]

    def drawn(key: Array) -> Array:
        return jax.vmap(lambda key: jax.random.permutation(key, num_actions))(jax.random.split(key, num_copies))

    names = jax.vmap(drawn)(keys)

    def rename(action: Array) -> Array:
        new = jax.vmap(jax.vmap(lambda names, action: names[action], (0, 1), 1))(names, action)
        return jnp.where(action < 0, action, new)  # -1: there was no action yet

    steps, last = experience.steps, experience.last
    steps = steps._replace(
        percept=steps.percept._replace(action=rename(steps.percept.action)),
        action=rename(steps.action),
        info={"target": rename(steps.info["target"])},
    )
    return experience._replace(steps=steps, last=last._replace(action=rename(last.action)))


def ad(
    env: Environment,
    network: Network,
    *,
    tasks: TaskDistribution,
    source: str | None = None,
    num_steps: int = 100,
    num_episodes: int = 2,
    num_copies: int = 1,
    episode_stride: int = 1,
    permute_actions: bool = False,
    data: str | None = None,
    outer: Outer | None = None,
) -> Algorithm:
    """Algorithm distillation (Laskin et al. 2022, arXiv:2210.14215): `distil` of a named source.

    Args:
        env: the environment; its parameters are the task.
        network: the policy that learns, a memory over whole trials.
        tasks: the task distribution of `env`, whose hand-written agents can be sources.
        source: the agent to imitate: a hand-written agent of the tasks, such as thompson-sampling (`metajax tasks NAME`
            lists them), q-learning or uniform; None: the last of the tasks' agents or, if there are none, q-learning.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial of the network.
        num_copies: parallel trials per task.
        episode_stride: the network sees one of this many episodes of its source (10 in the paper's faster variants),
            and learns to improve in fewer episodes.
        permute_actions: whether discrete actions are renamed at random in every trial.
        data: folder of learning histories that `metajax collect` wrote, to learn from them; None: the source plays.
        outer: the outer loop; None: `imitation`.
    """
    if data is not None and source is not None:
        raise ConfigError("the histories in data have a source already; leave out source")
    if not isinstance(data, str | os.PathLike | None):
        raise ConfigError(f"data={data!r} must be the path of a folder of learning histories")
    check_count("num_episodes", num_episodes)
    check_count("episode_stride", episode_stride)
    return distil(
        env,
        network,
        named_agent(tasks, source, num_episodes * episode_stride) if data is None else None,
        data=None if data is None else read_histories(data, env),
        num_steps=num_steps,
        num_episodes=num_episodes,
        num_copies=num_copies,
        episode_stride=episode_stride,
        permute_actions=permute_actions,
        outer=outer,
    )


def dpt(
    env: Environment,
    network: Network,
    *,
    behaviour: str = "own",
    num_steps: int = 100,
    num_episodes: int = 2,
    num_copies: int = 1,
    outer: Outer | None = None,
) -> Algorithm:
    """Decision-pretrained transformers (Lee et al. 2023, arXiv:2306.14892): optimal actions are predicted in context.

    The optimal action is the first of those with the largest `env.action_values(task, obs, time)`.

    Args:
        env: the environment; its parameters are the task, and it has `action_values`.
        network: the policy that learns, a memory over whole trials.
        behaviour: the agent that plays: own (the network itself, which so learns in the trials that it acts in), fixed
            (as in the paper: a distribution over actions for every trial, the same in all states) or uniform.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial.
        num_copies: parallel trials per task.
        outer: the outer loop; None: `imitation`.
    """
    values = getattr(env, "action_values", None)
    if values is None:
        raise ConfigError(f"dpt needs optimal actions, and {env.name} has no action_values(task, obs, time)")
    check_choice("behaviour", behaviour, BEHAVIOURS)

    def label(task: PyTree, steps: Transition) -> Array:
        def best(obs: PyTree, time: Array) -> Array:
            return jnp.argmax(values(task, obs, time))

        for _ in range(3):
            best = jax.vmap(best)
        return best(steps.percept.obs, steps.percept.time)

    return distil(
        env,
        network,
        BEHAVIOURS[behaviour](env),
        num_steps=num_steps,
        num_episodes=num_episodes,
        num_copies=num_copies,
        label=label,
        outer=outer,
    )


BEHAVIOURS: dict[str, Callable[[Environment], Agent | None]] = {
    "own": lambda env: None,
    "fixed": random_arms,
    "uniform": uniform,
}
