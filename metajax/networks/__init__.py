"""Networks: Flax modules behind `Network(init, memory, apply)`."""

from metajax.networks.heads import check_fits
from metajax.networks.mlp import mlp
from metajax.networks.recurrent import gru

__all__ = ["check_fits", "gru", "mlp"]
