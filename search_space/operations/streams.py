"""Streams: what the mixer reads."""

from archloom.search_space.operations.counts import M, V, X
from archloom.search_space.operations.row import Operation, choice, inner, same
from archloom.search_space.patterns import SELF
from archloom.search_space.types import Type

STREAMS = (
    Operation(name="x", rows=(((), X),), summary="the block's normalised input", equation=r"x_t"),
    Operation(
        name="earlier",
        rows=(((), X),),
        summary="what the block before received, under this block's norm; the first block's own input",
        equation=r"x^{(l-1)}_t",
        weight=0.03,
        patterns=SELF,
    ),
    Operation(
        name="shift",
        rows=same(X),
        summary="token shift: a learned blend, channel by channel, of this token and the one before",
        equation=r"\mu \odot {0}_{t-1} + (1 - \mu) \odot {0}_t",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: s.width,
        flops=lambda s, t, h: 3 * s.width,
        state=lambda s, t, h: s.width,
    ),
    Operation(
        name="pool",
        rows=(*same(X, Type.FEATURE, Type.POSITIVE_FEATURE, V, M), ((Type.UNIT_FEATURE,), Type.FEATURE)),
        parameters=(choice("width", 2, 4, 8, default=4),),
        summary="the mean of this token and the `width` - 1 before it, of those there are",
        equation=r"\tfrac{1}{\min(w, t + 1)} \sum_{j<w} {0}_{t-j}",
        weight=0.3,
        flops=lambda s, t, h: h * inner(t, s) * t.integer("width"),
        state=lambda s, t, h: h * inner(t, s) * (t.integer("width") - 1),
    ),
)
