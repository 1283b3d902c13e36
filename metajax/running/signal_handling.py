"""Signal handling during compiled programs, in which Python does not run its own signal handlers."""

import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def heard(numbers: tuple[int, ...], act: Callable[[int], None]) -> Iterator[None]:
    """Calls `act(number)` in a separate thread as soon as one of these signals arrives; `act` must not raise.

    Raises ValueError outside the main thread.
    """
    listens, wakes = socket.socketpair()
    wakes.setblocking(False)

    def listen() -> None:
        while byte := listens.recv(1):
            if byte[0] in numbers:
                act(byte[0])

    with listens, wakes:
        # Python writes a signal to the wake-up pipe only if it has a handler.
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
