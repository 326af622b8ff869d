"""What an architecture costs, without torch: parameters, FLOPs and decode state at given widths, and the widths that
match a target.

Parameters are exact: they equal the built module's. FLOPs are forward multiply-adds times two per sequence, with chunks
of 64 for linear passes. Decode state counts 4 bytes a number at the given context length.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

from archloom.errors import ConfigError
from archloom.search_space.operations import Shape
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.plans import Form, Plan, feature_width, fuses, heads_of, numbers, plan, remembered, slots
from archloom.search_space.stacks import coarse_length, inside, layers
from archloom.search_space.terms import Term, walk
from archloom.search_space.types import SCORES, Type

CHUNK = 64
INNER_STEPS = range(-8, 9, 2)
BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Widths:
    """The sizes that a term leaves open: model width D, inner widths summed over heads, hidden width of channel mixers.

    A mixer of H heads has K = max(1, round(key / H)) and V = max(1, round(value / H)), or the percentage of them that
    its `inner` says.
    """

    model: int
    key: int
    value: int
    hidden: int

    def shape(self, heads: int, length: int, *, inner: int = 100, pattern: Pattern = CAUSAL) -> Shape:
        """The shape of a mixer of `heads` heads that takes `inner` percent of the inner widths."""
        return Shape(
            width=self.model,
            heads=heads,
            key=max(1, round(self.key * inner / (100 * heads))),
            value=max(1, round(self.value * inner / (100 * heads))),
            hidden=self.hidden,
            length=length,
            pattern=pattern,
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


def costs(architecture: Term, widths: Widths, length: int, *, pattern: Pattern = CAUSAL) -> Costs:
    """Parameters, FLOPs and decode-state bytes of a stack at `widths` and `length` tokens, used under `pattern`."""
    tally = _outer(architecture, widths, length, pattern)
    return Costs(
        parameters=tally.parameters + widths.model,  # the final norm
        flops=tally.flops * length,
        state_bytes=BYTES * tally.state,
    )


def _outer(term: Term, widths: Widths, length: int, pattern: Pattern) -> _Tally:
    if term.operation.scopes:
        return _mixer(term, widths, length, pattern)
    shape = widths.shape(1, length, pattern=pattern)
    if term.type is Type.STACK:
        total = _Tally()
        counts: dict[int, tuple[Term, int]] = {}
        for block in layers(term):
            counts[id(block)] = (block, counts.get(id(block), (block, 0))[1] + 1)
        for block, times in counts.values():
            total = total.plus(_outer(block, widths, length, pattern), times)
        return total
    total = _own(term, shape, 1)
    if term.operation.stride > 1:
        coarse = coarse_length(length, term.operation.stride, pattern)
        inner = _outer(inside(term), widths, coarse, pattern)
        return total.plus(replace(inner, flops=inner.flops * coarse // length))
    for argument in term.arguments:
        total = total.plus(_outer(argument, widths, length, pattern))
    return total


def _own(term: Term, shape: Shape, heads: int) -> _Tally:
    operation = term.operation
    return _Tally(
        operation.weights(shape, term, heads), operation.flops(shape, term, heads), operation.state(shape, term, heads)
    )


def _mixer(mixer: Term, widths: Widths, length: int, pattern: Pattern) -> _Tally:
    heads = mixer.integer("heads")
    shape = widths.shape(heads, length, inner=mixer.integer("inner"), pattern=pattern)
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
            if pass_.form in (Form.SOFTMAX, Form.SCORES) and pass_.window is not None:
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
        case Form.WINDOWED:
            assert the.window is not None
            columns, seen = value + the.normalised, band(the.window)
            solve = seen * (value + seen // 2) if node.operation.name == "resolve" else 0
            kept = heads * value if node.operation.name == "resolve" else numbers(node.arguments[1], shape)
            kept += sum(numbers(each, shape) for each in the.keys)
            kept += heads * (shape.key if the.channel_decay is not None else bool(the.head_decays))
            return _Tally(0, heads * (2 * seen * (rank + columns) + solve), min(the.window - 1, length) * kept)
        case Form.SOFTMAX | Form.SCORES:
            seen = min(the.window or length, length)
            reached = seen if the.window or shape.pattern != CAUSAL else length / 2
            cached = seen if the.window is None else max(0, seen - 1)
            z = value if node.operation.name == "resolve" else 0
            held = remembered(the, None if z else node.arguments[1], shape)
            each = sum(numbers(part, shape) for part in held) + heads * (z + bool(the.head_decays))
            return _Tally(0, int(2 * heads * reached * (rank + value)) + heads * CHUNK * z, cached * each)
        case Form.TOEPLITZ:
            log_length = max(1, (2 * length - 1).bit_length())
            return _Tally(0, heads * value * 15 * log_length, length * heads * value)
        case Form.CIRCULAR:
            log_length = max(1, (length - 1).bit_length())
            return _Tally(0, heads * value * (10 * log_length + 2), 0)  # noncausal only: never decoded
        case Form.TAPS:
            assert the.window is not None
            kept = min(the.window - 1, length)
            return _Tally(0, 2 * heads * value * the.window, kept * heads_of(node.arguments[1], shape.heads) * value)
        case Form.DENSE | Form.FEATURE_TOEPLITZ:
            sources = [each for each in walk(node.arguments[0]) if each.operation.name in _SOURCES]
            state = length * (_dense_state(node.arguments[0], shape) + heads * value)
            return _Tally(0, heads * length * (shape.key * max(1, len(sources)) + value), state)


def band(window: int) -> int:
    """Keys that a query of a WINDOWED pass is multiplied with: those of its chunk and of the one before."""
    return 2 * max(CHUNK // 2, window)


_SOURCES = {
    "dot": 1,
    "relative_keys": 1,
    "decayed_dot": 1,
    "gram": 0,
    "decayed_gram": 0,
    "exclusive": 1,
    "rated_gram": 0,
    "partitioned": 1,
    "lrpe": 1,
    "picked": 2,
}
"""Operations that form inner products of features, and which argument is the key."""


def _dense_state(kernel: Term, shape: Shape) -> int:
    """Numbers per token that a kernel written out densely keeps: its keys, log decays and routes."""
    total = 0
    for node in walk(kernel):
        name = node.operation.name
        if name in _SOURCES:
            total += heads_of(node.arguments[_SOURCES[name]], shape.heads) * shape.key
        for argument in node.arguments if name in _SOURCES or name == "decay" else ():
            if argument.type is Type.CHANNEL_DECAY:
                total += shape.heads * shape.key
            if argument.type is Type.HEAD_DECAY:
                total += shape.heads
            if argument.type is Type.ROUTE:
                total += slots(argument)
        if name == "additive":
            total += heads_of(node, shape.heads)
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


def solve_widths(
    architecture: Term, *, target: int, width: int, length: int, tolerance: float, pattern: Pattern = CAUSAL
) -> Widths:
    """Widths at which the architecture has `target` parameters within `tolerance`.

    Architectures whose channel mixers have a hidden width keep D = `width` and solve it; where even the least one is
    too much, D and the inner widths are narrowed until it may be D. Those without one change D and the inner widths
    together. Where whole hidden units are too coarse, the inner widths make up the rest. A ConfigError says by how much
    the nearest widths miss.
    """

    def count(widths: Widths) -> int:
        return costs(architecture, widths, length, pattern=pattern).parameters

    whole = default_widths(width)
    if count(replace(whole, hidden=2)) == (least := count(replace(whole, hidden=1))):
        best = _solve_inner(count, target, width)
    else:
        narrow = least > (1 + tolerance) * target
        best = _solve_hidden(count, target, _narrowed(count, target, width) if narrow else whole)
    if abs(count(best) - target) > tolerance * target:
        best = _nearest(count, target, [best])
    found = count(best)
    if abs(found - target) > tolerance * target:
        raise ConfigError(
            f"no widths bring the architecture to {target} parameters within {tolerance:.0%}: the nearest have {found}."
            " Give its mixers fewer projections, or raise the protocol's width."
        )
    return best


def _solve_hidden(count: Callable[[Widths], int], target: int, widths: Widths) -> Widths:
    least = count(replace(widths, hidden=1))
    slope = count(replace(widths, hidden=2)) - least
    return replace(widths, hidden=max(1, 1 + round((target - least) / slope)))


def _narrowed(count: Callable[[Widths], int], target: int, width: int) -> Widths:
    """The widest D = inner widths below `width` at which hidden widths of D are within the target, or 1."""
    low, high = 1, width
    while low < high:
        middle = (low + high + 1) // 2
        if count(replace(default_widths(middle), hidden=middle)) <= target:
            low = middle
        else:
            high = middle - 1
    return default_widths(low)


def _solve_inner(count: Callable[[Widths], int], target: int, width: int) -> Widths:
    low, high = 1, 16 * width
    while low < high:  # parameters grow with the width
        middle = (low + high) // 2
        at = Widths(model=middle, key=middle, value=middle, hidden=1)
        if count(at) < target:
            low = middle + 1
        else:
            high = middle
    start = [Widths(model=model, key=model, value=model, hidden=1) for model in range(max(1, low - 2), low + 2)]
    return _nearest(count, target, start)


def _nearest(count: Callable[[Widths], int], target: int, start: Sequence[Widths]) -> Widths:
    """Of the widths and those with inner widths some steps away, one within half a percent, else the nearest."""
    options = [
        replace(each, key=max(1, each.key + key), value=max(1, each.value + value))
        for each in start
        for key in INNER_STEPS
        for value in INNER_STEPS
    ]

    def miss(widths: Widths) -> int:
        return abs(count(widths) - target)

    return min(options, key=lambda each: (miss(each) > target // 200, abs(each.key - each.model), miss(each)))
