"""Positions, relative biases, and other ways to make queries, keys and values."""

from functools import partial

from . import positions, projections
from .places import LENGTH, Case, Places, linear

ROTARY = linear(
    query="apply rownorm masked exp dot rotary:0 project",
    key="apply rownorm masked exp dot rotary:1 project",
    value="apply value",
)
PLAIN = linear(
    query="apply rownorm masked exp dot project:0",
    key="apply rownorm masked exp dot project:1",
    value="apply value",
)


def dots(score: str) -> Places:
    """Projections whose products stand under the operations of `score`."""
    return linear(
        query=f"apply rownorm masked {score} project:0",
        key=f"apply rownorm masked {score} project:1",
        value="apply value",
    )


def bias(path: str) -> Places:
    return {"bias": (path, "bias")}


def attention_count(D: int, H: int, K: int, V: int, T: int) -> int:
    return 2 * D * H * (K + V)


def latent_count(D: int, H: int, K: int, V: int, T: int) -> int:
    """Two latents with gains, their expansions, one rotated key, the output projection."""
    narrow, wide = D // 4, D // 2
    return (D + 1) * (narrow + wide) + 2 * wide * H * K + narrow * H * (K + V) + D * K + D * H * V


CASES: dict[tuple[str, int], Case] = {
    ("nope", 0): Case(literal=partial(positions.nope, heads=2), places=PLAIN, count=attention_count),
    ("alibi", 0): Case(literal=partial(positions.alibi, heads=4), places=dots("decay exp dot"), count=attention_count),
    ("t5_bias", 0): Case(
        literal=partial(positions.t5_bias, heads=4),
        places=dots("relative exp dot") | bias("apply rownorm masked relative"),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 33 * H,
    ),
    ("carope", 0): Case(
        literal=partial(positions.carope, heads=4),
        places=linear(
            query="apply rownorm masked exp dot turn:0 project",
            key="apply rownorm masked exp dot turn:1 project",
            angle="apply rownorm masked exp dot turn:0 angle",
            value="apply value",
        ),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + D * H,
    ),
    ("relative_keys_attention", 0): Case(
        literal=partial(positions.relative_keys, heads=2),
        places=dots("exp relative_keys") | {"vectors": ("apply rownorm masked exp relative_keys", "vectors")},
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 17 * K,
    ),
    ("graph_distance_attention", 0): Case(
        literal=partial(positions.graph_distance, heads=2),
        places=dots("graph_bias exp dot") | bias("apply rownorm masked graph_bias"),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 9 * H,
    ),
    ("causal_graph", 0): Case(
        literal=partial(positions.causal_graph, heads=2),
        places=linear(feature="apply rownorm masked exp additive project:0", value="apply value")
        | {each: ("apply rownorm masked exp additive", each) for each in ("query", "key")},
        count=lambda D, H, K, V, T: (D + 2) * H * K + 2 * D * H * V,
    ),
    ("static_attention", 0): Case(
        literal=partial(positions.static_attention, heads=2),
        places=linear(
            query="apply rownorm masked exp dot sinusoid:0",
            key="apply rownorm masked exp dot sinusoid:1",
            value="apply value",
        ),
        count=attention_count,
    ),
    ("random_attention", 0): Case(
        literal=partial(positions.random_attention, heads=1, length=LENGTH),
        places=linear(value="apply value") | {"entries": ("apply rownorm masked exp table", "entries")},
        count=lambda D, H, K, V, T: H * T * (T + 1) // 2 + 2 * D * H * V,
    ),
    ("synthesizer", 0): Case(
        literal=partial(positions.synthesizer, heads=2),
        places=linear(
            first="apply rownorm masked exp dot relu project",
            second="apply rownorm masked exp dot sinusoid",
            value="apply value",
        ),
        count=attention_count,
    ),
    ("kernel_rpe", 0): Case(
        literal=partial(positions.kernel_rpe, heads=2),
        places=linear(
            query="apply rownorm masked relative dot elu1:0 norm project",
            key="apply rownorm masked relative dot elu1:1 norm project",
            value="apply value",
        )
        | {
            "query_gain": ("apply rownorm masked relative dot elu1:0 norm", "gain"),
            "key_gain": ("apply rownorm masked relative dot elu1:1 norm", "gain"),
        }
        | bias("apply rownorm masked relative"),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 2 * K + 33 * H,
    ),
    ("mqa", 0): Case(
        literal=partial(projections.fewer_heads, heads=4, groups=1),
        places=ROTARY,
        count=lambda D, H, K, V, T: D * (H + 1) * (K + V),
    ),
    ("sqa", 0): Case(
        literal=partial(projections.fewer_heads, heads=2, groups=1),
        places=ROTARY,
        count=lambda D, H, K, V, T: D * 3 * (K // 2 + V // 2),
    ),
    ("xsqa", 0): Case(
        literal=partial(projections.fewer_heads, heads=1, groups=1),
        places=ROTARY,
        count=lambda D, H, K, V, T: D * 2 * (K // 4 + V // 4),
    ),
    ("mla", 0): Case(
        literal=partial(projections.latent_attention, heads=4),
        places=linear(
            query_down="apply rownorm masked exp plus dot:0 expand:0 latent",
            query_up="apply rownorm masked exp plus dot:0 expand:0",
            query_turned="apply rownorm masked exp plus dot:1 rotary:0 expand",
            down="apply expand_value latent",
            key_up="apply rownorm masked exp plus dot:0 expand:1",
            key_turned="apply rownorm masked exp plus dot:1 rotary:1 project",
            value_up="apply expand_value",
        )
        | {
            "query_gain": ("apply rownorm masked exp plus dot:0 expand:0 latent", "gain"),
            "gain": ("apply expand_value latent", "gain"),
        },
        count=latent_count,
    ),
    ("kimi_mla_nope", 0): Case(
        literal=partial(projections.latent_attention_without_positions, heads=4),
        places=linear(
            query="apply rownorm masked exp dot project",
            down="apply expand_value latent",
            key_up="apply rownorm masked exp dot expand",
            value_up="apply expand_value",
        )
        | {"gain": ("apply expand_value latent", "gain")},
        count=lambda D, H, K, V, T: D * H * (K + V) + (D + 1) * (D // 4) + D // 4 * H * (K + V),
    ),
    ("sigma_reparam", 0): Case(
        literal=partial(projections.sigma_reparam, heads=2),
        places=linear(
            query="apply rownorm masked exp dot rotary:0 spectral",
            key="apply rownorm masked exp dot rotary:1 spectral",
            value="apply value",
        )
        | {
            "query_gain": ("apply rownorm masked exp dot rotary:0 spectral", "gain"),
            "key_gain": ("apply rownorm masked exp dot rotary:1 spectral", "gain"),
        },
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 2,
    ),
    ("heterogeneous_attention", 0): Case(
        literal=partial(projections.heterogeneous, heads=2),
        places={
            "query": ("apply rownorm masked exp dot by_position:0", "weights"),
            "key": ("apply rownorm masked exp dot by_position:1", "weights"),
            "value": ("apply value_by_position", "weights"),
        },
        count=lambda D, H, K, V, T: 2 * D * H * (2 * K + V) + D * H * V,
    ),
    ("window_query", 0): Case(
        literal=partial(projections.window_query, heads=2),
        places=linear(
            long_query="add apply:0 rownorm masked exp dot project:0",
            short_query="add apply:1 rownorm masked exp dot project:0",
            key="add apply:0 rownorm masked exp dot project:1",
            value="add apply:0 value",
        ),
        count=lambda D, H, K, V, T: 3 * D * H * K + 2 * D * H * V,
    ),
}
