"""The planner: turns what is known into the next job, and writes the candidates that jobs are about.

It holds the sequence of jobs so far and shows to `archloom.schedule` and the arms only the results that the next
decision may depend on. It never starts anything. An arm that waits for a server is asked on a thread of its own, so
that the campaign goes on meanwhile; what it is shown is fixed before, and nothing is decided until it has answered.
"""

from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.pool import AsyncResult, ThreadPool
from random import Random
from typing import Protocol

from archloom.agents.proposer import Proposal, Proposer, ProposerFailed
from archloom.config import Config
from archloom.db import records
from archloom.db.effects import placed
from archloom.db.records import Candidate, EvaluationKey, Origin, Result, Trial
from archloom.errors import ConfigError
from archloom.schedule import Job, next_arm, promotion, visible_trials
from archloom.search_space.identity import term_id
from archloom.search_space.text import parse

REPEATS = 50
"""Times an arm is asked again when it repeats a known candidate."""


REMOTE = frozenset({"language_model"})
"""Arms that wait for a server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A new candidate, and what failed on the way to it."""

    candidate: Candidate
    problems: tuple[str, ...]


@dataclass(slots=True)
class RunningJob:
    """A job that has been decided: the evaluations it waits for, and the results that came back."""

    job: Job
    waiting: set[EvaluationKey] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)
    done: bool = False

    def end(self) -> None:
        """Results of a job stand in one order, whatever order they came in: sums over them are the same bits."""
        self.results.sort(key=lambda result: (result.key.task, result.key.seed))
        self.done = True


class Ledger(Protocol):
    """What a planner reads and writes: `archloom.db.store.Store` is one."""

    def candidates(self, campaign: str) -> tuple[Candidate, ...]: ...
    def add_candidate(self, campaign: str, candidate: Candidate) -> None: ...
    def add_event(self, campaign: str, *, kind: str, text: str) -> None: ...


class Planner:
    """The jobs and candidates of one campaign. Candidates that the store holds are taken from it and not asked for.

    `remote` are the arms that are asked on a thread.
    """

    def __init__(
        self,
        config: Config,
        *,
        protocol: records.Protocol,
        arms: Mapping[str, Proposer],
        store: Ledger,
        remote: Container[str] = REMOTE,
    ) -> None:
        self._remote = remote
        self.config, self.protocol, self.arms, self.store = config, protocol, arms, store
        self.candidates: list[Candidate] = []
        self.jobs: list[RunningJob] = []
        self.baselines = 0
        self._name = config.campaign.name
        self._stored = {candidate.index: candidate for candidate in store.candidates(self._name)}
        self._ids: set[str] = set()
        self._begun: set[Job] = set()
        self._visible: dict[int, list[Result]] = {}
        self._visible_jobs = 0
        self._asked: AsyncResult[Found] | None = None

    def add_baselines(self) -> None:
        """The protocol's baselines run beside the search: the first candidates."""
        for index, (name, term) in enumerate(self.protocol.baselines):
            candidate = Candidate(id=term_id(parse(term)), term=term, origin=Origin.ZOO, index=index, name=name)
            if candidate.id in self._ids:
                raise ConfigError(
                    f"search.baselines: {name!r} is the same architecture as an earlier one at this depth"
                )
            self._add(candidate)
        self.baselines = len(self.protocol.baselines)

    @property
    def proposed(self) -> int:
        """New candidates so far."""
        return len(self.candidates) - self.baselines

    @property
    def asking(self) -> bool:
        """Whether an arm that waits for a server has not answered yet."""
        return self._asked is not None and not self._asked.ready()

    def wait(self, seconds: float) -> None:
        """Until the arm that is asked has answered, at most so long."""
        if self._asked is not None:
            self._asked.wait(seconds)

    def candidate(self, running: RunningJob) -> Candidate:
        return self.candidates[running.job.candidate]

    def finished(self) -> list[Trial]:
        """Every candidate with the results of its finished jobs."""
        results: dict[int, list[Result]] = {}
        for running in self.jobs:
            if running.done:
                results.setdefault(running.job.candidate, []).extend(running.results)
        return visible_trials(self.candidates, results)

    def decide(self) -> RunningJob | None:
        """The next job, or None if it depends on results or an answer not in yet, or if there is nothing left to do."""
        job = self._answered_job() if self._asked else self._baseline_job() or self._searched_job()
        if job is None:
            return None
        running = RunningJob(job)
        self.jobs.append(running)
        self._begun.add(job)
        return running

    def _baseline_job(self) -> Job | None:
        """The baselines come first, on every rung."""
        number = len(self.jobs)
        if number >= self.baselines * len(self.protocol.rungs):
            return None
        rung, index = divmod(number, self.baselines)
        return Job(candidate=index, rung=rung)

    def _searched_job(self) -> Job | None:
        """From the first n - lookahead jobs; when they leave nothing to do, from all n once they are done."""
        number = len(self.jobs)
        for enough in (number - self.config.search.lookahead, number):
            if not self._see(enough):
                return None
            trials = visible_trials(self.candidates, self._visible)
            job = promotion(trials, self.protocol, self._begun) or self._new_candidate()
            if job is not None or self._asked is not None:
                return job
        return None

    def _see(self, count: int) -> bool:
        """Makes the results of the first `count` jobs visible; False while one of them is not done."""
        while self._visible_jobs < count:
            running = self.jobs[self._visible_jobs]
            if not running.done:
                return False
            self._visible.setdefault(running.job.candidate, []).extend(running.results)
            self._visible_jobs += 1
        return True

    def _new_candidate(self) -> Job | None:
        if self.proposed >= self.config.budget.candidates:
            return None
        index = len(self.candidates)
        if index in self._stored:
            return self._begin(self._stored[index])
        arm = self.due()
        if arm in self._remote:
            self._asked = _on_a_thread(partial(self.propose, index, arm))
            return None
        return self._took(self.propose(index, arm))

    def _answered_job(self) -> Job | None:
        asked = self._asked
        if asked is None or not asked.ready():
            return None
        self._asked = None
        return self._took(asked.get())

    def _took(self, found: Found) -> Job:
        for problem in found.problems:
            self.store.add_event(self._name, kind="proposer", text=problem)
        return self._begin(found.candidate)

    def _begin(self, candidate: Candidate) -> Job:
        self._add(candidate)
        return Job(candidate=candidate.index, rung=0)

    def due(self) -> str:
        """The arm that is furthest behind its share."""
        spent: dict[str, int] = {}
        for candidate in self.candidates[self.baselines :]:
            spent[candidate.origin.value] = spent.get(candidate.origin.value, 0) + 1
        return next_arm(self.config.search.shares, spent)

    def propose(self, index: int, arm: str) -> Found:
        """A new candidate from the arm that is due; an arm that fails or only repeats itself is replaced."""
        problems = []
        for number in range(REPEATS + 1):
            rng = generator(self.config.campaign.seed, index=index, number=number)
            try:
                proposal = self._ask(arm if number < REPEATS else "random", rng)
            except ProposerFailed as problem:
                problems.append(f"{arm}: {problem}")
                arm = "evolution"
                continue
            identity = term_id(proposal.term)
            if identity not in self._ids:
                return Found(candidate=_candidate(proposal, identity=identity, index=index), problems=tuple(problems))
        raise ConfigError(
            f"no arm finds a new candidate after {len(self.candidates)}: the space within search.max_size = "
            f"{self.config.search.max_size} is exhausted; raise it or lower budget.candidates"
        )

    def _ask(self, arm: str, rng: Random) -> Proposal:
        (proposal,) = self.arms[arm].ask(self._history(arm), 1, rng)
        return proposal

    def _history(self, arm: str) -> Sequence[Trial]:
        """An arm learns from the baselines and from its own candidates, so arms can be compared."""
        mine = (Origin.ZOO, Origin(arm))
        return placed(
            [t for t in visible_trials(self.candidates, self._visible) if t.candidate.origin in mine], self.protocol
        )

    def _add(self, candidate: Candidate) -> None:
        if candidate.index not in self._stored:
            self.store.add_candidate(self._name, candidate)
        self.candidates.append(candidate)
        self._ids.add(candidate.id)


def generator(seed: int, *, index: int, number: int) -> Random:
    """What the `number`-th proposal for the candidate at `index` is drawn with, in a campaign of this seed."""
    return Random(f"{seed} {index} {number}")


def _candidate(proposal: Proposal, *, identity: str, index: int) -> Candidate:
    return Candidate(
        id=identity,
        term=proposal.term.text,
        origin=proposal.origin,
        index=index,
        operator=proposal.operator,
        parents=proposal.parents,
        rationale=proposal.rationale,
        author=proposal.author,
        predictions=proposal.predictions,
        cites=proposal.cites,
    )


def _on_a_thread(ask: Callable[[], Found]) -> AsyncResult[Found]:
    """The thread ends with the process: an answer that nobody waits for holds up no one."""
    pool = ThreadPool(1)
    answer = pool.apply_async(ask)
    pool.close()
    return answer
