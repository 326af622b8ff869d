"""How training goes beside its loss: gradient norm, what kernels look at, dead units, spectral norms, as metric series.

A `Recorder` is told every gradient norm, which the training step has anyway, and looks into the model a few times in a
run. It draws no random number and changes no weight: a run is bit-identical with and without it. What is looked at is
always the same few sequences, `WATCHED_SEQUENCES` of at most `WATCHED_TOKENS` tokens.

    gradient_norm       of all parameters before clipping, mean over a stretch of steps
    kernel_entropy      of the rows of |K|, 1 where all shown keys weigh alike (see `inside.Rows`)
    sink_share          share of a row's mass on the first key
    dead_units          share of hidden units of channel mixers that say the same of every token
    spectral_norm       largest singular value of any weight matrix

Entropy, sink and dead units also come block by block (`sink_share_block_1`, counted from 1). A number that an
architecture has nothing of (no kernel, no channel mixer) is absent, never zero.
"""

import math
import statistics
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archloom.db.records import Series
from archloom.evaluator.inside import Inside, look
from archloom.evaluator.model import Model
from archloom.evaluator.tasks.interface import Batch

POINTS = 20
"""Values of a series that has a number for every step, at most."""

WATCHED_SEQUENCES, WATCHED_TOKENS = 2, 128
EXACT_SIDE = 256
"""Matrices whose shorter side is no longer have their singular values computed; longer ones a power iteration."""

POWER_STEPS = 50


class Recorder:
    """The health of one run of `steps` steps; `batch` is what it looks into the model with, on the model's device."""

    def __init__(self, *, steps: int, batch: Batch) -> None:
        self._steps = steps
        self._inputs = batch.inputs[:WATCHED_SEQUENCES, :WATCHED_TOKENS]
        self._source = None if batch.source is None else batch.source[:WATCHED_SEQUENCES, :WATCHED_TOKENS]
        self._norms: list[float] = []
        self._seen: dict[str, dict[int, float]] = {}

    def stepped(self, norm: float) -> None:
        """To be told after every step, in order: the norm of the whole gradient before clipping."""
        self._norms.append(norm)

    def observe(self, model: nn.Module, *, step: int) -> None:
        """Look into the model as it is after `step` steps."""
        found = {"spectral_norm": largest_spectral_norm(model)}
        if isinstance(model, Model):
            found |= readings(look(model, self._inputs, source=self._source))
        for name, value in found.items():
            if value is not None:
                self._seen.setdefault(name, {})[step] = value

    def series(self) -> tuple[Series, ...]:
        """Gradient norms as means over stretches of the steps taken, and every observation."""
        return (
            averaged("gradient_norm", self._norms, steps=self._steps),
            *(Series(name=name, steps=tuple(at), values=tuple(at.values())) for name, at in self._seen.items()),
        )

    def metrics(self) -> dict[str, float]:
        """The last observation of each whole-model number, and `largest_gradient_norm`."""
        last = {name: list(at.values())[-1] for name, at in self._seen.items() if "_block_" not in name}
        return {**last, **({"largest_gradient_norm": max(self._norms)} if self._norms else {})}


def averaged(name: str, values: Sequence[float], *, steps: int) -> Series:
    """A number for every step taken, of `steps` in all, as means over about `POINTS` equal stretches."""
    stretch = math.ceil(steps / POINTS)
    firsts = range(0, len(values), stretch)
    ends = tuple(min(first + stretch, len(values)) for first in firsts)
    means = tuple(statistics.fmean(values[first:end]) for first, end in zip(firsts, ends, strict=True))
    return Series(name=name, steps=ends, values=means)


def readings(blocks: Sequence[Inside]) -> dict[str, float | None]:
    """Numbers of a look by name: the mean over the blocks that have one, and that of each block; None without any."""
    by_block: dict[str, list[float | None]] = {
        "kernel_entropy": [each.mean(lambda rows: rows.entropy) for each in blocks],
        "sink_share": [each.mean(lambda rows: rows.sink) for each in blocks],
        "dead_units": [None if each.units is None else each.units.dead for each in blocks],
    }
    found: dict[str, float | None] = {}
    for name, values in by_block.items():
        there = [value for value in values if value is not None]
        found[name] = statistics.fmean(there) if there else None
        found |= {f"{name}_block_{number}": value for number, value in enumerate(values, start=1)}
    return found


def largest_spectral_norm(model: nn.Module) -> float | None:
    """Of all parameters with two axes or more, NaN if one is not finite, None if there is none."""
    norms = [spectral_norm(each.detach()) for each in model.parameters() if each.ndim >= 2]
    if not norms:
        return None
    return math.nan if any(map(math.isnan, norms)) else max(norms)


def spectral_norm(matrix: Tensor) -> float:
    """The largest singular value of a matrix [m, n], or of any of a batch [..., m, n]; NaN if it is not finite.

    Exact where the shorter side is at most `EXACT_SIDE`, as the root of the largest eigenvalue of the smaller Gram
    matrix; else by power iteration from a fixed vector, which comes from below.
    """
    if not bool(torch.isfinite(matrix).all()):
        return math.nan
    wide = matrix if matrix.shape[-2] <= matrix.shape[-1] else matrix.mT
    wide = wide if wide.dtype is torch.float64 else wide.float()
    gram = wide @ wide.mT
    if gram.shape[-1] <= EXACT_SIDE:
        return float(torch.linalg.eigvalsh(gram)[..., -1].clamp(min=0).max().sqrt())
    vector = torch.linspace(1, 2, gram.shape[-1], device=gram.device, dtype=gram.dtype).cos().expand(gram.shape[:-1])
    for _ in range(POWER_STEPS):
        vector = nn.functional.normalize((gram @ vector.unsqueeze(-1)).squeeze(-1), dim=-1)
    return float((wide.mT @ vector.unsqueeze(-1)).squeeze(-1).norm(dim=-1).max())
