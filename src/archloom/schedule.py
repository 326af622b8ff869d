"""What a campaign does next, as pure functions of what is known: promotions, arms, and the order of jobs.

A *job* is one candidate on one rung. Job n is decided from the results of the first n - lookahead jobs, whichever order
they finish in, so the sequence of jobs, and with it every result of a campaign, is the same with any number of workers,
on any executor, and after any interruption.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from archloom.db.effects import standings
from archloom.db.records import GATES, Candidate, EvaluationKey, Origin, Protocol, Result, Trial, TrialSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A candidate (by its index in the campaign) to be measured on a rung."""

    candidate: int
    rung: int


def promotion(trials: Sequence[Trial], protocol: Protocol, begun: set[Job]) -> Job | None:
    """The next promotion by asynchronous successive halving (Li et al. 2020, arXiv:1810.05934, algorithm 2), or None.

    From the highest rung down: of the n candidates with a score on a rung the best floor(n * keep) rise; the best of
    them that has not begun the next rung goes first. Best is by `archloom.db.effects.standings` of the given trials:
    the combined score in units of seed noise, or the mean score until there are baselines to measure from. Baselines
    run every rung anyway and are not counted.
    """
    for rung in range(len(protocol.rungs) - 2, -1, -1):
        scored = [t for t in trials if t.candidate.origin is not Origin.ZOO and _complete(t, protocol, rung)]
        standing = standings(trials, protocol, rung=rung) if scored else {}
        scored.sort(key=lambda t: (-standing[t.candidate.id], t.candidate.index))
        for trial in scored[: int(len(scored) * protocol.rungs[rung].keep)]:
            job = Job(candidate=trial.candidate.index, rung=rung + 1)
            if job not in begun:
                return job
    return None


def _complete(trial: Trial, protocol: Protocol, rung: int) -> bool:
    """Whether every evaluation of a rung has a score."""
    scored = sum(1 for result in trial.results if result.key.rung == rung and result.score is not None)
    return scored == sum(len(stage.seeds) for stage in protocol.rungs[rung].stages)


def next_arm(shares: Sequence[tuple[str, float]], spent: Mapping[str, int]) -> str:
    """The arm that is furthest behind its share; ties go to the first."""
    total = 1 + sum(spent.values())
    return max(shares, key=lambda each: each[1] * total - spent.get(each[0], 0))[0]


def gate_trial(candidate: Candidate, protocol: Protocol, *, timeout_seconds: float) -> TrialSpec:
    """The trial that runs a candidate's gates."""
    key = EvaluationKey(candidate=candidate.id, task=GATES, rung=0, seed=0)
    return TrialSpec(key=key, term=candidate.term, protocol=protocol, steps=0, timeout_seconds=timeout_seconds)


def rung_trials(candidate: Candidate, protocol: Protocol, rung: int, *, timeout_seconds: float) -> Iterator[TrialSpec]:
    """The evaluations of one rung, a trial for each task and seed."""
    for stage in protocol.rungs[rung].stages:
        for seed in stage.seeds:
            yield TrialSpec(
                key=EvaluationKey(candidate=candidate.id, task=stage.task, rung=rung, seed=seed),
                term=candidate.term,
                protocol=protocol,
                steps=stage.steps,
                timeout_seconds=timeout_seconds,
            )


def visible_trials(candidates: Sequence[Candidate], results: Mapping[int, Sequence[Result]]) -> list[Trial]:
    """The candidates that have results among the visible ones, by index."""
    return [
        Trial(candidate=candidates[index], results=tuple(results[index])) for index in sorted(results) if results[index]
    ]
