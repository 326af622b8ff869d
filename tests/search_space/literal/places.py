"""Where the weights of the published equations live in the compiled mixers.

A case is one mixer of a zoo entry: the literal, the place of each of its weights, and the parameter count as a formula
written by hand. A place is a path of operation names from the mixer's body inwards, in which `name:i` says which input.
"""

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

LENGTH = 80
"""The protocol's length, which positions of implicit filters and the size of dense matrices depend on."""

Places = dict[str, tuple[str, str]]
"""Weight of the equations -> (path to the operation, its parameter)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """`literal` maps one sequence [T, D] (and under a cross pattern a source [S, D]) and the weights to [T, D]; `count`
    gives the mixer's parameters from D, H, K, V and T."""

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


def shifted(**paths: str) -> Places:
    """Projections of a shifted stream."""
    return linear(**paths) | {f"{name}_blend": (f"{path} shift", "blend") for name, path in paths.items()}


def low_rank(path: str) -> Places:
    return {"down": (path, "down.weight"), "up": (path, "up.weight"), "up_bias": (path, "up.bias")}


def inside(outer: str, places: Places, **replaced: str) -> Places:
    """The same places below `outer`, with operations on the way replaced."""
    moved = {}
    for name, (path, weight) in places.items():
        words = [replaced.get(word, word) for word in path.split()]
        moved[name] = (f"{outer} {' '.join(words)}", weight)
    return moved
