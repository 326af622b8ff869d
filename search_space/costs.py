"""What an architecture costs, without torch: parameters, FLOPs and decode state at given widths, and the widths that
match a target.

Parameters are exact: they equal the built module's. FLOPs are forward multiply-adds times two per sequence, with chunks
of 64 for linear passes. Decode state counts 4 bytes a number at the given context length.
"""

from dataclasses import dataclass, replace
from functools import lru_cache

from archloom.errors import ConfigError
from archloom.search_space.operations import Shape
from archloom.search_space.plans import Form, Plan, feature_width, fuses, heads_of, plan
from archloom.search_space.stacks import layers
from archloom.search_space.terms import Term, walk
from archloom.search_space.types import SCORES, Type

CHUNK = 64
BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """The sizes that a term leaves open: model width D, inner widths summed over heads, hidden width of channel mixers.

    A mixer of H heads has K = max(1, round(key / H)) and V = max(1, round(value / H)).
    """

    model: int
    key: int
    value: int
    hidden: int

    def shape(self, heads: int, length: int) -> Shape:
        return Shape(
            width=self.model,
            heads=heads,
            key=max(1, round(self.key / heads)),
            value=max(1, round(self.value / heads)),
            hidden=self.hidden,
            length=length,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of a stack without embeddings. `flops` forward per sequence of `length`; `state_bytes` per decoded sequence."""

    parameters: int
    flops: int
    state_bytes: int


@dataclass(frozen=True, slots=True)
class _Tally:
    parameters: int = 0
    flops: int = 0  # per token
    state: int = 0  # numbers

    def plus(self, other: "_Tally", times: int = 1) -> "_Tally":
        return _Tally(
            self.parameters + times * other.parameters,
            self.flops + times * other.flops,
            self.state + times * other.state,
        )


def costs(architecture: Term, widths: Widths, length: int) -> Costs:
    """Parameters, FLOPs and decode-state bytes of a stack at `widths` and `length` tokens."""
    tally = _outer(architecture, widths, length)
    return Costs(
        parameters=tally.parameters + widths.model,  # the final norm
        flops=tally.flops * length,
        state_bytes=BYTES * tally.state,
    )


def _outer(term: Term, widths: Widths, length: int) -> _Tally:
    if term.operation.scopes:
        return _mixer(term, widths, length)
    shape = widths.shape(1, length)
    if term.type is Type.STACK:
        total = _Tally()
        counts: dict[int, tuple[Term, int]] = {}
        for block in layers(term):
            counts[id(block)] = (block, counts.get(id(block), (block, 0))[1] + 1)
        for block, times in counts.values():
            total = total.plus(_outer(block, widths, length), times)
        return total
    total = _own(term, shape, 1)
    for argument in term.arguments:
        total = total.plus(_outer(argument, widths, length))
    return total


def _own(term: Term, shape: Shape, heads: int) -> _Tally:
    operation = term.operation
    return _Tally(
        operation.weights(shape, term, heads), operation.flops(shape, term, heads), operation.state(shape, term, heads)
    )


def _mixer(mixer: Term, widths: Widths, length: int) -> _Tally:
    heads = mixer.integer("heads")
    shape = widths.shape(heads, length)
    total = _Tally()
    fused: set[int] = set()
    banded: dict[int, Shape] = {}  # scores of which only a window is ever computed
    for node in walk(mixer):
        count = heads_of(node.arguments[0] if node is mixer else node, heads)
        total = total.plus(_own(node, banded.get(id(node), shape), count))
        if node.operation.name in ("apply", "resolve"):
            pass_ = plan(node.arguments[0])
            inner = node.arguments[1]
            if inner.operation.name == "resolve" and fuses(pass_, plan(inner.arguments[0])):
                fused.add(id(inner))
            if pass_.form is Form.SOFTMAX and pass_.window is not None:
                seen = replace(
                    shape, length=min(length, 2 * pass_.window)
                )  # scores cost half the length: none is ahead
                banded.update((id(each), seen) for each in walk(node.arguments[0]) if each.type in SCORES)
            total = total.plus(_pass(pass_, node, shape, count, fused=id(node) in fused))
    return total


def _pass(the: Plan, node: Term, shape: Shape, heads: int, *, fused: bool) -> _Tally:
    """FLOPs per token and state of applying or resolving one kernel."""
    rank, value, length = feature_width(the, shape), shape.value, shape.length
    match the.form:
        case Form.LINEAR:
            columns = value + the.normalised
            solve = CHUNK * value if node.operation.name == "resolve" else 0
            flops = heads * (4 * rank * columns + CHUNK * (rank + columns) + solve)
            return _Tally(0, flops, 0 if fused else heads * rank * columns)
        case Form.SOFTMAX:
            seen = min(the.window or length, length)
            reached = seen if the.window else length / 2
            cached = seen if the.window is None else max(0, seen - 1)
            assert the.key is not None
            keys, values = heads_of(the.key, shape.heads), heads_of(node.arguments[1], shape.heads)
            state = cached * (keys * shape.key + values * value + heads * bool(the.head_decays))
            return _Tally(0, int(2 * heads * reached * (shape.key + value)), state)
        case Form.TOEPLITZ:
            log_length = max(1, (2 * length - 1).bit_length())
            return _Tally(0, heads * value * 15 * log_length, length * heads * value)
        case Form.DENSE:
            sources = [each for each in walk(node.arguments[0]) if each.operation.name in _SOURCES]
            state = length * (_dense_state(node.arguments[0], shape) + heads * value)
            return _Tally(0, heads * length * (shape.key * max(1, len(sources)) + value), state)


_SOURCES = ("dot", "decayed_dot", "gram", "decayed_gram")


def _dense_state(kernel: Term, shape: Shape) -> int:
    """Numbers per token that a kernel written out densely keeps: its keys and its log decays."""
    total = 0
    for node in walk(kernel):
        name = node.operation.name
        if name in _SOURCES:
            key = node.arguments[1 if name in ("dot", "decayed_dot") else 0]
            total += heads_of(key, shape.heads) * shape.key
        if name in ("decayed_dot", "decayed_gram"):
            total += shape.heads * shape.key
        if name == "decay":
            total += shape.heads
    return total


@lru_cache(maxsize=4096)
def _target(reference: Term, width: int, length: int) -> int:
    return costs(reference, default_widths(width), length).parameters


def default_widths(width: int) -> Widths:
    """The reference's widths: inner width D, channel mixers 4 D."""
    return Widths(model=width, key=width, value=width, hidden=4 * width)


def target_parameters(reference: Term, *, width: int, length: int) -> int:
    """Parameters of the reference architecture at the protocol's width: what every candidate must match."""
    return _target(reference, width, length)


def solve_widths(architecture: Term, *, target: int, width: int, length: int, tolerance: float) -> Widths:
    """Widths at which the architecture has `target` parameters within `tolerance`.

    Architectures with a channel mixer keep D = `width` and solve its hidden width; those without one widen D and the
    inner widths together. A ConfigError says by how much the nearest widths miss.
    """
    if any(node.type is Type.CHANNEL and node.operation.name != "none" for node in walk(architecture)):
        best = _solve_hidden(architecture, target, default_widths(width), length)
    else:
        best = _solve_inner(architecture, target, width, length)
    found = costs(architecture, best, length).parameters
    if abs(found - target) > tolerance * target:
        raise ConfigError(
            f"no widths bring the architecture to {target} parameters within {tolerance:.0%}: the nearest have {found}."
            " Give its mixers fewer projections, or raise the protocol's width."
        )
    return best


def _solve_hidden(architecture: Term, target: int, widths: Widths, length: int) -> Widths:
    least = costs(architecture, replace(widths, hidden=1), length).parameters
    slope = costs(architecture, replace(widths, hidden=2), length).parameters - least
    return replace(widths, hidden=max(1, 1 + round((target - least) / slope)))


def _solve_inner(architecture: Term, target: int, width: int, length: int) -> Widths:
    def miss(widths: Widths) -> int:
        return abs(costs(architecture, widths, length).parameters - target)

    low, high = 1, 16 * width
    while low < high:  # parameters grow with the width
        middle = (low + high) // 2
        at = Widths(model=middle, key=middle, value=middle, hidden=1)
        if costs(architecture, at, length).parameters < target:
            low = middle + 1
        else:
            high = middle
    options = [
        Widths(model=model, key=max(1, model + key), value=max(1, model + value), hidden=1)
        for model in range(max(1, low - 2), low + 2)
        for key in range(-8, 9, 2)
        for value in range(-8, 9, 2)
    ]
    return min(options, key=lambda each: (miss(each) > target // 200, abs(each.key - each.model), miss(each)))
