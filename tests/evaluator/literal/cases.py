"""Where the weights of the published equations live in the compiled mixers, and how many they are.

A case is one mixer of a zoo entry: the literal, the place of each of its weights, and the parameter count as a formula
written by hand. A place is a path of operation names from the mixer's body inwards, in which `name:i` says which input.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from . import attention, fixed, recurrences

LENGTH = 80
"""The protocol's length, which positions of implicit filters and the size of dense matrices depend on."""

Places = dict[str, tuple[str, str]]
"""Weight of the equations -> (path to the operation, its parameter)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`literal` maps one sequence [T, D] to [T, D]; `count` gives the mixer's parameters from D, H, K, V and T."""

    literal: Callable[..., Tensor]
    places: Places
    count: Callable[[int, int, int, int, int], int]


def linear(**paths: str) -> Places:
    """Projections without bias."""
    return {name: (path, "linear.weight") for name, path in paths.items()}


def affine(**paths: str) -> Places:
    """Projections with bias."""
    return linear(**paths) | {f"{name}_bias": (path, "linear.bias") for name, path in paths.items()}


def convolved(**paths: str) -> Places:
    """Projections that a short convolution follows."""
    return linear(**paths) | {f"{name}_taps": (path.rsplit(" ", 1)[0], "taps") for name, path in paths.items()}


def low_rank(path: str) -> Places:
    return {"down": (path, "down.weight"), "up": (path, "up.weight"), "up_bias": (path, "up.bias")}


SOFTMAX = linear(
    query="apply rownorm causal exp dot rotary:0 project",
    key="apply rownorm causal exp dot rotary:1 project",
    value="apply value",
)
WINDOW = {name: (path.replace("causal", "window"), weight) for name, (path, weight) in SOFTMAX.items()}
DELTA = convolved(
    query="apply causal dot unit:0 silu conv project",
    key="apply causal dot unit:1 silu conv project",
    value="apply resolve scale silu conv value",
) | affine(beta="apply resolve causal gram beta")


def inside(outer: str, places: Places, **replaced: str) -> Places:
    """The same places below `outer`, with operations on the way replaced."""
    moved = {}
    for name, (path, weight) in places.items():
        words = [replaced.get(word, word) for word in path.split()]
        moved[name] = (f"{outer} {' '.join(words)}", weight)
    return moved


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
            query="apply rownorm causal exp dot rotary:0 silu conv project",
            key="apply rownorm causal exp dot rotary:1 silu conv project",
            value="apply silu conv value",
        ),
        count=lambda D, H, K, V, T: attention_count(D, H, K, V, T) + 4 * H * (2 * K + V),
    ),
    ("sliding_window", 0): Case(
        literal=partial(attention.sliding_window, heads=2), places=WINDOW, count=attention_count
    ),
    ("based", 0): Case(
        literal=partial(recurrences.based_linear, heads=2),
        places=linear(
            query="apply rownorm causal taylor2 dot project:0",
            key="apply rownorm causal taylor2 dot project:1",
            value="apply value",
        ),
        count=attention_count,
    ),
    ("based", 1): Case(literal=partial(attention.sliding_window, heads=2), places=WINDOW, count=attention_count),
    ("linear_attention", 0): Case(
        literal=partial(recurrences.linear_attention, heads=2),
        places=linear(
            query="apply rownorm causal dot elu1:0 project",
            key="apply rownorm causal dot elu1:1 project",
            value="apply value",
        ),
        count=attention_count,
    ),
    ("retnet", 0): Case(
        literal=partial(recurrences.retnet, heads=2),
        places=linear(
            query="mul norm apply causal decay dot rotary:0 project",
            key="mul norm apply causal decay dot rotary:1 project",
            value="mul norm apply value",
            gate="mul silu value",
        )
        | {"gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: 2 * D * H * K + 3 * D * H * V + V,
    ),
    ("gla", 0): Case(
        literal=partial(recurrences.gla, heads=2),
        places=linear(
            query="mul norm apply causal decayed_dot project:0",
            key="mul norm apply causal decayed_dot project:1",
            value="mul norm apply value",
            gate="mul silu value",
        )
        | low_rank("mul norm apply causal decayed_dot forget_channels")
        | {"gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: 2 * D * H * K + 3 * D * H * V + V + 16 * D + 17 * H * K,
    ),
    ("mamba2", 0): Case(
        literal=partial(recurrences.mamba2, heads=2),
        places=convolved(
            query="norm mul add apply causal decay dot silu:0 conv project",
            key="norm mul add apply causal decay dot silu:1 conv project",
            value="norm mul add weigh silu conv value",
        )
        | affine(step="norm mul add apply scale step")
        | linear(gate="norm mul silu value")
        | {
            "rate": ("norm mul add apply causal decay selective", "rate"),
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
        | affine(step="mul norm apply causal decay selective step")
        | linear(gate="mul silu value")
        | {"rate": ("mul norm apply causal decay selective", "rate"), "gain": ("mul norm", "gain")},
        count=lambda D, H, K, V, T: delta_count(D, H, K, V, T) + (D + 1) * H + H + D * H * V,
    ),
    ("kda", 0): Case(
        literal=partial(recurrences.kda, heads=2),
        places=inside("mul norm", DELTA, dot="decayed_dot", gram="decayed_gram")
        | low_rank("mul norm apply causal decayed_dot selective_channels")
        | linear(gate="mul sigmoid value")
        | {
            "rate": ("mul norm apply causal decayed_dot selective_channels", "rate"),
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
            "first": ("mul add apply toeplitz implicit", "first.weight"),
            "first_bias": ("mul add apply toeplitz implicit", "first.bias"),
            "second": ("mul add apply toeplitz implicit", "second.weight"),
            "second_bias": ("mul add apply toeplitz implicit", "second.bias"),
            "last": ("mul add apply toeplitz implicit", "last.weight"),
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
