"""Scores: how much every token concerns every other, before a mask hides what may not be seen."""

from archloom.search_space.operations.counts import F, M, S, V, score_each
from archloom.search_space.operations.row import Operation, choice, inner, same
from archloom.search_space.types import POSITIVE, SCORES, Type

_SIGNED_PAIRS = tuple(
    ((a, b), Type.POSITIVE_SCORE if a in POSITIVE and b in POSITIVE else Type.SCORE) for a in F for b in F
)
_GRAMS = ((Type.GATE, Type.GRAM), (Type.DOUBLE_GATE, Type.DOUBLE_GRAM))
_SIGNS = (Type.SCORE, Type.POSITIVE_SCORE)

SCORE_OPERATIONS = (
    Operation(
        name="dot",
        rows=_SIGNED_PAIRS,
        summary="scaled inner products of queries and keys",
        equation=r"K^{-1/2} \langle {0}_t, {1}_s \rangle",
        weight=3.0,
    ),
    Operation(
        name="decayed_dot",
        rows=tuple(((*pair, Type.CHANNEL_DECAY), result) for pair, result in _SIGNED_PAIRS),
        summary="inner products decayed channel by channel between source and query",
        equation=r"K^{-1/2} \sum_i {0}_{ti} {1}_{si} e^{G_{ti} - G_{si}},\; G = \mathrm{cumsum}({2})",
        weight=2.0,
    ),
    Operation(
        name="gram",
        rows=tuple(((Type.UNIT_FEATURE, gate), result) for gate, result in _GRAMS),
        summary="how much a unit key overlaps earlier ones, times a gate: what a delta rule erases",
        equation=r"{1}_t \langle {0}_t, {0}_s \rangle",
        weight=4.0,
    ),
    Operation(
        name="decayed_gram",
        rows=tuple(((Type.UNIT_FEATURE, gate, Type.CHANNEL_DECAY), result) for gate, result in _GRAMS),
        summary="gram score decayed channel by channel",
        equation=r"{1}_t \sum_i {0}_{ti} {0}_{si} e^{G_{ti} - G_{si}},\; G = \mathrm{cumsum}({2})",
        weight=4.0,
    ),
    Operation(
        name="decay",
        rows=tuple(((each, Type.HEAD_DECAY), each) for each in SCORES),
        summary="scores decayed between source and query, head by head",
        equation=r"{0}_{ts} \, e^{G_t - G_s},\; G = \mathrm{cumsum}({1})",
        weight=2.0,
    ),
    Operation(
        name="exp",
        rows=(((S,), Type.POSITIVE_SCORE), ((Type.FEATURE,), Type.POSITIVE_FEATURE)),
        summary="exponential of scores; of features, at most that of 3",
        equation=r"e^{{0}}",
        weight=2.0,
        flops=lambda s, t, h: score_each(1)(s, t, h) if t.type is Type.POSITIVE_SCORE else h * s.key,
    ),
    Operation(
        name="taylor2",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="second-order Taylor polynomial of exp: positive and still of finite rank",
        equation=r"1 + {0}_{ts} + {0}_{ts}^2 / 2",
    ),
    Operation(
        name="relu2",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="squared ReLU of scores",
        equation=r"\mathrm{relu}({0}_{ts})^2",
        weight=0.5,
        flops=score_each(2),
    ),
    Operation(
        name="sigmoid",
        rows=(((S,), Type.POSITIVE_SCORE), ((Type.FEATURE,), Type.FRACTION), *same(V, M)),
        summary="sigmoid, entry by entry: positive scores, fractions, or values that gate others",
        equation=r"\sigma({0})",
        weight=0.2,
        flops=lambda s, t, h: 3 * h * (s.length // 2 if t.type is Type.POSITIVE_SCORE else inner(t, s)),
    ),
    Operation(
        name="times",
        rows=tuple(
            ((a, b), Type.POSITIVE_SCORE if a is b is Type.POSITIVE_SCORE else S) for a in _SIGNS for b in _SIGNS
        ),
        summary="elementwise product of scores",
        equation=r"{0}_{ts} \, {1}_{ts}",
        commutative=True,
        weight=0.3,
        flops=score_each(1),
    ),
    Operation(
        name="plus",
        rows=tuple(
            ((a, b), Type.POSITIVE_SCORE if a is b is Type.POSITIVE_SCORE else S) for a in _SIGNS for b in _SIGNS
        ),
        summary="sum of scores",
        equation=r"{0}_{ts} + {1}_{ts}",
        commutative=True,
        weight=0.3,
        flops=score_each(1),
    ),
    Operation(
        name="ones",
        rows=(((), Type.POSITIVE_SCORE),),
        summary="every token concerns every other alike: uniform averaging",
        equation="1",
        weight=0.15,
    ),
    Operation(
        name="quad",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="square of scores shifted by a learned number per head: positive and still of finite rank",
        equation=r"({0}_{ts} + c)^2",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: h,
        flops=score_each(2),
    ),
    Operation(
        name="cap",
        rows=same(S),
        parameters=(choice("limit", 5, 15, 50, default=50),),
        summary="scores kept softly within +-`limit`",
        equation=r"c \tanh({0}_{ts} / c)",
        weight=0.2,
        flops=score_each(3),
    ),
    Operation(
        name="temper",
        rows=same(S),
        summary="scores times a learned positive number per head: an inverse temperature",
        equation=r"e^{\tau} {0}_{ts}",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: h,
        flops=score_each(1),
    ),
    Operation(
        name="fourier",
        rows=(((S,), S),),
        parameters=(choice("order", 2, 3, 4, default=3),),
        summary="a learned function of scores per head that is 0 at 0, on the first `order` harmonics",
        equation=r"\sum_n a_n (\cos(n \, {0}_{ts}) - 1) + b_n \sin(n \, {0}_{ts})",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: 2 * t.integer("order") * h,
        flops=lambda s, t, h: 6 * t.integer("order") * score_each(1)(s, t, h),
    ),
    Operation(
        name="dilute",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="sigmoid of scores lowered by the logarithm of the number of visible tokens: rows sum to about one",
        equation=r"\sigma({0}_{ts} - \log n_t)",
        weight=0.1,
        flops=score_each(4),
    ),
)
