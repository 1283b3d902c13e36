"""What a machine has (`hardware`), device meshes (`meshes`), and reductions over devices (`collectives`)."""

from metajax.devices.collectives import first_task, gather, mean, num_devices, share, total
from metajax.devices.hardware import make_of_cores
from metajax.devices.meshes import mesh

__all__ = ["first_task", "gather", "make_of_cores", "mean", "mesh", "num_devices", "share", "total"]
