"""Trials in the calling process, one at a time, when they are asked for: for debugging, notebooks and replays.

A trial's own time limit holds; one that hangs outside the training loop, or ends the process, takes the caller with it.
"""

from collections import deque
from types import TracebackType
from typing import Self

from archloom.db.records import TrialSpec
from archloom.evaluator.executors.interface import Completion
from archloom.evaluator.trial import Work, measure, run_trial


class InlineExecutor:
    """An `Executor` without workers of its own."""

    workers = 1

    def __init__(self, *, work: Work = measure) -> None:
        self._work = work
        self._waiting: deque[TrialSpec] = deque()

    def submit(self, spec: TrialSpec) -> None:
        self._waiting.append(spec)

    def completed(self, *, timeout: float) -> list[Completion]:
        """Run the oldest trial to its end, however long beyond `timeout` it takes."""
        if not self._waiting:
            return []
        spec = self._waiting.popleft()
        return [Completion(spec=spec, measurement=run_trial(spec, work=self._work))]

    def close(self) -> None:
        self._waiting.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
