"""Signals heard while a compiled program runs, which keeps the interpreter from its own handlers."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(numbers: tuple[int, ...], act: Callable[[int], None]) -> Iterator[None]:
    """`act(number)` is called, in a thread of its own, when one of these signals comes; it must not raise.

    Only the main thread may listen: ValueError in another.
    """
    listens, wakes = socket.socketpair()
    wakes.setblocking(False)

    def listen() -> None:
        while byte := listens.recv(1):
            if byte[0] in numbers:
                act(byte[0])

    with listens, wakes:
        # The wake-up pipe is told of a signal only if it has a handler.
        before = {number: signal.signal(number, lambda *_: None) for number in numbers}
        outer_pipe = signal.set_wakeup_fd(wakes.fileno(), warn_on_full_buffer=False)
        listener = threading.Thread(target=listen, daemon=True)
        listener.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(outer_pipe)
            for number, handler in before.items():
                signal.signal(number, handler)
            wakes.close()
            listener.join()
