"""Convolutions, dense mixing and other readouts."""

from functools import partial

from . import attention, convolutions, readouts
from .places import LENGTH, Case, Places, affine, convolved, linear

IMPLICIT = (5 + 1 + 16 + 1) * 16
"""Weights of the network that writes an implicit filter, without its last layer of 16 V."""


def implicit(path: str) -> Places:
    """The network of an implicit filter."""
    return {
        "first": (path, "first.weight"),
        "first_bias": (path, "first.bias"),
        "second": (path, "second.weight"),
        "second_bias": (path, "second.bias"),
        "last": (path, "last.weight"),
    }


def softmax(outer: str) -> Places:
    """Queries and keys with rotary of a softmax kernel that is applied at `outer`."""
    return linear(
        query=f"{outer} rownorm masked exp dot rotary:0 project", key=f"{outer} rownorm masked exp dot rotary:1 project"
    )


CASES: dict[tuple[str, int], Case] = {
    ("lla", 0): Case(
        literal=partial(readouts.local_linear, heads=2),
        places=linear(query="local_linear project:0", key="local_linear project:1", value="local_linear value")
        | {"log_ridge": ("local_linear", "log_ridge")},
        count=lambda D, H, K, V, T: 2 * D * H * K + 2 * D * H * V + H,
    ),
    ("dynamic_conv", 0): Case(
        literal=partial(convolutions.dynamic_convolution, heads=2, width=15),
        places=linear(taps="apply taps", gate="apply mul sigmoid value", value="apply mul value"),
        count=lambda D, H, K, V, T: 15 * D * H + 3 * D * H * V,
    ),
    ("combiner", 0): Case(
        literal=partial(readouts.combiner, heads=2, span=8),
        places=linear(query="spans rotary:0 project", key="spans rotary:1 project", value="spans value"),
        count=lambda D, H, K, V, T: 2 * D * H * K + 2 * D * H * V,
    ),
    ("dcls", 0): Case(
        literal=partial(convolutions.spaced, reach=16),
        places=linear(value="spaced value") | {"taps": ("spaced", "taps"), "positions": ("spaced", "positions")},
        count=lambda D, H, K, V, T: 2 * D * V + 8 * V,
    ),
    ("orchid", 0): Case(
        literal=partial(convolutions.orchid, length=LENGTH),
        places=convolved(
            query="mul conv value", value="mul add weigh mul conv:0 value", key="mul add weigh mul conv:1 value"
        )
        | implicit("mul add add apply:1 implicit")
        | {
            "condition_taps": ("mul add add apply:0 conditioned_filter conv", "taps"),
            "spectrum_taps": ("mul add add apply:0 conditioned_filter", "taps"),
            "skip": ("mul add weigh", "gain"),
        },
        count=lambda D, H, K, V, T: 3 * (D + 3) * V + 6 * V + IMPLICIT + 16 * V + V + D * V,
    ),
    ("h3", 0): Case(
        literal=convolutions.h3,
        places=linear(query="mul value", value="mul add weigh mul value")
        | convolved(key="mul add weigh mul conv value")
        | {
            "log_rates": ("mul add apply exponential", "log_rates"),
            "weights": ("mul add apply exponential", "weights"),
            "skip": ("mul add weigh", "gain"),
        },
        count=lambda D, H, K, V, T: 4 * D * V + 4 * V + 16 * V + V,
    ),
    ("gin_attention", 0): Case(
        literal=partial(readouts.gin_attention, heads=2),
        places=softmax("relu blend add apply")
        | linear(value="relu blend add apply value")
        | {"own": ("relu blend add weigh", "gain"), "hidden": ("relu blend", "matrices")},
        count=lambda D, H, K, V, T: 2 * D * H * K + 2 * D * H * V + H * V + H * V * V,
    ),
    ("capsule_routing", 0): Case(
        literal=partial(readouts.capsule_routing, heads=4),
        places=linear(
            query="squash apply rownorm masked exp dot project:0",
            key="squash apply rownorm masked exp dot project:1",
            value="squash apply scale squash value",
        )
        | affine(active="squash apply scale beta"),
        count=lambda D, H, K, V, T: 2 * D * H * K + 2 * D * H * V + (D + 1) * H,
    ),
    ("dual_axis", 0): Case(
        literal=partial(attention.multi_head, heads=2),
        places=softmax("apply") | linear(value="apply value"),
        count=lambda D, H, K, V, T: 2 * D * H * K + 2 * D * H * V,
    ),
    ("dual_axis", 1): Case(
        literal=partial(readouts.channel_attention, heads=2),
        places=linear(query="covariance value:0", key="covariance value:1", value="covariance value:2")
        | {"temperature": ("covariance", "temperature")},
        count=lambda D, H, K, V, T: 4 * D * H * V + H,
    ),
    ("mlp_mixer", 0): Case(
        literal=partial(readouts.mlp_mixer, length=LENGTH),
        places=linear(value="apply gelu apply value")
        | {"first": ("apply gelu apply dense", "entries"), "second": ("apply dense", "entries")},
        count=lambda D, H, K, V, T: 2 * T**2 + 2 * D * V,
    ),
    ("aft_local", 0): Case(
        literal=partial(readouts.aft_local, window=16),
        places=linear(gate="mul sigmoid value", exponent="mul aft value:0", value="mul aft value:1")
        | {"bias": ("mul aft", "bias")},
        count=lambda D, H, K, V, T: 4 * D * V + 16,
    ),
    ("activator", 0): Case(
        literal=readouts.activator,
        places=linear(gate="mul gelu value", value="mul value"),
        count=lambda D, H, K, V, T: 3 * D * V,
    ),
    ("ssm_diagonal", 0): Case(
        literal=convolutions.s4d,
        places=linear(value="gelu add apply value")
        | {
            "log_rates": ("gelu add apply exponential", "log_rates"),
            "weights": ("gelu add apply exponential", "weights"),
            "skip": ("gelu add weigh", "gain"),
        },
        count=lambda D, H, K, V, T: 2 * D * V + 17 * V,
    ),
    ("long_conv", 0): Case(
        literal=partial(convolutions.long_conv, length=LENGTH),
        places=linear(value="add apply value") | implicit("add apply implicit") | {"skip": ("add weigh", "gain")},
        count=lambda D, H, K, V, T: 2 * D * V + IMPLICIT + 17 * V,
    ),
    ("gated_conv", 0): Case(
        literal=partial(convolutions.gated_convolution, length=LENGTH),
        places=linear(gate="mul value", value="mul apply value") | implicit("mul apply implicit"),
        count=lambda D, H, K, V, T: 3 * D * V + IMPLICIT + 16 * V,
    ),
    ("gmlp", 0): Case(
        literal=partial(readouts.gmlp, length=LENGTH),
        places=linear(gate="mul gelu value", value="mul apply norm gelu value")
        | {"gain": ("mul apply norm", "gain"), "entries": ("mul apply dense", "entries")},
        count=lambda D, H, K, V, T: 3 * D * V + V + T * (T + 1) // 2,
    ),
    ("conv_share", 0): Case(
        literal=partial(convolutions.conv_share, heads=2),
        places={
            "query_taps": ("apply rownorm masked exp dot rotary:0 toeplitz", "taps"),
            "key_taps": ("apply rownorm masked exp dot rotary:1 toeplitz", "taps"),
            "value_taps": ("apply toeplitz_value", "taps"),
        },
        count=lambda D, H, K, V, T: 2 * (D + H * K - 1) + (D + H * V - 1) + D * H * V,
    ),
    ("multi_hyena", 0): Case(
        literal=partial(convolutions.multi_hyena, heads=2),
        places=convolved(
            query="apply masked modal dot conv:0 project",
            key="apply masked modal dot conv:1 project",
            value="apply conv value",
        )
        | {"log_rates": ("apply masked modal", "log_rates"), "weights": ("apply masked modal", "weights")},
        count=lambda D, H, K, V, T: (D + 3) * H * (2 * K + V) + 8 * H + D * H * V,
    ),
}
