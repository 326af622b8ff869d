"""A campaign's decisions made again from its records: no worker runs and nothing is written.

The sequence of jobs is a function of the configuration and the results, so what a campaign proposed, and what it will
propose next, can be worked out from its ledger.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from archloom.agents.proposer import Proposal, Proposer
from archloom.config import Config
from archloom.db.records import GATES, Candidate, FailureKind, Protocol, Result, Trial
from archloom.db.store import Store
from archloom.planner import Planner


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeated:
    """One candidate of a campaign and what was proposed in its place when it was decided again."""

    recorded: Candidate
    proposed: Candidate

    @property
    def equal(self) -> bool:
        """Whether architecture, arm, parents, and all that was said of it are the same."""
        return self.recorded == self.proposed


def repeat(store: Store, campaign: str, arms: Mapping[str, Proposer]) -> Iterator[Repeated]:
    """Propose every candidate again, in order, up to the first that differs: the later ones depend on it."""
    recorded = {candidate.index: candidate for candidate in store.candidates(campaign)}
    planner = _planner(store, campaign, arms, known=())
    for candidate in _decided(planner, store.history(campaign)):
        if candidate.index >= planner.baselines and candidate.index in recorded:
            again = Repeated(recorded=recorded[candidate.index], proposed=candidate)
            yield again
            if not again.equal:
                return


def at_its_end(store: Store, campaign: str, arms: Mapping[str, Proposer]) -> tuple[Planner, str | None]:
    """The planner of a campaign as it stands, which asks `arms` from now on, and the arm whose turn it is.

    None if no arm's turn has come: results are missing, or every candidate of the budget is there.
    """
    planner = _planner(store, campaign, dict.fromkeys(arms, _Threshold()), known=store.candidates(campaign))
    due = None
    try:
        for _ in _decided(planner, store.history(campaign)):
            pass
    except _Reached:
        due = planner.due()
    planner.arms = arms
    return planner, due


class _Reached(Exception):
    """An arm would be asked for a candidate that is not there yet."""


class _Threshold:
    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        raise _Reached


@dataclass(frozen=True, slots=True)
class _Memory:
    """What a planner asks of a ledger; what it tells is let go."""

    known: tuple[Candidate, ...]

    def candidates(self, campaign: str) -> tuple[Candidate, ...]:
        return self.known

    def add_candidate(self, campaign: str, candidate: Candidate) -> None:
        pass

    def add_event(self, campaign: str, *, kind: str, text: str) -> None:
        pass


def _planner(store: Store, campaign: str, arms: Mapping[str, Proposer], *, known: tuple[Candidate, ...]) -> Planner:
    record = store.campaign(campaign)
    planner = Planner(
        Config.from_json(record.config),
        protocol=store.protocol(record.protocol),
        arms=arms,
        store=_Memory(known),
        remote=frozenset(),
    )
    planner.add_baselines()
    return planner


def _decided(planner: Planner, trials: Sequence[Trial]) -> Iterator[Candidate]:
    """The candidates in the order in which they are decided, as long as the results for it are there."""
    results: dict[tuple[str, int], list[Result]] = defaultdict(list)
    for trial in trials:
        for result in trial.results:
            results[trial.candidate.id, result.key.rung].append(result)
    while (running := planner.decide()) is not None:
        candidate, rung = planner.candidate(running), running.job.rung
        found = results[candidate.id, rung]
        if _is_whole(found, planner.protocol, rung):
            running.results.extend(found)
            running.end()
        if rung == 0:
            yield candidate


def _is_whole(results: Sequence[Result], protocol: Protocol, rung: int) -> bool:
    """Whether a job has ended: every evaluation of the rung is in, or the candidate was refused before."""
    trained = sum(result.key.task != GATES for result in results)
    refused = any(
        result.failure is not None and (result.key.task == GATES or result.failure.kind is FailureKind.DUPLICATE)
        for result in results
    )
    return refused or trained == sum(len(stage.seeds) for stage in protocol.rungs[rung].stages)
