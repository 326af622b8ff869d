"""How an architecture's costs grow with the number of tokens T, and what they are at one length.

The classes are read off `costs`, which counts every pass by its plan, at lengths where the fastest-growing part stands
alone. So they hold for whatever the table of operations comes to contain, and a window counts as linear.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from archloom.search_space.costs import costs, default_widths
from archloom.search_space.plans import plan
from archloom.search_space.terms import Term, walk

WIDTH = 32
"""The standard model width D, that of the default protocol: inner widths are D and channel mixers 4 D wide."""
CONTEXT = 4096
"""Tokens at which state and parameters are counted unless another number is asked for."""

_LONG = 2**24
"""Tokens: enough for any term to be outgrown by a faster one."""
_POWERS = {0.0: "1", 0.5: "√T", 1.0: "T", 1.5: "T√T", 2.0: "T²", 3.0: "T³"}
_LOGARITHM = 2 / math.log2(_LONG)
"""More than a factor log T adds to the exponent seen at that length."""
_ROUND = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Complexity:
    """Classes as `O(T²)`. `training` is of a forward pass over T tokens; `state` of what a decoder carries.

    `decoding` is the class of one decoded token: what is made of the token, and its state read once. `state_bytes` and
    `parameters` are those of the stack, without embeddings, at `context` tokens and the widths of model width `width`.
    `passes` says how each kernel is applied, in the order of the term, each kind once.
    """

    training: str
    decoding: str
    state: str
    state_bytes: int
    parameters: int
    context: int
    width: int
    passes: tuple[str, ...]

    @property
    def constant_state(self) -> bool:
        return self.state == "O(1)"


def complexity(architecture: Term, *, context: int = CONTEXT, width: int = WIDTH) -> Complexity:
    """Of a stack; `context` in tokens."""
    widths = default_widths(width)

    def flops_of_a_token(length: int) -> int:
        return costs(architecture, widths, length).flops // length

    def state(length: int) -> int:
        return costs(architecture, widths, length).state_bytes

    at = costs(architecture, widths, context)
    carried = growth(state)
    return Complexity(
        training=growth(flops_of_a_token, power=1.0),
        decoding=carried,
        state=carried,
        state_bytes=at.state_bytes,
        parameters=at.parameters,
        context=context,
        width=width,
        passes=_passes(architecture),
    )


def growth(count: Callable[[int], int], *, power: float = 0.0) -> str:
    """The class of `count` of T, times T to the `power`, as `O(T log T)`.

    The count is a sum of powers of T, some times log T. Half powers are told apart, others are written as decimals.
    """
    first, second, third = (count(factor * _LONG) for factor in (1, 2, 4))
    if first == second == third:
        return _named(power, logarithm=False)
    exponent = math.log2((third - second) / (second - first))  # of differences: what is constant drops out
    whole = math.floor(2 * exponent + _ROUND) / 2
    excess = exponent - whole
    if excess > _LOGARITHM:
        return f"O(T^{exponent + power:.2f})"
    return _named(whole + power, logarithm=whole == 0 or excess > _LOGARITHM / 4)


def _named(power: float, *, logarithm: bool) -> str:
    name = _POWERS.get(power, f"T^{power:g}")
    if not logarithm:
        return f"O({name})"
    return f"O({name} log T)" if power else "O(log T)"


def _passes(architecture: Term) -> tuple[str, ...]:
    found = []
    for node in walk(architecture):
        if node.operation.name in ("apply", "resolve"):
            the = plan(node.arguments[0])
            window = "" if the.window is None else f", window {the.window}"
            found.append(f"{node.operation.name}: {the.form.value}{window}")
    return tuple(dict.fromkeys(found))
