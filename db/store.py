"""The ledger. The only file that holds sessions: it takes and returns frozen records, and no row ever leaves it.

Every method is one transaction, done whole or not at all, so a process may be killed at any instant. Methods may be
called from several threads. What stands in the database's own way (no disk, no server, no rights) is an
`EnvironmentProblem`.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from archloom.db import campaigns, candidates, evaluations, history, journal, ownership
from archloom.db.engine import Answer, connect, explained, parse_location, prepare_file, query_read_only, writing
from archloom.db.records import (
    Attempt,
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Event,
    LanguageModelCall,
    Measurement,
    Protocol,
    Trial,
    TrialSpec,
)
from archloom.db.schema import prepare


class Store:
    """A ledger that is open. Made by `Store.open`; closed by `close`, or at the end of a `with` block."""

    def __init__(self, engine: Engine, *, url: URL) -> None:
        self._engine = engine
        self._writing_engine = writing(engine)
        self._url = url

    @classmethod
    def open(cls, location: str | Path, *, create: bool = False) -> "Store":
        """Open the ledger at a path (SQLite) or a URL (`postgresql://user@host/name`).

        `create` makes it, with the folders above it, where there is none yet. An older schema is migrated. Errors:
        `NotFoundError` if there is no file; `EnvironmentProblem` if it is unreadable, no ledger or of a newer schema;
        `ConfigError` for a location that is neither.
        """
        url = parse_location(location)
        prepare_file(url, create=create)
        engine = connect(url)
        try:
            with explained(url):
                prepare(engine, create=create)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, url=url)

    def close(self) -> None:
        """Release the file or the server. Safe to call twice."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # Campaigns

    def create_campaign(self, campaign: Campaign, *, protocol: Protocol) -> None:
        """Add a campaign and, if it is new, its protocol. `ConfigError` if the name is taken."""
        with self._write() as session:
            campaigns.create_campaign(session, campaign, protocol=protocol)

    def campaign(self, name: str | None = None) -> Campaign:
        """The campaign of that name, the latest for None. `NotFoundError` says which there are."""
        with self._read() as session:
            return campaigns.find_campaign(session, name)

    def campaigns(self) -> tuple[Campaign, ...]:
        """All campaigns, oldest first."""
        with self._read() as session:
            return campaigns.list_campaigns(session)

    def protocol(self, protocol_id: str) -> Protocol:
        """The protocol with that `Protocol.id`. `NotFoundError` if no campaign ran under it."""
        with self._read() as session:
            return campaigns.find_protocol(session, protocol_id)

    def acquire(self, campaign: str, *, owner: str) -> None:
        """Become the one runner of a campaign, which is set running. `owner` is a token of the caller's making.

        Taken over from a holder whose process is dead or that has been silent for 60 s; `EnvironmentProblem` naming
        process, host and since when, if the holder lives. Acquiring again with the same token is harmless.
        """
        with self._write() as session:
            ownership.acquire(session, campaign, owner=owner)

    def heartbeat(self, campaign: str, *, owner: str, wall_seconds: float) -> None:
        """Say that the runner lives, and how long it has run. `EnvironmentProblem` if the campaign was taken over."""
        with self._write() as session:
            ownership.heartbeat(session, campaign, owner=owner, wall_seconds=wall_seconds)

    def release(self, campaign: str, *, owner: str, state: CampaignState, wall_seconds: float) -> None:
        """Give the campaign up in `state`. `EnvironmentProblem`, and no change, if `owner` does not hold it."""
        with self._write() as session:
            ownership.release(session, campaign, owner=owner, state=state, wall_seconds=wall_seconds)

    # Candidates

    def add_candidate(self, campaign: str, candidate: Candidate) -> None:
        """Add a candidate; the same record again is harmless.

        `ConfigError` if the campaign holds another record with its index or its hash.
        """
        with self._write() as session:
            candidates.add_candidate(session, campaign, candidate)

    def candidate(self, prefix: str, *, campaign: str | None = None) -> Candidate:
        """The candidate of that name, or whose hash alone begins so; of all campaigns for None.

        `NotFoundError`, listing up to five, if there is none or more than one.
        """
        with self._read() as session:
            return candidates.find_candidate(session, prefix, campaign=campaign)

    def candidates(self, campaign: str) -> tuple[Candidate, ...]:
        """All candidates of a campaign, by index."""
        with self._read() as session:
            return candidates.list_candidates(session, campaign)

    # Evaluations

    def plan(self, campaign: str, specs: Sequence[TrialSpec]) -> None:
        """Add pending evaluations; those planned before stay as they are. `NotFoundError` for unknown candidates."""
        with self._write() as session:
            evaluations.plan(session, campaign, specs)

    def claim(self, campaign: str, key: EvaluationKey, *, worker: str, lease_seconds: float) -> Attempt | None:
        """Lease an evaluation: exactly one of many callers gets it, the others get None until the lease has run out.

        None also if it has finished. `NotFoundError` if it was never planned.
        """
        with self._write() as session:
            return evaluations.claim(session, campaign, key, worker=worker, lease_seconds=lease_seconds)

    def renew(self, attempts: Sequence[Attempt], *, lease_seconds: float) -> None:
        """Let the leases of live attempts end `lease_seconds` from now; attempts that have ended are passed over."""
        with self._write() as session:
            evaluations.renew(session, attempts, lease_seconds=lease_seconds)

    def finish(self, campaign: str, attempt: Attempt, measurement: Measurement) -> bool:
        """Store what an attempt measured, for good. False, and no change, if its evaluation is not its own any more:

        finished already, given back, or leased to another attempt.
        """
        with self._write() as session:
            return evaluations.finish(session, campaign, attempt, measurement)

    def abandon(self, campaign: str, attempt: Attempt, *, reason: str) -> None:
        """Give back the evaluation of a worker that was lost; the attempt stays on record. No-op if it has ended."""
        with self._write() as session:
            evaluations.abandon(session, campaign, attempt, reason=reason)

    def expire(self, campaign: str) -> int:
        """End every lease of a campaign and count them. For its owner, on resuming: no worker of his runs then."""
        with self._write() as session:
            return evaluations.expire(session, campaign)

    def attempts(self, campaign: str, key: EvaluationKey) -> int:
        """How many times an evaluation was tried, the running attempt included."""
        with self._read() as session:
            return evaluations.count_attempts(session, campaign, key)

    # History

    def history(self, campaign: str) -> tuple[Trial, ...]:
        """All candidates by index, each with its finished results in the order of planning."""
        with self._read() as session:
            return history.history(session, campaign)

    def measurement(self, campaign: str, key: EvaluationKey) -> Measurement:
        """A finished measurement whole, series and environment included. `NotFoundError` if it has not finished."""
        with self._read() as session:
            return history.measurement(session, campaign, key)

    def steps(self, campaign: str, key: EvaluationKey) -> int:
        """The training steps that an evaluation was planned with. `NotFoundError` if it was not planned."""
        with self._read() as session:
            return history.steps(session, campaign, key)

    # Events, calls and notes

    def add_event(self, campaign: str, *, kind: str, text: str) -> None:
        """Append an event, at the present time."""
        with self._write() as session:
            journal.add_event(session, campaign, kind=kind, text=text)

    def events(self, campaign: str, *, last: int = 100) -> tuple[Event, ...]:
        """The last events, oldest first."""
        with self._read() as session:
            return journal.list_events(session, campaign, last=last)

    def record_call(self, campaign: str, call: LanguageModelCall) -> None:
        """Append a language-model call. NUL and lone surrogates in its texts are kept as backslash escapes."""
        with self._write() as session:
            journal.record_call(session, campaign, call)

    def calls(self, campaign: str) -> tuple[LanguageModelCall, ...]:
        """All language-model calls, in the order recorded."""
        with self._read() as session:
            return journal.list_calls(session, campaign)

    def add_note(self, campaign: str, candidate: str, text: str) -> None:
        """Append a note to the candidate that has this name, or whose hash begins so."""
        with self._write() as session:
            candidates.add_note(session, campaign, candidate, text)

    def notes(self, campaign: str, candidate: str) -> tuple[str, ...]:
        """The notes of a candidate, oldest first."""
        with self._read() as session:
            return candidates.list_notes(session, campaign, candidate)

    def query(self, sql: str) -> Answer:
        """Column names and rows of one SELECT over `db/tables.py`. `ConfigError` if it writes or is wrong."""
        with explained(self._url):
            return query_read_only(self._engine, sql)

    @contextmanager
    def _read(self) -> Iterator[Session]:
        with explained(self._url), Session(self._engine) as session:
            yield session

    @contextmanager
    def _write(self) -> Iterator[Session]:
        with explained(self._url), Session(self._writing_engine) as session, session.begin():
            yield session
