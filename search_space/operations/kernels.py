"""Kernels: masked scores, their normalisation, and operators that need no scores."""

from archloom.search_space.operations.counts import S
from archloom.search_space.operations.row import Operation, choice, same
from archloom.search_space.patterns import SELF
from archloom.search_space.types import MASKS, Type

KERNEL_OPERATIONS = (
    Operation(
        name="masked",
        rows=(
            ((S, MASKS), Type.KERNEL),
            ((Type.POSITIVE_SCORE, MASKS), Type.POSITIVE_KERNEL),
            ((Type.GRAM, (Type.VISIBLE, Type.BAND)), Type.CONTRACTION),
            ((Type.DOUBLE_GRAM, Type.VISIBLE), Type.CONTRACTION),
        ),
        summary="scores of the tokens that a mask shows",
        equation=r"{0}_{ts} \, {1}_{ts}",
        weight=3.0,
    ),
    Operation(
        name="strict",
        rows=(*same(Type.KERNEL, Type.POSITIVE_KERNEL, Type.NORMALISED_KERNEL),),
        summary="a kernel without its diagonal: other tokens only",
        equation=r"{0}_{ts} \, [s \ne t]",
        weight=0.3,
        patterns=SELF,
    ),
    Operation(
        name="rownorm",
        rows=(((Type.POSITIVE_KERNEL,), Type.NORMALISED_KERNEL),),
        summary="rows divided by their sums",
        equation=r"{0}_{ts} / \sum_r {0}_{tr}",
        weight=3.0,
    ),
    Operation(
        name="damp",
        rows=(((Type.NORMALISED_KERNEL, Type.GATE), Type.CONTRACTION),),
        summary="rows of a normalised kernel scaled by a gate: a contraction that `resolve` takes",
        equation=r"{1}_t \, {0}_{ts}",
    ),
    Operation(
        name="dense",
        rows=(((), Type.KERNEL),),
        summary="one learned matrix per head, up to the protocol's length",
        equation=r"W_{ts}",
        weight=0.05,
        parametric=True,
        weights=lambda s, t, h: s.heads * (s.length * (s.length + 1) // 2 if s.pattern.causal else s.length**2),
        patterns=SELF,
    ),
    Operation(
        name="implicit",
        rows=(((), Type.FILTER),),
        summary="filter written by a small sine network of the position under an exponential window (Hyena)",
        weight=0.15,
        equation=r"\mathrm{MLP}_{\sin}(\tau) \odot (e^{-\delta \tau} + c)",
        parametric=True,
        weights=lambda s, t, h: 5 * 16 + 16 + 16 * 16 + 16 + 16 * s.heads * s.value,
        flops=lambda s, t, h: 2 * 16 * (5 + 16 + s.heads * s.value),
    ),
    Operation(
        name="exponential",
        rows=(((), Type.FILTER),),
        weight=0.15,
        parameters=(choice("order", 2, 4, 8, default=4),),
        summary="filter that sums learned decaying exponentials: a diagonal state space that ignores its input",
        equation=r"\sum_n c_n e^{-\lambda_n \tau}",
        parametric=True,
        weights=lambda s, t, h: 2 * t.integer("order") * s.heads * s.value,
        flops=lambda s, t, h: 2 * t.integer("order") * s.heads * s.value,
    ),
)
