"""Systems that differ in their blocks and stacks: whole architectures against their equations."""

import torch
from torch import Tensor

from . import attention, blockwise, channels, feature_maps, memories, recurrences, residuals
from .blockwise import fcaformer
from .parts import silu
from .places import Case, Places, affine, convolved, inside, linear, low_rank, shifted
from .whole import Layer, Weights, Whole, architecture, stacked

CASES: dict[tuple[str, int], Case] = {}
"""None: what tells these systems apart lies above their mixers."""

H = 2

# -- mixers: the literal with its heads, the places of its weights, and its parameters --------------------------------


def heads_of(literal: object, heads: int = H) -> Layer:
    """A mixer's literal as a layer of so many heads."""
    assert callable(literal)

    def layer(x: Tensor, w: Weights) -> Tensor:
        outputs: Tensor = literal(x, heads=heads, **w)
        return outputs

    return layer


SOFTMAX: Places = linear(
    query="apply rownorm masked exp dot rotary:0 project",
    key="apply rownorm masked exp dot rotary:1 project",
    value="apply value",
)
PLAIN_SOFTMAX = linear(
    query="apply rownorm masked exp dot project:0",
    key="apply rownorm masked exp dot project:1",
    value="apply value",
)
MAMBA = (
    convolved(
        query="norm mul add apply masked decay dot silu:0 conv project",
        key="norm mul add apply masked decay dot silu:1 conv project",
        value="norm mul add weigh silu conv value",
    )
    | affine(step="norm mul add apply scale step")
    | linear(gate="norm mul silu value")
    | {
        "rate": ("norm mul add apply masked decay selective", "rate"),
        "skip": ("norm mul add weigh", "gain"),
        "gain": ("norm", "gain"),
    }
)
DELTA = inside(
    "mul norm",
    convolved(
        query="apply masked dot unit:0 silu conv project",
        key="apply masked dot unit:1 silu conv project",
        value="apply resolve scale silu conv value",
    )
    | affine(beta="apply resolve masked gram beta"),
) | {"gain": ("mul norm", "gain")}
KDA = (
    {
        name: (path.replace("dot", "decayed_dot").replace("gram", "decayed_gram"), weight)
        for name, (path, weight) in DELTA.items()
    }
    | low_rank("mul norm apply masked decayed_dot selective_channels")
    | linear(gate="mul sigmoid value")
    | {"rate": ("mul norm apply masked decayed_dot selective_channels", "rate")}
)
GATED_DELTA = (
    {
        name: (path.replace("dot", "decay dot").replace("gram", "decay gram"), weight)
        for name, (path, weight) in DELTA.items()
    }
    | affine(step="mul norm apply masked decay selective step")
    | linear(gate="mul silu value")
    | {"rate": ("mul norm apply masked decay selective", "rate")}
)
GLA = (
    linear(
        query="mul norm apply masked decayed_dot project:0",
        key="mul norm apply masked decayed_dot project:1",
        value="mul norm apply value",
        gate="mul silu value",
    )
    | low_rank("mul norm apply masked decayed_dot forget_channels")
    | {"gain": ("mul norm", "gain")}
)
RWKV7 = (
    shifted(
        query="mul add bonus project",
        key="mul add bonus mul project",
        rate="mul add bonus mul floor sigmoid project",
        value="mul add bonus value",
        gate="mul sigmoid value",
    )
    | low_rank("mul add subtract apply:0 masked decayed_dot fade_channels")
    | {
        "decay_blend": ("mul add subtract apply:0 masked decayed_dot fade_channels shift", "blend"),
        "removal": ("mul add subtract apply:1 resolve rated_gram unit weigh", "gain"),
        "bound": ("mul add bonus mul floor", "bound"),
        "bonus": ("mul add bonus", "gain"),
    }
)
CONVOLUTION = linear(value="silu conv value") | {"taps": ("silu conv", "taps")}
WIDE_CONVOLUTION = linear(value="silu conv silu value") | {"taps": ("silu conv", "taps")}
SIMPLIFIED = linear(
    query="add apply rownorm masked dot relu:0 project",
    key="add apply rownorm masked dot relu:1 project",
    value="add apply value",
) | {"taps": ("add conv", "taps")}
SELECTIVE = (
    linear(query="mul add scan project:0", key="mul add scan project:1", value="mul add scan value")
    | linear(gate="mul silu value")
    | low_rank("mul add scan step_channels")
    | {
        "taps": ("mul add scan project:0 silu conv", "taps"),
        "rate": ("mul add scan", "rate"),
        "skip": ("mul add weigh", "gain"),
    }
)
SUBSPACE = linear(subspaces="apply rownorm masked exp dot project:0")
MEMORY = inside("add", SOFTMAX) | {
    "ask": ("add recall project", "linear.weight"),
    "memory_keys": ("add recall", "keys"),
    "memory_values": ("add recall", "values"),
}

softmax = heads_of(attention.multi_head)
mamba = heads_of(recurrences.mamba2)
gated_delta = heads_of(recurrences.gated_deltanet)
kda = heads_of(recurrences.kda)


def softmax_count(D: int, K: int, V: int) -> int:
    return 2 * D * (K + V)


def mamba_count(D: int, K: int, V: int) -> int:
    """B and C of one head and x with four taps, step, rates, skips, gate, gain and output."""
    return 2 * (D + 4) * K // H + (D + 4) * V + (D + 1) * H + H + V + D * V + V // H + D * V


def delta_count(D: int, K: int, V: int) -> int:
    """q, k, v with four taps, beta, gain, gate and output."""
    return (D + 4) * (2 * K + V) + (D + 1) * H + V // H + 2 * D * V


def gated_delta_count(D: int, K: int, V: int) -> int:
    return delta_count(D, K, V) + (D + 1) * H + H


def kda_count(D: int, K: int, V: int) -> int:
    return delta_count(D, K, V) + 16 * D + 17 * K + H


def gla_count(D: int, K: int, V: int) -> int:
    return softmax_count(D, K, V) + D * V + V // H + 16 * D + 17 * K


def rwkv7_count(D: int, K: int, V: int) -> int:
    """q, k, v, eta, gate and output; a decay of rank 16; six blends; removal, floor and bonus by channel."""
    return 3 * D * K + 3 * D * V + 16 * D + 17 * K + 6 * D + 3 * K


def selective_count(D: int, K: int, V: int) -> int:
    """Of four heads: taps, B and C of one head, step, rates of each head's K x V states, x, gate, skip and output."""
    return 4 * D + 2 * D * (K // 4) + 16 * D + 17 * V + K * V // 4 + 2 * D * V + V + D * V


def convolution_count(D: int, K: int, V: int) -> int:
    return 2 * D * V + 4 * V


# -- whole architectures ----------------------------------------------------------------------------------------------

mlp = channels.two_layer(channels.gelu)
block = residuals.residual


def alike(name: str, channel: Layer) -> Whole:
    """Causal attention beside another channel mixer, two blocks."""
    inner = CHANNEL_COUNTS[name]
    return Whole(
        depth=2,
        literal=architecture(*[block(softmax, channel)] * 2),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (2 * D + softmax_count(D, K, V) + inner(D, M)) + D,
    )


CHANNEL_COUNTS = {
    "moe_transformer": lambda D, M: 8 * (3 * D * M + D),
    "miga": lambda D, M: 4 * (3 * D * M + D) + 2 * 16 * D,
    "kan_transformer": lambda D, M: 2 * 5 * D * M,
    "tabm": lambda D, M: 2 * D * M + 4 * 2 * (D + M),
    "siren": lambda D, M: 2 * D * M,
}

WHOLES: dict[str, Whole] = {
    "gtrxl": Whole(
        depth=2,
        literal=architecture(*[residuals.gated_transformer(softmax, channels.two_layer(channels.relu))] * 2),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (2 * D + softmax_count(D, K, V) + 2 * D * M + 2 * (6 * D * D + D)) + D,
    ),
    "falcon_h1": Whole(
        depth=2,
        literal=architecture(*[block(residuals.summed(softmax, mamba), channels.gated)] * 2),
        places=(SOFTMAX, MAMBA),
        count=lambda D, K, V, M: 2 * (2 * D + softmax_count(D, K, V) + mamba_count(D, K, V) + 3 * D * M) + D,
    ),
    "arwkv": Whole(
        depth=2,
        literal=architecture(*[block(heads_of(memories.rwkv7), channels.gated)] * 2),
        places=(RWKV7,),
        count=lambda D, K, V, M: 2 * (2 * D + rwkv7_count(D, K, V) + 3 * D * M) + D,
    ),
    "kimi_linear": Whole(
        depth=4,
        literal=architecture(
            *[block(kda, channels.mixture_of_experts(2))] * 3,
            block(heads_of(blockwise.without_positions), channels.mixture_of_experts(2)),
        ),
        places=(KDA, PLAIN_SOFTMAX),
        count=lambda D, K, V, M: (
            3 * kda_count(D, K, V) + softmax_count(D, K, V) + 4 * (2 * D + 4 * (3 * D * M + D)) + D
        ),
    ),
    "apriel_h1": Whole(
        depth=4,
        literal=architecture(*[block(mamba, channels.gated), block(softmax, channels.gated)] * 2),
        places=(MAMBA, SOFTMAX),
        count=lambda D, K, V, M: 2 * (mamba_count(D, K, V) + softmax_count(D, K, V)) + 4 * (2 * D + 3 * D * M) + D,
    ),
    "crate": Whole(
        depth=2,
        literal=architecture(*[residuals.replacing(heads_of(blockwise.subspace), channels.ista)] * 2),
        places=(SUBSPACE,),
        count=lambda D, K, V, M: 2 * (2 * D + D * K + D * V + D * D) + D,
    ),
    "bam": Whole(
        depth=2,
        literal=architecture(
            *[residuals.parallel(residuals.soft_mixture(softmax, softmax), channels.mixture_of_experts(1))] * 2
        ),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (D + 2 * softmax_count(D, K, V) + 2 * D + 2 * (3 * D * M + D)) + D,
    ),
    "fcaformer": Whole(
        depth=3,
        literal=fcaformer(mlp, softmax, blocks=3),
        places=(SOFTMAX, SOFTMAX),
        count=lambda D, K, V, M: 3 * (2 * D + 2 * softmax_count(D, K, V) + 2 * D * M) + D,
    ),
    "squeezeformer": Whole(
        depth=2,
        literal=architecture(
            residuals.temporal_unet(
                stacked(
                    block(heads_of(blockwise.both_ways), channels.two_layer(silu)),
                    block(heads_of(blockwise.convolved_both_ways), channels.two_layer(silu)),
                )
            )
        ),
        places=(SOFTMAX, WIDE_CONVOLUTION),
        count=lambda D, K, V, M: (
            2 * D + softmax_count(D, K, V) + convolution_count(D, K, V) + 2 * (2 * D + 2 * D * M) + D
        ),
    ),
    "weighted_average": Whole(
        depth=3,
        literal=architecture(residuals.averaged(*[block(mamba, channels.gated)] * 3)),
        places=(MAMBA,),
        count=lambda D, K, V, M: 2 + 3 + 3 * (2 * D + mamba_count(D, K, V) + 3 * D * M) + D,
    ),
    "mamba_mixer": Whole(
        depth=3,
        literal=architecture(
            residuals.averaged(*[block(heads_of(memories.mamba, 4), channels.selective_channel_scan)] * 3)
        ),
        places=(SELECTIVE,),
        count=lambda D, K, V, M: 2 + 3 + 3 * (2 * D + selective_count(D, K, V) + 3 * D * M + 11 * M + 8) + D,
    ),
    "slab": Whole(
        depth=2,
        literal=architecture(*[residuals.re_parameterised(heads_of(feature_maps.simplified), mlp)] * 2),
        places=(SIMPLIFIED,),
        count=lambda D, K, V, M: 2 * (2 * (3 * D + 1) + softmax_count(D, K, V) + 4 * V + 2 * D * M) + D,
    ),
    "moe_transformer": alike("moe_transformer", channels.mixture_of_experts(2)),
    "miga": alike("miga", channels.grouped_experts),
    "kan_transformer": alike("kan_transformer", channels.kolmogorov_arnold),
    "tabm": alike("tabm", channels.batch_ensemble),
    "siren": alike("siren", channels.two_layer(torch.sin)),
    "disrt_topk": Whole(
        depth=2,
        literal=architecture(*[block(heads_of(blockwise.both_ways), channels.two_layer(channels.largest_quarter))] * 2),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (2 * D + softmax_count(D, K, V) + 2 * D * M) + D,
    ),
    "spiking_block": Whole(
        depth=2,
        literal=architecture(*[block(heads_of(recurrences.gla), channels.two_layer(channels.spikes))] * 2),
        places=(GLA,),
        count=lambda D, K, V, M: 2 * (2 * D + gla_count(D, K, V) + 2 * D * M) + D,
    ),
    "two_stage": Whole(
        depth=4,
        literal=architecture(*[block(heads_of(blockwise.convolved), mlp)] * 2, *[block(softmax, mlp)] * 2),
        places=(CONVOLUTION, SOFTMAX),
        count=lambda D, K, V, M: (
            2 * (convolution_count(D, K, V) + softmax_count(D, K, V)) + 4 * (2 * D + 2 * D * M) + D
        ),
    ),
    "parallel_branches": Whole(
        depth=2,
        literal=architecture(*[block(residuals.summed(softmax, softmax), mlp)] * 2),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (2 * D + 2 * softmax_count(D, K, V) + 2 * D * M) + D,
    ),
    "hybrid_recall_3to1": Whole(
        depth=4,
        literal=architecture(*[block(gated_delta, channels.gated)] * 3, block(softmax, channels.gated)),
        places=(GATED_DELTA, SOFTMAX),
        count=lambda D, K, V, M: 3 * gated_delta_count(D, K, V) + softmax_count(D, K, V) + 4 * (2 * D + 3 * D * M) + D,
    ),
    "layerscale": Whole(
        depth=2,
        literal=architecture(*[residuals.layer_scale(softmax, mlp)] * 2),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (4 * D + softmax_count(D, K, V) + 2 * D * M) + D,
    ),
    "perceiver_memory": Whole(
        depth=2,
        literal=architecture(*[block(heads_of(blockwise.with_memory), mlp)] * 2),
        places=(MEMORY,),
        count=lambda D, K, V, M: 2 * (2 * D + softmax_count(D, K, V) + D * K + 8 * (K + V) + 2 * D * M) + D,
    ),
    "conditioned_norm": Whole(
        depth=2,
        literal=architecture(*[residuals.conditioned(softmax, mlp)] * 2),
        places=(SOFTMAX,),
        count=lambda D, K, V, M: 2 * (2 * (3 * D + 1) + softmax_count(D, K, V) + 2 * D * M) + D,
    ),
}
"""The literal of every entry above its mixers, by name."""
