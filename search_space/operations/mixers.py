"""Mixers: heads joined into the stream, and mixers made of mixers."""

from archloom.search_space.operations.counts import HEADS, M, V, output_flops, output_weights
from archloom.search_space.operations.row import Operation, choice
from archloom.search_space.types import Type

INNER = choice("inner", 100, 50, 25, drawn=(100,))
"""Width of the heads together, in percent of the inner width that the protocol's parameters allow."""

MIXERS = (
    Operation(
        name="mix",
        rows=(((M,), Type.MIXER),),
        parameters=(choice("heads", *HEADS, default=2), INNER),
        summary="a mixer: heads are joined and projected back to the stream",
        equation=r"W_o {0}_t",
        scopes=True,
        parametric=True,
        weights=output_weights,
        flops=output_flops,
    ),
    Operation(
        name="pointwise",
        rows=(((V,), Type.MIXER),),
        parameters=(choice("heads", *HEADS, default=2), INNER),
        summary="a mixer that mixes no tokens: the control",
        equation=r"W_o {0}_t",
        weight=0.0,
        scopes=True,
        parametric=True,
        weights=output_weights,
        flops=output_flops,
    ),
    Operation(
        name="together",
        rows=(((Type.MIXER, Type.MIXER), Type.MIXER),),
        summary="two mixers side by side, summed",
        equation=r"{0}(x) + {1}(x)",
        commutative=True,
        weight=60.0,  # two mixers are few among the terms of a size
    ),
    Operation(
        name="chain",
        rows=(((Type.MIXER, Type.MIXER), Type.MIXER),),
        summary="the second mixer reads the first one's output",
        equation=r"{1}({0}(x))",
        weight=20.0,
    ),
    Operation(
        name="mixture",
        rows=(((Type.MIXER, Type.MIXER), Type.MIXER),),
        summary="a mixture of two mixers, weighed token by token by a softmax router",
        equation=r"p_1(x) \, {0}(x) + p_2(x) \, {1}(x),\; p = \mathrm{softmax}(W_r x)",
        weight=10.0,
        parametric=True,
        weights=lambda s, t, h: 2 * s.width,
        flops=lambda s, t, h: 7 * s.width,
    ),
)
