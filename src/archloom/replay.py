"""Replay: recorded evaluations are run again and compared with their records.

An exact replay asks for equal bits: the score, every deterministic metric and every point of every series. It holds on
the same PyTorch version, CPU capability and thread count; where those differ the report says so, because then equal
bits cannot be expected. Without `exact`, scores may differ by `TOLERANCE`.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from archloom.config import Config
from archloom.db.records import GATES, EvaluationKey, Measurement, TrialSpec
from archloom.db.store import Store
from archloom.errors import NotFoundError
from archloom.evaluator.trial import run_trial
from archloom.protocol import check_version

TOLERANCE = 0.02
TIMING = frozenset({"train_seconds", "steps_per_second"})
"""Metrics that measure the machine and not the candidate."""

DETERMINES = ("torch", "cpu_capability", "threads", "device", "kernels", "together")
"""Entries of the environment on which bits depend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayRow:
    """One evaluation run again. `difference` says what is not equal, or is empty."""

    evaluation: EvaluationKey
    recorded: float | None
    replayed: float | None
    equal: bool
    difference: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReplayReport:
    rows: tuple[ReplayRow, ...]

    @property
    def ok(self) -> bool:
        return all(row.equal for row in self.rows)


def replay(store: Store, campaign: str, candidate: str, *, exact: bool) -> ReplayReport:
    """Runs every finished evaluation of a candidate again, in this process.

    Raises NotFoundError if it has none, ConfigError if its protocol is of another version.
    """
    trial = next((t for t in store.history(campaign) if t.candidate.id == candidate), None)
    keys = [r.key for r in trial.results if r.failure is None] if trial else []
    if trial is None or not keys:
        raise NotFoundError(f"candidate {candidate[:8]} of campaign {campaign!r} has no finished evaluation to replay")
    record = store.campaign(campaign)
    protocol = store.protocol(record.protocol)
    check_version(protocol)
    timeout = Config.from_json(record.config).executor.timeout_seconds
    rows = []
    for key in keys:
        spec = TrialSpec(
            key=key,
            term=trial.candidate.term,
            protocol=protocol,
            steps=store.steps(campaign, key),
            timeout_seconds=10 * timeout,
        )
        rows.append(_compare(store.measurement(campaign, key), run_trial(spec), exact=exact))
    return ReplayReport(rows=tuple(rows))


def _compare(old: Measurement, new: Measurement, *, exact: bool) -> ReplayRow:
    difference = _difference(old, new) if exact else _distance(old, new)
    return ReplayRow(
        evaluation=old.key, recorded=old.score, replayed=new.score, equal=not difference, difference=difference
    )


def _distance(old: Measurement, new: Measurement) -> str:
    if new.failure is not None:
        return f"failed: {new.failure.reason}"
    if old.key.task == GATES or old.score is None or new.score is None:
        return "" if old.fingerprint == new.fingerprint else "fingerprint"
    return "" if abs(old.score - new.score) <= TOLERANCE else f"score off by {new.score - old.score:+.4f}"


def _difference(old: Measurement, new: Measurement) -> str:
    """The first thing that is not bit-equal, with the environment's share in it."""
    if new.failure is not None:
        return f"failed: {new.failure.reason}"
    found = _first_unequal(old, new)
    if not found:
        return ""
    moved = [
        f"{name} {old.environment.get(name)} -> {new.environment.get(name)}"
        for name in DETERMINES
        if old.environment.get(name) != new.environment.get(name)
    ]
    return f"{found}; another environment: {', '.join(moved)}" if moved else found


def _first_unequal(old: Measurement, new: Measurement) -> str:
    if old.score != new.score:
        return f"score {old.score!r} -> {new.score!r}"
    if old.fingerprint != new.fingerprint:
        return "fingerprint"
    before, after = _deterministic(old.metrics), _deterministic(new.metrics)
    for name in sorted(before | after):
        if not _same(before.get(name), after.get(name)):
            return f"{name} {before.get(name)!r} -> {after.get(name)!r}"
    for left, right in zip(old.series, new.series, strict=False):
        if left.name != right.name or left.steps != right.steps:
            return f"series {left.name}"
        for step, a, b in zip(left.steps, left.values, right.values, strict=True):
            if not _same(a, b):
                return f"series {left.name} at step {step}: {a!r} -> {b!r}"
    return "" if len(old.series) == len(new.series) else "number of series"


def _deterministic(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name: value for name, value in metrics.items() if name not in TIMING}


def _same(a: float | None, b: float | None) -> bool:
    if a is None or b is None:
        return a is b
    return a == b or (math.isnan(a) and math.isnan(b))
