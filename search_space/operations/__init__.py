"""The one table of operations: what a term can be made of, how each is typed, and what it costs.

To add an operation, add a row to the file of its family here and a module of the same name in `evaluator/modules`. The
row holds its signatures (argument types -> result type), its parameters with their allowed values, a one-line
description, its equation, and its own cost at a `Shape`; the grammar, the text form, sampling, variation and
documentation follow from the row. The cost of applying a kernel depends on how it is lowered: see `costs.py`.
"""

from archloom.search_space.operations.blocks import BLOCKS
from archloom.search_space.operations.channels import CHANNELS
from archloom.search_space.operations.convolutions import CONVOLUTIONS
from archloom.search_space.operations.counts import HEADS
from archloom.search_space.operations.features import FEATURE_MAPS
from archloom.search_space.operations.gates import GATE_OPERATIONS
from archloom.search_space.operations.kernels import KERNEL_OPERATIONS
from archloom.search_space.operations.masks import MASK_OPERATIONS
from archloom.search_space.operations.memory import MEMORIES
from archloom.search_space.operations.mixers import MIXERS
from archloom.search_space.operations.normalisers import NORMALISERS
from archloom.search_space.operations.positions import POSITION_OPERATIONS
from archloom.search_space.operations.projections import PROJECTIONS
from archloom.search_space.operations.readouts import READOUTS
from archloom.search_space.operations.recurrences import RECURRENCES
from archloom.search_space.operations.row import Cost, Operation, Parameter, Shape, either, inner, same
from archloom.search_space.operations.scores import SCORE_OPERATIONS
from archloom.search_space.operations.stacks import MAX_TIMES, PERIODS, STACKS
from archloom.search_space.operations.streams import STREAMS
from archloom.search_space.operations.values import VALUE_OPERATIONS
from archloom.search_space.terms import Term, TermError, Value
from archloom.search_space.types import SHAREABLE, Type

__all__ = [
    "FAMILIES",
    "HEADS",
    "MAX_TIMES",
    "OPERATIONS",
    "PERIODS",
    "SHARED",
    "Cost",
    "Operation",
    "Parameter",
    "Shape",
    "either",
    "inner",
    "share",
    "term",
]


SHARED = Operation(
    name="let",
    rows=same(*(each for each in Type if each in SHAREABLE)),
    summary="a stream computed once and used in several places",
    equation=r"{0}_t",
    weight=0.0,
    shares=True,
)

FAMILIES: dict[str, tuple[Operation, ...]] = {
    "streams": STREAMS,
    "features": FEATURE_MAPS,
    "values": VALUE_OPERATIONS,
    "gates and decays": GATE_OPERATIONS,
    "scores": SCORE_OPERATIONS,
    "masks": MASK_OPERATIONS,
    "kernels": KERNEL_OPERATIONS,
    "normalisers": NORMALISERS,
    "positions": POSITION_OPERATIONS,
    "projections": PROJECTIONS,
    "recurrences": RECURRENCES,
    "readouts": READOUTS,
    "convolutions": CONVOLUTIONS,
    "memory": MEMORIES,
    "mixers": MIXERS,
    "channel mixers": CHANNELS,
    "blocks": BLOCKS,
    "stacks": STACKS,
}

OPERATIONS: dict[str, Operation] = {each.name: each for family in FAMILIES.values() for each in family}
"""Every operation that text can name. `let` is syntax and not in this table."""

assert len(OPERATIONS) == sum(map(len, FAMILIES.values())), "two operations have one name"


def share(value: Term) -> Term:
    """A new shared node: use the returned object in several places of one mixer."""
    if value.type not in SHAREABLE:
        raise TermError(f"a `let` cannot bind a {value.type.value}: bind the features, values or gates it is made of")
    return value if value.operation.shares else Term(SHARED, (), (value,), value.type)


def term(name: str, *arguments: Term, **values: Value) -> Term:
    """`term("window", width=8)`: the checked constructor that people and the parser use."""
    operation = OPERATIONS[name]
    unknown = set(values) - set(operation.position)
    if unknown:
        raise TermError(f"`{name}` has no parameter {sorted(unknown)}; it has {list(operation.position) or 'none'}")
    chosen = tuple(values.get(parameter.name, parameter.default) for parameter in operation.parameters)
    for parameter, value in zip(operation.parameters, chosen, strict=True):
        if value not in parameter.choices:
            raise TermError(f"`{name}` {parameter.name}={value!r}: choose one of {list(parameter.choices)}")
    signature = operation.signatures.get(tuple(argument.type for argument in arguments))
    if signature is None:
        raise TermError(operation.mismatch([argument.type for argument in arguments]))
    return Term(operation, chosen, arguments, signature)
