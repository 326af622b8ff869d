"""Do cheap measurements rank as dear ones do? Rank correlation between rungs, or sizes, and what promotion loses.

What it does not say. Only what was measured on both levels can be compared, and a ladder measures there what was best
below: over so narrow a range a correlation is smaller than over all candidates, and the baselines, which run every rung
unselected, carry much of it. A percentile interval of a few pairs is too narrow besides; below `LEAST` there is none.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archloom.db.effects import standings
from archloom.db.records import Protocol, Trial
from archloom.db.statistics import CONFIDENCE

LEAST = 4
"""Of three pairs a perfect order has a chance of one in six."""

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Of two rankings of the same `n` candidates: Spearman's and Kendall's (tau-b) correlation with 95% intervals.

    `regret` is what promotion loses: the best score above, less the best of those that lead below (the protocol's
    `keep`), in units of the score above; 0 if the final best is one of them. Numbers are NaN where `reason` says why.
    """

    lower: str
    upper: str
    n: int
    spearman: float = math.nan
    spearman_low: float = math.nan
    spearman_high: float = math.nan
    kendall: float = math.nan
    kendall_low: float = math.nan
    kendall_high: float = math.nan
    regret: float = math.nan
    reason: str | None = None


def rung_agreement(
    trials: Sequence[Trial], protocol: Protocol, *, seed: int = 0, resamples: int = 1000
) -> tuple[Agreement, ...]:
    """One for each pair of rungs, lowest first, over the candidates that have finished on both, by their standings.

    `seed` is the bootstrap's.
    """
    ranked = [_finished(trials, protocol, rung=rung) for rung in range(len(protocol.rungs))]
    return tuple(
        agreement(
            ranked[lower],
            ranked[upper],
            names=(f"rung {lower}", f"rung {upper}"),
            keep=math.prod(rung.keep for rung in protocol.rungs[lower:upper]),
            seed=seed,
            resamples=resamples,
        )
        for lower in range(len(ranked))
        for upper in range(lower + 1, len(ranked))
    )


def size_agreement(
    smaller: tuple[Sequence[Trial], Protocol],
    larger: tuple[Sequence[Trial], Protocol],
    *,
    seed: int = 0,
    resamples: int = 1000,
) -> tuple[Agreement, ...]:
    """Does a campaign rank as another one does, whose models are of another size? One for each rung that both have,
    over the candidates that finished it in both; baselines are such candidates. `seed` is the bootstrap's.

    Errors: `ValueError` for campaigns that do not measure by the same tasks: then more differs than the size.
    """
    (trials, protocol), (others, other) = smaller, larger
    if protocol.tasks != other.tasks:
        raise ValueError(
            "the two campaigns have other tasks; their rankings differ by more than the size of the models"
        )
    rungs = range(min(len(protocol.rungs), len(other.rungs)))
    return tuple(
        agreement(
            _finished(trials, protocol, rung=rung),
            _finished(others, other, rung=rung),
            names=(f"rung {rung} at width {protocol.width}", f"at width {other.width}"),
            keep=protocol.rungs[rung].keep,
            seed=seed,
            resamples=resamples,
        )
        for rung in rungs
    )


def _finished(trials: Sequence[Trial], protocol: Protocol, *, rung: int) -> dict[str, float]:
    """The standings of the candidates that have finished a rung."""
    finished = {t.candidate.id for t in trials if rung not in t.unfinished}
    standing = standings(trials, protocol, rung=rung)
    return {name: value for name, value in standing.items() if name in finished}


def agreement(
    lower: Mapping[str, float],
    upper: Mapping[str, float],
    *,
    names: tuple[str, str],
    keep: float = 0.5,
    seed: int = 0,
    resamples: int = 1000,
) -> Agreement:
    """Compare two rankings by score, higher is better, over the ids in both: of two rungs, or two widths of a protocol.

    A score that is NaN or -inf is a failure, worse than any number; failures tie. The pairs are resampled with
    replacement; a resample in which either side ties throughout is left out. Of equals the one that `lower` lists first
    rises. Errors: `ValueError` for `keep` outside (0, 1].
    """
    if not 0 < keep <= 1:
        raise ValueError(f"keep is the share that rises, above 0 and at most 1, got {keep}")
    both = [name for name in lower if name in upper]
    below, above = (np.array([_worst_if_nan(side[name]) for name in both]) for side in (lower, upper))
    reason = None
    if len(both) < LEAST:
        reason = f"{len(both)} candidates are measured on both; an interval takes {LEAST}"
    elif len(np.unique(below)) == 1 or len(np.unique(above)) == 1:
        reason = "all scores of one side are the same: there is no order to compare"
    if reason is not None:
        return Agreement(lower=names[0], upper=names[1], n=len(both), reason=reason)
    rho, tau = _with_interval(below, above, seed=seed, resamples=resamples)
    return Agreement(
        lower=names[0],
        upper=names[1],
        n=len(both),
        spearman=rho[0],
        spearman_low=rho[1],
        spearman_high=rho[2],
        kendall=tau[0],
        kendall_low=tau[1],
        kendall_high=tau[2],
        regret=_regret(below, above, keep=keep),
    )


def _worst_if_nan(score: float) -> float:
    return -math.inf if math.isnan(score) else score


def _regret(below: Floats, above: Floats, *, keep: float) -> float:
    """At least one rises, and of equals the first."""
    rising = np.argsort(-below, kind="stable")[: max(1, int(len(below) * keep))]
    best, kept = float(above.max()), float(above[rising].max())
    return 0.0 if best == kept else best - kept


def _with_interval(
    below: Floats, above: Floats, *, seed: int, resamples: int
) -> tuple[tuple[float, float, float], tuple[float, float, float]]:
    """(value, low, high) of Spearman's and of Kendall's correlation, on the same resamples; all resamples at once."""
    n = len(below)
    drawn = np.random.default_rng(seed).integers(n, size=(resamples, n))
    places = np.concatenate([np.arange(n)[None], drawn])
    answers = []
    for values in (_spearman(below[places], above[places]), _kendall(below, above, places)):
        low, high = np.nanquantile(values[1:], [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2])
        answers.append((float(values[0]), float(low), float(high)))
    return answers[0], answers[1]


def _spearman(x: Floats, y: Floats) -> Floats:
    """Pearson's correlation of the midranks, for each row of [R, n]; NaN where a row ties throughout."""
    from scipy import stats

    ranks = [stats.rankdata(side, axis=1) - (side.shape[1] + 1) / 2 for side in (x, y)]
    return _ratio((ranks[0] * ranks[1]).sum(1), (ranks[0] ** 2).sum(1) * (ranks[1] ** 2).sum(1))


def _kendall(x: Floats, y: Floats, places: NDArray[np.int64]) -> Floats:
    """tau-b of each resample [R, n]: sums over pairs of distinct entries, each as often as both were drawn."""
    counts = np.zeros(places.shape)
    np.add.at(counts, (np.arange(len(places))[:, None], places), 1)
    below, above = (np.greater.outer(v, v) * 1.0 - np.less.outer(v, v) for v in (x, y))
    products = (below * above, below**2, above**2)
    agreeing, apart_below, apart_above = (((counts @ pairs) * counts).sum(1) for pairs in products)
    return _ratio(agreeing, apart_below * apart_above)


def _ratio(product: Floats, squares: Floats) -> Floats:
    """product / sqrt(squares), NaN where that is nothing over nothing."""
    return np.divide(product, np.sqrt(squares), out=np.full_like(product, np.nan), where=squares > 0)
