"""Positions: how scores and features know where tokens stand.

Features are turned by rates that tokens choose, or are positions themselves; scores are multiplied by a learned factor
of the lag or of the distance in a tree, which on exponential scores is an additive bias.
"""

from archloom.search_space.operations.counts import F, X, projection, score_each
from archloom.search_space.operations.row import Cost, Operation, Shape, Signature, choice
from archloom.search_space.patterns import SELF
from archloom.search_space.terms import Term
from archloom.search_space.types import Type

_SCORES: tuple[Signature, ...] = (((Type.SCORE,), Type.SCORE), ((Type.POSITIVE_SCORE,), Type.POSITIVE_SCORE))
_PAIRS: tuple[Signature, ...] = (((F, F), Type.SCORE),)
_REACH = choice("reach", 16, 32, 64, drawn=(16, 32))


def lag_count(term: Term, shape: Shape) -> int:
    """How many different lags there are when those beyond `reach` count as `reach`."""
    reach = term.integer("reach")
    return reach + 1 if shape.pattern.causal else 2 * reach + 1


def _per_lag(width: Cost) -> Cost:
    return lambda s, t, h: lag_count(t, s) * width(s, t, h)


POSITION_OPERATIONS: tuple[Operation, ...] = (
    Operation(
        name="angle",
        rows=(((X,), Type.ANGLE),),
        summary="a rotation rate per head that the token chooses (CARoPE)",
        equation=r"1 / (1 + \mathrm{softplus}(w^\top {0}_t))",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: s.width * s.heads,
        flops=lambda s, t, h: 2 * s.width * s.heads,
    ),
    Operation(
        name="turn",
        rows=tuple(((each, Type.ANGLE), each) for each in (Type.FEATURE, Type.UNIT_FEATURE)),
        summary="context-aware rotary: channel pair i turned by the sum so far of the i-th powers of the rates",
        equation=r"R(\phi_t) {0}_t,\; \phi_{ti} = \sum_{r \le t} {1}_r^i",
        weight=0.3,
        flops=lambda s, t, h: 6 * h * s.key,
        state=lambda s, t, h: h * (s.key // 2),
    ),
    Operation(
        name="sinusoid",
        rows=(((), Type.FEATURE),),
        summary="a linear map of sinusoids of the position: features that ignore the token",
        equation=r"W p_t,\; p_t = (\sin t \theta_i, \cos t \theta_i)_i",
        weight=0.0,  # written, never drawn: a mixer made of it alone would not read its input
        parametric=True,
        **projection(lambda s: s.key),
    ),
    Operation(
        name="slopes",
        rows=(((), Type.HEAD_DECAY),),
        summary="fixed decay, its log spaced evenly in powers of two over the heads (ALiBi)",
        equation=r"-2^{-8h/H}",
        weight=0.5,
    ),
    Operation(
        name="relative",
        rows=_SCORES,
        parameters=(_REACH,),
        summary="scores times a learned factor of the lag, constant from `reach` on: on exp scores, a relative bias",
        equation=r"{0}_{ts} \, e^{b_{t-s}}",
        weight=0.4,
        parametric=True,
        weights=_per_lag(lambda s, t, h: h),
        flops=score_each(1),
        patterns=SELF,
    ),
    Operation(
        name="graph_bias",
        rows=_SCORES,
        parameters=(choice("reach", 4, 8, drawn=(4,)),),
        summary="scores times a learned factor of the distance in the binary tree whose heap order is the sequence",
        equation=r"{0}_{ts} \, e^{b_{\min(d(t, s), r)}}",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: (t.integer("reach") + 1) * h,
        flops=score_each(1),
        patterns=SELF,
    ),
    Operation(
        name="relative_keys",
        rows=_PAIRS,
        parameters=(_REACH,),
        summary="inner products of queries with keys moved by a learned vector of the lag, shared by the heads",
        equation=r"K^{-1/2} \langle {0}_t, {1}_s + a_{\min(t - s, r)} \rangle",
        weight=0.4,
        parametric=True,
        weights=_per_lag(lambda s, t, h: s.key),
        flops=lambda s, t, h: 2 * h * s.key * lag_count(t, s) + score_each(1)(s, t, h),
        patterns=SELF,
    ),
    Operation(
        name="additive",
        rows=_PAIRS,
        summary="one number of the query plus one of the key under a leaky ReLU (graph attention)",
        equation=r"\mathrm{LeakyReLU}(a^\top {0}_t + b^\top {1}_s)",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: 2 * h * s.key,
        flops=lambda s, t, h: 4 * h * s.key + score_each(3)(s, t, h),
    ),
    Operation(
        name="table",
        rows=(((), Type.SCORE),),
        summary="one learned score for every pair of positions, up to the protocol's length",
        equation=r"W_{ts}",
        weight=0.05,
        parametric=True,
        weights=lambda s, t, h: s.heads * (s.length * (s.length + 1) // 2 if s.pattern.causal else s.length**2),
        patterns=SELF,
    ),
)
