"""The ledger. The only file that holds sessions: it takes and returns frozen records, and no row ever leaves it.

Every method is one transaction, done whole or not at all, so a process may be killed at any instant. Methods may be
called from several threads. What stands in the database's own way (no disk, no server, no rights) is an
`EnvironmentProblem`.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from sqlalchemy import URL, Engine
from sqlalchemy.orm import Session

from archloom.db import campaigns, candidates, evaluations, history, journal, ownership
from archloom.db.engine import Answer, connect, explained, parse_location, prepare_file, query_read_only, shown, writing
from archloom.db.patience import Patience, insist
from archloom.db.records import (
    Attempt,
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Event,
    LanguageModelCall,
    Lesson,
    Measurement,
    Protocol,
    Trial,
    TrialSpec,
)
from archloom.db.schema import prepare

IMPATIENT = Patience()
PATIENT_BUSY_SECONDS = 1.0
"""How long SQLite itself waits for its lock where the store tries again: between tries there is other work to do."""

T = TypeVar("T")


class Store:
    """A ledger that is open. Made by `Store.open`; closed by `close`, or at the end of a `with` block."""

    def __init__(self, engine: Engine, *, url: URL, patience: Patience = IMPATIENT) -> None:
        self._patience = patience
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

    def patient(self, patience: Patience) -> "Store":
        """The same ledger, waited for while it is out of reach, over connections of its own: the caller closes it.

        Every method then makes its transaction once, however often it has to try, and raises `EnvironmentProblem` when
        the patience is spent; not `create_campaign`, `add_note` and `query`, which are for people who can ask again.
        """
        return Store(connect(self._url, busy_seconds=PATIENT_BUSY_SECONDS), url=self._url, patience=patience)

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
        self._write(lambda session: campaigns.create_campaign(session, campaign, protocol=protocol))

    def campaign(self, name: str | None = None) -> Campaign:
        """The campaign of that name, the latest for None. `NotFoundError` says which there are."""
        return self._read(lambda session: campaigns.find_campaign(session, name))

    def campaigns(self) -> tuple[Campaign, ...]:
        """All campaigns, oldest first."""
        return self._read(lambda session: campaigns.list_campaigns(session))

    def protocol(self, protocol_id: str) -> Protocol:
        """The protocol with that `Protocol.id`. `NotFoundError` if no campaign ran under it."""
        return self._read(lambda session: campaigns.find_protocol(session, protocol_id))

    def acquire(self, campaign: str, *, owner: str) -> None:
        """Become the one runner of a campaign, which is set running. `owner` is a token of the caller's making.

        Taken over from a holder whose process is dead or that has been silent for 60 s; `EnvironmentProblem` naming
        process, host and since when, if the holder lives. Acquiring again with the same token is harmless.
        """
        self._write(lambda session: ownership.acquire(session, campaign, owner=owner))

    def heartbeat(self, campaign: str, *, owner: str, wall_seconds: float) -> None:
        """Say that the runner lives, and how long it has run. `EnvironmentProblem` if the campaign was taken over."""
        self._write(lambda session: ownership.heartbeat(session, campaign, owner=owner, wall_seconds=wall_seconds))

    def release(self, campaign: str, *, owner: str, state: CampaignState, wall_seconds: float) -> None:
        """Give the campaign up in `state`. `EnvironmentProblem`, and no change, if `owner` does not hold it."""
        self._write(
            lambda session: ownership.release(session, campaign, owner=owner, state=state, wall_seconds=wall_seconds),
            made=lambda session: ownership.has_released(session, campaign, owner=owner),
        )

    # Candidates

    def add_candidate(self, campaign: str, candidate: Candidate) -> None:
        """Add a candidate; the same record again is harmless.

        `ConfigError` if the campaign holds another record with its index or its hash.
        """
        self._write(lambda session: candidates.add_candidate(session, campaign, candidate))

    def candidate(self, prefix: str, *, campaign: str | None = None) -> Candidate:
        """The candidate of that name, or whose hash alone begins so; of all campaigns for None.

        `NotFoundError`, listing up to five, if there is none or more than one.
        """
        return self._read(lambda session: candidates.find_candidate(session, prefix, campaign=campaign))

    def candidates(self, campaign: str) -> tuple[Candidate, ...]:
        """All candidates of a campaign, by index."""
        return self._read(lambda session: candidates.list_candidates(session, campaign))

    # Evaluations

    def plan(self, campaign: str, specs: Sequence[TrialSpec]) -> None:
        """Add pending evaluations; those planned before stay as they are. `NotFoundError` for unknown candidates."""
        self._write(lambda session: evaluations.plan(session, campaign, specs))

    def claim(self, campaign: str, key: EvaluationKey, *, worker: str, lease_seconds: float) -> Attempt | None:
        """Lease an evaluation: exactly one of many callers gets it, the others get None until the lease has run out.

        None also if it has finished. `NotFoundError` if it was never planned.
        """
        return self._write(
            lambda session: evaluations.claim(session, campaign, key, worker=worker, lease_seconds=lease_seconds),
            made=lambda session: evaluations.find_live(session, campaign, key, worker=worker),
        )

    def renew(self, attempts: Sequence[Attempt], *, lease_seconds: float) -> None:
        """Let the leases of live attempts end `lease_seconds` from now; attempts that have ended are passed over."""
        self._write(lambda session: evaluations.renew(session, attempts, lease_seconds=lease_seconds))

    def finish(self, campaign: str, attempt: Attempt, measurement: Measurement) -> bool:
        """Store what an attempt measured, for good. False, and no change, if its evaluation is not its own any more:

        finished already, given back, or leased to another attempt.
        """
        return self._write(
            lambda session: evaluations.finish(session, campaign, attempt, measurement),
            made=lambda session: evaluations.has_finished(session, campaign, attempt) or None,
        )

    def abandon(self, campaign: str, attempt: Attempt, *, reason: str) -> None:
        """Give back an evaluation unfinished; the attempt stays on record. No-op if it has ended."""
        self._write(lambda session: evaluations.abandon(session, campaign, attempt, reason=reason))

    def lose(self, campaign: str, attempt: Attempt, *, reason: str) -> None:
        """The same for a worker that died with the evaluation: the attempt counts among its `losses`."""
        self._write(lambda session: evaluations.abandon(session, campaign, attempt, reason=reason, lost=True))

    def losses(self, campaign: str, key: EvaluationKey) -> int:
        """How many attempts at an evaluation died with their worker."""
        return self._read(lambda session: evaluations.count_losses(session, campaign, key))

    def expire(self, campaign: str) -> int:
        """End every lease of a campaign and count them. For its owner, on resuming: no worker of his runs then."""
        return self._write(lambda session: evaluations.expire(session, campaign))

    def attempts(self, campaign: str, key: EvaluationKey) -> int:
        """How many times an evaluation was tried, the running attempt included."""
        return self._read(lambda session: evaluations.count_attempts(session, campaign, key))

    # History

    def history(self, campaign: str) -> tuple[Trial, ...]:
        """All candidates by index, each with its standing and its finished results in the order of planning."""
        return self._read(lambda session: history.history(session, campaign))

    def measurement(self, campaign: str, key: EvaluationKey) -> Measurement:
        """A finished measurement whole, series and environment included. `NotFoundError` if it has not finished."""
        return self._read(lambda session: history.measurement(session, campaign, key))

    def steps(self, campaign: str, key: EvaluationKey) -> int:
        """The training steps that an evaluation was planned with. `NotFoundError` if it was not planned."""
        return self._read(lambda session: history.steps(session, campaign, key))

    # Events, calls, lessons and notes

    def add_event(self, campaign: str, *, kind: str, text: str) -> None:
        """Append an event, at the present time."""
        event = Event(at=datetime.now(UTC), kind=kind, text=text)
        self._write(
            lambda session: journal.add_event(session, campaign, event),
            made=lambda session: journal.has_event(session, campaign, event) or None,
        )

    def events(self, campaign: str, *, last: int = 100) -> tuple[Event, ...]:
        """The last events, oldest first."""
        return self._read(lambda session: journal.list_events(session, campaign, last=last))

    def reserve_call(self, campaign: str, call: LanguageModelCall) -> None:
        """Append a language-model call that is about to be made, at the most that it can cost.

        NUL and lone surrogates in its texts are kept as backslash escapes.
        """
        self._write(
            lambda session: journal.reserve_call(session, campaign, call),
            made=lambda session: journal.has_call(session, campaign, call) or None,
        )

    def settle_call(self, campaign: str, call: LanguageModelCall) -> None:
        """Complete a reserved call by its answer and what it did cost."""
        self._write(lambda session: journal.settle_call(session, campaign, call))

    def calls(self, campaign: str) -> tuple[LanguageModelCall, ...]:
        """All language-model calls, in the order reserved."""
        return self._read(lambda session: journal.list_calls(session, campaign))

    def add_lesson(self, campaign: str, lesson: Lesson) -> None:
        """Append a lesson. `NotFoundError` if its evidence is not of this campaign."""
        self._write(
            lambda session: journal.add_lesson(session, campaign, lesson),
            made=lambda session: journal.has_lesson(session, campaign, lesson) or None,
        )

    def lessons(self, campaign: str) -> tuple[Lesson, ...]:
        """All lessons of a campaign, oldest first, with the score of a new one."""
        return self._read(lambda session: journal.list_lessons(session, campaign))

    def add_note(self, campaign: str, candidate: str, text: str) -> None:
        """Append a note to the candidate that has this name, or whose hash begins so."""
        self._write(lambda session: candidates.add_note(session, campaign, candidate, text))

    def notes(self, campaign: str, candidate: str) -> tuple[str, ...]:
        """The notes of a candidate, oldest first."""
        return self._read(lambda session: candidates.list_notes(session, campaign, candidate))

    def query(self, sql: str) -> Answer:
        """Column names and rows of one SELECT over `db/tables.py`. `ConfigError` if it writes or is wrong."""
        with explained(self._url):
            return query_read_only(self._engine, sql)

    def _read(self, ask: Callable[[Session], T]) -> T:
        def attempt(again: bool) -> T:
            with Session(self._engine) as session:
                return ask(session)

        with explained(self._url):
            return insist(attempt, patience=self._patience, on=shown(self._url))

    def _write(self, change: Callable[[Session], T], *, made: Callable[[Session], T | None] | None = None) -> T:
        """One transaction. `made` tells, on another try, what the change has come to if it was made after all."""

        def attempt(again: bool) -> T:
            with Session(self._writing_engine) as session, session.begin():
                found = made(session) if again and made is not None else None
                return change(session) if found is None else found

        with explained(self._url):
            return insist(attempt, patience=self._patience, on=shown(self._url))
