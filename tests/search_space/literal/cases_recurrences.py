"""Recurrences and feature maps of linear attention."""

from functools import partial

from . import feature_maps, memories, recurrences
from .places import Case, Places, affine, convolved, linear, low_rank, shifted


def scaled(**paths: str) -> Places:
    """Learned scales and offsets."""
    return {f"{name}_{weight}": (path, weight) for name, path in paths.items() for weight in ("gain", "offset")}


def attention_count(D: int, H: int, K: int, V: int, T: int) -> int:
    return 2 * D * H * K + 2 * D * H * V


def gated_count(D: int, H: int, K: int, V: int, T: int) -> int:
    """Attention with an output gate, a norm's gain and a decay per channel of rank 16."""
    return attention_count(D, H, K, V, T) + D * H * V + V + 16 * D + 17 * H * K


def dotted(outer: str, feature: str) -> Places:
    """Query and key of an inner product below `outer`, each inside `feature`."""
    return linear(query=f"{outer} {feature}:0 project", key=f"{outer} {feature}:1 project")


LINEAR_KERNEL = "apply rownorm masked dot"
NEAR = "mul mul add apply:1 masked relu2 dot"
FAR = "mul mul add apply:0 masked dot"
WRITER = "mul add norm subtract apply:1 resolve rated_gram"

CASES: dict[tuple[str, int], Case] = {
    ("hgrn2", 0): Case(
        literal=partial(memories.hgrn2, heads=2),
        places=linear(
            query="norm apply masked decayed_dot silu project",
            forget="norm apply masked decayed_dot complement floor sigmoid project",
            value="norm apply value",
        )
        | {"bound": ("norm apply masked decayed_dot complement floor", "bound"), "gain": ("norm", "gain")},
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + H * K + V,
    ),
    ("mamba", 0): Case(
        literal=partial(memories.mamba, heads=4),
        places=linear(
            query="mul add scan project:0",
            key="mul add scan project:1",
            value="mul add scan value",
            gate="mul silu value",
        )
        | low_rank("mul add scan step_channels")
        | {
            "taps": ("mul add scan project:0 silu conv", "taps"),
            "rate": ("mul add scan", "rate"),
            "skip": ("mul add weigh", "gain"),
        },
        count=lambda D, H, K, V, T: (
            4 * D + 2 * D * K + 16 * D + 17 * H * V + H * K * V + 2 * D * H * V + H * V + D * H * V
        ),
    ),
    ("rwkv", 0): Case(
        literal=partial(memories.rwkv6, heads=2),
        places=shifted(
            query="mul norm add apply exclusive project:0",
            key="mul norm add apply exclusive project:1",
            value="mul norm add apply value",
            gate="mul silu value",
        )
        | low_rank("mul norm add apply exclusive fade_channels")
        | {
            "decay_blend": ("mul norm add apply exclusive fade_channels shift", "blend"),
            "bonus": ("mul norm add bonus", "gain"),
            "gain": ("mul norm", "gain"),
        },
        count=lambda D, H, K, V, T: gated_count(D, H, K, V, T) + 5 * D + H * K,
    ),
    ("rwkv7", 0): Case(
        literal=partial(memories.rwkv7, heads=2),
        places=shifted(
            query="mul add bonus project",
            key="mul add bonus mul project",
            rate="mul add bonus mul floor sigmoid project",
            value="mul add bonus value",
            gate="mul sigmoid value",
        )
        | low_rank("mul add norm subtract apply:0 masked decayed_dot fade_channels")
        | {
            "decay_blend": ("mul add norm subtract apply:0 masked decayed_dot fade_channels shift", "blend"),
            "removal": (f"{WRITER} unit weigh", "gain"),
            "bound": ("mul add bonus mul floor", "bound"),
            "bonus": ("mul add bonus", "gain"),
            "gain": ("mul add norm", "gain"),
        },
        count=lambda D, H, K, V, T: gated_count(D, H, K, V, T) + 6 * D + D * H * K + 3 * H * K,
    ),
    ("performer", 0): Case(
        literal=partial(feature_maps.performer, heads=2),
        places=dotted(LINEAR_KERNEL, "random_features") | linear(value="apply value"),
        count=attention_count,
    ),
    ("cosformer", 0): Case(
        literal=partial(feature_maps.cosformer, heads=2),
        places=dotted("apply rownorm masked reweight dot", "relu") | linear(value="apply value"),
        count=attention_count,
    ),
    ("hedgehog", 0): Case(
        literal=partial(feature_maps.hedgehog, heads=2),
        places=dotted(LINEAR_KERNEL, "hedgehog")
        | linear(value="apply value")
        | {
            "query_map": (f"{LINEAR_KERNEL} hedgehog:0", "map"),
            "key_map": (f"{LINEAR_KERNEL} hedgehog:1", "map"),
        },
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + H * K * K,
    ),
    ("sla", 0): Case(
        literal=partial(feature_maps.simplified, heads=2),
        places=dotted(f"add {LINEAR_KERNEL}", "relu")
        | linear(value="add apply value")
        | {"taps": ("add conv", "taps")},
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 4 * H * V,
    ),
    ("lawcat", 0): Case(
        literal=partial(feature_maps.lawcat, heads=2),
        places=convolved(
            query="apply rownorm masked decayed_dot elu1:0 conv project",
            key="apply rownorm masked decayed_dot elu1:1 conv project",
        )
        | low_rank("apply rownorm masked decayed_dot forget_channels")
        | linear(value="apply value"),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 8 * H * K + 16 * D + 17 * H * K,
    ),
    ("lizard", 0): Case(
        literal=partial(feature_maps.lizard, heads=2),
        places=dotted("add apply:0 rownorm masked decayed_dot", "hedgehog")
        | linear(forget="add apply:0 rownorm masked decayed_dot log sigmoid project", value="add apply:0 value")
        | {
            "query_map": ("add apply:0 rownorm masked decayed_dot hedgehog:0", "map"),
            "key_map": ("add apply:0 rownorm masked decayed_dot hedgehog:1", "map"),
        },
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + D * H * K + H * K * K,
    ),
    ("transnormer", 0): Case(
        literal=partial(feature_maps.transnormer, heads=2),
        places=dotted("mul rms apply masked decay lrpe", "silu")
        | linear(value="mul rms apply value", gate="mul value")
        | {
            "rates": ("mul rms apply masked decay lrpe", "rates"),
            "decay": ("mul rms apply masked decay constant_decay", "rate"),
        },
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + D * H * V + H * K + H,
    ),
    ("sse", 0): Case(
        literal=partial(memories.sparse_state_expansion, heads=2),
        places=linear(
            query="add apply:0 masked decay dot silu project",
            key="add apply:0 masked decay dot channel_softmax project",
            value="add apply:0 value",
            sparse_query="add apply:1 masked partitioned silu project",
            sparse_key="add apply:1 masked partitioned channel_softmax project",
            route="add apply:1 masked partitioned routes",
        )
        | affine(forget="add apply:0 masked decay forget", sparse_forget="add apply:1 masked partitioned forget"),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 2 * D * H * K + 2 * (D + 1) * H + 4 * D,
    ),
    ("lina_speech", 0): Case(
        literal=partial(recurrences.lina_speech, heads=2),
        places=linear(
            query="mul norm add initial_state project",
            key="mul norm add apply masked decayed_dot project:1",
            value="mul norm add apply value",
            gate="mul silu value",
        )
        | low_rank("mul norm add initial_state forget_channels")
        | {"state": ("mul norm add initial_state", "state"), "gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: gated_count(D, H, K, V, T) + H * K * V,
    ),
    ("spiking_linear", 0): Case(
        literal=partial(feature_maps.spiking_linear, heads=2),
        places=dotted("mul norm apply masked decayed_dot", "spike")
        | linear(value="mul norm apply spike value", gate="mul silu value")
        | low_rank("mul norm apply masked decayed_dot forget_channels")
        | {"gain": ("mul norm", "gain")},
        count=gated_count,
    ),
    ("gau", 0): Case(
        literal=feature_maps.gau,
        places=linear(
            shared="mul apply masked relu2 dot affine:0 silu project",
            value="mul apply silu value",
            gate="mul silu value",
        )
        | scaled(query="mul apply masked relu2 dot affine:0", key="mul apply masked relu2 dot affine:1"),
        count=lambda D, H, K, V, T: D * K + 4 * K + 3 * D * V,
    ),
    ("flash", 0): Case(
        literal=feature_maps.flash,
        places=linear(
            shared="mul add apply:0 masked dot affine:0 silu project",
            value="mul add apply:0 silu value",
            gate="mul silu value",
        )
        | scaled(
            near_query="mul add apply:1 masked relu2 dot affine:0",
            near_key="mul add apply:1 masked relu2 dot affine:1",
            far_query="mul add apply:0 masked dot affine:0",
            far_key="mul add apply:0 masked dot affine:1",
        ),
        count=lambda D, H, K, V, T: D * K + 8 * K + 3 * D * V,
    ),
    ("mossformer", 0): Case(
        literal=feature_maps.mossformer,
        places=convolved(
            shared=f"{FAR} affine:0 silu conv project",
            first="mul mul add apply:0 silu conv value",
            second="mul mul silu conv value",
        )
        | scaled(
            near_query=f"{NEAR} affine:0",
            near_key=f"{NEAR} affine:1",
            far_query=f"{FAR} affine:0",
            far_key=f"{FAR} affine:1",
        ),
        count=lambda D, H, K, V, T: (D + 4) * K + 8 * K + 2 * (D + 4) * V + D * V,
    ),
    ("hebbian_resonance", 0): Case(
        literal=partial(memories.hebbian_resonance, heads=2),
        places=linear(query="norm resonance project", key="norm resonance unit project", value="norm resonance value")
        | affine(rate="norm resonance beta")
        | {
            "agreement": ("norm resonance", "agreement"),
            "relevance_bias": ("norm resonance", "bias"),
            "gain": ("norm", "gain"),
        },
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + (D + 1) * H + 2 * H + V,
    ),
    ("external_memory", 0): Case(
        literal=partial(memories.external_memory, heads=2),
        places=linear(
            read_at="erase channel_softmax:0 project",
            write_at="erase channel_softmax:1 project",
            erase="erase value:2",
            add="erase value:3",
        ),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + D * H * V,
    ),
    ("deltanet_negative", 0): Case(
        literal=partial(memories.deltanet_negative, heads=2),
        places=convolved(
            query="norm apply masked dot unit:0 silu conv project",
            key="norm apply masked dot unit:1 silu conv project",
            value="norm apply resolve scale silu conv value",
        )
        | affine(beta="norm apply resolve masked gram double beta")
        | {"gain": ("norm", "gain")},
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 4 * H * (2 * K + V) + (D + 1) * H + V,
    ),
}
