"""What the command line draws of proxy tasks: their kinds and suites, and how well they tell mixers apart."""

import math
from collections.abc import Iterable, Mapping, Sequence

from rich.table import Table

from archloom.display import DASH, table
from archloom.evaluator.dials import Kind
from archloom.evaluator.suites import Suite
from archloom.proxies import ClaimReport, TaskReport


def kinds(known: Mapping[str, Kind]) -> Table:
    rows = [
        (name, kind.about, kind.pattern.name, " ".join(f"{dial.name}={dial.default}" for dial in kind.dials))
        for name, kind in known.items()
    ]
    return table(("task", "asks", "pattern", "dials"), rows)


def suites(known: Iterable[Suite]) -> Table:
    rows = []
    for suite in known:
        spent = [
            ", ".join(f"{stage['task']} ({stage['steps']} steps)" for stage in rung["stages"]) for rung in suite.rungs
        ]
        rows.append((suite.title, suite.about, "; then ".join(spent)))
    return table(("suite", "for", "tasks by rung"), rows)


def scores(reports: Sequence[TaskReport], systems: Sequence[str]) -> Table:
    """Mean score of every system on every task."""
    rows = [(name, *(_score(report.scores.get(name)) for report in reports)) for name in systems]
    names = [report.task for report in reports]
    return table(("system", *names), rows, right=names)


def _score(value: float | None) -> str:
    return DASH if value is None else f"{value:.2f}"


def signals(reports: Sequence[TaskReport]) -> Table:
    rows = [
        (
            report.task,
            f"{report.spread:.3f}",
            f"{report.noise:.3f}",
            f"{report.signal:.1f}",
            "yes" if report.discriminates else "no",
            f"{report.seconds:.1f}",
        )
        for report in reports
    ]
    columns = ("task", "spread", "seed noise", "signal to noise", "tells apart", "seconds a run")
    return table(columns, rows, right=columns[1:4] + columns[5:])


def claims(found: Sequence[ClaimReport]) -> Table:
    rows = [(each.task, each.claim.says, _verdict(each), f"{each.by:+.2f}", each.claim.source) for each in found]
    return table(("task", "published", "shows", "by", "source"), rows, right=("by",))


def _verdict(found: ClaimReport) -> str:
    if math.isnan(found.by):
        return "not run"
    return "yes" if found.holds else "no"
