"""Normalisers: what makes rows of a kernel comparable. `rownorm` stands among the kernels."""

from archloom.search_space.operations.counts import F, score_each
from archloom.search_space.operations.row import Operation, choice, same
from archloom.search_space.patterns import NONCAUSAL, NONCAUSAL_CROSS
from archloom.search_space.types import Type

NORMALISERS = (
    Operation(
        name="rownorm_plus_one",
        rows=(((Type.POSITIVE_KERNEL,), Type.NORMALISED_KERNEL),),
        summary="rows divided by one plus their sums: a token may look nowhere",
        equation=r"{0}_{ts} / (1 + \sum_r {0}_{tr})",
        weight=0.4,
        flops=score_each(2),
    ),
    Operation(
        name="rowmean",
        rows=same(Type.KERNEL, Type.POSITIVE_KERNEL),
        summary="rows divided by the number of tokens that their mask shows",
        equation=r"{0}_{ts} / n_t",
        weight=0.2,
        flops=score_each(1),
    ),
    Operation(
        name="sparsemax",
        rows=(((Type.KERNEL,), Type.NORMALISED_KERNEL),),
        summary="rows projected onto the simplex: a softmax that gives exact zeros",
        equation=r"\mathrm{relu}({0}_{ts} - \tau_t),\; \sum_s \mathrm{relu}({0}_{ts} - \tau_t) = 1",
        weight=0.3,
        flops=score_each(12),
    ),
    Operation(
        name="topk",
        rows=same(Type.POSITIVE_KERNEL),
        parameters=(choice("k", 4, 8, 16, default=8),),
        summary="the `k` largest entries of each row, and those equal to the last of them",
        equation=r"{0}_{ts} \, [{0}_{ts} \ge \mathrm{top}_k({0}_t)]",
        weight=0.2,
        flops=score_each(8),
    ),
    Operation(
        name="picked",
        rows=(((Type.POSITIVE_KERNEL, F, F), Type.POSITIVE_KERNEL),),
        parameters=(choice("k", 4, 8, 16, default=8),),
        summary="the entries of each row whose other inner product is among the `k` largest, or equal to the last of"
        " them: tokens that another attention picks (TidalDecode)",
        equation=r"{0}_{ts} \, [\langle {1}_t, {2}_s \rangle \ge \mathrm{top}_k \langle {1}_t, {2}_r \rangle]",
        weight=0.0,  # written, never drawn: what picks has no gradient, so its weights must be those of another kernel
        flops=score_each(8),
    ),
    Operation(
        name="hard",
        rows=(((Type.KERNEL,), Type.NORMALISED_KERNEL),),
        summary="one at the largest score of each row, shared where several are; learns by the softmax's gradient",
        equation=r"[s = \mathrm{argmax}_r {0}_{tr}]",
        weight=0.1,
        flops=score_each(5),
    ),
    Operation(
        name="assign",
        rows=same(Type.KERNEL),
        summary="one where a token is the target that its source scores highest: a k-means assignment; learns by the"
        " gradient of the softmax over targets",
        equation=r"[t = \mathrm{argmax}_r {0}_{rs}]",
        weight=0.2,
        patterns=frozenset((NONCAUSAL, NONCAUSAL_CROSS)),
        flops=score_each(5),
    ),
)
