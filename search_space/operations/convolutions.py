"""Convolutions whose taps or filters are more than fixed weights."""

from archloom.search_space.operations.counts import F, M, S, V, X, score_each
from archloom.search_space.operations.row import Operation, choice, inner
from archloom.search_space.patterns import ONLY_NONCAUSAL, SELF
from archloom.search_space.types import Type

CONVOLUTIONS = (
    Operation(
        name="taps",
        rows=(((X,), Type.NORMALISED_KERNEL),),
        parameters=(choice("width", 3, 7, 15, default=7),),
        summary="dynamic convolution: softmax weights of the `width` tokens up to each, which that token predicts",
        equation=r"\mathrm{softmax}_j(W {0}_t)_{j = t - s} \, [0 \le t - s < w]",
        weight=0.4,
        parametric=True,
        weights=lambda s, t, h: s.width * s.heads * t.integer("width"),
        flops=lambda s, t, h: (2 * s.width + 5) * s.heads * t.integer("width"),
        patterns=SELF,
    ),
    Operation(
        name="spaced",
        rows=(((X,), X), ((F,), Type.FEATURE), (((V, M),), M)),
        parameters=(choice("taps", 4), choice("reach", 16, 32)),
        summary="depthwise convolution whose few taps learn where they stand: learnable spacings",
        equation=r"\sum_{j<n} c_j \odot \sum_{\tau<r} \max(0, 1 - |\mu_j - \tau|) \odot {0}_{t-\tau}",
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: 2 * t.integer("taps") * h * inner(t, s),
        flops=lambda s, t, h: 2 * h * inner(t, s) * t.integer("reach"),
        state=lambda s, t, h: h * inner(t, s) * (t.integer("reach") - 1),
        patterns=SELF,
    ),
    Operation(
        name="conditioned_filter",
        rows=(((V,), Type.SPECTRUM),),
        summary="circular filter written by the whole sequence, by convolving its magnitude spectrum (Orchid)",
        equation=r"T^{-1/2} \sum_{j=-1}^{1} c_j \odot |\mathcal{F} {0}|_{f-j}",
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: 3 * h * s.value,
        flops=lambda s, t, h: h * s.value * (5 * max(1, (s.length - 1).bit_length()) + 4),
        patterns=ONLY_NONCAUSAL,
    ),
    Operation(
        name="modal",
        rows=(((S,), S), ((Type.POSITIVE_SCORE,), S)),
        parameters=(choice("order", 2, 4, default=4),),
        summary="scores times a filter of the lag, a learned sum of decaying exponentials per head (MultiHyena)",
        equation=r"{0}_{ts} \sum_n c_n e^{-\lambda_n (t - s)}",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: 2 * h * t.integer("order"),
        flops=lambda s, t, h: 2 * h * t.integer("order") + score_each(1)(s, t, h),
        patterns=SELF,
    ),
    Operation(
        name="toeplitz",
        rows=(((X,), Type.FEATURE),),
        summary="projection to features by a convolution along the channels, its taps shared by all of them",
        equation=r"\sum_j c_{j - i} \, {0}_{tj}",
        weight=0.1,
        parametric=True,
        weights=lambda s, t, h: s.width + h * s.key - 1,
        flops=lambda s, t, h: 2 * s.width * h * s.key,
    ),
    Operation(
        name="toeplitz_value",
        rows=(((X,), V),),
        summary="projection to values by a convolution along the channels, its taps shared by all of them",
        equation=r"\sum_j c_{j - i} \, {0}_{tj}",
        weight=0.1,
        parametric=True,
        weights=lambda s, t, h: s.width + h * s.value - 1,
        flops=lambda s, t, h: 2 * s.width * h * s.value,
    ),
)
