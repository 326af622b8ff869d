"""The literals of the zoo with the places of their weights: one entry for every mixer of every system."""

from functools import partial

from . import (
    attention,
    cases_blocks,
    cases_normalisers,
    cases_positions,
    cases_readouts,
    cases_recurrences,
    fixed,
    recurrences,
)
from .places import LENGTH, Case, affine, convolved, inside, linear, low_rank

SOFTMAX = linear(
    query="apply rownorm masked exp dot rotary:0 project",
    key="apply rownorm masked exp dot rotary:1 project",
    value="apply value",
)
DELTA = convolved(
    query="apply masked dot unit:0 silu conv project",
    key="apply masked dot unit:1 silu conv project",
    value="apply resolve scale silu conv value",
) | affine(beta="apply resolve masked gram beta")


def attention_count(D: int, H: int, K: int, V: int, T: int) -> int:
    return 2 * D * H * K + 2 * D * H * V


def delta_count(D: int, H: int, K: int, V: int, T: int) -> int:
    """q, k and v with four taps a channel, beta, the norm's gain, the output projection."""
    return (D + 4) * H * (2 * K + V) + (D + 1) * H + V + D * H * V


CASES = {
    ("mha", 0): Case(literal=partial(attention.multi_head, heads=2), places=SOFTMAX, count=attention_count),
    ("gqa", 0): Case(
        literal=partial(attention.grouped_query, heads=4),
        places=SOFTMAX,
        count=lambda D, H, K, V, T: D * H * K + D * H // 2 * (K + V) + D * H * V,
    ),
    ("mha_conv", 0): Case(
        literal=partial(attention.multi_head_convolved, heads=2),
        places=convolved(
            query="apply rownorm masked exp dot rotary:0 silu conv project",
            key="apply rownorm masked exp dot rotary:1 silu conv project",
            value="apply silu conv value",
        ),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 4 * H * (2 * K + V),
    ),
    ("sliding_window", 0): Case(
        literal=partial(attention.sliding_window, heads=2), places=SOFTMAX, count=attention_count
    ),
    ("based", 0): Case(
        literal=partial(recurrences.based_linear, heads=2),
        places=linear(
            query="apply rownorm masked taylor2 dot project:0",
            key="apply rownorm masked taylor2 dot project:1",
            value="apply value",
        ),
        count=attention_count,
    ),
    ("based", 1): Case(literal=partial(attention.sliding_window, heads=2), places=SOFTMAX, count=attention_count),
    ("linear_attention", 0): Case(
        literal=partial(recurrences.linear_attention, heads=2),
        places=linear(
            query="apply rownorm masked dot elu1:0 project",
            key="apply rownorm masked dot elu1:1 project",
            value="apply value",
        ),
        count=attention_count,
    ),
    ("retnet", 0): Case(
        literal=partial(recurrences.retnet, heads=2),
        places=linear(
            query="mul norm apply masked decay dot rotary:0 project",
            key="mul norm apply masked decay dot rotary:1 project",
            value="mul norm apply value",
            gate="mul silu value",
        )
        | {"gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: 2 * D * H * K + 3 * D * H * V + V,
    ),
    ("gla", 0): Case(
        literal=partial(recurrences.gla, heads=2),
        places=linear(
            query="mul norm apply masked decayed_dot project:0",
            key="mul norm apply masked decayed_dot project:1",
            value="mul norm apply value",
            gate="mul silu value",
        )
        | low_rank("mul norm apply masked decayed_dot forget_channels")
        | {"gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: 2 * D * H * K + 3 * D * H * V + V + 16 * D + 17 * H * K,
    ),
    ("mamba2", 0): Case(
        literal=partial(recurrences.mamba2, heads=2),
        places=convolved(
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
        },
        count=lambda D, H, K, V, T: (
            2 * (D + 4) * K + (D + 4) * H * V + (D + 1) * H + H + H * V + D * H * V + V + D * H * V
        ),
    ),
    ("deltanet", 0): Case(
        literal=partial(recurrences.deltanet, heads=2),
        places=inside("norm", DELTA) | {"gain": ("norm", "gain")},
        count=delta_count,
    ),
    ("gated_deltanet", 0): Case(
        literal=partial(recurrences.gated_deltanet, heads=2),
        places=inside("mul norm", DELTA, dot="decay dot", gram="decay gram")
        | affine(step="mul norm apply masked decay selective step")
        | linear(gate="mul silu value")
        | {"rate": ("mul norm apply masked decay selective", "rate"), "gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: delta_count(D, H, K, V, T) + (D + 1) * H + H + D * H * V,
    ),
    ("kda", 0): Case(
        literal=partial(recurrences.kda, heads=2),
        places=inside("mul norm", DELTA, dot="decayed_dot", gram="decayed_gram")
        | low_rank("mul norm apply masked decayed_dot selective_channels")
        | linear(gate="mul sigmoid value")
        | {
            "rate": ("mul norm apply masked decayed_dot selective_channels", "rate"),
            "gain": ("mul norm", "gain"),
        },
        count=lambda D, H, K, V, T: delta_count(D, H, K, V, T) + 16 * D + 17 * H * K + H + D * H * V,
    ),
    ("hyena", 0): Case(
        literal=partial(fixed.hyena, length=LENGTH),
        places=convolved(
            outer_gate="mul conv value",
            inner_gate="mul add apply mul conv:0 value",
            value="mul add apply mul conv:1 value",
        )
        | {
            "first": ("mul add apply implicit", "first.weight"),
            "first_bias": ("mul add apply implicit", "first.bias"),
            "second": ("mul add apply implicit", "second.weight"),
            "second_bias": ("mul add apply implicit", "second.bias"),
            "last": ("mul add apply implicit", "last.weight"),
            "skip": ("mul add weigh", "gain"),
        },
        count=lambda D, H, K, V, T: 3 * (D + 3) * V + V + (5 + 1 + 16 + 1 + V) * 16 + D * V,
    ),
    ("just_dense", 0): Case(
        literal=partial(fixed.just_dense, length=LENGTH),
        places=linear(value="apply value") | {"entries": ("apply dense", "entries")},
        count=lambda D, H, K, V, T: T * (T + 1) // 2 + 2 * D * V,
    ),
    ("no_mixer", 0): Case(literal=fixed.no_mixer, places=linear(value="value"), count=lambda D, H, K, V, T: 2 * D * V),
}

CASES |= cases_normalisers.CASES
CASES |= cases_positions.CASES
CASES |= cases_recurrences.CASES
CASES |= cases_readouts.CASES
CASES |= cases_blocks.CASES
