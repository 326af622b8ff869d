"""What workers have finished and the ledger does not hold yet.

While the ledger is out of reach a campaign waits in the middle of storing something. Its workers go on, their time
limits hold, and what they finish is kept here, in its order, until there is a ledger to store it in. If there never is,
it is lost with this process and measured again on resuming: nothing counts before it is stored.
"""

import time
from collections import deque
from collections.abc import Callable

from archloom.evaluator.executors import Completion, Executor


class Arrivals:
    """The completions of a campaign's executor, in the order in which they ended.

    `stopping` says 2 when the campaign is to be aborted.
    """

    def __init__(self, stopping: Callable[[], int]) -> None:
        self.kept: deque[Completion] = deque()
        self._stopping = stopping
        self._executor: Executor | None = None

    def follow(self, executor: Executor) -> None:
        """Receive from this executor from now on."""
        self._executor = executor

    def receive(self, *, timeout: float) -> None:
        """Keep what ends within `timeout` seconds; returns after the first, or at once if nothing runs."""
        if self._executor is not None:
            self.kept += self._executor.completed(timeout=timeout)

    def pause(self, seconds: float) -> None:
        """Spend the time until the ledger is tried again. `KeyboardInterrupt` if the campaign is to be aborted."""
        end = time.monotonic() + seconds
        self.receive(timeout=seconds)
        if self._stopping() == 2:
            raise KeyboardInterrupt
        time.sleep(max(0.0, end - time.monotonic()))
