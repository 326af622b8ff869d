"""A pool of long-lived workers: who gets which trial, who is overdue, who died and is replaced.

Where workers live is a `Site`: processes of this machine, or actors of a Ray session. Invariants: a worker has at most
one trial; a trial is given to one worker, once, and only after that worker said it is ready; every submitted trial ends
in exactly one completion unless the pool is closed first.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar, assert_never

from archloom.db.records import Failure, FailureKind, Measurement, TrialSpec
from archloom.errors import EnvironmentProblem
from archloom.evaluator.executors.interface import Completion
from archloom.evaluator.trial import failed

GRACE_SECONDS = 10.0
"""How long a worker may go on beyond the time limit of its trial before it is killed."""

FAILED_STARTS = 3
"""After so many workers in a row that died before they were ready, the fault is not theirs; in a large pool after more
than it has, since all that start on a node die with it."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A worker's first message: it can be given trials."""


@dataclass(frozen=True, slots=True)
class Died:
    """The last of a worker, written by its site, with the reason as far as it can be known.

    `kind` is `OUT_OF_MEMORY` if the system killed it for that.
    """

    reason: str
    kind: FailureKind = FailureKind.WORKER_LOST


Message = Ready | Measurement | Died


class Worker(Protocol):
    def begin(self, spec: TrialSpec) -> None:
        """Hand over a trial without waiting. A dead worker takes it too: its death is the next message."""

    def kill(self) -> None:
        """End the worker and all that it started at once, whatever it does. Safe to call twice."""


W = TypeVar("W", bound=Worker)


class Site(Protocol[W]):
    """Where workers of one sort live. `start_seconds` is how long one may take to become ready."""

    start_seconds: float

    def start(self) -> W:
        """Start a worker and do not wait for it."""

    def wait(self, workers: Sequence[W], *, timeout: float) -> list[tuple[W, Message]]:
        """Messages of `workers` as they arrive; waits up to `timeout` seconds for something to read."""

    def close(self) -> None:
        """Give back what the site itself holds; its workers are dead by then."""


@dataclass(slots=True)
class _Seat(Generic[W]):
    """A place in the pool: its present worker, which has the trial, or is starting, since `since`."""

    worker: W
    ready: bool = False
    spec: TrialSpec | None = None
    since: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.since

    def due(self, *, grace: float, start: float) -> float:
        """When its worker is overdue, as a reading of `time.monotonic()`."""
        if not self.ready:
            return self.since + start
        return self.since + self.spec.timeout_seconds + grace if self.spec else float("inf")


class Pool(Generic[W]):
    """An `Executor` over the workers of a site."""

    def __init__(self, site: Site[W], *, workers: int, grace: float = GRACE_SECONDS) -> None:
        self.workers = workers
        self._site = site
        self._grace = grace
        self._waiting: deque[TrialSpec] = deque()
        self._failed_starts = 0
        self._closed = False
        self._seats: list[_Seat[W]] = []
        try:
            for _ in range(workers):
                self._seats.append(_Seat(site.start()))
        except BaseException:
            self.close()
            raise

    def submit(self, spec: TrialSpec) -> None:
        if self._closed:
            raise ValueError("the executor is closed")
        self._waiting.append(spec)
        self._dispatch()

    def completed(self, *, timeout: float) -> list[Completion]:
        end = time.monotonic() + timeout
        completions: list[Completion] = []
        while not completions and (self._waiting or any(seat.spec for seat in self._seats)):
            self._dispatch()
            until = min([end, *(self._due(seat) for seat in self._seats)])
            seats = {id(seat.worker): seat for seat in self._seats}
            left = max(0.0, until - time.monotonic())
            for worker, message in self._site.wait([seat.worker for seat in self._seats], timeout=left):
                seat = seats[id(worker)]
                if seat.worker is worker:  # and not its successor: an earlier message may have been its last
                    completions += self._receive(seat, message)
            completions += self._kill_overdue()
            if time.monotonic() >= end:
                break
        self._dispatch()
        return completions

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        self._waiting.clear()
        for seat in self._seats:
            seat.worker.kill()
        self._seats.clear()
        self._site.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _dispatch(self) -> None:
        for seat in self._seats:
            if self._waiting and seat.ready and seat.spec is None:
                seat.spec, seat.since = self._waiting.popleft(), time.monotonic()
                seat.worker.begin(seat.spec)

    def _due(self, seat: _Seat[W]) -> float:
        return seat.due(grace=self._grace, start=self._site.start_seconds)

    def _receive(self, seat: _Seat[W], message: Message) -> list[Completion]:
        match message:
            case Ready():
                seat.ready, self._failed_starts = True, 0
                return []
            case Measurement():
                return self._answered(seat, message)
            case Died():
                return self._bury(seat, message)
            case _:
                assert_never(message)

    def _answered(self, seat: _Seat[W], measurement: Measurement) -> list[Completion]:
        """A worker that ran out of memory is replaced: what is left of the trial in it must not harm the next one."""
        spec = seat.spec
        if spec is None or spec.key != measurement.key:
            return self._bury(seat, Died(f"killed: its worker answered {measurement.key}, which it was not asked"))
        if measurement.failure is not None and measurement.failure.kind is FailureKind.OUT_OF_MEMORY:
            self._replace(seat)
        seat.spec = None
        return [Completion(spec=spec, measurement=measurement)]

    def _bury(self, seat: _Seat[W], died: Died) -> list[Completion]:
        if not seat.ready:
            self._failed_starts += 1
            limit = max(FAILED_STARTS, self.workers + 1)
            if self._failed_starts >= limit:
                raise EnvironmentProblem(
                    f"{limit} workers in a row died before they were ready, the last one so: {died.reason}. "
                    "Run with `--executor inline` to see the error in this process."
                )
        seconds = seat.seconds
        spec = self._replace(seat)
        failure = Failure(kind=died.kind, reason=died.reason)
        return [Completion(spec=spec, lost=failure, seconds=seconds)] if spec else []

    def _kill_overdue(self) -> list[Completion]:
        completions = []
        for seat in self._seats:
            if time.monotonic() < self._due(seat):
                continue
            seconds = seat.seconds
            if not seat.ready:
                completions += self._bury(seat, Died(f"killed: it was not ready after {seconds:.0f} s"))
            elif spec := self._replace(seat):
                reason = f"killed: the trial had {spec.timeout_seconds:g} s and still ran after {seconds:.0f} s"
                failure = Failure(kind=FailureKind.TIMEOUT, reason=reason)
                completions.append(Completion(spec=spec, measurement=failed(spec, failure=failure, seconds=seconds)))
        return completions

    def _replace(self, seat: _Seat[W]) -> TrialSpec | None:
        """Kill the worker of a seat, start another in its place and return the trial that it had."""
        spec = seat.spec
        seat.worker.kill()
        seat.worker, seat.ready, seat.spec, seat.since = self._site.start(), False, None, time.monotonic()
        return spec
