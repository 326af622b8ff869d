"""Everything that the command line draws: data on stdout, messages on stderr.

Commands hand over records and get back tables. Text that a model or another person wrote is shown without its control
characters and is never read as markup.
"""

import dataclasses
import json
import math
import os
import sys
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Table

from archloom.db.records import BILLION, Candidate, Event, LanguageModelCall, Result, Trial

if TYPE_CHECKING:
    from archloom.db.claims import Judgement
    from archloom.db.queries import FailureCount, Row
    from archloom.db.ranks import Agreement
    from archloom.db.statistics import Comparison
    from archloom.doctor import Check
    from archloom.progress import Outcome
    from archloom.replay import ReplayReport
    from archloom.resolve import Value
    from archloom.summary import Summary

WIDE = 200
"""Columns of output that goes to no terminal: enough for any table, since no one wants a wrapped one in a file."""

DASH = "–"


def out(renderable: RenderableType) -> None:
    """Print data."""
    width = None if sys.stdout.isatty() or "COLUMNS" in os.environ else WIDE
    Console(file=sys.stdout, width=width, markup=False, highlight=False, emoji=False).print(renderable)


def line(text: str) -> None:
    """Print data that must not be wrapped."""
    sys.stdout.write(f"{plain(text)}\n")


def note(text: str) -> None:
    """Print a message."""
    sys.stderr.write(f"{plain(text)}\n")


def plain(text: str) -> str:
    """Without the control characters by which a text could move the cursor or colour what follows."""
    return "".join(letter if letter in "\n\t" or letter.isprintable() else "�" for letter in text)


def fields(value: Any) -> dict[str, object]:
    """A record's fields by name."""
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def json_(value: object) -> None:
    """Print one JSON value. NaN, which is "not measured", is null; infinities are the texts Infinity and -Infinity."""
    sys.stdout.write(json.dumps(_portable(value), indent=2, ensure_ascii=False) + "\n")


def _portable(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _portable(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_portable(item) for item in value]
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def number(value: float, *, digits: int = 3) -> str:
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def count(value: float) -> str:
    return f"{value:,.0f}" if math.isfinite(value) else DASH if math.isnan(value) else str(value)


def seconds(value: float) -> str:
    """As 8s, 3m20s or 2h05m."""
    if not math.isfinite(value):
        return DASH
    whole = round(value)
    if whole < 60:
        return f"{whole}s"
    return f"{whole // 60}m{whole % 60:02d}s" if whole < 3600 else f"{whole // 3600}h{whole % 3600 // 60:02d}m"


def label(candidate: Candidate) -> str:
    """The name of a baseline, the short id of any other candidate."""
    return candidate.name or candidate.short


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> Table:
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        drawn.add_column(column, justify="right" if column in right else "left", overflow="fold")
    for row in rows:
        drawn.add_row(*map(plain, row))
    return drawn


def pairs(values: Mapping[str, object]) -> Table:
    """Names and values in two columns without a frame."""
    drawn = Table.grid(padding=(0, 2))
    for name, value in values.items():
        drawn.add_row(name, plain(str(value)))
    return drawn


def leaderboard(rows: Sequence["Row"]) -> Table:
    columns = (
        "rank",
        "candidate",
        "origin",
        "rung",
        "effect",
        "score",
        "recall",
        "loss",
        "parameters",
        "state bytes",
        "seconds",
    )
    drawn = [
        (
            str(row.rank),
            label(row.candidate),
            row.candidate.origin.value,
            str(row.rung),
            number(row.effect),
            number(row.score),
            number(row.recall),
            number(row.loss),
            count(row.parameters),
            count(row.state_bytes),
            number(row.seconds, digits=1),
        )
        for row in rows
    ]
    return table(columns, drawn, right=("rank", "rung", *columns[4:]))


def ending(outcome: "Outcome") -> str:
    """How a session ended, and how its workers' time was used."""
    return (
        f"{outcome.message}: {outcome.evaluations} evaluations in {seconds(outcome.wall_seconds)}; "
        f"the workers' time went {outcome.gates:.1%} into gates and {outcome.overhead:.1%} into nothing"
    )


def judgements(found: Sequence["Judgement"], known: Mapping[str, Candidate]) -> Table:
    rows = [
        (
            label(known[each.candidate]),
            each.ruling,
            f"{each.effect:+.2f}",
            f"[{each.low:+.2f}, {each.high:+.2f}]",
            f"{each.corrected:.2g}",
            label(known[each.opponent]) if each.opponent else DASH,
        )
        for each in found
    ]
    return table(("candidate", "ruling", "effect", "interval", "p, corrected", "against"), rows, right=("effect",))


def agreement(found: "Agreement") -> str:
    """Whether a lower rung ranks as a higher one does, in a sentence."""
    between = f"{found.lower} and {found.upper}, {found.n} candidates on both"
    if found.reason is not None:
        return f"rank correlation of {between}: {found.reason}"
    return (
        f"rank correlation of {between}: Spearman {found.spearman:.2f} [{found.spearman_low:.2f}, "
        f"{found.spearman_high:.2f}], Kendall {found.kendall:.2f} [{found.kendall_low:.2f}, {found.kendall_high:.2f}]; "
        f"promotion loses {found.regret:.2g} of the best effect"
    )


def comparison(found: "Comparison") -> str:
    """Whether an arm beat its control, in a sentence that also says how sure that is."""
    arm, control = found.arm, found.control
    if not found.equal_n:
        return f"{arm.origin} against {control.origin}: too few candidates to compare"
    verdict = {"better": "beat", "worse": "lost to", "undecided": "cannot be told from"}[found.verdict]
    return (
        f"{arm.origin} {verdict} its control, {control.origin}: one of its candidates is better with probability "
        f"{number(found.probability, digits=2)} [{number(found.low, digits=2)}, {number(found.high, digits=2)}]; "
        f"best of {found.equal_n} {number(arm.best_of_n)} against {number(control.best_of_n)}, "
        f"mean {number(arm.mean)} against {number(control.mean)} "
        f"({arm.n} and {control.n} candidates, rung {found.rung})"
    )


def campaigns(summaries: Sequence["Summary"]) -> Table:
    columns = (
        "campaign",
        "state",
        "candidates",
        "failed",
        "best",
        "score",
        "baseline",
        "score",
        "wall",
        "created (UTC)",
    )
    rows = [
        (
            each.campaign,
            each.state.value,
            str(each.candidates),
            str(each.failed),
            label(each.best) if each.best else DASH,
            number(each.best_score),
            label(each.best_baseline) if each.best_baseline else DASH,
            number(each.best_baseline_score),
            seconds(each.wall_seconds),
            f"{each.created:%Y-%m-%d %H:%M}",
        )
        for each in summaries
    ]
    return table(columns, rows, right=("candidates", "failed", "score", "wall"))


def settings(values: Sequence["Value"], *, origin: bool) -> Table:
    columns = ("key", "value", "origin") if origin else ("key", "value")
    rows = [(value.key, "" if value.value is None else json.dumps(value.value), value.origin) for value in values]
    return table(columns, [row[: len(columns)] for row in rows])


def checks(found: Sequence["Check"]) -> Table:
    drawn = Table.grid(padding=(0, 2))
    for check in found:
        remedy = f"\n→ {check.remedy}" if check.remedy else ""
        drawn.add_row(check.verdict.value, check.name, plain(f"{check.finding}{remedy}"))
    return drawn


def results(found: Sequence[Result]) -> Table:
    columns = ("rung", "task", "seed", "score", "loss", "accuracy", "seconds", "failure")
    rows = [
        (
            str(result.key.rung),
            result.key.task,
            str(result.key.seed),
            number(math.nan if result.score is None else result.score),
            number(result.metrics.get("loss", math.nan)),
            number(result.metrics.get("accuracy", math.nan)),
            number(result.seconds, digits=1),
            f"{result.failure.kind}: {result.failure.reason}" if result.failure else "",
        )
        for result in found
    ]
    return table(columns, rows, right=("rung", "seed", "score", "loss", "accuracy", "seconds"))


def about(trial: Trial, *, known: Mapping[str, Candidate]) -> Table:
    """Who a candidate is, where it comes from and what it costs; `known` names its parents."""
    candidate = trial.candidate
    parents = [label(known[parent]) if parent in known else parent[:8] for parent in candidate.parents]
    values = {
        "id": candidate.id,
        "name": candidate.name,
        "origin": candidate.origin.value,
        "operator": candidate.operator,
        "parents": ", ".join(parents),
        "author": candidate.author,
        "rationale": candidate.rationale,
        "predicted": ", ".join(f"{task} {change:+.3f}" for task, change in candidate.predictions),
        "rests on": ", ".join(candidate.cites),
        "rung": trial.rung if trial.rung >= 0 else "",
        "score": number(trial.score(trial.rung)) if trial.rung >= 0 else "",
        **{name: count(trial.metric(name)) for name in ("parameters", "flops", "state_bytes")},
        "failure": f"{trial.failure.kind}: {trial.failure.reason}" if trial.failure else "",
    }
    return pairs({name: value for name, value in values.items() if value not in (None, "", DASH)})


def family(candidates: Sequence[Candidate], *, scores: Mapping[str, float]) -> Table:
    """Candidates in the order in which they came to be."""
    names = {candidate.id: label(candidate) for candidate in candidates}
    rows = [
        (
            str(candidate.index),
            label(candidate),
            candidate.origin.value,
            candidate.operator or "",
            ", ".join(names.get(parent, parent[:8]) for parent in candidate.parents),
            number(scores[candidate.id]),
        )
        for candidate in candidates
    ]
    return table(("index", "candidate", "origin", "operator", "parents", "score"), rows, right=("index", "score"))


def failures(found: Sequence["FailureCount"]) -> Table:
    rows = [(str(failed.count), failed.kind.value, label(failed.candidate), failed.reason) for failed in found]
    return table(("count", "failure", "first", "reason of the first"), rows, right=("count",))


def events(found: Sequence[Event]) -> Table:
    return table(
        ("at (UTC)", "event", ""), [(f"{event.at:%Y-%m-%d %H:%M:%S}", event.kind, event.text) for event in found]
    )


def calls(found: Sequence[LanguageModelCall]) -> Table:
    """Costs are in the currency of the prices; a call without an answer stands at the most that it can cost."""
    rows = [
        (
            f"{call.at:%Y-%m-%d %H:%M:%S}",
            call.role.value,
            call.model,
            str(call.prompt_tokens),
            str(call.completion_tokens),
            f"{call.cost / BILLION:.6f}",
            DASH if call.response is None else number(call.seconds, digits=1),
        )
        for call in found
    ]
    columns = ("at (UTC)", "role", "model", "prompt tokens", "completion tokens", "cost", "seconds")
    return table(columns, rows, right=columns[3:])


def answer(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> Table:
    return table(columns, [["" if cell is None else str(cell) for cell in row] for row in rows])


def replay(report: "ReplayReport") -> Table:
    rows = [
        (
            str(row.evaluation.rung),
            row.evaluation.task,
            str(row.evaluation.seed),
            repr(row.recorded),
            repr(row.replayed),
            "equal" if row.equal else f"DIFFERENT: {row.difference}",
        )
        for row in report.rows
    ]
    return table(("rung", "task", "seed", "recorded", "replayed", ""), rows, right=("rung", "seed"))
