"""Names of your own networks, by which tables and figures tell runs of different networks apart."""

import hashlib
import re
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from metajax.base import Environment, Network, Percept
from metajax.rollouts import first_percept
from metajax.simulators.environment import is_on_host


def network_name(given: Any, network: Network, env: Environment) -> str:
    """The name of a network's factory, and a hash of what the network computes.

    Networks of equal parameters that differ in an activation have different hashes; those that differ only in a
    constant, such as the scale of their first parameters, may have the same.

    Args:
        given: the network, or the factory that made it.
        network: the network.
        env: the environment in which it acts. Of a network for a simulator on the host, only `init` is hashed.

    >>> from metajax.networks import mlp
    >>> from metajax.tasks import point
    >>> env = point().env
    >>> network_name(mlp, mlp(env), env).partition("-")[0]
    'mlp'
    """
    key = jax.random.key(0)
    texts = [str(jax.make_jaxpr(network.init)(key))]
    if isinstance(network, Network) and not is_on_host(env):

        def step(params: Any, percept: Percept) -> Any:
            return network.apply(params, network.memory(), percept)

        one = jax.tree.map(
            lambda leaf: jnp.zeros(leaf.shape[1:], leaf.dtype), first_percept(env, env.default_params, 1)
        )
        texts.append(str(jax.make_jaxpr(step)(jax.eval_shape(network.init, key), one)))
    code = re.sub(r"0x[0-9a-f]+", "", "\n".join(texts))  # addresses, which differ between processes
    factory = given.func if isinstance(given, partial) else given
    made_by = getattr(network.init, "__qualname__", "network").partition(".")[0]
    name = getattr(factory, "__name__", made_by)
    return f"{name}-{hashlib.sha256(code.encode()).hexdigest()[:7]}"
