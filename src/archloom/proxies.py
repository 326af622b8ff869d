"""Do the proxy tasks tell mixers apart? The panel trained on every task of a suite, and what the scores say.

Runs are kept one by one in a file of JSON lines, so that a measurement of an hour can be interrupted and goes on.
Spread is the standard deviation of the systems' mean scores, noise the pooled standard deviation of seeds within a
system, and signal-to-noise their quotient: at 3 a difference of one spread shows with a single seed nearly always.
"""

import itertools
import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from archloom.db.noise import sum_of_squares
from archloom.db.records import EvaluationKey, Protocol, TrialSpec
from archloom.evaluator.executors import Executor
from archloom.evaluator.panel import CLAIMS, Claim, system
from archloom.evaluator.task_kinds import kind_name
from archloom.search_space.identity import term_id

LEAST_NOISE = 0.005
"""Scores come from some hundred answers: seeds that agree to less than this agree by luck."""

WANTED = 3.0
"""The signal-to-noise ratio that a task owes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One system trained on one task with one seed. `score` is 0 where it failed, `failure` says why."""

    protocol: str
    task: str
    system: str
    seed: int
    steps: int
    score: float
    seconds: float
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskReport:
    """What one task told: by system the mean score; `seconds` is the median of a run."""

    task: str
    scores: dict[str, float]
    seeds: int
    spread: float
    noise: float
    seconds: float

    @property
    def signal(self) -> float:
        return self.spread / self.noise

    @property
    def discriminates(self) -> bool:
        return self.signal >= WANTED


@dataclass(frozen=True, slots=True, kw_only=True)
class ClaimReport:
    """Whether a published order shows on a task: the least difference between neighbouring levels, or of the least
    score from what is asked. NaN if a system of it was not run."""

    claim: Claim
    task: str
    by: float

    @property
    def holds(self) -> bool:
        return self.by >= (0.0 if self.claim.least is not None else self.claim.margin)


def measure(
    protocol: Protocol,
    *,
    systems: Sequence[str],
    seeds: int,
    executor: Executor,
    record: Path,
    progress: Callable[[Run, int], None],
) -> list[Run]:
    """Train every system on the stages of the protocol's first rung with seeds 0 to `seeds` - 1.

    Runs that `record` holds already, of this protocol, are taken from it; others are appended as they end.
    `progress` is told of each run and how many are left.
    """
    known = {_key(run): run for run in _recorded(record) if run.protocol == protocol.id}
    asked: dict[EvaluationKey, tuple[str, TrialSpec]] = {}
    for name, spec in _specs(protocol, systems=systems, seeds=seeds):
        if (spec.key.task, name, spec.key.seed, spec.steps) not in known:
            asked[spec.key] = (name, spec)
    for _, spec in asked.values():
        executor.submit(spec)
    left = len(asked)
    with record.open("a", encoding="utf-8") as file:
        while left:
            for completion in executor.completed(timeout=5.0):
                name, spec = asked[completion.spec.key]
                found = completion.measurement
                failed = completion.lost or (found.failure if found else None)
                run = Run(
                    protocol=protocol.id,
                    task=spec.key.task,
                    system=name,
                    seed=spec.key.seed,
                    steps=spec.steps,
                    score=found.score if found and found.score is not None else 0.0,
                    seconds=found.metrics.get("train_seconds", found.seconds) if found else math.nan,
                    failure=failed.reason if failed else "",
                )
                known[_key(run)] = run
                file.write(json.dumps(asdict(run)) + "\n")
                file.flush()
                left -= 1
                progress(run, left)
    return [run for run in known.values() if run.system in systems and run.seed < seeds]


def task_reports(runs: Sequence[Run]) -> list[TaskReport]:
    """One report for every task, in the order of the runs."""
    found = []
    for task in dict.fromkeys(run.task for run in runs):
        mine = [run for run in runs if run.task == task]
        by_system = {name: [run.score for run in mine if run.system == name] for name in {run.system for run in mine}}
        means = {name: statistics.fmean(scores) for name, scores in by_system.items()}
        found.append(
            TaskReport(
                task=task,
                scores=dict(sorted(means.items(), key=lambda each: -each[1])),
                seeds=max(map(len, by_system.values())),
                spread=statistics.stdev(means.values()) if len(means) > 1 else 0.0,
                noise=max(LEAST_NOISE, _pooled(list(by_system.values()))),
                seconds=statistics.median(run.seconds for run in mine),
            )
        )
    return found


def claim_reports(reports: Sequence[TaskReport], protocol: Protocol) -> list[ClaimReport]:
    """Every published order on every task of its kind."""
    return [
        ClaimReport(claim=claim, task=report.task, by=_difference(claim, report.scores))
        for report in reports
        for claim in CLAIMS
        if kind_name(protocol.task(report.task)) == claim.kind
    ]


def _difference(claim: Claim, scores: dict[str, float]) -> float:
    levels = [[scores.get(name, math.nan) for name in level] for level in claim.levels]
    if any(math.isnan(score) for level in levels for score in level):
        return math.nan
    if claim.least is not None:
        return min(levels[0]) - claim.least
    return min(min(upper) - max(lower) for upper, lower in itertools.pairwise(levels))


def _pooled(groups: Sequence[Sequence[float]]) -> float:
    """Standard deviation within groups, pooled; 0 where no group has two."""
    squares = sum(map(sum_of_squares, groups))
    degrees = sum(len(group) - 1 for group in groups)
    return math.sqrt(squares / degrees) if degrees else 0.0


def _specs(protocol: Protocol, *, systems: Sequence[str], seeds: int) -> Iterator[tuple[str, TrialSpec]]:
    for stage in protocol.rungs[0].stages:
        for seed in range(seeds):
            for name in systems:
                term = system(name, depth=protocol.depth)
                key = EvaluationKey(candidate=term_id(term), task=stage.task, rung=0, seed=seed)
                yield name, TrialSpec(key=key, term=term.text, protocol=protocol, steps=stage.steps)


def _key(run: Run) -> tuple[str, str, int, int]:
    return run.task, run.system, run.seed, run.steps


def _recorded(record: Path) -> list[Run]:
    """The whole lines of a record; a last line that was cut off is left out."""
    if not record.exists():
        return []
    runs = []
    for line in record.read_text(encoding="utf-8").splitlines():
        try:
            runs.append(Run(**json.loads(line)))
        except (json.JSONDecodeError, TypeError):
            continue
    return runs
