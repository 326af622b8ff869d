"""The campaign loop: ask, dedupe, gates, ladder, tell; the only place where the parts of archloom meet.

Invariants:

- Every evaluation is planned, claimed under a lease and finished once; an answer is stored before it counts.
- The sequence of jobs is a function of the configuration alone (`archloom.schedule`). Resuming therefore has no code of
  its own: the sequence is run again from the start and evaluations that the store holds are not run twice.
- A candidate is trained only after its gates passed and its fingerprint differs from those of all earlier candidates.
- Time limits hold and finished work is kept while the ledger is out of reach; then it is stored, or measured again.
- Budgets are reserved before they are spent: nothing starts that is expected to end behind a limit, and what still runs
  when the wall limit has passed is given back to the store unfinished.
"""

import contextlib
import math
import os
import socket
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime

from archloom.agents.proposer import AnswerAwaited
from archloom.arms import make_arms, require_keys
from archloom.arrivals import Arrivals
from archloom.config import Config
from archloom.db.patience import Patience
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
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.executors import Executor, make_executor
from archloom.evaluator.trial import failed
from archloom.meter import Meter
from archloom.planner import Planner, RunningJob
from archloom.progress import Outcome, Progress, best, jobs_expected
from archloom.protocol import check_version, to_protocol
from archloom.schedule import gate_trial, rung_trials

ATTEMPTS = 3
"""Tries at an evaluation that ends with the loss of its worker each time, counted over all sessions."""

BEAT_SECONDS = 5.0
POLL_SECONDS = 0.25
LEASE_MARGIN = 60.0


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
    EnvironmentProblem if another process runs the campaign, text is missing, the executor cannot start or the store
    stays out of reach for longer than `executor.patience_seconds`.
    """
    require_keys(config)
    protocol = to_protocol(config)
    name = config.campaign.name
    if not resume:
        store.create_campaign(new_record(config, protocol), protocol=protocol)
    elif store.campaign(name).protocol != protocol.id:
        check_version(store.protocol(store.campaign(name).protocol))
        raise ConfigError(
            f"campaign {name!r} ran under protocol {store.campaign(name).protocol}, and here its configuration makes "
            f"{protocol.id}: the text it trains on differs. Resume it with the text, or on the machine, it began with"
        )
    owner = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
    arrivals = Arrivals(stopping)
    waiting = config.executor.patience_seconds
    with (
        store.patient(Patience(seconds=waiting, pause=arrivals.pause)) as ledger,
        store.patient(Patience(seconds=waiting)) as beside,  # for arms that are asked on a thread of their own
    ):
        ledger.acquire(name, owner=owner)
        session = None
        try:
            ledger.expire(name)
            ledger.add_event(name, kind="resumed" if resume else "started", text=f"by {owner}")
            with _executor(config) as executor:
                arrivals.follow(executor)
                planner = Planner(
                    config, protocol=protocol, arms=make_arms(config, beside, protocol=protocol), store=ledger
                )
                planner.add_baselines()
                session = _Session(
                    config,
                    planner=planner,
                    protocol=protocol,
                    store=ledger,
                    executor=executor,
                    arrivals=arrivals,
                    owner=owner,
                )
                outcome = session.run(progress, stopping)
            ledger.add_event(name, kind=outcome.state.value, text=outcome.message)
            ledger.release(name, owner=owner, state=outcome.state, wall_seconds=session.meter.wall())
            return outcome
        except BaseException:
            _give_up(name, store=store, owner=owner, wall=session.meter.wall() if session else None)
            raise


def _give_up(name: str, *, store: Store, owner: str, wall: float | None) -> None:
    """Releases a campaign that something went wrong with. What went wrong is told, and not that this failed too: a
    ledger out of reach has been waited for, and that its owner is dead is seen without it."""
    with contextlib.suppress(EnvironmentProblem), store.patient(Patience()) as ledger:
        spent = ledger.campaign(name).wall_seconds if wall is None else wall
        ledger.release(name, owner=owner, state=CampaignState.STOPPED, wall_seconds=spent)


def _executor(config: Config) -> Executor:
    return make_executor(
        config.executor.kind,
        workers=config.executor.workers,
        ray_address=config.ray.address or None,
        gpus_per_worker=config.ray.gpus_per_worker,
        kernels=config.executor.kernels,
        memory_gib=config.executor.memory_gib,
    )


def new_record(config: Config, protocol: Protocol) -> Campaign:
    return Campaign(
        name=config.campaign.name,
        config=config.to_json(),
        config_hash=config.hash,
        protocol=protocol.id,
        seed=config.campaign.seed,
        state=CampaignState.RUNNING,
        created=datetime.now(UTC),
    )


class _Session:
    """One process running one campaign. Reads top-down: run, begin, submit, collect."""

    def __init__(
        self,
        config: Config,
        *,
        planner: Planner,
        protocol: Protocol,
        store: Store,
        executor: Executor,
        arrivals: Arrivals,
        owner: str,
    ) -> None:
        self.config, self.planner, self.protocol = config, planner, protocol
        self.store, self.executor, self.arrivals, self.owner = store, executor, arrivals, owner
        self.name = config.campaign.name
        self.known = {result.key: result for trial in store.history(self.name) for result in trial.results}
        self.ready: deque[TrialSpec] = deque()
        self.running: dict[EvaluationKey, tuple[TrialSpec, Attempt]] = {}
        self.owners: dict[EvaluationKey, RunningJob] = {}
        self.fingerprints: dict[str, Candidate] = {}
        self.gated: dict[int, tuple[RunningJob, Result]] = {}
        self.next_gated = 0
        self.last_beat = 0.0
        self.awaited = ""
        self.meter = Meter.resumed(
            config.budget,
            workers=executor.workers,
            wall=store.campaign(self.name).wall_seconds,
            results=self.known.values(),
        )

    # -- the loop -----------------------------------------------------------------------------------------------------

    def run(self, progress: Callable[[Progress], None], stopping: Callable[[], int]) -> Outcome:
        reason = None
        while True:
            stop = stopping()
            reason = reason or self._reason_to_stop(stop)
            if reason is None:
                reason = self._decide() or self._submit()
            if stop == 2 or (reason is not None and self.meter.wall_left() <= 0):
                self._give_back("the session ended")
            asking = self.planner.asking and stop < 2 and self.meter.wall_left() > 0
            if not self.running and not asking and (reason is not None or not self.ready):
                break
            self._collect()
            if asking and not self.running:
                self.planner.wait(POLL_SECONDS)
            self._beat()
            progress(self._progress())
        return self._outcome(reason, interrupted=stopping() > 0 or reason == self.awaited)

    def _decide(self) -> str | None:
        """Begins every job that can be decided; says why no more can be if a person is waited for."""
        try:
            while (job := self.planner.decide()) is not None:
                self._begin(job)
        except AnswerAwaited as awaited:
            self.awaited = str(awaited)
            return self.awaited
        return None

    def _reason_to_stop(self, stop: int) -> str | None:
        if stop:
            return "interrupted"
        if self.meter.wall_left() <= 0:
            return "the wall-time budget is spent"
        return None

    # -- running jobs -------------------------------------------------------------------------------------------------

    def _begin(self, running: RunningJob) -> None:
        candidate = self.planner.candidate(running)
        if running.job.rung > 0:
            self._enqueue(running, list(self._rung(candidate, running.job.rung)))
            return
        trial = gate_trial(candidate, self.protocol, timeout_seconds=self.config.executor.timeout_seconds)
        self._enqueue(running, [trial])

    def _rung(self, candidate: Candidate, rung: int) -> Iterator[TrialSpec]:
        timeout = self.config.executor.timeout_seconds
        return rung_trials(candidate, self.protocol, rung, timeout_seconds=timeout)

    def _enqueue(self, running: RunningJob, specs: list[TrialSpec]) -> None:
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
            running.end()

    def _pass_gates(self) -> None:
        """In the order of the candidates: what passed and computes something new is trained."""
        while self.next_gated in self.gated:
            running, result = self.gated[self.next_gated]
            self.next_gated += 1
            candidate = self.planner.candidate(running)
            twin = self.fingerprints.setdefault(result.fingerprint or candidate.id, candidate)
            if not result.ok:
                running.end()
            elif twin is not candidate and candidate.origin is not Origin.ZOO:
                self._refuse(running, candidate, twin)
            else:
                self._enqueue(running, list(self._rung(candidate, 0)))

    def _refuse(self, running: RunningJob, candidate: Candidate, twin: Candidate) -> None:
        """Stores that a candidate computes what an earlier one does, in place of its first evaluation."""
        spec = next(self._rung(candidate, 0))
        if spec.key not in self.known:
            reason = f"computes the same function as {twin.name or twin.short}"
            self.store.plan(self.name, [spec])
            self._fail(spec, Failure(kind=FailureKind.DUPLICATE, reason=reason))
        running.results.append(self.known[spec.key])
        running.end()

    def _fail(self, spec: TrialSpec, failure: Failure) -> None:
        """Finishes an evaluation that no worker answered."""
        attempt = self._claim(spec, LEASE_MARGIN)
        self._store(attempt, failed(spec, failure=failure, seconds=0.0))

    # -- trials -------------------------------------------------------------------------------------------------------

    def _submit(self) -> str | None:
        """Hands ready trials to idle workers; says why it stops when a budget forbids the next one."""
        while self.ready and len(self.running) < self.executor.workers:
            spec = self.ready[0]
            reason = self.meter.forbids(spec.key, self.running)
            if reason is not None:
                return reason
            self.ready.popleft()
            attempt = self._claim(spec, spec.timeout_seconds + LEASE_MARGIN)
            self.running[spec.key] = (spec, attempt)
            self.executor.submit(spec)
        return None

    def _claim(self, spec: TrialSpec, seconds: float) -> Attempt:
        attempt = self.store.claim(self.name, spec.key, worker=self.owner, lease_seconds=seconds)
        if attempt is None:
            raise _taken_over(spec.key)
        return attempt

    def _collect(self) -> None:
        self.arrivals.receive(timeout=POLL_SECONDS)
        while self.arrivals.kept:
            completion = self.arrivals.kept.popleft()
            spec, attempt = self.running.pop(completion.spec.key)
            measurement, lost, seconds = completion.measurement, completion.lost, completion.seconds
            failure = measurement.failure if measurement is not None else None
            if measurement is not None and failure is not None and failure.kind is FailureKind.WORKER_LOST:
                lost, seconds = failure, measurement.seconds
            if lost is not None:
                self._lost(spec, attempt, lost, seconds)
            else:
                assert measurement is not None
                self.meter.account(measurement)
                self._store(attempt, measurement)
                self._arrived(self.known[spec.key])

    def _lost(self, spec: TrialSpec, attempt: Attempt, failure: Failure, seconds: float) -> None:
        """Puts a trial first that died with its worker; after `ATTEMPTS` such ends it has failed."""
        self.meter.waste(seconds)
        losses = self.store.losses(self.name, spec.key) + 1
        if losses < ATTEMPTS:
            self.store.lose(self.name, attempt, reason=failure.reason)
            self.ready.appendleft(spec)
            return
        failure = replace(failure, reason=f"{failure.reason} ({losses} attempts)")
        self._store(attempt, failed(spec, failure=failure, seconds=seconds))
        self._arrived(self.known[spec.key])

    def _store(self, attempt: Attempt, measurement: Measurement) -> None:
        if not self.store.finish(self.name, attempt, measurement):
            raise _taken_over(attempt.key)
        self.meter.finished += 1
        self.known[measurement.key] = measurement.result()

    def _give_back(self, reason: str) -> None:
        """Stops the workers and returns what they held to the store, unfinished."""
        self.executor.close()
        for _, attempt in self.running.values():
            self.store.abandon(self.name, attempt, reason=reason)
        self.running.clear()

    def _beat(self) -> None:
        now = time.monotonic()
        if now - self.last_beat >= BEAT_SECONDS:
            self.last_beat = now
            self.store.heartbeat(self.name, owner=self.owner, wall_seconds=self.meter.wall())
            held = [attempt for _, attempt in self.running.values()]
            self.store.renew(held, lease_seconds=self.config.executor.timeout_seconds + LEASE_MARGIN)

    # -- reporting ----------------------------------------------------------------------------------------------------

    def _progress(self) -> Progress:
        trials, done = self.planner.finished(), sum(running.done for running in self.planner.jobs)
        score, name = best(trials, baselines=False)
        baseline_score, baseline_name = best(trials, baselines=True)
        return Progress(
            campaign=self.name,
            jobs_done=done,
            candidates=self.planner.proposed,
            candidates_total=self.config.budget.candidates,
            running=len(self.running),
            best=score,
            best_name=name,
            best_baseline=baseline_score,
            baseline_name=baseline_name,
            failures=sum(trial.failure is not None for trial in trials),
            wall_seconds=self.meter.wall(),
            wall_limit=self.config.budget.wall_seconds,
            eta_seconds=self._eta(done),
            overhead=self.meter.overhead(),
        )

    def _eta(self, done: int) -> float:
        """Seconds left at the pace so far, at most those of the wall budget; NaN before the first job is done."""
        total = jobs_expected(
            baselines=self.planner.baselines,
            candidates=self.config.budget.candidates,
            keeps=[rung.keep for rung in self.protocol.rungs],
        )
        return min((total - done) * self.meter.session() / done, self.meter.wall_left()) if done else math.nan

    def _outcome(self, reason: str | None, *, interrupted: bool) -> Outcome:
        if reason is None:
            state, message = CampaignState.FINISHED, "every candidate of the budget is measured"
        else:
            state, message = (CampaignState.STOPPED if interrupted else CampaignState.EXHAUSTED), reason
        return Outcome(
            state=state,
            candidates=self.planner.proposed,
            evaluations=self.meter.finished,
            wall_seconds=self.meter.wall(),
            overhead=self.meter.overhead(),
            gates=self.meter.gates(),
            message=message,
        )


def _taken_over(key: EvaluationKey) -> EnvironmentProblem:
    return EnvironmentProblem(
        f"the evaluation of {key.candidate[:8]} on {key.task!r} is held or finished by another session: the "
        "campaign was taken over. Nothing is lost; `archloom status` shows who runs it"
    )
