"""A fresh ledger for each test, on every database there is, and the records to fill it with.

PostgreSQL joins in when ARCHLOOM_TEST_POSTGRESQL holds the URL of a server whose user may create databases.
"""

import hashlib
import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from sqlalchemy import create_engine, make_url, text

from archloom.db.records import (
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    Measurement,
    Origin,
    Protocol,
    Result,
    Rung,
    Series,
    Stage,
    Task,
    Training,
    Trial,
    TrialSpec,
)
from archloom.db.store import Store

SERVER = os.environ.get("ARCHLOOM_TEST_POSTGRESQL")

DATABASES = ["sqlite", "postgresql"] if SERVER else ["sqlite"]


@pytest.fixture(params=DATABASES)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Where a ledger can be made: the path of a new file, or the URL of a new database."""
    if request.param == "sqlite":
        yield str(tmp_path / "ledger.db")
        return
    assert SERVER is not None
    name = f"archloom_test_{uuid.uuid4().hex[:12]}"
    server = create_engine(make_url(SERVER).set(drivername="postgresql+psycopg"), isolation_level="AUTOCOMMIT")
    with server.connect() as connection:
        connection.execute(text(f"CREATE DATABASE {name}"))
    yield make_url(SERVER).set(database=name).render_as_string(hide_password=False)
    with server.connect() as connection:
        connection.execute(text(f"DROP DATABASE {name} WITH (FORCE)"))
    server.dispose()


@pytest.fixture
def store(location: str, protocol: Protocol, make_campaign: Callable[..., Campaign]) -> Iterator[Store]:
    """A new ledger with the campaign "first"."""
    with Store.open(location, create=True) as opened:
        opened.create_campaign(make_campaign("first"), protocol=protocol)
        yield opened


@pytest.fixture(scope="session")
def protocol() -> Protocol:
    return Protocol(
        version=1,
        grammar=1,
        reference="softmax",
        width=32,
        depth=1,
        tasks=(Task(name="mqar", vocabulary=64, length=32, batch=8, options=(("pairs", 8), ("ramp", 0.4))),),
        rungs=(Rung(stages=(Stage(task="mqar", steps=250, seeds=(0, 1)),)),),
        training=Training(),
    )


@pytest.fixture(scope="session")
def make_campaign(protocol: Protocol) -> Callable[..., Campaign]:
    def make(name: str, *, created: datetime = datetime(2026, 1, 1, tzinfo=UTC)) -> Campaign:
        config = f'{{"name": "{name}"}}'
        return Campaign(
            name=name,
            config=config,
            config_hash=hashlib.sha256(config.encode()).hexdigest(),
            protocol=protocol.id,
            seed=2**40 + 1,
            state=CampaignState.STOPPED,
            created=created,
        )

    return make


@pytest.fixture(scope="session")
def make_candidate() -> Callable[..., Candidate]:
    def make(
        index: int,
        *,
        term: str | None = None,
        origin: Origin = Origin.RANDOM,
        name: str | None = None,
        parents: tuple[str, ...] = (),
        rationale: str | None = None,
    ) -> Candidate:
        term = term or f"term number {index}"
        identity = hashlib.sha256(term.encode()).hexdigest()
        return Candidate(
            id=identity, term=term, origin=origin, index=index, name=name, parents=parents, rationale=rationale
        )

    return make


@pytest.fixture(scope="session")
def make_spec(protocol: Protocol) -> Callable[..., TrialSpec]:
    def make(candidate: Candidate, *, task: str = "mqar", rung: int = 0, seed: int = 0, steps: int = 250) -> TrialSpec:
        key = EvaluationKey(candidate=candidate.id, task=task, rung=rung, seed=seed)
        return TrialSpec(key=key, term=candidate.term, protocol=protocol, steps=steps)

    return make


@pytest.fixture(scope="session")
def make_measurement() -> Callable[..., Measurement]:
    def make(
        key: EvaluationKey,
        *,
        score: float | None = 0.5,
        metrics: Mapping[str, float] | None = None,
        series: tuple[Series, ...] = (),
        failure: Failure | None = None,
        seconds: float = 1.5,
    ) -> Measurement:
        return Measurement(
            key=key,
            score=None if failure else score,
            metrics=metrics or {},
            series=series,
            environment={"torch": "2.6"},
            seconds=seconds,
            failure=failure,
        )

    return make


@pytest.fixture
def planned(
    store: Store, make_candidate: Callable[..., Candidate], make_spec: Callable[..., TrialSpec]
) -> EvaluationKey:
    """The key of one pending evaluation of "first"."""
    candidate = make_candidate(0)
    store.add_candidate("first", candidate)
    spec = make_spec(candidate)
    store.plan("first", [spec])
    return spec.key


@pytest.fixture(scope="session")
def make_trial(make_candidate: Callable[..., Candidate]) -> Callable[..., Trial]:
    """`scores` maps (task, rung) to a score or to the way in which it failed; `metrics` go to all that did not fail."""

    def make(
        index: int,
        scores: Mapping[tuple[str, int], float | FailureKind | None],
        *,
        origin: Origin = Origin.RANDOM,
        metrics: Mapping[str, float] | None = None,
        parents: tuple[str, ...] = (),
    ) -> Trial:
        candidate = make_candidate(index, origin=origin, parents=parents)
        results = []
        for (task, rung), outcome in scores.items():
            key = EvaluationKey(candidate=candidate.id, task=task, rung=rung, seed=0)
            failure = None
            if isinstance(outcome, FailureKind):
                failure = Failure(kind=outcome, reason=f"{outcome} of {index}")
            score = None if isinstance(outcome, FailureKind) else outcome
            measured = {} if failure else metrics or {}
            results.append(Result(key=key, score=score, metrics=measured, failure=failure, seconds=2.0))
        return Trial(candidate=candidate, results=tuple(results))

    return make


@pytest.fixture(scope="session")
def seeded_trial(make_candidate: Callable[..., Candidate]) -> Callable[..., Trial]:
    """`scores` maps a task to what came of its seeds at one rung: a score, or the way in which it failed."""

    def make(
        index: int,
        scores: Mapping[str, Mapping[int, float | FailureKind]],
        *,
        rung: int = 0,
        origin: Origin = Origin.EVOLUTION,
        name: str | None = None,
    ) -> Trial:
        candidate = make_candidate(index, origin=origin, name=name)
        results = []
        for task, by_seed in scores.items():
            for seed, outcome in by_seed.items():
                failed = isinstance(outcome, FailureKind)
                results.append(
                    Result(
                        key=EvaluationKey(candidate=candidate.id, task=task, rung=rung, seed=seed),
                        score=None if isinstance(outcome, FailureKind) else outcome,
                        metrics={},
                        failure=Failure(kind=FailureKind(outcome), reason="it failed") if failed else None,
                        seconds=1.0,
                    )
                )
        return Trial(candidate=candidate, results=tuple(results))

    return make


@pytest.fixture(scope="session")
def seeded_protocol(protocol: Protocol) -> Callable[..., Protocol]:
    """`rungs` rungs, each with every task on every seed."""

    def make(*tasks: str, seeds: tuple[int, ...] = (0, 1), rungs: int = 1, keep: float = 0.5) -> Protocol:
        stages = tuple(Stage(task=task, steps=10, seeds=seeds) for task in tasks)
        return replace(
            protocol,
            tasks=tuple(Task(name=task, vocabulary=8, length=8, batch=1) for task in tasks),
            rungs=(Rung(stages=stages, keep=keep),) * rungs,
        )

    return make
