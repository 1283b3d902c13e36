"""Devices: hardware of this machine (`hardware`), meshes (`meshes`), reductions over devices (`collectives`).

How a program that is shared over devices works. A meta-iteration is one function, and every device of a
one-dimensional mesh runs it (`meshes.on_each`, a `jax.shard_map`): with the same parameters, and with a share of the
tasks. Each device draws, plays and differentiates its own tasks. Where the function needs all tasks, it asks for them:

* `total` and `mean` reduce a pytree over the devices, for gradients, losses and metrics;
* `gather` concatenates the tasks of all devices, and `share` takes this device's part of such an array;
* `num_devices` and `first_task` tell how many devices there are, and the global index of this device's first task.

No device count or mesh is passed to these functions. The axis of the mesh has a name (`collectives.AXIS`) that is
ambient: while JAX traces a shared program, the name is known, and the functions reduce over it. Outside of such a
program there is no axis: `num_devices` is 1, `first_task` is 0, and the other functions are the identity. Therefore the
same algorithm runs on one device, on many, in a test or in a notebook:

>>> num_devices(), first_task(8), total(3.0)
(1, 0, 3.0)

All devices must end an update with the same parameters. Therefore every sum or mean over tasks in an algorithm must go
through `total` or `mean`.
"""

from metajax.devices.collectives import first_task, gather, mean, num_devices, share, total
from metajax.devices.hardware import make_of_cores
from metajax.devices.meshes import mesh

__all__ = ["first_task", "gather", "make_of_cores", "mean", "mesh", "num_devices", "share", "total"]
