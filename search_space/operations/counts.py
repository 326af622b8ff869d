"""Parameters and cost functions that many rows share."""

from collections.abc import Callable
from typing import TypedDict

from archloom.search_space.operations.row import Cost, Shape, choice, inner
from archloom.search_space.terms import Term
from archloom.search_space.types import FEATURES, Type

S, F, V, M, X = Type.SCORE, FEATURES, Type.VALUE, Type.MIXED, Type.STREAM
"""Abbreviations for the signatures of the table."""

HEADS = (1, 2, 4)
SHARE = choice("share", 1, 2, 4)
WIDTH = choice("width", 2, 3, 4, default=4)
RANK = choice("rank", 4, 8, 16, default=16)


class Linear(TypedDict):
    """The costs of a linear map, for `Operation(**...)`."""

    weights: Cost
    flops: Cost


def projection(width: Callable[[Shape], int]) -> Linear:
    """From the stream to `width` channels a head."""
    return {
        "weights": lambda s, t, h: s.width * h * width(s),
        "flops": lambda s, t, h: 2 * s.width * h * width(s),
    }


def output_weights(shape: Shape, term: Term, heads: int) -> int:
    return heads * shape.value * shape.width


def output_flops(shape: Shape, term: Term, heads: int) -> int:
    return 2 * output_weights(shape, term, heads)


def per_head_gate() -> Linear:
    """An affine map from the stream to one number a head."""
    return {
        "weights": lambda s, t, h: (s.width + 1) * s.heads,
        "flops": lambda s, t, h: 2 * s.width * s.heads,
    }


def low_rank(extra: int) -> Linear:
    """Through `rank` channels to one number a channel, with `extra` numbers a head."""
    return {
        "weights": lambda s, t, h: (
            s.width * t.integer("rank") + (t.integer("rank") + 1) * s.heads * s.key + extra * s.heads
        ),
        "flops": lambda s, t, h: 2 * t.integer("rank") * (s.width + s.heads * s.key),
    }


def elementwise(count: int = 1) -> Cost:
    """`count` operations for every channel."""
    return lambda s, t, h: count * h * inner(t, s)


def score_each(count: int) -> Cost:
    """`count` operations for every score that a token sees."""
    return lambda s, t, h: count * h * s.length // (2 if s.pattern.causal and not s.pattern.cross else 1)
