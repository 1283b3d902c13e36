"""Networks: policies made of Flax modules, as bundles of pure functions `Network(init, memory, apply, …)`.

`mlp` is feed-forward. `memory_policy` contains one of the memories in `MEMORIES`; the docstring of the module
`memories` describes the interface that all memories share.
"""

from metajax.networks.feed_forward import mlp
from metajax.networks.heads import check_fits
from metajax.networks.memories import MEMORIES, memory_policy

__all__ = ["MEMORIES", "check_fits", "memory_policy", "mlp"]
