"""The gate of discoveries: whether a candidate beats everything it should, said with an interval, or refused in words.

Who must be beaten. Every baseline, and the best of as many random candidates (`control`): the p-value of a claim is
the largest of those against each opponent (Berger, 1982), so no best one has to be chosen by luck.

On what. On seeds that played no part in the selection: the best of many on the seeds it was chosen by is the luckiest.
A candidate's difference on a seed is its mean bounded effect over the tasks (`archloom.db.effects`); failed is worst.

The test. Student's one-sided paired t of those differences, on their own deviation and not the pooled one: selection
prefers the noisy, so the noise of the population is too little for those it picks. Over all the candidates tried for
the claim, those refused too, Holm's correction (1979) holds the chance of one false discovery at `alpha`. Count in
`candidates` everyone who was measured on the fresh seeds; those that selection left out need not be. However sure, a
difference below what another seed would make, 1 / sqrt(tasks) noise units, is no discovery.

What it does not say. Differences are taken for normal, which matters the more the smaller alpha / candidates is: take
a handful, not hundreds. A mixer that learns on six seeds of ten may well do so on each of five: more seeds tell. And a
second claim on the same fresh seeds is no longer on fresh seeds.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from archloom.db.effects import bounded, paired, stages, standings
from archloom.db.noise import FLOOR, Noise, noise_floor, seed_scores, sum_of_squares
from archloom.db.records import Origin, Protocol, Trial

LEAST_SEEDS = 5
"""A mixer that learns on six seeds of ten does so on three out of three in 22% of the tries, on five in 8%."""

Ruling = Literal["promoted", "refused"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """That `candidates` (ids: all that were tried) beat the baselines and `controls` (ids) on fresh `seeds` of a rung.

    On the combined score of the rung's tasks, or on one `task`. `alpha` is the chance of one false discovery or more.
    """

    candidates: tuple[str, ...]
    seeds: tuple[int, ...]
    rung: int
    task: str | None = None
    controls: tuple[str, ...] = ()
    alpha: float = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The answer for one candidate. `reasons` are why it was refused, none if it was promoted.

    `effect` is its mean bounded effect against `opponent`, the one it beats least clearly (empty if nothing could be
    compared), and [`low`, `high`] its interval at the level of Holm's step: the truth lies below it, or above, with a
    chance of at most alpha over the candidates still in question. `p` is before the correction, `corrected` after it.
    """

    candidate: str
    ruling: Ruling
    reasons: tuple[str, ...]
    opponent: str
    effect: float
    low: float
    high: float
    p: float
    corrected: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Test:
    """A paired comparison: mean difference, its standard error and degrees of freedom, and the one-sided p-value."""

    opponent: str
    effect: float
    error: float
    degrees: int
    p: float


UNTESTED = _Test(opponent="", effect=math.nan, error=math.nan, degrees=0, p=1.0)


def judge(
    claim: Claim, trials: Sequence[Trial], protocol: Protocol, *, measured_under: Protocol | None = None
) -> tuple[Judgement, ...]:
    """Promote or refuse each candidate of a claim, in the claim's order.

    `trials` hold the results of selection and those of the fresh seeds, of baselines and controls too. If the fresh
    ones came from a run of their own, `measured_under` is its protocol: it may differ in seeds and `keep` only.

    Errors: `ValueError` for a claim about unknown candidates, baselines, none at all or one twice, without an opponent,
    on a rung or task that the protocol has not, or with `alpha` outside (0, 1).
    """
    known = {trial.candidate.id: trial for trial in trials}
    _check(claim, known, protocol)
    tasks = (claim.task,) if claim.task else tuple(stages(protocol, rung=claim.rung))
    noises = [noise_floor(trials, task=task, rung=claim.rung) for task in tasks]
    opponents = [t for t in trials if t.candidate.origin is Origin.ZOO] + [known[name] for name in claim.controls]
    general = _general_reasons(claim, protocol, measured_under or protocol, opponents)
    tests, reasons = [], []
    for name in claim.candidates:
        others = [each for each in opponents if each.candidate.id != name]
        missing = _missing(claim, tasks, [known[name], *others])
        testable = len(claim.seeds) > 1 and not missing
        compared = [_test(known[name], each, claim, noises) for each in others] if testable else [UNTESTED]
        tests.append(max(compared, key=lambda test: (test.p, -test.effect)))
        reasons.append([*general, *missing])
    return _rule(claim, tests, reasons, smallest=bounded(1.0) / math.sqrt(len(tasks)))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's corrected p-values, in the order given: the i-th smallest of m, from 0, times m - i, made monotone."""
    corrected = [0.0] * len(p_values)
    largest = 0.0
    for rank, place in enumerate(sorted(range(len(p_values)), key=lambda place: p_values[place])):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[place]))
        corrected[place] = largest
    return tuple(corrected)


def control(trials: Sequence[Trial], protocol: Protocol, *, n: int, rung: int) -> Trial | None:
    """The best of the first `n` random candidates by their standing at a rung: what luck alone finds in `n` tries.

    The earlier of equals; None if none of them has results at the rung. Measure it on the fresh seeds too.
    """
    tried = sorted((t for t in trials if t.candidate.origin is Origin.RANDOM), key=lambda t: t.candidate.index)[:n]
    ranked = standings(trials, protocol, rung=rung)
    measured = [trial for trial in tried if trial.candidate.id in ranked]
    return max(measured, key=lambda trial: ranked[trial.candidate.id], default=None)


def _check(claim: Claim, known: Mapping[str, Trial], protocol: Protocol) -> None:
    names = (*claim.candidates, *claim.controls)
    unknown = [name[:8] for name in names if name not in known]
    if unknown:
        raise ValueError(f"no trials of {', '.join(unknown)} among the {len(known)} given; give those of the claim too")
    if not claim.candidates or len(set(claim.candidates)) < len(claim.candidates):
        raise ValueError(
            f"a claim is about one or more different candidates, got {len(claim.candidates)}; name each once"
        )
    zoo = [known[name].candidate.name or name[:8] for name in names if known[name].candidate.origin is Origin.ZOO]
    if zoo:
        raise ValueError(f"{', '.join(zoo)} is a baseline: it is always an opponent; leave it out of the claim")
    baselines = any(trial.candidate.origin is Origin.ZOO for trial in known.values())
    if not baselines and not set(claim.controls) - set(claim.candidates):
        raise ValueError("there is neither a baseline nor a control to beat; measure one on the fresh seeds")
    tasks = stages(protocol, rung=claim.rung)
    if claim.task is not None and claim.task not in tasks:
        raise ValueError(f"rung {claim.rung} has no task {claim.task!r}; it has {', '.join(tasks)}")
    if not 0 < claim.alpha < 1:
        raise ValueError(f"alpha is a chance between 0 and 1, got {claim.alpha}; 0.05 is usual")


def _general_reasons(claim: Claim, protocol: Protocol, fresh: Protocol, opponents: Sequence[Trial]) -> list[str]:
    """Why nothing of the claim can be promoted, whoever it is about."""
    present = {trial.candidate.name for trial in opponents}
    reasons = [f"a baseline is not among the trials: {name}" for name, _ in protocol.baselines if name not in present]
    if len(claim.seeds) < LEAST_SEEDS:
        reasons.append(f"too few seeds: {len(claim.seeds)}, and a claim takes {LEAST_SEEDS} at least")
    used = {seed for rung in protocol.rungs for stage in rung.stages for seed in stage.seeds}
    reused = sorted(used & set(claim.seeds))
    if reused:
        reasons.append(f"seeds reused from selection: {', '.join(map(str, reused))}; take ones no rung has")
    if len(set(claim.seeds)) < len(claim.seeds):
        reasons.append("a seed is counted twice")
    if _without_seeds(protocol) != _without_seeds(fresh):
        reasons.append(f"the protocol differs: selection by {protocol.id}, fresh seeds under {fresh.id}")
    return reasons


def _without_seeds(protocol: Protocol) -> Protocol:
    """The protocol, its seeds and shares taken out: what a score means on any seed."""
    rungs = (
        replace(rung, keep=1.0, stages=tuple(replace(stage, seeds=()) for stage in rung.stages))
        for rung in protocol.rungs
    )
    return replace(protocol, rungs=tuple(rungs))


def _missing(claim: Claim, tasks: Sequence[str], trials: Sequence[Trial]) -> list[str]:
    """The fresh results that a candidate and its opponents lack; a failure is a result."""
    reasons = []
    for trial in trials:
        for task in tasks:
            known = seed_scores(trial, task=task, rung=claim.rung)
            lacking = [str(seed) for seed in claim.seeds if seed not in known]
            if lacking:
                name = trial.candidate.name or trial.candidate.short
                reasons.append(f"not measured: {name} on {task} at seed {', '.join(lacking)}")
    return reasons


def _test(candidate: Trial, opponent: Trial, claim: Claim, noises: Sequence[Noise]) -> _Test:
    """The paired t-test of one candidate against one opponent; the deviation is at least the evaluation's own."""
    from scipy import stats

    by_task = [paired(candidate, opponent, noise=noise, seeds=claim.seeds) for noise in noises]
    differences = [sum(map(bounded, effects)) / len(noises) for effects in zip(*by_task, strict=True)]
    n = len(differences)
    mean = sum(differences) / n
    least = sum(2 * (FLOOR / noise.sd) ** 2 for noise in noises) / len(noises) ** 2
    error = math.sqrt(max(sum_of_squares(differences) / (n - 1), least) / n)
    p = float(stats.t.sf(mean / error, n - 1))
    return _Test(opponent=opponent.candidate.id, effect=mean, error=error, degrees=n - 1, p=p)


def _rule(
    claim: Claim, tests: Sequence[_Test], reasons: Sequence[list[str]], *, smallest: float
) -> tuple[Judgement, ...]:
    """Holm's steps over the tests: each candidate's level is that of its own step, or of the first that failed."""
    from scipy import stats

    corrected = holm([test.p for test in tests])
    rejected = sum(p <= claim.alpha for p in corrected)
    order = sorted(range(len(tests)), key=lambda place: tests[place].p)
    judgements = []
    for place, test in enumerate(tests):
        level = claim.alpha / (len(tests) - min(order.index(place), rejected))
        half = test.error * float(stats.t.isf(level, test.degrees)) if test.opponent else math.nan
        why = list(reasons[place])
        if test.opponent and corrected[place] > claim.alpha:
            why.append(
                f"the interval contains zero: [{test.effect - half:.2f}, {test.effect + half:.2f}], p = "
                f"{corrected[place]:.2g} after correction for {len(tests)} candidates"
            )
        if test.effect < smallest:
            why.append(f"the effect, {test.effect:.2f}, is below the noise floor of one seed, {smallest:.2f}")
        judgements.append(
            Judgement(
                candidate=claim.candidates[place],
                ruling="refused" if why else "promoted",
                reasons=tuple(why),
                opponent=test.opponent,
                effect=test.effect,
                low=test.effect - half,
                high=test.effect + half,
                p=test.p,
                corrected=corrected[place],
            )
        )
    return tuple(judgements)
