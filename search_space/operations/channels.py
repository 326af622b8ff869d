"""Channel mixers: what happens to each token on its own."""

from archloom.search_space.operations.row import Operation, Shape, choice
from archloom.search_space.types import Type

KAN_BASES = 4
"""Basis functions on each edge of a Kolmogorov-Arnold layer, beside the plain SiLU."""

GROUPS = 2
"""Groups that the experts of `grouped_moe` are dealt to."""

GROUP_RANK = 16
"""Width of the queries and keys by which the experts of a group attend to each other."""

SCAN_STATES = 4
"""Numbers that a scan along the channels carries from one to the next."""


def _expert(shape: Shape) -> int:
    """Weights of one expert (a gated unit) and its row of the router."""
    return 3 * shape.width * shape.hidden + shape.width


CHANNELS = (
    Operation(
        name="mlp",
        rows=(((), Type.CHANNEL),),
        parameters=(
            choice(
                "activation",
                "gelu",
                "relu2",
                "silu",
                "relu",
                "sine",
                "topk",
                "spike",
                drawn=("gelu", "relu2", "silu", "relu", "sine", "topk"),
            ),
        ),
        summary="two-layer channel mixer",
        equation=r"W_2\, \phi(W_1 x)",
        weight=3.0,
        parametric=True,
        weights=lambda s, t, h: 2 * s.width * s.hidden,
        flops=lambda s, t, h: 4 * s.width * s.hidden,
    ),
    Operation(
        name="glu",
        rows=(((), Type.CHANNEL),),
        parameters=(
            choice("activation", "silu", "gelu", "relu", "sine", "topk", "spike", drawn=("silu", "gelu", "relu")),
        ),
        summary="gated channel mixer",
        equation=r"W_3 (\phi(W_1 x) \odot W_2 x)",
        weight=3.0,
        parametric=True,
        weights=lambda s, t, h: 3 * s.width * s.hidden,
        flops=lambda s, t, h: 6 * s.width * s.hidden,
    ),
    Operation(
        name="moe",
        rows=(((), Type.CHANNEL),),
        parameters=(choice("experts", 2, 4, 8, default=4), choice("active", 1, 2)),
        summary="mixture of experts: each token takes the `active` gated units that a softmax router likes most",
        equation=r"\sum_{i \in \mathrm{top}_k(p)} p_i\, E_i(x),\; p = \mathrm{softmax}(W_r x)",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: t.integer("experts") * _expert(s),
        # Every expert is computed: the ones a token leaves out still receive its gradient.
        flops=lambda s, t, h: 2 * t.integer("experts") * _expert(s),
    ),
    Operation(
        name="grouped_moe",
        rows=(((), Type.CHANNEL),),
        parameters=(choice("experts", 4, 8),),
        summary="mixture of experts in two groups; the outputs of a group's experts attend to each other",
        equation=r"\sum_i p_i \sum_{j \in g(i)} \mathrm{softmax}_j(\langle Q E_i(x), K E_j(x) \rangle)\, E_j(x),\;"
        r" p = \mathrm{softmax}(W_r x)",
        weight=0.1,
        parametric=True,
        weights=lambda s, t, h: t.integer("experts") * _expert(s) + 2 * GROUP_RANK * s.width,
        flops=lambda s, t, h: (
            t.integer("experts")
            * (2 * _expert(s) + 4 * GROUP_RANK * s.width + 2 * t.integer("experts") // GROUPS * (GROUP_RANK + s.width))
        ),
    ),
    Operation(
        name="kan",
        rows=(((), Type.CHANNEL),),
        parameters=(choice("basis", "radial", "fourier"),),
        summary="two Kolmogorov-Arnold layers: a learned function on every edge",
        equation=r"\sum_j \phi_{2j}(\sum_i \phi_{1ji}(x_i)),\; \phi(u) = w\, \mathrm{silu}(u) + \sum_k c_k \chi_k(u)",
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: 2 * s.width * s.hidden * (KAN_BASES + 1),
        flops=lambda s, t, h: 4 * s.width * s.hidden * (KAN_BASES + 1) + 4 * (KAN_BASES + 1) * (s.width + s.hidden),
    ),
    Operation(
        name="ista",
        rows=(((), Type.CHANNEL),),
        summary="one proximal gradient step towards a sparse nonnegative code in a learned dictionary",
        equation=r"\mathrm{relu}(x + \eta D^\top (x - D x) - \eta \lambda)",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: s.width**2,
        flops=lambda s, t, h: 4 * s.width**2 + 5 * s.width,
    ),
    Operation(
        name="ensemble",
        rows=(((), Type.CHANNEL),),
        parameters=(choice("members", 2, 4, 8, default=4),),
        summary="the mean of two-layer mixers that share their matrices but for a rank-one scale each",
        equation=r"\tfrac{1}{{members}} \sum_i s_i' \odot W_2 (r_i' \odot \mathrm{relu}(s_i \odot W_1 (r_i \odot x)))",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: 2 * s.width * s.hidden + 2 * t.integer("members") * (s.width + s.hidden),
        flops=lambda s, t, h: t.integer("members") * (4 * s.width * s.hidden + 2 * (s.width + s.hidden)),
    ),
    Operation(
        name="channel_scan",
        rows=(((), Type.CHANNEL),),
        summary="gated channel mixer along whose hidden channels a selective scan runs, from both ends (MambaMixer)",
        equation=(
            r"W_3 ((y + \gamma \odot u) \odot \mathrm{silu}(W_2 x)),\; u = \mathrm{silu}(W_1 x),\;"
            r" \Delta = \mathrm{softplus}(\delta \odot u + b),\;"
            r" h_i = e^{-e^{a} \Delta_i} \odot h_{i-1} + (1 - e^{-e^{a} \Delta_i}) \odot \tanh(\eta_i u_i) \, u_i,\;"
            r" y_i = \langle \tanh(\kappa_i u_i), \sum_{\pm} h_i^{\pm} \rangle"
        ),
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: s.hidden * (3 * s.width + 2 * SCAN_STATES + 3) + 2 * SCAN_STATES,
        flops=lambda s, t, h: s.hidden * (6 * s.width + 26 * SCAN_STATES + 17),
    ),
    Operation(
        name="none",
        rows=(((), Type.CHANNEL),),
        summary="no channel mixer; the mixer is widened to the same parameter count",
        equation=r"0",
        weight=0.5,
    ),
)
