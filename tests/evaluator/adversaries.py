"""Models with one fault each and the gate that has to stop it; mixers that fingerprints tell apart or not."""

from dataclasses import dataclass

import torch
from torch.nn import functional

from archloom.db.records import FailureKind
from archloom.evaluator.modules import Context

from . import faults
from .faults import Make, around, backward, leak, mean, useless, within


@dataclass(frozen=True, slots=True, kw_only=True)
class Adversary:
    """A zoo system made with a fault. Its gate fails as `kind` for a reason that has `words` in it."""

    name: str
    make: Make
    kind: FailureKind
    words: str
    system: str = "linear_attention"


def _table(kind: FailureKind, *rows: tuple[str, Make, str], system: str = "linear_attention") -> list[Adversary]:
    return [Adversary(name=name, make=make, kind=kind, words=words, system=system) for name, make, words in rows]


ADVERSARIES = [
    *_table(
        FailureKind.CAUSALITY,
        ("mean over tokens", leak(mean), "changes outputs before"),
        ("norm statistics over time", around(faults.norm_over_time), "changes outputs before"),
        ("peak over all tokens", around(faults.shared_peak), "changes outputs before"),
        ("convolution that wraps around", around(faults.wrapped_convolution), "changes outputs before"),
        ("mean of a chunk of 16", leak(lambda x: faults.chunk_means(x, 16)), "changes outputs before"),
        ("mean of a chunk of 32", leak(lambda x: faults.chunk_means(x, 32)), "changes outputs before"),
        ("mean of a chunk of 64", leak(lambda x: faults.chunk_means(x, 64)), "changes outputs before"),
        ("mean of a chunk of 128", leak(lambda x: faults.chunk_means(x, 128)), "at length 128"),
        ("border of chunks of 16", leak(lambda x: faults.over_the_border(x, 16)), "changes outputs before"),
        ("border of chunks of 64", leak(lambda x: faults.over_the_border(x, 64)), "from 64 on"),
        ("border of chunks of 128", leak(lambda x: faults.over_the_border(x, 128)), "from 128 on"),
        ("last part of a chunk", leak(faults.in_the_last_part), "changes outputs before"),
        ("only at multiples of 64", leak(faults.only_at_multiples), "at length 128"),
        ("only beyond 64 tokens", leak(faults.only_if_long), "at length 128"),
        ("only beyond 1,000 tokens", leak(lambda x: mean(x) * (x.shape[1] > 1000)), "at length 2048"),
        ("only from far ahead", leak(faults.far_ahead), "at length 128"),
        ("size of the future, not its sign", leak(lambda x: mean(x.abs())), "changes outputs before"),
        ("sign of the future, not its size", leak(lambda x: x.sum((1, 2), keepdim=True).sign()), "changes outputs"),
        ("cancels for changes of mean zero", leak(lambda x: x.mean((1, 2), keepdim=True)), "changes outputs before"),
        ("only large numbers", leak(lambda x: functional.relu(x.amax((1, 2), keepdim=True) - 20)), "changes outputs"),
        (
            "only a quiet future",
            leak(lambda x: (x[:, -1:].abs().amax(-1, keepdim=True) < 0.1) * 1.0),
            "changes outputs",
        ),
        ("a ten-millionth", leak(mean, size=1e-7), "changes outputs before"),
        ("ranks among all tokens", leak(faults.ranks), "changes outputs before"),
        ("one token ahead", leak(faults.ahead), "changes outputs before"),
        ("last token to the first", leak(faults.last_to_first), "changes outputs before"),
        ("the first token again", faults.Repeated, "changes outputs before"),
        ("one symbol of the vocabulary", faults.RareToken, "changes outputs before"),
        ("positions as a part of the whole", around(faults.of_length), "more tokens"),
        ("only long sequences in training", around(faults.leak_in_long_training), "changes outputs before"),
        ("only in the backward pass", backward(lambda g: g + 1e-6 * g.flip(1)), "gradient in later inputs"),
        (
            "only in the backward pass of chunks",
            backward(lambda g: g + 1e-3 * faults.chunk_means(g, 64)),
            "gradient in later",
        ),
        (
            "only in the backward pass at borders",
            backward(lambda g: g + g.roll(1, 1) * faults.only_at_multiples(g)),
            "gradient",
        ),
    ),
    *_table(
        FailureKind.STABILITY,
        ("only in float32", around(faults.leak_in_single_precision), "changes outputs before"),
        ("overflow far on", around(faults.ratio_of_powers(1.06)), "not finite at length 2048"),
        ("underflow far on", around(faults.ratio_of_powers(0.94)), "not finite at length 2048"),
        ("growth that averages out", around(faults.growth_that_averages_out), "not finite at length 2048"),
        ("gradient not finite far on", around(faults.steep_root), "gradient of the inputs"),
    ),
    *_table(
        FailureKind.BATCH,
        ("mean over the batch", around(lambda stack, x, y: y + 1e-5 * y.mean(0, keepdim=True)), "alone"),
        ("statistics of the batch", around(faults.batch_norm), "alone"),
        ("rows folded wrongly", around(faults.folded_wrongly), "alone"),
        ("gradient of other rows", backward(lambda g: g + 1e-6 * g.flip(0)), "gradient in another"),
    ),
    *_table(
        FailureKind.DETERMINISM,
        ("running statistics", faults.RunningNorm, "training mode"),
        ("dropout", faults.Dropped, "training mode"),
        ("another path in training", around(faults.other_path), "training mode"),
        ("first tokens set the scale", faults.Initialised, "write to scale"),
        ("call number", faults.Counting, "differ"),
        ("what the last call left", faults.Recalling, "differ"),
        ("noise in evaluation", around(faults.noise), "differ"),
        ("inputs written to", around(faults.in_place), "written"),
    ),
    *_table(
        FailureKind.FORWARD,
        ("not a number", around(faults.not_a_number), "not finite"),
        ("beyond float32", around(faults.half_range), "torch.float32"),
        ("single token squeezed", around(faults.squeezed), "logits (2, 48)"),
    ),
    *_table(
        FailureKind.GRADIENT,
        ("gradient not finite", around(faults.root_of_nothing), "not finite"),
        ("parameter unused", useless(lambda y, w: y), "useless"),
        ("parameter times zero", useless(lambda y, w: y + 0 * w), "useless"),
        ("parameter clipped away", useless(lambda y, w: y + functional.relu(w - 1000)), "useless"),
        ("parameter in a flat sigmoid", useless(lambda y, w: y * torch.sigmoid(100 * w)), "useless"),
        ("parameter detached", useless(lambda y, w: y * w.detach()), "useless"),
        ("parameter on a path never taken", useless(lambda y, w: y * w if y.abs().max() > 1e6 else y), "useless"),
        ("parameter that a softmax cancels", useless(lambda y, w: y + torch.softmax(y + w, -1)), "useless"),
    ),
    *_table(
        FailureKind.BUILD,
        ("parameters not counted", faults.Heavier, "parameters"),
    ),
    *_table(
        FailureKind.DECODE,
        ("cache ignored", within(lambda c: Context()), "segments"),
        ("rows share a state", faults.RowsShareState, "segments"),
        ("state grows", faults.Hoarding, "state of"),
        ("single tokens", faults.SingleStep, "segments"),
    ),
    *_table(
        FailureKind.DECODE,
        ("past ignored", within(lambda c: Context(cache=c.cache)), "segments"),
        (
            "wrong position after a segment",
            within(lambda c: Context(cache=c.cache, past=max(0, c.past - 1))),
            "segments",
        ),
        ("position wraps at 64", within(lambda c: Context(cache=c.cache, past=c.past % 64)), "131 tokens"),
        system="transnormer",
    ),
    *_table(
        FailureKind.LOWERING,
        ("literal form differs", faults.Literal, "dense"),
        ("literal form differs beyond a chunk", faults.LiteralIfLong, "at length 131"),
        ("gradient of the lowered form", faults.WrongBackward, "gradients"),
    ),
    *_table(
        FailureKind.COST,
        ("all pairs by broadcasting", around(faults.distances), "elements grow"),
        ("mask of all pairs", around(faults.summed_mask), "elements grow"),
        ("sums of every prefix", around(faults.prefix_by_prefix), "elements grow"),
        ("loop over pairs", around(faults.token_by_token), "calls grow"),
        ("quadratic far on", around(faults.quadratic_if_long), "elements grow"),
    ),
    *_table(
        FailureKind.COST,
        ("cubic", around(faults.cubic), "flops grow"),
        system="mha",
    ),
]

WAITING = ("only large numbers", "only a quiet future", "the first token again", "one symbol of the vocabulary")
"""Adversaries that need a chance to show."""

TWINS = (
    ("relu(maximum(value(x)))", "maximum(relu(value(x)))"),
    ("conv(spaced(value(x)))", "spaced(conv(value(x)))"),
    ("maximum(value(x))", "maximum(carry(project(x)))"),
)
"""Mixers of different ids that compute the same."""

OTHERS = (
    ("apply(masked(ones, visible), value(x))", "apply(masked(ones, window(width=16)), value(x))"),
    ("apply(masked(ones, window(width=16)), value(x))", "apply(masked(ones, window(width=32)), value(x))"),
    ("apply(masked(ones, visible), value(x))", "apply(masked(ones, chunk(size=32)), value(x))"),
    ("apply(masked(table, visible), value(x))", "apply(masked(table, window(width=32)), value(x))"),
)
"""Mixers that compute the same up to 12 tokens and not beyond."""

RANGES = ("spaced(value(x))", "spaced(value(x), reach=32)")
"""Mixers that differ only in the range in which their weights start."""
