"""The report of a campaign: one self-contained HTML page with two charts and the leaderboard.

A pure function of records. The page holds no script and loads nothing; every text that came from a person, a file or a
language model is escaped.
"""

from collections.abc import Sequence
from html import escape

from archloom.dashboards.charts import Point, Series, line_chart, scatter_chart
from archloom.db.queries import Row, failures, leaderboard, pareto
from archloom.db.records import Campaign, Origin, Trial
from archloom.db.statistics import Comparison, compare_arms

COLOURS = {
    Origin.ZOO: "#7a7a7a",
    Origin.RANDOM: "#c77d1e",
    Origin.EVOLUTION: "#1f6fb2",
    Origin.LANGUAGE_MODEL: "#2a8a57",
}

STYLE = """
:root { color-scheme: light dark; --line: #8884; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: right; padding: .25rem .5rem; border-bottom: 1px solid var(--line); }
th:nth-child(-n+3), td:nth-child(-n+3) { text-align: left; }
code { font-size: .85em; overflow-wrap: anywhere; }
figure { margin: 1.5rem 0; } figcaption { font-size: .9em; opacity: .8; }
svg text { fill: currentColor; font-size: 11px; } svg { max-width: 100%; height: auto; }
summary { cursor: pointer; }
"""


def page(campaign: Campaign, trials: Sequence[Trial]) -> str:
    """The report as a complete HTML document."""
    rows = leaderboard(trials)
    front = {row.candidate.id for row in pareto(rows, ("score", "state_bytes"))} if rows else set()
    body = [
        f"<h1>{escape(campaign.name)}</h1>",
        f"<p>{escape(campaign.state.value)}, begun {campaign.created:%Y-%m-%d %H:%M} UTC, "
        f"protocol <code>{escape(campaign.protocol)}</code>, seed {campaign.seed}, "
        f"{campaign.wall_seconds:,.0f} s of wall time.</p>",
        *(f"<p>{verdict(comparison)}</p>" for comparison in _comparisons(trials)),
        _progress(trials),
        _frontier(rows),
        _table(rows, front),
        _failures(trials),
    ]
    title = f"archloom: {escape(campaign.name)}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f"<style>{STYLE}</style></head>\n<body>\n" + "\n".join(body) + "\n</body></html>\n"
    )


def verdict(comparison: Comparison) -> str:
    """One sentence on an arm against its control."""
    words = {
        "better": "beat its control",
        "worse": "did worse than its control",
        "undecided": "cannot be told from its control",
    }
    return (
        f"{escape(comparison.arm.origin.value)} {words[comparison.verdict]}, "
        f"{escape(comparison.control.origin.value)}: "
        f"one of its candidates is the better one with probability {comparison.probability:.2f} "
        f"[{comparison.low:.2f}, {comparison.high:.2f}] ({comparison.arm.n} and {comparison.control.n} candidates)."
    )


def _comparisons(trials: Sequence[Trial]) -> list[Comparison]:
    present = {trial.candidate.origin for trial in trials}
    if Origin.RANDOM not in present:
        return []
    arms = [each for each in (Origin.EVOLUTION, Origin.LANGUAGE_MODEL) if each in present]
    return [compare_arms(trials, arm=arm, control=Origin.RANDOM) for arm in arms]


def _progress(trials: Sequence[Trial]) -> str:
    """Best first-rung score so far against candidates proposed, by arm."""
    series = []
    for origin in COLOURS:
        best, points = 0.0, []
        own = [trial for trial in trials if trial.candidate.origin is origin and trial.rung >= 0]
        for number, trial in enumerate(own, 1):
            best = max(best, trial.score(0))
            points.append((float(number), best))
        if points and origin is not Origin.ZOO:
            series.append(Series(name=origin.value, colour=COLOURS[origin], points=tuple(points)))
    if not series:
        return ""
    chart = line_chart(series, x_label="candidates of the arm", y_label="best score, first rung")
    return f"<figure>{chart}<figcaption>What each arm had found after as many candidates.</figcaption></figure>"


def _frontier(rows: Sequence[Row]) -> str:
    """Score of the highest rung against decode state."""
    top = max((row.rung for row in rows), default=0)
    points = [
        Point(
            x=max(1.0, row.state_bytes),
            y=row.score,
            colour=COLOURS[row.candidate.origin],
            label=row.candidate.name or row.candidate.short,
        )
        for row in rows
        if row.rung == top and row.state_bytes == row.state_bytes
    ]
    if not points:
        return ""
    chart = scatter_chart(points, x_label="decode state, bytes", y_label=f"score, rung {top}")
    return f"<figure>{chart}<figcaption>Score against the state that decoding carries.</figcaption></figure>"


def _table(rows: Sequence[Row], front: set[str]) -> str:
    head = "".join(
        f"<th>{name}</th>"
        for name in ("", "candidate", "origin", "rung", "score", "recall", "bits/byte", "parameters", "state bytes")
    )
    lines = [_line(row, row.candidate.id in front) for row in rows]
    return f"<h2>Leaderboard</h2>\n<table><tr>{head}</tr>\n" + "\n".join(lines) + "\n</table>"


def _line(row: Row, on_front: bool) -> str:
    candidate = row.candidate
    name = escape(candidate.name or candidate.short) + (" *" if on_front else "")
    detail = f"<details><summary>{name}</summary><code>{escape(candidate.term)}</code></details>"
    cells = (
        str(row.rank),
        detail,
        escape(candidate.origin.value),
        str(row.rung),
        _number(row.score, ".3f"),
        _number(row.recall, ".3f"),
        _number(row.loss, ".3f"),
        _number(row.parameters, ",.0f"),
        _number(row.state_bytes, ",.0f"),
    )
    return "<tr>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _failures(trials: Sequence[Trial]) -> str:
    counts = failures(trials)
    if not counts:
        return ""
    items = "".join(f"<li>{each.count} x {escape(each.kind.value)}: {escape(each.reason)}</li>" for each in counts)
    return f"<h2>Failures</h2><ul>{items}</ul>"


def _number(value: float, form: str) -> str:
    return "" if value != value else format(value, form)
