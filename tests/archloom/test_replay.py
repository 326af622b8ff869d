"""Replay of a real campaign: equal bits, and every kind of tampering is seen."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from archloom import campaign
from archloom.config import Config
from archloom.db.records import GATES, Origin
from archloom.db.store import Store
from archloom.errors import NotFoundError
from archloom.replay import replay


@pytest.fixture
def store(campaign_file: Callable[[Path], Path], tmp_path: Path) -> Store:
    config = Config.load(str(campaign_file(tmp_path)), ["budget.candidates=2"]).config
    store = Store.open(config.campaign.store, create=True)
    campaign.run(config, store=store, resume=False, progress=lambda progress: None, stopping=lambda: 0)
    return store


def promoted(store: Store) -> str:
    return next(t.candidate.id for t in store.history("small") if t.rung == 1 and t.candidate.origin is not Origin.ZOO)


def test_every_evaluation_is_replayed_to_the_bit(store: Store) -> None:
    report = replay(store, "small", promoted(store), exact=True)
    assert report.ok
    assert [(row.evaluation.task, row.evaluation.rung) for row in report.rows] == [
        (GATES, 0),
        ("mqar", 0),
        ("mqar", 1),
        ("mqar", 1),
    ]
    assert all(row.recorded == row.replayed for row in report.rows)
    store.close()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("update evaluations set score = score + 1e-9 where rung = 1 and seed = 2", "score"),
        ("update evaluations set fingerprint = 'other' where task = 'gates'", "fingerprint"),
        ("update series set points = replace(points, '.', '.0') where name like '%loss%'", "series"),
    ],
)
def test_a_changed_record_is_not_reproduced(store: Store, tmp_path: Path, change: str, said: str) -> None:
    chosen = promoted(store)
    with sqlite3.connect(tmp_path / "small.db") as database:
        assert database.execute(change).rowcount > 0
    report = replay(store, "small", chosen, exact=True)
    assert not report.ok
    assert any(said in row.difference for row in report.rows)
    store.close()


def test_without_exact_a_last_bit_may_differ_and_a_score_may_not(store: Store, tmp_path: Path) -> None:
    chosen = promoted(store)
    with sqlite3.connect(tmp_path / "small.db") as database:
        database.execute("update evaluations set score = score + 1e-9 where task = 'mqar'")
    assert replay(store, "small", chosen, exact=False).ok
    with sqlite3.connect(tmp_path / "small.db") as database:
        database.execute("update evaluations set score = score + 0.1 where task = 'mqar'")
    assert not replay(store, "small", chosen, exact=False).ok
    store.close()


def test_an_unknown_candidate_is_not_found(store: Store) -> None:
    with pytest.raises(NotFoundError, match="no finished evaluation"):
        replay(store, "small", "f" * 64, exact=True)
    store.close()
