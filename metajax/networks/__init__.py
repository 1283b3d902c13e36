"""Networks: Flax modules behind `Network(init, memory, apply)`."""

from metajax.networks.feed_forward import mlp
from metajax.networks.heads import check_fits
from metajax.networks.memories import MEMORIES, memory_policy

__all__ = ["MEMORIES", "check_fits", "memory_policy", "mlp"]
