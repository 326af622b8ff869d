"""Recurrences that are more than a masked inner product with a decay, and scores that turn with the distance.

`exclusive`, `rated_gram`, `partitioned` and `lrpe` are kernels and scores of finite rank, for `apply` and `resolve`.
`scan`, `erase` and `resonance` are recurrences that no kernel expresses; each carries a state of K x V numbers a head.
`initial_state` is what such a state would still hold of a learned start: beside a kernel with its decay, the recurrence
that begins there.

`rated_gram` is the writer of RWKV-7: S_t = (Diag(e^g) - (eta * k) k^T) S_{t-1} + ... . With one rate for all channels
that matrix is symmetric with eigenvalues in (-1, 1], so states are bounded. With a rate by channel it is not: for
g = 0 and two channels, k at 60 degrees with rates (1, 0), then at 30 degrees with rates (0, 1), is a product of two
such matrices with the eigenvalue 1.23. Each alone has its eigenvalues in (-1, 1], and decays and rates that move
slowly keep it stable, but no type can promise that; so it is written and never drawn.
"""

from archloom.search_space.operations.counts import F, M, V
from archloom.search_space.operations.row import Operation, choice
from archloom.search_space.patterns import ONLY_CAUSAL, SELF
from archloom.search_space.types import POSITIVE, VALUES, Type

_PAIRS = tuple((a, b, a in POSITIVE and b in POSITIVE) for a in F for b in F)

RECURRENCES: tuple[Operation, ...] = (
    Operation(
        name="exclusive",
        rows=tuple(
            ((a, b, decay), Type.POSITIVE_KERNEL if positive else Type.KERNEL)
            for a, b, positive in _PAIRS
            for decay in (Type.HEAD_DECAY, Type.CHANNEL_DECAY)
        ),
        summary="inner products with earlier tokens alone, decayed by those in between (RWKV)",
        equation=r"\sum_i {0}_{ti} {1}_{si} e^{G_{t-1,i} - G_{si}} [s < t],\; G = \mathrm{cumsum}({2})",
        weight=0.5,
        patterns=SELF,
    ),
    Operation(
        name="bonus",
        rows=tuple(((F, F, each), each) for each in VALUES),
        summary="the present token's own value, weighted by its query and key through a learned scale (RWKV)",
        equation=r"\langle {0}_t, u \odot {1}_t \rangle \, {2}_t",
        weight=0.1,
        parametric=True,
        weights=lambda s, t, h: h * s.key,
        flops=lambda s, t, h: h * (3 * s.key + s.value),
    ),
    Operation(
        name="initial_state",
        rows=tuple(((F, decay), V) for decay in (Type.CHANNEL_DECAY, Type.HEAD_DECAY)),
        summary="what a query reads of a learned initial state, decayed by all tokens so far (Lina-Speech)",
        equation=r"K^{-1/2} W_0^\top (e^{G_t} \odot {0}_t),\; G = \mathrm{cumsum}({1})",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: h * s.key * s.value,
        flops=lambda s, t, h: h * (2 * s.key * s.value + 3 * s.key),
        state=lambda s, t, h: h * (s.key if t.arguments[1].type is Type.CHANNEL_DECAY else 1),
        patterns=ONLY_CAUSAL,
    ),
    Operation(
        name="rated_gram",
        rows=(((Type.UNIT_FEATURE, Type.FRACTION, Type.CHANNEL_DECAY), Type.CONTRACTION),),
        summary="what a unit key finds of earlier ones, each written at a rate per channel (RWKV-7)",
        equation=r"\sum_i {0}_{ti} {1}_{si} {0}_{si} e^{G_{t-1,i} - G_{si}} [s < t],\; G = \mathrm{cumsum}({2})",
        weight=0.0,  # unbounded for rates that turn: see above
        patterns=SELF,
    ),
    Operation(
        name="partitioned",
        rows=tuple(
            ((a, b, Type.ROUTE, Type.HEAD_DECAY), Type.POSITIVE_SCORE if positive else Type.SCORE)
            for a, b, positive in _PAIRS
        ),
        summary="inner products through slots: a token reads, writes and decays only those it is routed to",
        equation=r"K^{-1/2} \langle {0}_t, {1}_s \rangle \sum_n {2}_{tn} {2}_{sn}"
        r" \exp \sum_{s < r \le t} [{2}_{rn} > 0] {3}_r",
        weight=0.5,
    ),
    Operation(
        name="lrpe",
        rows=(((F, F), Type.SCORE),),
        summary="inner products of which each channel turns with the distance at a learned rate (TransNormer)",
        equation=r"K^{-1/2} \sum_i {0}_{ti} {1}_{si} \cos(\theta_i (t - s))",
        weight=0.1,
        parametric=True,
        weights=lambda s, t, h: h * s.key,
        flops=lambda s, t, h: 4 * h * s.key,
        patterns=SELF,
    ),
    Operation(
        name="reweight",
        rows=(((Type.POSITIVE_SCORE,), Type.POSITIVE_SCORE),),
        parameters=(choice("reach", 128, 1024),),
        summary="scores that fall with the distance as a cosine does, to zero at `reach` tokens (cosFormer)",
        equation=r"{0}_{ts} \cos\left(\tfrac{\pi}{2} \min(1, |t - s| / r)\right)",
        weight=0.3,
        flops=lambda s, t, h: 2 * h * s.length,
        patterns=SELF,
    ),
    Operation(
        name="scan",
        rows=(((F, F, Type.STEP_CHANNELS, VALUES), M),),
        summary="selective scan: a state space with a learned decay rate per channel and value (Mamba)",
        equation=r"\langle {0}_t, h_t \rangle,\; h_t = e^{-e^{a} {2}_t} \odot h_{t-1} + {1}_t ({2}_t \odot {3}_t)^\top",
        weight=2.0,
        parametric=True,
        weights=lambda s, t, h: h * s.key * s.value,
        flops=lambda s, t, h: 8 * h * s.key * s.value,
        state=lambda s, t, h: h * s.key * s.value,
    ),
    Operation(
        name="erase",
        rows=(((F, Type.FRACTION, V, VALUES), M),),
        summary="memory of K slots: read by the first, written and erased where the second points",
        equation=r"{0}_t^\top M_t,\; M_t = (1 - {1}_t \sigma({2}_t)^\top) \odot M_{t-1} + {1}_t {3}_t^\top",
        weight=0.5,
        flops=lambda s, t, h: 7 * h * s.key * s.value,
        state=lambda s, t, h: h * s.key * s.value,
    ),
    Operation(
        name="resonance",
        rows=(((F, Type.UNIT_FEATURE, Type.GATE, VALUES), M),),
        summary="Hebbian memory that writes a token the more, the more it agrees with what its key recalls",
        equation=r"{0}_t^\top M_t,\; v_t = {3}_t / (1 + \lVert {3}_t \rVert^2),\; M_t = (1 - {2}_t) M_{t-1}"
        r" + {2}_t \, \sigma(4 \sigma(c) \langle M_{t-1}^\top {1}_t, v_t \rangle + b) \, {1}_t {3}_t^\top",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: 2 * h,
        flops=lambda s, t, h: 8 * h * s.key * s.value,
        state=lambda s, t, h: h * s.key * s.value,
    ),
)
