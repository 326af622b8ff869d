"""Ctrl-C in two steps: the first drains, the second aborts."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def counted(tell: Callable[[str], None]) -> Iterator[Callable[[], int]]:
    """A function that says how often Ctrl-C (or SIGTERM, which counts the same) came: 0, 1 or 2. Main thread only."""
    received = 0

    def receive(number: int, frame: FrameType | None) -> None:
        nonlocal received
        received = min(2, received + 1)
        tell("stopping: waiting for what runs; Ctrl-C again to abort" if received == 1 else "aborting")

    before = {number: signal.signal(number, receive) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
