"""What every executor is: trials go in, completions come out in the order in which they end."""

from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self

from archloom.db.records import Failure, Measurement, TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Completion:
    """The end of a trial: its `measurement`, or why its worker was `lost`. Exactly one of the two is set.

    `lost` is a `WORKER_LOST`, or an `OUT_OF_MEMORY` where the system killed the worker for that. The worker has been
    replaced; its trial has not been tried again, since who submitted it counts the attempts. `seconds` is how long a
    lost worker had the trial, 0 beside a measurement, which has its own.
    """

    spec: TrialSpec
    measurement: Measurement | None = None
    lost: Failure | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if (self.measurement is None) == (self.lost is None):
            raise ValueError("a completion has a measurement or a lost worker, and not both")


class Executor(Protocol):
    """Runs trials somewhere, at most `workers` at once. A context manager: leaving it closes it.

    It belongs to one thread. Trials start in the order of submission and are never run twice.
    """

    workers: int

    def submit(self, spec: TrialSpec) -> None:
        """Take a trial; it starts as soon as a worker is free."""

    def completed(self, *, timeout: float) -> list[Completion]:
        """What ended since the last call. Waits up to `timeout` seconds for the first; at once [] if nothing is out.

        Raises `EnvironmentProblem` if workers cannot be started.
        """

    def close(self) -> None:
        """Kill what runs, drop what waits and give everything back. A second call does nothing."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
