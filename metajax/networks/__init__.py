"""Networks: Flax modules behind `Network(init, memory, apply)`."""

from metajax.networks.heads import check_fits
from metajax.networks.memory import MEMORIES, memory_policy
from metajax.networks.mlp import mlp

__all__ = ["MEMORIES", "check_fits", "memory_policy", "mlp"]
