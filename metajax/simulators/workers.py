"""Worker processes that step Gymnasium environments, each with its share of the parallel copies.

Every worker has one `gymnasium.vector.SyncVectorEnv`. A worker that dies, or does not answer in time, raises a
WorkerError with its number.
"""

import multiprocessing
import signal
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any, NamedTuple

import jax
import numpy as np

from metajax.base import PyTree
from metajax.errors import WorkerError, check_count, check_number

_STARTING_FACTOR = 10  # starting and resetting may take this many times as long as a step


class Simulator(NamedTuple):
    """A Gymnasium environment with tasks.

    `make()` returns a new environment. `set_task(environment, task)` sets its task, a pytree of NumPy arrays. `info`
    names the numbers to record from the `info` of every step.
    """

    make: Callable[[], Any]
    set_task: Callable[[Any, PyTree], None]
    info: tuple[str, ...] = ()


class Workers:
    """Worker processes that share `num_copies` copies of an environment; a context manager.

    Args:
        simulator: the environment and its tasks.
        num_copies: number of copies E of the environment in all workers.
        num_workers: number of worker processes, at most `num_copies`.
        timeout: seconds to wait for a worker to answer a step before WorkerError; ten times as long for starting and
            resetting.

    Raises WorkerError if a worker cannot start.
    """

    def __init__(self, simulator: Simulator, *, num_copies: int, num_workers: int = 2, timeout: float = 30.0):
        from gymnasium.vector.utils import CloudpickleWrapper  # not imported without a simulator

        check_count("num_copies", num_copies)
        check_count("num_workers", num_workers)
        check_number("timeout", timeout, above=0)
        self.num_copies, self.closed, self._timeout = num_copies, False, timeout
        self._shares = [len(share) for share in np.array_split(np.arange(num_copies), min(num_workers, num_copies))]
        context = multiprocessing.get_context("spawn")  # a fork would copy locks that JAX's threads hold
        self.processes, self._pipes = [], []
        for number, share in enumerate(self._shares):
            here, there = context.Pipe()
            wrapped = CloudpickleWrapper(simulator)  # type: ignore[arg-type]  # typed for functions; takes any object
            arguments = (there, wrapped, share)
            process = context.Process(target=_serve, args=arguments, name=f"worker {number}", daemon=True)
            process.start()
            there.close()  # the worker then has the only handle, and its death closes the pipe
            self.processes.append(process)
            self._pipes.append(here)
        self._gather("starting", _STARTING_FACTOR * timeout)

    def reset(self, tasks: PyTree, seeds: np.ndarray) -> PyTree:
        """Begins an episode in every copy with tasks [E] and seeds [E]; returns observations [E]."""
        return self._call("reset", "resetting", (tasks, seeds), _STARTING_FACTOR * self._timeout)

    def step(self, actions: np.ndarray) -> tuple[PyTree, np.ndarray, np.ndarray, np.ndarray, dict[str, np.ndarray]]:
        """Steps by `actions` [E]; returns observations, rewards, terminated, truncated and info [E].

        After the end of its episode a copy runs further episodes until the next reset; the caller ignores them.
        """
        return self._call("step", "stepping", actions, self._timeout)

    def close(self) -> None:
        """Ends the processes."""
        self.closed = True
        for pipe in self._pipes:
            pipe.close()
        for process in self.processes:
            process.join(2.0)
            process.kill()
            process.join()

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, name: str, doing: str, argument: PyTree, timeout: float) -> PyTree:
        """Sends every worker its part of `argument`; returns the concatenated answers."""
        if self.closed:
            raise WorkerError("the workers are closed; create new ones")
        ends = np.cumsum(self._shares)
        for pipe, end, share in zip(self._pipes, ends, self._shares, strict=True):
            part = jax.tree.map(lambda leaf, end=end, share=share: leaf[end - share : end], argument)
            with suppress(OSError):  # a dead worker is detected when its answer is missing
                pipe.send((name, part))
        return jax.tree.map(lambda *leaves: np.concatenate(leaves), *self._gather(doing, timeout))

    def _gather(self, doing: str, timeout: float) -> list[PyTree]:
        """The answers of all workers. If one is missing, all are closed, so that no later call reads stale answers."""
        deadline = time.monotonic() + timeout
        try:
            return [self._answer(number, doing, deadline, timeout) for number in range(len(self._pipes))]
        except BaseException:
            self.close()
            raise

    def _answer(self, number: int, doing: str, deadline: float, timeout: float) -> PyTree:
        pipe, process = self._pipes[number], self.processes[number]
        name = f"worker {number} (process {process.pid}, {self._shares[number]} copies)"
        if not wait([pipe, process.sentinel], max(deadline - time.monotonic(), 0.0)):
            raise WorkerError(f"{name} has not answered for {timeout:g} seconds while {doing}")
        try:
            succeeded, answer = pipe.recv()
        except (EOFError, OSError):
            process.join(1.0)
            hint = '; a script that starts workers needs `if __name__ == "__main__":`' if doing == "starting" else ""
            raise WorkerError(f"{name} died while {doing}: {_exit_reason(process.exitcode)}{hint}") from None
        if not succeeded:
            raise WorkerError(f"{name} failed while {doing}: {answer}")
        return answer


def _exit_reason(code: int | None) -> str:
    if code is not None and code < 0:
        return signal.Signals(-code).name
    return f"exit code {code}"


def _serve(pipe: Connection, simulator: Any, num_copies: int) -> None:
    """The main loop of a worker: answers calls until the other end of its pipe is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the main process handles Ctrl-C
    server = _Server(simulator.fn, num_copies)
    name, argument = "start", None
    while True:
        try:
            answer = True, getattr(server, name)(argument)
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{place.name}, line {place.lineno} of {place.filename}"
            answer = False, f"{type(error).__name__}: {error} ({where})"
        try:
            pipe.send(answer)
            name, argument = pipe.recv()
        except (EOFError, OSError):  # the main process has ended, or has closed the workers
            break
    server.close()


class _Server:
    """The copies [n] of the environment in one worker."""

    def __init__(self, simulator: Simulator, num_copies: int):
        self._simulator, self._over = simulator, np.zeros(num_copies, bool)
        self._envs: Any = None
        self._reported: set[str] = set()  # names in the `info` of all steps so far

    def start(self, _: None) -> tuple:
        from gymnasium.vector import AutoresetMode, SyncVectorEnv

        makes = [self._simulator.make] * len(self._over)
        self._envs = SyncVectorEnv(makes, autoreset_mode=AutoresetMode.DISABLED)
        return ()

    def reset(self, argument: tuple[PyTree, np.ndarray]) -> PyTree:
        missing = set(self._simulator.info) - self._reported
        if self._reported and missing:
            raise ValueError(
                f"the simulator's info has no {', '.join(sorted(missing))}; it has {', '.join(sorted(self._reported))}"
            )
        tasks, seeds = argument
        for number, env in enumerate(self._envs.envs):
            self._simulator.set_task(env, jax.tree.map(lambda leaf, number=number: leaf[number], tasks))
        obs, _ = self._envs.reset(seed=[int(seed) for seed in seeds])
        self._over = np.zeros_like(self._over)
        return obs

    def step(self, actions: np.ndarray) -> tuple:
        if self._over.any():
            self._envs.reset(options={"reset_mask": self._over})
        obs, reward, terminated, truncated, info = self._envs.step(actions)
        self._over = terminated | truncated
        self._reported |= {name for name in info if not name.startswith("_")}
        zeros = np.zeros(len(reward))
        recorded = {name: np.asarray(info.get(name, zeros), np.float32) for name in self._simulator.info}
        return obs, reward, terminated, truncated, recorded

    def close(self) -> None:
        if self._envs is not None:
            self._envs.close()
