"""RL² (Duan et al. 2016, arXiv:1611.02779; Wang et al. 2016, arXiv:1611.05763): a recurrent policy that learns.

A trial is several episodes in one task; the memory (hidden state) is kept from one episode to the next. The outer loop
maximises the discounted return of the whole trial, so exploration in an early episode is credited with the rewards that
it leads to in later ones.
"""

from functools import partial
from typing import NamedTuple

import jax

from metajax.base import Algorithm, Array, Environment, Experience, Network, PyTree, Sizes
from metajax.errors import check_choice, check_count, check_number
from metajax.learning.credit import CREDITS, score_trials
from metajax.learning.outer import Outer, annealed, check_baseline, recurrent_ppo
from metajax.learning.risk import averse
from metajax.networks import check_fits
from metajax.networks.acting import check_trial_length, network_agent
from metajax.replays import replay
from metajax.rollouts import collect_trials


class RL2State(NamedTuple):
    params: PyTree
    outer: PyTree


def rl2(
    env: Environment,
    network: Network,
    *,
    num_steps: int = 100,
    num_episodes: int = 2,
    num_copies: int = 1,
    discount: float = 0.99,
    lambda_: float = 0.7,
    credit: str = "trial",
    baseline: str | None = None,
    cvar_level: float = 1.0,
    bptt_steps: int | None = None,
    outer: Outer | None = None,
) -> Algorithm:
    """RL² (Duan et al. 2016, arXiv:1611.02779) for `env` with a recurrent policy such as `memory_policy`.

    Args:
        env: the environment; its parameters are the task.
        network: the policy, whose parameters are the meta-parameters. It determines which parts of a percept it reads,
            and when its memory is reset.
        num_steps: longest episode in environment steps.
        num_episodes: episodes per trial (2).
        num_copies: parallel trials per task, each with its own memory (1).
        discount: per step of the trial (0.99).
        lambda_: of generalised advantage estimation (0.7; 0.3 in Duan et al.).
        credit: trial or episode: whether values bootstrap through the ends of episodes, so that actions are credited up
            to the end of the trial, or only up to the end of their episode.
        baseline: learned (the network's value), linear (fitted to every batch) or none; None: learned if the network
            has a value head and the outer loop trains it, else linear.
        cvar_level: share of the tasks of a meta-iteration, those with the lowest returns, whose mean return
            is maximised (conditional value at risk); 1: all tasks. A share of ten tasks or more has little bias.
        bptt_steps: truncated backpropagation through time: the gradient goes back at most this many steps, a divisor of
            the steps of a trial; None: to the start of the trial. The memory is always recomputed, never stale.
        outer: the outer loop; None: `recurrent_ppo`.

    >>> from metajax.networks import memory_policy
    >>> from metajax.tasks import bandit
    >>> env = bandit(num_arms=3).env
    >>> algorithm = rl2(env, memory_policy(env, width=8), num_steps=10)
    >>> algorithm.agent.memory(algorithm.init(jax.random.key(0)).params)[0].shape
    (8,)
    """
    check_count("num_steps", num_steps)
    check_count("num_episodes", num_episodes)
    check_count("num_copies", num_copies)
    check_number("discount", discount, at_least=0, at_most=1)
    check_number("cvar_level", cvar_level, above=0, at_most=1)
    check_choice("credit", credit, CREDITS)
    check_fits(env, network)
    outer = outer or recurrent_ppo()
    learned = network.value and outer.values
    baseline = ("learned" if learned else "linear") if baseline is None else baseline
    check_baseline(baseline, lambda_, network, outer)
    check_trial_length(network.context, num_episodes * num_steps, bptt_steps)

    agent = network_agent(network, bptt_steps=bptt_steps)

    def init(key: Array) -> RL2State:
        params = network.init(key)
        return RL2State(params, outer.init(params))

    sizes = Sizes(num_episodes, num_copies, num_steps)

    def collect(key: Array, state: RL2State, tasks: PyTree) -> Experience:
        return collect_trials(key, agent, state.params, env, tasks, sizes)

    def update(key: Array, state: RL2State, experience: Experience) -> tuple[RL2State, dict[str, Array]]:
        key_outer = jax.random.split(key)[1]
        replay_task = partial(replay, agent)
        batch = score_trials(experience, credit=credit, baseline=baseline, discount=discount, lambda_=lambda_)
        batch = averse(batch, experience.steps.reward.sum((1, 3)), cvar_level)
        params, outer_state, metrics = outer.step(key_outer, state.params, state.outer, replay_task, batch)
        return RL2State(params, outer_state), metrics

    return Algorithm(
        init,
        collect,
        update,
        params=lambda state: state.params,
        agent=agent,
        allows_stale_params=outer.allows_stale_params,
        task_group=outer.task_group,
        anneal=annealed(outer),
    )
