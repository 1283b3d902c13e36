"""Counts the kernels that the reference programs launch on an NVIDIA H200, and their memory, without having one.

    uv pip install "jax[cuda12]"                # 5 GB; in an environment of its own
    python benchmarks/launches.py               # every program of the table in SPEED.md
    python benchmarks/launches.py rl2-gru 256   # one of them, printed but not written

XLA's compiler for GPUs runs on a CPU for a described device. A kernel in a loop takes at least 1.5 microseconds to
launch, so that the number of kernels gives the least time of a meta-iteration with few tasks. `rl2-transformer` is left
out: the compiler chooses tiles for its products on the GPU alone. The result is benchmarks/results/launches.json.
"""

import argparse
import json
import os
import time
from pathlib import Path
from typing import Any
from unittest import mock

if __name__ == "__main__":
    os.environ["JAX_PLATFORMS"] = "cpu"

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from metajax.measuring import programs
from metajax.measuring.launches import SECONDS, num_launches
from metajax.networks import kernels
from metajax.running import record

RESULT = Path(__file__).parent / "results" / "launches.json"
SIZES = {
    "rl2-gru": (256, 65_536),
    "rl2-s5": (256,),
    "maml-gradient": (256, 4_096),
    "maml-trpo": (256, 4_096),
    "promp": (256, 4_096),
}
H200 = """
gpu_device_info { threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000
  l2_cache_size: 62914560 clock_rate_ghz: 1.98 device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 minor: 0 feature_extension: ACCELERATED_FEATURES }
  registers_per_core_limit: 65536 registers_per_block_limit: 65536 }
platform_name: "CUDA" dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 9 }
device_description_str: "NVIDIA H200"
"""


def count(name: str, num_tasks: int) -> dict[str, Any]:
    """Compiles a meta-iteration of a reference program and returns its kernels, MiB and seconds of compilation."""
    jax.devices()  # before the package is told that its programs run on a GPU
    topology = topologies.get_topology_desc("", "cuda", target_config=H200, topology="1x1x1")
    place = NamedSharding(Mesh(np.array(topology.devices), ("device",)), PartitionSpec())

    def described(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(jnp.shape(leaf), jnp.result_type(leaf), sharding=place)

    with (
        mock.patch.object(jax, "default_backend", return_value="gpu"),
        mock.patch.object(kernels, "on_nvidia", return_value=True),
    ):
        job = programs.whole(programs.prepare(programs.REFERENCES[name], num_tasks, {}))
        start = time.perf_counter()
        compiled = jax.jit(job.function).lower(*jax.tree.map(described, job.arguments)).compile()
    seconds = time.perf_counter() - start
    kernels_launched = num_launches(compiled.as_text())
    return {
        "launches": kernels_launched,
        "milliseconds": 1e3 * SECONDS * kernels_launched,
        "MiB": compiled.memory_analysis().temp_size_in_bytes / 2**20,
        "compilation_seconds": seconds,
    }


def table() -> str:
    """Returns a Markdown table of the programs that were counted."""
    lines = ["| program | tasks | kernels | they take at least, ms | temporaries, MiB |", "|---|---|---|---|---|"]
    for name, sizes in json.loads(RESULT.read_text())["programs"].items():
        for size, found in sizes.items():
            cells = (f"{found['launches']:,}", f"{found['milliseconds']:.1f}", f"{found['MiB']:,.0f}")
            lines.append(f"| `{name}` | {int(size):,} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("program", nargs="?", choices=SIZES, help="reference program (default: all)")
    parser.add_argument("num_tasks", nargs="*", type=int, help="numbers of tasks (default: those of the table)")
    own = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name, sizes in SIZES.items() if own.program is None else ((own.program, own.num_tasks or SIZES[own.program]),):
        for num_tasks in sizes:
            found.setdefault(name, {})[str(num_tasks)] = count(name, num_tasks)
            print(name, num_tasks, found[name][str(num_tasks)], flush=True)
    if own.program is None:
        record.write_json(RESULT, {"programs": found} | record.environment())


if __name__ == "__main__":
    main()
