"""Readouts: ways to mix values that are no kernel applied to them."""

from archloom.search_space.operations.counts import F, M, V
from archloom.search_space.operations.row import Operation, Shape, choice
from archloom.search_space.patterns import SELF
from archloom.search_space.terms import Term
from archloom.search_space.types import VALUES


def _seen(shape: Shape) -> int:
    """How many tokens one token sees, on the mean."""
    return shape.length // 2 if shape.pattern.causal and not shape.pattern.cross else shape.length


def _local_linear_flops(shape: Shape, term: Term, heads: int) -> int:
    """Scores, moments of the keys, the solved system, and the corrected weights' sum of values."""
    moments = 2 * _seen(shape) * (shape.key**2 + 3 * shape.key + shape.value)
    return heads * (moments + 2 * shape.key**3 // 3)


def _spans_flops(shape: Shape, term: Term, heads: int) -> int:
    """Scores and values of a span and of the summaries before it; a summary costs a span's scores for a span."""
    span = term.integer("span")
    return 2 * heads * (span + _seen(shape) // span + 1) * (shape.key + shape.value)


def _spans_state(shape: Shape, term: Term, heads: int) -> int:
    """The summaries of whole spans, and queries, keys and values of the one that is not full yet."""
    whole, rest = divmod(shape.length, term.integer("span"))
    return heads * (whole * (shape.key + shape.value) + rest * (2 * shape.key + shape.value))


def _aft_state(shape: Shape, term: Term, heads: int) -> int:
    """Numerator, denominator and peak of the far past, and the exponents and values of the window."""
    return heads * shape.value * (3 + 2 * min(shape.length, term.integer("window")))


READOUTS = (
    Operation(
        name="local_linear",
        rows=(((F, F, VALUES), M),),
        summary="local linear attention: a ridge regression of values on keys with softmax weights, at the query",
        equation=(
            r"\frac{\sum_s A_{ts} (1 - z_{ts}^\top \rho_t) {2}_s}{\sum_s A_{ts} (1 - z_{ts}^\top \rho_t)},\;"
            r" A_{ts} = e^{K^{-1/2} \langle {0}_t, {1}_s \rangle},\; z_{ts} = {1}_s - {0}_t,\;"
            r" \rho_t = (\sum_s A_{ts} (z_{ts} z_{ts}^\top + \lambda I))^{-1} \sum_s A_{ts} z_{ts}"
        ),
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: h,
        flops=_local_linear_flops,
        state=lambda s, t, h: h * s.length * (s.key + s.value),
    ),
    Operation(
        name="spans",
        rows=(((F, F, VALUES), M),),
        parameters=(choice("span", 4, 8, 16, default=8),),
        summary="softmax over the tokens of the same span and one local summary of every earlier span (Combiner)",
        equation=(
            r"\mathrm{softmax}(\langle {0}_t, {1}_s \rangle_{s \in i(t)}, \langle {0}_t, k_j \rangle_{j < i(t)})"
            r" \cdot ({2}_s, v_j),\; k_j = \max_{r \in j} {1}_r,\;"
            r" v_j = \sum_{r \in j} \mathrm{softmax}_{r \in j}(\langle \max_{r \in j} {0}_r, {1}_r \rangle) \, {2}_r,\;"
            r" i(t) = \lfloor t / b \rfloor"
        ),
        weight=0.3,
        flops=_spans_flops,
        state=_spans_state,
        patterns=SELF,
    ),
    Operation(
        name="covariance",
        rows=(((V, V, VALUES), M),),
        summary="attention of channels over channels, by their correlations along the tokens so far",
        equation=(
            r"\mathrm{softmax}_j\Big(\tau \frac{\sum_{s \le t} {0}_{si} {1}_{sj}}"
            r"{\lVert {0}_{\le t, i} \rVert \lVert {1}_{\le t, j} \rVert}\Big) {2}_{tj}"
        ),
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: h,
        flops=lambda s, t, h: h * s.value * (12 * s.value + 6),
        state=lambda s, t, h: h * s.value * (s.value + 2),
        patterns=SELF,
    ),
    Operation(
        name="aft",
        rows=(((V, VALUES), M),),
        parameters=(choice("window", 1, 4, 16),),
        summary="attention-free: channel-wise softmax over time of exponents, with a learned bias for the nearest lags",
        equation=(
            r"\sum_{s \le t} A_{ts} \odot {1}_s / \sum_{s \le t} A_{ts},\; A_{ts} = e^{{0}_s + w_{t-s} [t-s < n]}"
        ),
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: h * t.integer("window"),
        flops=lambda s, t, h: h * s.value * (12 + 6 * t.integer("window")),
        state=_aft_state,
        patterns=SELF,
    ),
    Operation(
        name="maximum",
        rows=(((VALUES,), M),),
        summary="the largest value of each channel so far",
        equation=r"\max_{s \le t} {0}_s",
        weight=0.2,
        flops=lambda s, t, h: h * s.value,
        state=lambda s, t, h: h * s.value,
        patterns=SELF,
    ),
)
