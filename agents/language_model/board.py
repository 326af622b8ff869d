"""The board: every trial of a campaign in short, kept in order from call to call.

A history grows by a trial at a time, so the board compares it with what it holds and spends its time on what came,
changed or went. It only saves time: it shows what a new one would show.
"""

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import isfinite

from archloom.db.records import Candidate, Failure, Origin, Protocol, Result, Trial

CONTENDERS = 32
"""Trials of a rung that contend by the sum of their scores."""
SPECIALISTS = 8
"""Trials of a rung that contend by their score on one task."""

Entry = tuple[float | tuple[float, ...] | int | str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Digest:
    """A trial in short. `ladder` holds for each rung of the protocol the mean score on each of its tasks, over seeds,
    in the protocol's order; it is empty for a rung that lacks a result. `rung` is the highest complete one, or -1, and
    `scores` are those of it."""

    candidate: Candidate
    ladder: tuple[tuple[float, ...], ...]
    rung: int
    scores: tuple[float, ...]
    failure: Failure | None

    @property
    def name(self) -> str:
        """The first letters of the id, which proposals name it by, and the name of a known system."""
        known = self.candidate.origin is Origin.ZOO and self.candidate.name
        return f"{self.candidate.short} ({known})" if known else self.candidate.short


def rung_tasks(protocol: Protocol) -> tuple[dict[str, tuple[int, ...]], ...]:
    """For each rung its tasks, in the protocol's order, and the seeds of each."""
    found = []
    for rung in protocol.rungs:
        seeds: dict[str, tuple[int, ...]] = {}
        for stage in rung.stages:
            seeds[stage.task] = tuple(dict.fromkeys((*seeds.get(stage.task, ()), *stage.seeds)))
        found.append(seeds)
    return tuple(found)


def digest(trial: Trial, expected: Sequence[dict[str, tuple[int, ...]]]) -> Digest:
    """A trial in short; `expected` are the `rung_tasks` of its protocol."""
    known = {
        (result.key.rung, result.key.task, result.key.seed): result.score
        for result in trial.results
        if result.score is not None and isfinite(result.score)
    }
    ladder = []
    for rung, tasks in enumerate(expected):
        scores = [[known.get((rung, task, seed)) for seed in seeds] for task, seeds in tasks.items()]
        whole = [[score for score in each if score is not None] for each in scores]
        complete = rung not in trial.unfinished and list(map(len, whole)) == list(map(len, scores))
        ladder.append(tuple(sum(each) / len(each) for each in whole) if complete else ())
    rung = max((rung for rung, scores in enumerate(ladder) if scores), default=-1)
    return Digest(
        candidate=trial.candidate,
        ladder=tuple(ladder),
        rung=rung,
        scores=ladder[rung] if rung >= 0 else (),
        failure=trial.failure,
    )


class Board:
    """The trials of one campaign under `protocol`."""

    def __init__(self, protocol: Protocol) -> None:
        self.protocol = protocol
        self.tasks = rung_tasks(protocol)
        self._held: dict[str, tuple[Candidate, tuple[Result, ...], frozenset[int], Digest]] = {}
        self._orders: tuple[tuple[list[Entry], ...], ...] = tuple(
            tuple([] for _ in range(1 + len(tasks))) for tasks in self.tasks
        )
        self._failed: list[tuple[int, str]] = []
        self._kinds: Counter[str] = Counter()
        self._baselines: dict[str, Digest] = {}

    def hold(self, history: Sequence[Trial]) -> None:
        """Make these the trials that the board shows."""
        held, changed = self._held, []
        for trial in history:
            known = held.get(trial.candidate.id)
            if (
                known is None
                or known[0] is not trial.candidate
                or known[1] != trial.results
                or known[2] != trial.unfinished
            ):
                changed.append(trial)
        for trial in changed:
            self._drop(trial.candidate.id)
            self._put(trial)
        if len(held) != len(history):
            for gone in held.keys() - {trial.candidate.id for trial in history}:
                self._drop(gone)

    def digest(self, identity: str) -> Digest:
        """The trial of a candidate in short."""
        return self._held[identity][3]

    def contenders(self, rung: int) -> list[Digest]:
        """Of the trials whose highest complete rung is this one, the best by their sum and on each task, by their sum.

        Whatever is as good as one of them on all tasks and better on one is among them too.
        """
        total, *by_task = self._orders[rung]
        best = {str(entry[-1]) for entry in total[-CONTENDERS:]}
        best |= {str(entry[-1]) for order in by_task for entry in order[-SPECIALISTS:]}
        digests = [self._held[identity][3] for identity in best]
        return sorted(digests, key=lambda each: _by_sum(each), reverse=True)

    def failed(self, last: int) -> list[Digest]:
        """The `last` candidates that failed, the latest first."""
        return [self._held[identity][3] for _, identity in self._failed[: -last - 1 : -1]]

    def kinds(self) -> list[tuple[str, int]]:
        """How many failed of each kind, most first."""
        return sorted(
            ((kind, count) for kind, count in self._kinds.items() if count), key=lambda each: (-each[1], each[0])
        )

    def baselines(self) -> list[Digest]:
        """The baselines that did not fail and have a complete rung, by index."""
        return sorted(self._baselines.values(), key=lambda each: each.candidate.index)

    def _put(self, trial: Trial) -> None:
        made = digest(trial, self.tasks)
        self._held[trial.candidate.id] = (trial.candidate, trial.results, trial.unfinished, made)
        if made.failure is not None:
            insort(self._failed, (trial.candidate.index, trial.candidate.id))
            self._kinds[made.failure.kind.value] += 1
            return
        if made.rung >= 0 and trial.candidate.origin is Origin.ZOO:
            self._baselines[trial.candidate.id] = made
        for order, entry in self._entries(made):
            insort(order, entry)

    def _drop(self, identity: str) -> None:
        if identity not in self._held:
            return
        candidate, _, _, gone = self._held.pop(identity)
        self._baselines.pop(identity, None)
        if gone.failure is not None:
            self._failed.remove((candidate.index, identity))
            self._kinds[gone.failure.kind.value] -= 1
            return
        for order, entry in self._entries(gone):
            del order[bisect_left(order, entry)]

    def _entries(self, made: Digest) -> Iterator[tuple[list[Entry], Entry]]:
        """Where a trial with a complete rung stands in each order of that rung."""
        if made.rung < 0:
            return
        total, *by_task = self._orders[made.rung]
        yield total, _by_sum(made)
        for order, score in zip(by_task, made.scores, strict=True):
            yield order, (score, *_by_sum(made))


def _by_sum(made: Digest) -> Entry:
    """What orders trials by their sum; a trial that is better on one task and as good on all comes after the other,
    where rounding makes their sums equal too."""
    return sum(made.scores), made.scores, -made.candidate.index, made.candidate.id
