"""The campaign loop: ask, dedupe, gates, ladder, tell; the only place where the parts of archloom meet.

Invariants:

- Every evaluation is planned, claimed under a lease and finished once; what a worker answers is stored before it counts.
- The sequence of jobs is a function of the configuration alone (`archloom.schedule`). Resuming therefore has no code of
  its own: the sequence is run again from the start and evaluations that the store holds are not run twice.
- A candidate is trained only after its gates passed and its fingerprint differs from those of all earlier candidates.
- Budgets are reserved before they are spent: nothing starts that is expected to end behind a limit, and what still runs
  when the wall limit has passed is given back to the store unfinished.
"""

import math
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from random import Random

from archloom.agents.evolution import Evolution
from archloom.agents.proposer import Proposal, Proposer, ProposerFailed
from archloom.agents.random_search import RandomSearch
from archloom.config import Config
from archloom.db.records import (
    GATES,
    Attempt,
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
    TrialSpec,
)
from archloom.db.store import Store
from archloom.errors import ConfigError
from archloom.evaluator.executors import Executor, make_executor
from archloom.protocol import baselines, to_protocol
from archloom.schedule import Job, gate_trial, next_arm, promotion, rung_trials, visible_trials
from archloom.search_space import zoo
from archloom.search_space.identity import term_id
from archloom.search_space.sampling import Sampler

ATTEMPTS = 3
"""Tries at an evaluation whose worker is lost."""

REPEATS = 50
"""Times an arm is asked again when it repeats a known candidate."""

BEAT_SECONDS = 5.0
POLL_SECONDS = 0.25
LEASE_MARGIN = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """A running campaign at a glance. Scores are of the highest rung; `overhead` is the workers' idle share so far."""

    campaign: str
    jobs_done: int
    candidates: int
    candidates_total: int
    running: int
    best: float
    best_name: str
    best_baseline: float
    baseline_name: str
    failures: int
    wall_seconds: float
    wall_limit: float | None
    eta_seconds: float
    overhead: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a session ended. `overhead` is the share of the workers' time, after start-up, in which they ran no trial;
    `gates` the share they spent on gates."""

    state: CampaignState
    candidates: int
    evaluations: int
    wall_seconds: float
    overhead: float
    gates: float
    message: str


def run(
    config: Config,
    *,
    store: Store,
    resume: bool,
    progress: Callable[[Progress], None],
    stopping: Callable[[], int],
) -> Outcome:
    """Runs a campaign until its budget is spent or `stopping()` says 1 (drain) or 2 (abort).

    Errors: ConfigError for a name that is taken or a configuration that does not fit the stored one,
    EnvironmentProblem if another process runs the campaign, text is missing or the executor cannot start.
    """
    protocol = to_protocol(config)
    names = baselines(config)
    name = config.campaign.name
    if not resume:
        store.create_campaign(_campaign(config, protocol), protocol=protocol)
    elif store.campaign(name).protocol != protocol.id:
        raise ConfigError(
            f"campaign {name!r} ran under protocol {store.campaign(name).protocol}, and this machine makes {protocol.id} "
            "of its configuration: the text it trains on differs. Use the machine or the text it began with"
        )
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    store.acquire(name, owner=owner)
    session = None
    state = CampaignState.STOPPED
    try:
        store.expire(name)
        store.add_event(name, kind="resumed" if resume else "started", text=f"by {owner}")
        with make_executor(
            config.executor.kind,
            workers=config.executor.workers,
            ray_address=config.ray.address or None,
            gpus_per_worker=config.ray.gpus_per_worker,
        ) as executor:
            session = _Session(config, protocol, names, store, executor, owner)
            outcome = session.run(progress, stopping)
        state = outcome.state
        store.add_event(name, kind=state.value, text=outcome.message)
        return outcome
    finally:
        wall = session.wall() if session else store.campaign(name).wall_seconds
        store.release(name, owner=owner, state=state, wall_seconds=wall)


def _campaign(config: Config, protocol: Protocol) -> Campaign:
    return Campaign(
        name=config.campaign.name,
        config=config.to_json(),
        config_hash=config.hash,
        protocol=protocol.id,
        seed=config.campaign.seed,
        state=CampaignState.RUNNING,
        created=datetime.now(UTC),
    )


def make_arms(config: Config, store: Store) -> dict[str, Proposer]:
    """The arms by name. Evolution is always there: other arms fall back on it."""
    section = config.search
    sampler = Sampler.default(
        depth=config.protocol.depth,
        max_size=section.max_size,
        width=config.protocol.width,
        length=max(task.length for task in config.protocol.tasks),
    )
    arms: dict[str, Proposer] = {
        "random": RandomSearch(sampler=sampler),
        "evolution": Evolution(sampler=sampler, **section.evolution.model_dump()),
    }
    if config.language_model is not None and section.arms.language_model > 0:
        from archloom.agents.language_model import LanguageModelProposer, make_client

        model = config.language_model
        name = config.campaign.name
        arms["language_model"] = LanguageModelProposer(
            client=make_client(
                base_url=model.base_url, model=model.model, key=os.environ.get(model.key_variable, "")
            ),
            sampler=sampler,
            record=lambda call: store.record_call(name, call),
            replay=store.calls(name),
        )
    return arms


@dataclass(slots=True)
class _Running:
    """A job under way: the trials it still waits for, and what came back."""

    job: Job
    waiting: set[EvaluationKey] = field(default_factory=set)
    results: list[Result] = field(default_factory=list)
    done: bool = False


class _Session:
    """One process running one campaign. Reads top-down: run -> decide -> begin -> submit -> collect -> finish."""

    def __init__(
        self,
        config: Config,
        protocol: Protocol,
        names: tuple[str, ...],
        store: Store,
        executor: Executor,
        owner: str,
    ) -> None:
        self.config, self.protocol, self.store, self.executor, self.owner = config, protocol, store, executor, owner
        self.name = config.campaign.name
        self.earlier_wall = store.campaign(self.name).wall_seconds
        self.started = time.monotonic()
        self.arms = make_arms(config, store)
        self.shares = config.search.shares
        self.stored = {candidate.index: candidate for candidate in store.candidates(self.name)}
        self.known = {r.key: r for trial in store.history(self.name) for r in trial.results}
        self.candidates: list[Candidate] = []
        self.ids: set[str] = set()
        self.jobs: list[_Running] = []
        self.begun: set[Job] = set()
        self.ready: deque[TrialSpec] = deque()
        self.attempts: dict[EvaluationKey, tuple[TrialSpec, Attempt, float]] = {}
        self.owners: dict[EvaluationKey, _Running] = {}
        self.fingerprints: dict[str, int] = {}
        self.gated: dict[int, tuple[_Running, Result]] = {}
        self.next_gated = 0
        self.visible: dict[int, list[Result]] = {}
        self.visible_jobs = 0
        self.device_seconds = sum(result.seconds for result in self.known.values())
        self.slowest: dict[tuple[str, int], float] = {}
        self.busy = self.busy_gates = 0.0
        self.finished_here = 0
        self.last_beat = 0.0
        self.baselines = [self._baseline(index, name) for index, name in enumerate(names)]

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[Progress], None], stopping: Callable[[], int]) -> Outcome:
        reason = None
        while True:
            stop = stopping()
            reason = reason or self._reason_to_stop(stop)
            if reason is None:
                self._decide()
                reason = self._submit()
            if stop == 2 or (reason is not None and self._wall_left() <= 0):
                self._give_back("the session ended")
            if not self.attempts and (reason is not None or not self.ready):
                break
            self._collect()
            self._beat()
            progress(self._progress())
        return self._outcome(reason, stopping() > 0)

    def wall(self) -> float:
        """Wall seconds of the campaign over all sessions."""
        return self.earlier_wall + time.monotonic() - self.started

    def _reason_to_stop(self, stop: int) -> str | None:
        if stop:
            return "interrupted"
        if self._wall_left() <= 0:
            return "the wall-time budget is spent"
        return None

    def _wall_left(self) -> float:
        limit = self.config.budget.wall_seconds
        return math.inf if limit is None else limit - self.wall()

    # -- deciding jobs ------------------------------------------------------------------------------------------------

    def _decide(self) -> None:
        """Decides every job that can be decided from the results that are in."""
        while True:
            number = len(self.jobs)
            job = self._fixed(number)
            if job is None:
                if not self._see(number - self.config.search.lookahead):
                    return
                job = self._next_job()
                if job is None:  # nothing to promote and nothing to propose, unless more results say otherwise
                    if not self._see(number):
                        return
                    job = self._next_job()
                if job is None:
                    return
            self._begin(job)

    def _fixed(self, number: int) -> Job | None:
        """The baselines come first, on every rung."""
        rung, index = divmod(number, max(1, len(self.baselines)))
        if not self.baselines or rung >= len(self.protocol.rungs):
            return None
        return Job(candidate=index, rung=rung)

    def _see(self, count: int) -> bool:
        """Makes the results of the first `count` jobs visible; False while one of them is not done."""
        while self.visible_jobs < count:
            running = self.jobs[self.visible_jobs]
            if not running.done:
                return False
            self.visible.setdefault(running.job.candidate, []).extend(running.results)
            self.visible_jobs += 1
        return True

    def _next_job(self) -> Job | None:
        trials = visible_trials(self.candidates, self.visible)
        job = promotion(trials, self.protocol, self.begun)
        if job is not None:
            return job
        if len(self.candidates) - len(self.baselines) >= self.config.budget.candidates:
            return None
        index = len(self.candidates)
        self._add(self.stored.get(index) or self._propose(index))
        return Job(candidate=index, rung=0)

    def _propose(self, index: int) -> Candidate:
        """A new candidate from the arm that is due; an arm that fails or only repeats itself is replaced."""
        spent: dict[str, int] = {}
        for candidate in self.candidates[len(self.baselines) :]:
            spent[candidate.origin.value] = spent.get(candidate.origin.value, 0) + 1
        arm = next_arm(self.shares, spent)
        for number in range(REPEATS + 1):
            rng = Random(f"{self.config.campaign.seed} {index} {number}")
            try:
                proposal = self._ask(arm if number < REPEATS else "random", rng)
            except ProposerFailed as problem:
                self.store.add_event(self.name, kind="proposer", text=f"{arm}: {problem}")
                arm = "evolution"
                continue
            identity = term_id(proposal.term)
            if identity not in self.ids:
                return Candidate(
                    id=identity,
                    term=proposal.term.text,
                    origin=proposal.origin,
                    index=index,
                    operator=proposal.operator,
                    parents=proposal.parents,
                    rationale=proposal.rationale,
                )
        raise ConfigError(
            f"no arm finds a new candidate after {len(self.candidates)}: the space within search.max_size = "
            f"{self.config.search.max_size} is exhausted; raise it or lower budget.candidates"
        )

    def _ask(self, arm: str, rng: Random) -> Proposal:
        mine = (Origin.ZOO, Origin(arm))
        history = [t for t in visible_trials(self.candidates, self.visible) if t.candidate.origin in mine]
        (proposal,) = self.arms[arm].ask(history, 1, rng)
        return proposal

    def _baseline(self, index: int, name: str) -> Candidate:
        term = zoo.load(name, depth=self.protocol.depth)
        candidate = Candidate(id=term_id(term), term=term.text, origin=Origin.ZOO, index=index, name=name)
        if candidate.id in self.ids:
            raise ConfigError(f"search.baselines: {name!r} is the same architecture as an earlier one at this depth")
        self._add(candidate)
        return candidate

    def _add(self, candidate: Candidate) -> None:
        if candidate.index not in self.stored:
            self.store.add_candidate(self.name, candidate)
        self.candidates.append(candidate)
        self.ids.add(candidate.id)

    # -- running jobs -------------------------------------------------------------------------------------------------

    def _begin(self, job: Job) -> None:
        running = _Running(job)
        self.jobs.append(running)
        self.begun.add(job)
        candidate = self.candidates[job.candidate]
        if job.rung > 0:
            self._enqueue(running, list(self._rung(candidate, job.rung)))
            return
        trial = gate_trial(candidate, self.protocol, timeout_seconds=self.config.executor.timeout_seconds)
        self._enqueue(running, [trial])

    def _rung(self, candidate: Candidate, rung: int) -> Iterator[TrialSpec]:
        timeout = self.config.executor.timeout_seconds
        return rung_trials(candidate, self.protocol, rung, timeout_seconds=timeout)

    def _enqueue(self, running: _Running, specs: list[TrialSpec]) -> None:
        running.waiting |= {spec.key for spec in specs}
        unknown = [spec for spec in specs if spec.key not in self.known]
        if unknown:
            self.store.plan(self.name, unknown)
        for spec in specs:
            self.owners[spec.key] = running
            if spec.key in self.known:
                self._arrived(self.known[spec.key])
            else:
                self.ready.append(spec)

    def _arrived(self, result: Result) -> None:
        """A result that is stored: lets its job go on."""
        running = self.owners[result.key]
        running.waiting.discard(result.key)
        running.results.append(result)
        if result.key.task == GATES:
            self.gated[running.job.candidate] = (running, result)
            self._pass_gates()
        elif not running.waiting:
            running.done = True

    def _pass_gates(self) -> None:
        """In the order of the candidates: what passed and computes something new is trained."""
        while self.next_gated in self.gated:
            running, result = self.gated[self.next_gated]
            self.next_gated += 1
            candidate = self.candidates[running.job.candidate]
            twin = None if result.fingerprint is None else self.fingerprints.get(result.fingerprint)
            if not result.ok:
                running.done = True
            elif twin is not None and candidate.origin is not Origin.ZOO:
                self._refuse(running, candidate, twin)
            else:
                if result.fingerprint is not None:
                    self.fingerprints.setdefault(result.fingerprint, candidate.index)
                self._enqueue(running, list(self._rung(candidate, 0)))

    def _refuse(self, running: _Running, candidate: Candidate, twin: int) -> None:
        """Stores that a candidate computes what an earlier one does, in place of its first evaluation."""
        spec = next(self._rung(candidate, 0))
        if spec.key not in self.known:
            first = self.candidates[twin]
            reason = f"computes the same function as {first.name or first.short}"
            self.store.plan(self.name, [spec])
            self._fail(spec, Failure(kind=FailureKind.DUPLICATE, reason=reason))
        running.results.append(self.known[spec.key])
        running.done = True

    def _fail(self, spec: TrialSpec, failure: Failure) -> None:
        """Finishes an evaluation that no worker answered."""
        attempt = self.store.claim(self.name, spec.key, worker=self.owner, lease_seconds=LEASE_MARGIN)
        assert attempt is not None, f"{spec.key} is held by another session"
        measurement = Measurement(
            key=spec.key, score=None, metrics={}, environment={}, seconds=0.0, failure=failure
        )
        self._store(attempt, measurement)

    # -- trials -------------------------------------------------------------------------------------------------------

    def _submit(self) -> str | None:
        """Hands ready trials to idle workers; says why it stops when a budget forbids the next one."""
        while self.ready and len(self.attempts) < self.executor.workers:
            spec = self.ready[0]
            expected = self.slowest.get((spec.key.task, spec.key.rung), 0.0)
            if expected > self._wall_left():
                return "the wall-time budget is spent"
            limit = self.config.budget.device_seconds
            reserved = sum(share for _, _, share in self.attempts.values())
            if limit is not None and self.device_seconds + reserved + expected > limit:
                return "the device-time budget is spent"
            self.ready.popleft()
            lease = spec.timeout_seconds + LEASE_MARGIN
            attempt = self.store.claim(self.name, spec.key, worker=self.owner, lease_seconds=lease)
            assert attempt is not None, f"{spec.key} is held by another session"
            self.attempts[spec.key] = (spec, attempt, expected)
            self.executor.submit(spec)
        return None

    def _collect(self) -> None:
        for completion in self.executor.completed(timeout=POLL_SECONDS):
            entry = self.attempts.pop(completion.spec.key, None)
            if entry is None:
                continue
            spec, attempt, _ = entry
            measurement = completion.measurement
            lost = completion.lost
            if measurement is not None and measurement.failure is not None:
                if measurement.failure.kind is FailureKind.WORKER_LOST:
                    lost = measurement.failure.reason
            if lost is None:
                assert measurement is not None
                self._account(measurement)
                self._store(attempt, measurement)
                self._arrived(self.known[spec.key])
            elif attempt.number < ATTEMPTS:
                self.store.abandon(self.name, attempt, reason=lost)
                self.ready.appendleft(spec)
            else:
                self.store.abandon(self.name, attempt, reason=lost)
                self._fail(spec, Failure(kind=FailureKind.WORKER_LOST, reason=f"{lost} ({ATTEMPTS} attempts)"))
                self._arrived(self.known[spec.key])

    def _store(self, attempt: Attempt, measurement: Measurement) -> None:
        assert self.store.finish(self.name, attempt, measurement), f"{attempt.key} was finished by another session"
        self.known[measurement.key] = Result(
            key=measurement.key,
            score=measurement.score,
            metrics=measurement.metrics,
            failure=measurement.failure,
            seconds=measurement.seconds,
            fingerprint=measurement.fingerprint,
        )

    def _account(self, measurement: Measurement) -> None:
        stage = (measurement.key.task, measurement.key.rung)
        self.slowest[stage] = max(self.slowest.get(stage, 0.0), measurement.seconds)
        self.device_seconds += measurement.seconds
        self.busy += measurement.seconds
        self.busy_gates += measurement.seconds * (measurement.key.task == GATES)
        self.finished_here += 1

    def _give_back(self, reason: str) -> None:
        """Stops the workers and returns what they held to the store, unfinished."""
        self.executor.close()
        for _, attempt, _ in self.attempts.values():
            self.store.abandon(self.name, attempt, reason=reason)
        self.attempts.clear()

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self.last_beat >= BEAT_SECONDS:
            self.last_beat = now
            self.store.heartbeat(self.name, owner=self.owner, wall_seconds=self.wall())
            held = [attempt for _, attempt, _ in self.attempts.values()]
            self.store.renew(held, lease_seconds=self.config.executor.timeout_seconds + LEASE_MARGIN)

    # -- reporting ----------------------------------------------------------------------------------------------------

    def _overhead(self) -> float:
        """Share of the workers' time in this session in which no trial ran."""
        elapsed = (time.monotonic() - self.started) * self.executor.workers
        return max(0.0, 1 - self.busy / elapsed) if elapsed > 0 else math.nan

    def _progress(self) -> Progress:
        results: dict[int, list[Result]] = {}
        for running in self.jobs:
            results.setdefault(running.job.candidate, []).extend(running.results)
        trials = [t for t in visible_trials(self.candidates, results) if t.rung >= 0]
        ours = [t for t in trials if t.candidate.origin is not Origin.ZOO]
        theirs = [t for t in trials if t.candidate.origin is Origin.ZOO]
        best = max(ours, key=lambda t: (t.rung, t.score(t.rung)), default=None)
        base = max(theirs, key=lambda t: (t.rung, t.score(t.rung)), default=None)
        done = sum(running.done for running in self.jobs)
        return Progress(
            campaign=self.name,
            jobs_done=done,
            candidates=len(self.candidates) - len(self.baselines),
            candidates_total=self.config.budget.candidates,
            running=len(self.attempts),
            best=best.score(best.rung) if best else math.nan,
            best_name=best.candidate.short if best else "",
            best_baseline=base.score(base.rung) if base else math.nan,
            baseline_name=(base.candidate.name or "") if base else "",
            failures=sum(not r.ok for rs in results.values() for r in rs),
            wall_seconds=self.wall(),
            wall_limit=self.config.budget.wall_seconds,
            eta_seconds=self._eta(done),
            overhead=self._overhead(),
        )

    def _eta(self, done: int) -> float:
        """Seconds left at the pace so far, at most those of the wall budget."""
        jobs = len(self.baselines) * len(self.protocol.rungs)
        share = 1.0
        for rung in self.protocol.rungs:
            jobs += round(self.config.budget.candidates * share)
            share *= rung.keep
        pace = (time.monotonic() - self.started) / done if done else math.nan
        return min((jobs - done) * pace, self._wall_left()) if done else math.nan

    def _outcome(self, reason: str | None, interrupted: bool) -> Outcome:
        if reason is None:
            state, message = CampaignState.FINISHED, "every candidate of the budget is measured"
        else:
            state, message = (CampaignState.STOPPED if interrupted else CampaignState.EXHAUSTED), reason
        elapsed = (time.monotonic() - self.started) * self.executor.workers
        return Outcome(
            state=state,
            candidates=len(self.candidates) - len(self.baselines),
            evaluations=self.finished_here,
            wall_seconds=self.wall(),
            overhead=self._overhead(),
            gates=self.busy_gates / elapsed if elapsed > 0 else math.nan,
            message=message,
        )
