"""The report page: complete, well formed, scriptless, and safe against what it quotes."""

import xml.etree.ElementTree as ElementTree
from datetime import UTC, datetime

from archloom.dashboards.report import page
from archloom.db.records import (
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    Origin,
    Result,
    Trial,
)

CAMPAIGN = Campaign(
    name="<b>bold</b>",
    config="{}",
    config_hash="0",
    protocol="abc",
    seed=0,
    state=CampaignState.FINISHED,
    created=datetime(2026, 1, 2, tzinfo=UTC),
)


def trial(index: int, score: float | None, origin: Origin, term: str = "x") -> Trial:
    candidate = Candidate(id=f"{index:064x}", term=term, origin=origin, index=index)
    failure = None if score is not None else Failure(kind=FailureKind.CAUSALITY, reason="<script>alert(1)</script>")
    result = Result(
        key=EvaluationKey(candidate=candidate.id, task="mqar", rung=0, seed=0),
        score=score,
        metrics={"state_bytes": 100.0 * (index + 1), "parameters": 5.0},
        failure=failure,
        seconds=1.0,
    )
    return Trial(candidate=candidate, results=(result,))


def parsed(text: str) -> ElementTree.Element:
    """The page as XML: it is written so that it is both."""
    return ElementTree.fromstring(text.replace("<!doctype html>", "").replace('<meta charset="utf-8">', ""))


def test_a_report_quotes_everything_and_runs_nothing() -> None:
    trials = [
        trial(0, 0.5, Origin.ZOO),
        trial(1, 0.25, Origin.RANDOM, term="</code><script>x</script>"),
        trial(2, 0.75, Origin.EVOLUTION),
        trial(3, None, Origin.EVOLUTION),
    ]
    text = page(CAMPAIGN, trials)
    root = parsed(text)
    assert not list(root.iter("script"))
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    rows = root.findall(".//table/tr")
    assert len(rows) == 1 + 3
    assert [cell.text for cell in rows[1]][4] == "0.750"
    assert len(list(root.iter("circle"))) == 3
    assert {"evolution", "random"} <= {text.text for text in root.iter("text")}
    assert "1 x causality" in "".join(root.itertext())


def test_an_empty_campaign_has_a_report() -> None:
    root = parsed(page(CAMPAIGN, []))
    assert root.find(".//h1") is not None
    assert not list(root.iter("svg"))


def test_points_of_one_x_do_not_divide_by_zero() -> None:
    root = parsed(page(CAMPAIGN, [trial(0, 1.0, Origin.RANDOM)]))
    assert len(list(root.iter("circle"))) == 1
