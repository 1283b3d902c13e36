"""Networks: policies made of Flax modules, as bundles of pure functions `Network(init, memory, apply, …)`.

`mlp` is feed-forward. `memory_policy` contains one of the memories in `MEMORIES`; the docstring of the module
`memories` describes the interface that all memories share. `from_nnx` and `from_equinox` take modules of other
libraries.
"""

from metajax.networks.adapters import from_equinox, from_nnx
from metajax.networks.beliefs import BeliefNetwork, belief_policy
from metajax.networks.feed_forward import mlp
from metajax.networks.heads import check_fits
from metajax.networks.memories import MEMORIES, memory_policy
from metajax.networks.posteriors import PosteriorNetwork, posterior_policy
from metajax.networks.predictions import prediction_policy

__all__ = [
    "MEMORIES",
    "BeliefNetwork",
    "PosteriorNetwork",
    "belief_policy",
    "check_fits",
    "from_equinox",
    "from_nnx",
    "memory_policy",
    "mlp",
    "posterior_policy",
    "prediction_policy",
]
