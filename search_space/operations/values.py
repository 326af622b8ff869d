"""Values: what kernels carry from token to token, and how values are scaled, joined and mixed."""

from archloom.search_space.operations.counts import SHARE, M, V, X, elementwise, projection
from archloom.search_space.operations.row import Operation, inner, same
from archloom.search_space.types import FEATURES, GATES, KERNELS, POSITIVE, VALUES, Type


def _product(left: Type, right: Type) -> Type:
    """Fractions stay fractions, and what is not negative stays so."""
    if left in POSITIVE and right in POSITIVE:
        return left if left is right else Type.POSITIVE_FEATURE
    return Type.FEATURE


_PRODUCTS = tuple(((a, b), _product(a, b)) for a in FEATURES for b in FEATURES)

VALUE_OPERATIONS = (
    Operation(
        name="value",
        rows=(((X,), V),),
        parameters=(SHARE,),
        summary="linear projection to values; `share` query heads use one head of it",
        equation=r"W {0}_t",
        weight=3.0,
        parametric=True,
        **projection(lambda s: s.value),
    ),
    Operation(
        name="scale",
        rows=tuple(((each, GATES), each) for each in VALUES),
        summary="values scaled token by token by a gate or step",
        equation=r"{1}_t \, {0}_t",
        flops=elementwise(),
    ),
    Operation(
        name="weigh",
        rows=(((FEATURES,), Type.FEATURE), *same(*VALUES)),
        summary="learned scale of each channel of each head",
        equation=r"w \odot {0}_t",
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: h * inner(t, s),
        flops=elementwise(),
    ),
    Operation(
        name="mul",
        rows=(((V, V), V), ((V, M), M), ((M, V), M), ((M, M), M), *_PRODUCTS),
        summary="elementwise product: gating",
        equation=r"{0}_t \odot {1}_t",
        weight=1.0,
        commutative=True,
        flops=elementwise(),
    ),
    Operation(
        name="add",
        rows=(((V, V), V), ((V, M), M), ((M, V), M), ((M, M), M)),
        summary="sum",
        equation=r"{0}_t + {1}_t",
        commutative=True,
        weight=0.4,
        flops=elementwise(),
    ),
    Operation(
        name="subtract",
        rows=(((V, M), M), ((M, V), M), ((M, M), M)),
        summary="difference",
        equation=r"{0}_t - {1}_t",
        weight=0.0,  # a stream that both sides add would cancel, and the weights that made it be dead
        flops=elementwise(),
    ),
    Operation(
        name="apply",
        rows=((((*KERNELS, Type.FILTER, Type.SPECTRUM), VALUES), M),),
        summary="a kernel applied to values, or a filter as a long convolution",
        equation=r"\sum_{s \le t} {0}_{ts} \, {1}_s",
        weight=4.0,
    ),
    Operation(
        name="resolve",
        rows=(((Type.CONTRACTION, VALUES), M),),
        summary="strictly causal resolvent of a contraction: the write of the delta rule",
        equation=r"\left[(I + \mathrm{strict}({0}))^{-1} {1}\right]_t",
        weight=30.0,
    ),
    Operation(
        name="blend",
        rows=same(V, M),
        summary="learned linear map of the channels within each head",
        equation=r"W_h \, {0}_t",
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: h * s.value**2,
        flops=lambda s, t, h: 2 * h * s.value**2,
    ),
    Operation(
        name="gelu",
        rows=same(V, M),
        summary="GELU, entry by entry",
        equation=r"\mathrm{gelu}({0}_t)",
        weight=0.2,
        flops=elementwise(8),
    ),
    Operation(
        name="tanh",
        rows=same(V, M),
        summary="hyperbolic tangent, entry by entry",
        equation=r"\tanh({0}_t)",
        weight=0.1,
        flops=elementwise(4),
    ),
    Operation(
        name="square",
        rows=same(M),  # of values it is `mul` of a stream with itself
        summary="square, entry by entry",
        equation=r"{0}_t \odot {0}_t",
        weight=0.1,
        flops=elementwise(),
    ),
    Operation(
        name="squash",
        rows=same(V, M),
        summary="capsule nonlinearity: the direction of each head's vector at a length below one",
        equation=r"(1 - e^{-\lVert {0}_t \rVert}) \, {0}_t / \lVert {0}_t \rVert",
        weight=0.15,
        flops=elementwise(5),
    ),
)
