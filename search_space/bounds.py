"""Bounds of what each operation adds to the cost of an architecture, wherever it stands: what sampling in budget needs.

An operation's own weights, FLOPs and state are in the table. What `costs` counts besides is the pass that applies a
kernel, which depends on how the kernel is lowered (`plans`) and so on all its operations together. A bound shares that
out: the inner product pays for the features of a LINEAR or WINDOWED pass, `apply` for the chunks, `window` for the
band, `exp` for a SOFTMAX pass, filters and taps for their convolutions. Every other operation in a kernel may be what
makes its pass DENSE and pays for all of one, DECAYS decays per head included: more than a term of fewer than 2 DECAYS
operations can have.

So the sum of the bounds of a term's operations is no less than its costs, at every number of heads, and more where
several of them pay for one pass. The one exception is `plus`: a sum of n inner products under a square has n^2 K^2
features, for which no operation can pay alone. Its bound is UNBOUNDED, and a grammar with limits of FLOPs or state does
not draw it. Bounds are those of the causal pattern.
"""

from collections.abc import Iterable
from functools import lru_cache
from itertools import product
from typing import NamedTuple

from archloom.search_space.costs import CHUNK, band, default_widths
from archloom.search_space.operations import OPERATIONS, Operation, Shape
from archloom.search_space.terms import Term, Value, walk
from archloom.search_space.types import KERNELS, MASKS, SCORES, Type

DECAYS = 32
UNBOUNDED = 1 << 60

Made = tuple[Operation, tuple[Value, ...], Type]
"""An operation with parameter values and the type of its result."""


class Bound(NamedTuple):
    """Parameters, FLOPs per token and numbers of decode state of one operation."""

    parameters: int
    flops: int
    state: int


Bounds = dict[Made, Bound]
"""The bound of every operation that the sampler draws, at one model width and length."""


def made(term: Term) -> Made:
    return (term.operation, term.values, term.type)


def bound_of(term: Term, known: Bounds) -> Bound:
    """The sum over a term's operations."""
    return _sum([known[made(node)] for node in walk(term) if not node.operation.shares])


def around(blocks: int, width: int) -> Bound:
    """What blocks made of a stack cost at most beside the blocks in them, in a canonical stack of so many `blocks`.

    Each is around two blocks or more, so there are fewer of either kind than blocks; and the averages, quadratic in
    the blocks that they are over, are the most where one is over all.
    """
    averages = blocks * (blocks + 1) // 2 - 1
    rates = blocks - 1
    return Bound(averages + 2 * width * rates, 2 * width * averages + 3 * width * rates, 2 * width * rates)


@lru_cache(maxsize=8)
def bounds(width: int, length: int) -> Bounds:
    """The bounds at model width D = `width`, nominal inner widths, and `length` tokens."""
    widths = default_widths(width)
    lengths = [length >> halvings for halvings in range(length.bit_length())]  # a stack may run at a lower rate
    shapes = [widths.shape(heads, each) for heads in _head_counts() for each in lengths]
    return {
        what: _worst(_sum((_own(term, shape), _pass(term, shape))) for shape in shapes)
        for what, term in _smallest_of_each(_least_terms()).items()
    }


def _sum(parts: Iterable[Bound]) -> Bound:
    return Bound(*map(sum, zip(*parts, strict=True)))


def _worst(options: Iterable[Bound]) -> Bound:
    return Bound(*map(max, zip(*options, strict=True)))


_ONCE = frozenset((Type.STREAM, Type.LATENT, Type.ROUTE, *MASKS, Type.CHANNEL, Type.BLOCK, Type.STACK))
"""Types whose terms are not computed head by head."""


def _own(term: Term, shape: Shape) -> Bound:
    """The table's own costs."""
    operation = term.operation
    count = 1 if term.type in _ONCE else shape.heads
    return Bound(
        operation.weights(shape, term, count), operation.flops(shape, term, count), operation.state(shape, term, count)
    )


# -- shares of the passes that apply kernels ---------------------------------------------------------------------------

_INSIDE = frozenset((*SCORES, *KERNELS, *MASKS, Type.FILTER, Type.SPECTRUM))
"""Types of what a kernel is made of."""

_SLOTS = max(value for value in OPERATIONS["routes"].parameters[0].choices if isinstance(value, int))

_PRODUCTS = {
    "dot": 1,
    "decayed_dot": 1,
    "gram": 1,
    "decayed_gram": 1,
    "exclusive": 1,
    "lrpe": 2,
    "partitioned": _SLOTS,
}
"""Operations that have finite rank, and the features of their LINEAR pass in key widths."""

BAND = max(band(value) for value in OPERATIONS["window"].parameters[0].choices if isinstance(value, int))

_FREE = frozenset(("masked", "visible", "decay", "rownorm", "rownorm_plus_one"))
"""Operations that leave a LINEAR pass as it is, over whichever of these and of products they stand."""


def _pass(term: Term, shape: Shape) -> Bound:
    """What the operation pays of the passes it can be part of."""
    name, heads, value = term.operation.name, shape.heads, shape.value
    if name in ("apply", "resolve"):
        solve = CHUNK * value if name == "resolve" else 0
        return Bound(0, heads * (CHUNK * (value + 1) + solve), 0)
    if term.type not in _INSIDE or name in _FREE:
        return Bound(0, 0, 0)
    if name in _PRODUCTS:
        return _features(_PRODUCTS[name] * shape.key, shape)
    match name:
        case "ones":
            return _features(1, shape)
        case "taylor2" | "quad":
            return _worst((_features(1 + shape.key**2, shape), _dense(shape)))
        case "plus":
            return Bound(0, UNBOUNDED, UNBOUNDED)
        case "window":
            return _worst((_dense(shape), Bound(0, heads * (2 * BAND * (value + 1) + BAND * BAND // 2), 0)))
        case "exp":
            return _worst((_softmax(shape), _dense(shape)))
        case "times":  # one more product in the pass, whose keys are kept
            return _sum((_dense(shape), Bound(0, heads * shape.length * shape.key, _kept(shape))))
        case "taps":
            width = term.integer("width")
            return Bound(0, 2 * heads * value * width, min(width - 1, shape.length) * heads * value)
    if term.type in (Type.FILTER, Type.SPECTRUM):
        log_length = max(1, (2 * shape.length - 1).bit_length())
        return Bound(0, heads * value * (15 * log_length + 2), shape.length * heads * value)
    return _dense(shape)


def _features(rank: int, shape: Shape) -> Bound:
    """So many features more in a LINEAR pass, or in a WINDOWED one."""
    columns = shape.value + 1
    return Bound(0, shape.heads * rank * max(4 * columns + CHUNK, 2 * BAND), shape.heads * rank * columns)


_WIDEST = max(value for value in OPERATIONS["window"].parameters[0].choices if isinstance(value, int))


def _softmax(shape: Shape) -> Bound:
    reached = max((shape.length + 1) // 2, min(_WIDEST, shape.length))
    each = shape.heads * (shape.key + shape.value)
    return Bound(0, 2 * reached * each, shape.length * (each + shape.heads))


def _dense(shape: Shape) -> Bound:
    """A DENSE pass of one product."""
    each = shape.heads * shape.value
    flops = shape.length * (shape.heads * shape.key + each)
    return Bound(0, flops, shape.length * (each + DECAYS * shape.heads) + _kept(shape))


def _kept(shape: Shape) -> int:
    """Numbers that a DENSE pass keeps of one product: its keys and decays by channel, or its routes and decay."""
    keys = shape.heads * shape.key
    return shape.length * (keys + max(keys, _SLOTS + shape.heads))


# -- the smallest terms that the table's costs are asked of ------------------------------------------------------------


def _smallest_of_each(least: dict[Type, Term]) -> dict[Made, Term]:
    """A smallest term for every operation, parameter setting and type of result."""
    found: dict[Made, Term] = {}
    for operation in OPERATIONS.values():
        if not operation.shares:
            results = {
                result: types
                for types, result in reversed(operation.signatures.items())
                if all(t in least for t in types)
            }
            for values in product(*(parameter.choices for parameter in operation.parameters)):
                for result, types in results.items():
                    arguments = tuple([least[each] for each in types])
                    found[operation, values, result] = Term(operation, values, arguments, result)
    return found


def _head_counts() -> list[int]:
    return sorted(
        {
            value
            for operation in OPERATIONS.values()
            if operation.scopes and "heads" in operation.position
            for value in operation.parameters[operation.position["heads"]].choices
            if isinstance(value, int)
        }
    )


def _least_terms() -> dict[Type, Term]:
    """A smallest term of every type, with the parameters that give it most weights: the widest latent, say."""
    shape = default_widths(64).shape(2, 64)
    found: dict[Type, tuple[int, Term]] = {}
    changed = True
    while changed:
        changed = False
        for operation in OPERATIONS.values():
            for types, result in operation.signatures.items() if operation.weight > 0 else ():
                if all(each in found for each in types):
                    size = 1 + sum(found[each][0] for each in types)
                    if result not in found or size < found[result][0]:
                        arguments = tuple(found[each][1] for each in types)
                        settings = product(*(parameter.choices for parameter in operation.parameters))
                        terms = [Term(operation, values, arguments, result) for values in settings]
                        most = max(terms, key=lambda term: _own(term, shape).parameters)
                        found[result], changed = (size, most), True
    return {type_: term for type_, (_, term) in found.items()}
