"""Several processes, on one host or many, that train one agent together: each collects its share of the tasks.

Every process runs the same program on its own devices. Parameters are the same in all of them, and only the first
process writes files. JAX's coordination service ends all processes when one is lost. It does not notice a process that
hangs, so a watchdog ends a process that makes no progress while it trains.
"""

import argparse
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from metajax.devices import hardware
from metajax.errors import ConfigError, check_count, check_number, first_line
from metajax.running.signal_handling import heard

Plain = TypeVar("Plain", str, bool)

STALLED = 75  # exit code of a process that made no progress


def join(
    coordinator: str, *, num_processes: int | None = None, process: int | None = None, heartbeat: int = 100
) -> None:
    """Connects this process to the others that train with it; must be called before JAX is used.

    Args:
        coordinator: HOST:PORT of process 0, the same in all processes. auto takes it from Slurm, Kubernetes (with the
            extra kubernetes), Open MPI or a TPU pod.
        num_processes: number of processes; None: from the cluster.
        process: number of this process, counted from 0; None: from the cluster.
        heartbeat: seconds of silence after which a process counts as lost and the others exit.

    Raises ConfigError if an argument is wrong, or if the processes do not connect.
    """
    check_count("heartbeat", heartbeat)
    known: dict[str, Any] = {}
    if coordinator != "auto":
        _check_address(coordinator)
        known["coordinator_address"] = coordinator
    if num_processes is not None:
        check_count("processes", num_processes)
        known["num_processes"] = num_processes
    if process is not None:
        check_count("process", process, at_least=0)
        if num_processes is not None and process >= num_processes:
            raise ConfigError(f"process={process} must be from 0 to {num_processes - 1}, as processes={num_processes}")
        known["process_id"] = process
    try:
        jax.distributed.initialize(**known, heartbeat_timeout_seconds=heartbeat)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(
            f"the processes did not connect at coordinator={coordinator}: {first_line(error)}; give --coordinator "
            "HOST:PORT of process 0, --processes and --process, or start them with Slurm, Open MPI or Kubernetes "
            "(needs metajax[kubernetes])"
        ) from error


def begin(arguments: Sequence[str]) -> None:
    """Prepares JAX before it is used: connects the processes, makes devices of CPU cores and selects the platform.

    One process makes a device of every core, or as many devices as --devices says. Several processes divide --devices
    between them, or have one device each. All other options, and their errors, are left to the command.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    for name in ("coordinator", "device"):
        parser.add_argument(f"--{name}")
    for name in ("processes", "process", "heartbeat", "devices"):
        parser.add_argument(f"--{name}", type=int)
    try:
        told, _ = parser.parse_known_args(arguments)
    except argparse.ArgumentError:
        return
    if told.coordinator is None:
        hardware.make_of_cores(told.devices)
    elif [name.lower() for name in arguments[:1]] in (["train"], ["resume"]):
        if told.devices and told.processes:
            hardware.make_of_cores(max(1, told.devices // told.processes))
        how = {} if told.heartbeat is None else {"heartbeat": told.heartbeat}
        join(told.coordinator, num_processes=told.processes, process=told.process, **how)
    if told.device is not None:
        hardware.select_platform(told.device)


def _check_address(address: str) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise ConfigError(f"coordinator={address!r} must be HOST:PORT, for example 10.0.0.1:8476, or auto")


def is_first() -> bool:
    """Whether this process is the one that writes files."""
    return jax.process_index() == 0


def joined() -> bool:
    """Whether this process is one of several that train together."""
    return jax.distributed.is_initialized()


def leave(code: int) -> None:
    """Ends this process at once with an exit code; the other processes then find it lost and exit too."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def meet(place: str) -> None:
    """Waits until every process has called this with the same `place`."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(place)


def of_first(value: Plain) -> Plain:
    """The value of the first process, in every process; a text must have at most 4,096 bytes."""
    if jax.process_count() == 1:
        return value
    if isinstance(value, bool):
        return bool(multihost_utils.broadcast_one_to_all(np.array(value)))
    content = np.frombuffer(value.encode().ljust(4096, b"\0"), np.uint8)
    return multihost_utils.broadcast_one_to_all(content).tobytes().rstrip(b"\0").decode()


@contextmanager
def notices() -> Iterator[Callable[[], int]]:
    """Yields `check()`, the number of the signal for which all processes stop at this line of progress, or 0.

    Every process must call `check()` at every line. After `join`, SIGTERM to one process reaches all of them. SIGINT is
    passed on as SIGTERM; a second SIGINT ends its process at once.
    """
    interrupted: list[int] = []
    count = 0

    def interrupt(number: int) -> None:
        interrupted.append(number)
        if len(interrupted) > 1:
            os._exit(128 + number)
        os.kill(os.getpid(), signal.SIGTERM)

    def check() -> int:
        nonlocal count
        count += 1
        if not multihost_utils.reached_preemption_sync_point(count):
            return 0
        return interrupted[0] if interrupted else signal.SIGTERM

    try:
        with heard((signal.SIGINT,), interrupt):
            yield check
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # everything is saved


@contextmanager
def watchdog(seconds: float) -> Iterator[Callable[[], None]]:
    """Yields `alive()`, which must be called at least every `seconds`; 0: never.

    If it is not, the stacks of all threads are written to stderr and the process exits with the code STALLED.
    """
    check_number("stall", seconds, at_least=0)
    if seconds == 0:
        yield lambda: None
        return
    signs, over = threading.Event(), threading.Event()

    def watch() -> None:
        while signs.wait(seconds):
            signs.clear()
            if over.is_set():
                return
        os.write(2, f"error: no progress for {seconds:g} s; the stacks of all threads:\n".encode())
        faulthandler.dump_traceback(all_threads=True)
        os._exit(STALLED)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield signs.set
    finally:
        over.set()
        signs.set()
        watcher.join()
