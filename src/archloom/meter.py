"""What a campaign has spent: wall time, device time, and how the workers' time was used."""

import math
import time
from collections.abc import Iterable
from dataclasses import dataclass, field

from archloom.config import Budget
from archloom.db.records import GATES, EvaluationKey, Measurement, Result

Stage = tuple[str, int]
"""Task and rung: evaluations of one stage cost about the same."""


def stage(key: EvaluationKey) -> Stage:
    return key.task, key.rung


@dataclass(slots=True)
class Meter:
    """`earlier_wall` is what earlier sessions spent, `device` what all did; seconds throughout. `finished` counts the
    evaluations that this session brought to an end, those without a worker included.

    An evaluation is expected to take as long as the slowest one of its stage so far in this session.
    """

    budget: Budget
    workers: int
    earlier_wall: float
    device: float = 0.0
    finished: int = 0
    _began: float = field(default_factory=time.monotonic)
    _first_trial: float = math.inf  # start-up ends when the first worker begins its first trial
    _busy: float = 0.0
    _busy_with_gates: float = 0.0
    _slowest: dict[Stage, float] = field(default_factory=dict)

    @classmethod
    def resumed(cls, budget: Budget, *, workers: int, wall: float, results: Iterable[Result]) -> "Meter":
        return cls(budget, workers, wall, device=sum(result.seconds for result in results))

    def wall(self) -> float:
        """Wall time of the campaign over all sessions."""
        return self.earlier_wall + self.session()

    def session(self) -> float:
        return time.monotonic() - self._began

    def wall_left(self) -> float:
        limit = self.budget.wall_seconds
        return math.inf if limit is None else limit - self.wall()

    def expected(self, key: EvaluationKey) -> float:
        return self._slowest.get(stage(key), 0.0)

    def forbids(self, key: EvaluationKey, running: Iterable[EvaluationKey]) -> str | None:
        """Why an evaluation may not start beside those that run, or None: its cost is reserved before it is spent."""
        if self.expected(key) > self.wall_left():
            return "the wall-time budget is spent"
        reserved = sum(self.expected(each) for each in running)
        limit = self.budget.device_seconds
        if limit is not None and self.device + reserved + self.expected(key) > limit:
            return "the device-time budget is spent"
        return None

    def account(self, measurement: Measurement) -> None:
        """Counts what a worker has just finished."""
        seconds = measurement.seconds
        self._slowest[stage(measurement.key)] = max(self.expected(measurement.key), seconds)
        self._first_trial = min(self._first_trial, time.monotonic() - seconds)
        self.device += seconds
        self._busy += seconds
        self._busy_with_gates += seconds * (measurement.key.task == GATES)

    def waste(self, seconds: float) -> None:
        """Counts the time that a lost worker had spent on its trial."""
        self._first_trial = min(self._first_trial, time.monotonic() - seconds)
        self.device += seconds
        self._busy += seconds

    def overhead(self) -> float:
        """Share of the workers' time since start-up in which they ran no trial; NaN before the first."""
        spent = self._worker_seconds()
        return max(0.0, 1 - self._busy / spent) if spent > 0 else math.nan

    def gates(self) -> float:
        """Share of the workers' time since start-up that went into gates; NaN before the first trial."""
        spent = self._worker_seconds()
        return self._busy_with_gates / spent if spent > 0 else math.nan

    def _worker_seconds(self) -> float:
        return max(0.0, time.monotonic() - self._first_trial) * self.workers
