"""Attention with other normalisers, score functions and masks."""

from functools import partial

from . import masked, normalisers
from .places import Case, Places, affine, linear

SOFTMAX = "apply rownorm masked exp dot"


def heads_of(path: str, *, rotary: bool, outer: str = "") -> Places:
    """Queries and keys below a `dot`, and the values that the kernel is applied to."""
    query, key = (f"rotary:{i} project" if rotary else f"project:{i}" for i in (0, 1))
    return linear(query=f"{outer}{path} {query}", key=f"{outer}{path} {key}", value=f"{outer}apply value")


def attention_count(D: int, H: int, K: int, V: int, T: int) -> int:
    return 2 * D * H * K + 2 * D * H * V


CASES: dict[tuple[str, int], Case] = {
    ("relu_attention", 0): Case(
        literal=partial(normalisers.relu_attention, heads=2),
        places=heads_of("apply rowmean masked relu dot", rotary=True),
        count=attention_count,
    ),
    ("softmax_plus_one", 0): Case(
        literal=partial(normalisers.softmax_plus_one, heads=2),
        places=heads_of("apply rownorm_plus_one masked exp dot", rotary=True),
        count=attention_count,
    ),
    ("sigmoid_attention", 0): Case(
        literal=partial(normalisers.sigmoid_attention, heads=2),
        places=heads_of("apply masked dilute dot", rotary=True),
        count=attention_count,
    ),
    ("forgetting_attention", 0): Case(
        literal=partial(normalisers.forgetting_attention, heads=2),
        places=heads_of("apply rownorm masked decay exp dot", rotary=False)
        | affine(forget="apply rownorm masked decay forget"),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + (D + 1) * H,
    ),
    ("sparsemax_attention", 0): Case(
        literal=partial(normalisers.sparsemax_attention, heads=2),
        places=heads_of("apply sparsemax masked dot", rotary=True),
        count=attention_count,
    ),
    ("topk_attention", 0): Case(
        literal=partial(normalisers.topk_attention, heads=2),
        places=heads_of("apply rownorm topk masked exp dot", rotary=True),
        count=attention_count,
    ),
    ("tidal_decode", 0): Case(
        literal=partial(masked.tidal_decode, heads=2),
        places=linear(
            query="add apply:0 rownorm masked exp dot rotary:0 project",
            key="add apply:0 rownorm masked exp dot rotary:1 project",
            value="add apply:0 value",
            sparse_query="add apply:1 rownorm picked masked exp dot rotary:0 project",
            sparse_key="add apply:1 rownorm picked masked exp dot rotary:1 project",
            sparse_value="add apply:1 value",
        ),
        count=lambda D, H, K, V, T: 2 * (2 * D * H * K + D * H * V) + D * H * V,
    ),
    ("block_sparse", 0): Case(
        literal=partial(masked.block_sparse, heads=2), places=heads_of(SOFTMAX, rotary=False), count=attention_count
    ),
    ("na", 0): Case(
        literal=partial(masked.neighbourhood, heads=2), places=heads_of(SOFTMAX, rotary=False), count=attention_count
    ),
    ("dina", 0): Case(
        literal=partial(masked.neighbourhood, heads=2), places=heads_of(SOFTMAX, rotary=False), count=attention_count
    ),
    ("dina", 1): Case(
        literal=partial(masked.neighbourhood, heads=2, dilation=4),
        places=heads_of(SOFTMAX, rotary=False),
        count=attention_count,
    ),
    ("partial_attention", 0): Case(
        literal=partial(masked.partial_attention, heads=2),
        places=linear(
            source_query="add apply:0 rownorm masked exp dot rotary:0 project",
            source_key="add apply:0 rownorm masked exp dot rotary:1 project",
            source_value="add apply:0 value",
            query="add apply:1 rownorm masked exp dot rotary:0 project",
            key="add apply:1 rownorm masked exp dot rotary:1 project",
            value="add apply:1 value",
        ),
        count=lambda D, H, K, V, T: 2 * (2 * D * H * K + D * H * V) + D * H * V,
    ),
    ("prefix_blind", 0): Case(
        literal=partial(masked.prefix_blind, heads=2), places=heads_of(SOFTMAX, rotary=True), count=attention_count
    ),
    ("duplex_attention", 0): Case(
        literal=partial(masked.duplex, heads=2),
        places=linear(
            query="add apply:0 rownorm masked exp dot rotary:0 project",
            key="add apply:0 rownorm masked exp dot rotary:1 project",
            value="add apply:0 value",
        ),
        count=attention_count,
    ),
    ("local_global", 0): Case(
        literal=partial(masked.local_global, heads=2),
        places=linear(
            global_query="add apply:0 rownorm masked exp dot project:0",
            global_key="add apply:0 rownorm masked exp dot pool project",
            global_value="add apply:0 pool value",
            query="add apply:1 rownorm masked exp dot project:0",
            key="add apply:1 rownorm masked exp dot project:1",
            value="add apply:1 value",
        ),
        count=lambda D, H, K, V, T: 2 * (2 * D * H * K + D * H * V) + D * H * V,
    ),
    ("scaled_relu", 0): Case(
        literal=partial(normalisers.relu_softmax, heads=2),
        places=heads_of("apply rownorm masked relu dot", rotary=False),
        count=attention_count,
    ),
    ("linear_2quad", 0): Case(
        literal=partial(normalisers.two_quad, heads=2),
        places=heads_of("apply rownorm masked quad dot", rotary=False)
        | {"shift": ("apply rownorm masked quad", "shift")},
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + H,
    ),
    ("karat", 0): Case(
        literal=partial(normalisers.karat, heads=2),
        places=heads_of("apply sparsemax masked fourier dot", rotary=False)
        | {
            "cosines": ("apply sparsemax masked fourier", "cosines"),
            "sines": ("apply sparsemax masked fourier", "sines"),
        },
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 2 * 3 * H,
    ),
    ("uniform_attention", 0): Case(
        literal=partial(normalisers.uniform_attention, heads=2),
        places=linear(value="apply value"),
        count=lambda D, H, K, V, T: 2 * D * H * V,
    ),
    ("entropy_guided", 0): Case(
        literal=partial(normalisers.tempered, heads=2),
        places=heads_of("apply rownorm masked exp temper dot", rotary=True)
        | {"log_gain": ("apply rownorm masked exp temper", "log_gain")},
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + H,
    ),
    ("kmeans_cross", 0): Case(
        literal=normalisers.kmeans_cross,
        places=heads_of("apply assign masked dot", rotary=False),
        count=attention_count,
    ),
    ("hard_attention", 0): Case(
        literal=partial(normalisers.hard_attention, heads=2),
        places=heads_of("apply hard masked dot", rotary=True),
        count=attention_count,
    ),
    ("soft_cap_attention", 0): Case(
        literal=partial(normalisers.soft_cap_attention, heads=2),
        places=heads_of("apply rownorm masked exp cap dot", rotary=True),
        count=attention_count,
    ),
}
