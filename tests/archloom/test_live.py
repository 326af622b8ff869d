"""A running campaign on stderr."""

import io
import math
from dataclasses import dataclass

import pytest

from archloom import live


@dataclass(frozen=True, kw_only=True)
class Progress:
    campaign: str = "small"
    jobs_done: int = 20
    candidates: int = 7
    candidates_total: int = 84
    running: int = 2
    best: float = 0.91234
    best_name: str = "ab12cd34"
    best_baseline: float = 0.8
    baseline_name: str = "mha"
    failures: int = 1
    wall_seconds: float = 65.0
    wall_limit: float | None = 480.0
    eta_seconds: float = 400.0
    overhead: float = 0.043


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_elsewhere_than_on_a_terminal_a_line_comes_every_ten_seconds() -> None:
    stream = io.StringIO()
    times = iter([0.0, 4.0, 9.9, 10.0, 15.0, 21.0])
    with live.following(stream, clock=lambda: next(times)) as show:
        for done in range(6):
            show(Progress(candidates=done))  # type: ignore[arg-type]
    assert [line.split()[0] for line in stream.getvalue().splitlines()] == ["0/84", "3/84", "5/84"]
    assert "\x1b" not in stream.getvalue()


def test_a_line_says_candidates_best_against_baseline_budget_and_time_left() -> None:
    said = ", ".join(live.parts(Progress()))  # type: ignore[arg-type]
    assert said == (
        "7/84 candidates, best 0.912 (ab12cd34) against 0.800 (mha), 2 running, 1 failed, 1m05s of 8m00s, "
        "6m40s left, overhead 4%"
    )


def test_what_is_not_known_yet_is_not_said() -> None:
    start = Progress(
        best=math.nan,
        best_name="",
        best_baseline=math.nan,
        baseline_name="",
        failures=0,
        wall_limit=None,
        eta_seconds=math.nan,
        overhead=math.nan,
    )
    assert ", ".join(live.parts(start)) == "7/84 candidates, no score yet, 2 running, 1m05s"  # type: ignore[arg-type]


def test_a_terminal_gets_a_panel_that_is_cleared_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    stream = Terminal()
    with live.following(stream) as show:
        show(Progress())  # type: ignore[arg-type]
    drawn = stream.getvalue()
    assert "best 0.912 (ab12cd34) against 0.800 (mha)" in drawn
    assert drawn.rstrip("\r").endswith("\x1b[2K")
