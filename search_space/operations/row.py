"""What a row of the table of operations holds, and the sizes at which its costs are counted."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product

from archloom.search_space.patterns import CAUSAL, EVERY, Pattern
from archloom.search_space.terms import Term, Value
from archloom.search_space.types import FEATURES, Type

Signature = tuple[tuple[Type | tuple[Type, ...], ...], Type]
HEADS = (1, 2, 4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """The sizes that costs are counted at. `hidden` is the inner width of channel mixers, `length` tokens."""

    width: int
    heads: int
    key: int
    value: int
    hidden: int
    length: int
    pattern: Pattern = CAUSAL


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A number or word that an operation carries; `choices` are all it may be, `default` what text may omit.

    `drawn` are the choices that sampling draws; the others come by mutation or are written.
    """

    name: str
    choices: tuple[Value, ...]
    default: Value
    drawn: tuple[Value, ...]


Cost = Callable[[Shape, "Term", int], int]
"""(shape, term, heads of the term) -> parameters, FLOPs per token, or state floats."""


def _nothing(shape: Shape, term: Term, heads: int) -> int:
    return 0


def _one_block(term: Term, inner: Sequence[int]) -> int:
    return max(inner, default=0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Operation:
    """One row. `weight` is its prior weight in sampling (0: never drawn, only written by a person or the zoo)."""

    name: str
    rows: tuple[Signature, ...]
    parameters: tuple[Parameter, ...] = ()
    summary: str
    equation: str
    commutative: bool = False
    weight: float = 1.0
    weights: Cost = _nothing  # trainable numbers of its own
    flops: Cost = _nothing  # forward floating-point operations per token
    state: Cost = _nothing  # numbers a decoder must carry for it
    blocks: Callable[[Term, Sequence[int]], int] = _one_block  # depth in blocks, from those of the arguments
    stride: int = 1  # tokens that one token inside stands for
    scopes: bool = False  # a mixer: the boundary of sharing
    shares: bool = False  # the `let` node
    patterns: frozenset[Pattern] = EVERY  # those under which it has a meaning
    parametric: bool = False  # owns weights
    divides: bool = field(init=False)  # has a `share`: fewer heads than the mixer
    arity: int = field(init=False)
    _accepted: list[list[Type]] = field(init=False, default_factory=list)
    signatures: dict[tuple[Type, ...], Type] = field(init=False, default_factory=dict)
    position: dict[str, int] = field(init=False, default_factory=dict)
    heads: dict[tuple[Value, ...], str] = field(init=False, default_factory=dict)  # how a key begins
    tails: dict[tuple[Value, ...], str] = field(init=False, default_factory=dict)  # how its text ends

    def __post_init__(self) -> None:
        object.__setattr__(self, "arity", len(self.rows[0][0]))
        object.__setattr__(self, "divides", any(parameter.name == "share" for parameter in self.parameters))
        for arguments, result in self.rows:
            for choice in product(*(each if isinstance(each, tuple) else (each,) for each in arguments)):
                if choice in self.signatures:
                    raise ValueError(f"{self.name}: two rows match {choice}")
                self.signatures[choice] = result
        self.position.update({parameter.name: i for i, parameter in enumerate(self.parameters)})
        for values in product(*(parameter.choices for parameter in self.parameters)):
            shown = ";".join(f"{p.name}={v}" for p, v in zip(self.parameters, values, strict=True))
            self.heads[values] = f"{self.name}[{shown}](" if shown else f"{self.name}("
            written = ", ".join(f"{p.name}={v}" for p, v in zip(self.parameters, values, strict=True))
            bare = f"{self.name}({written})" if written else self.name
            self.tails[values] = (f", {written})" if written else ")") if self.arity else bare

        for index in range(self.arity):
            types = {arguments[index] for arguments in self.signatures}
            self._accepted.append([each for each in Type if each in types])

    def accepted(self, index: int) -> list[Type]:
        """The types that argument `index` may have, in declaration order."""
        return self._accepted[index]

    def mismatch(self, given: Sequence[Type]) -> str:
        """Why these argument types fit no signature."""
        if len(given) != self.arity:
            return f"`{self.name}` takes {self.arity} argument{'s' * (self.arity != 1)}, got {len(given)}"
        for index, each in enumerate(given):
            if each not in self.accepted(index):
                return f"argument {index + 1} of `{self.name}` must be {either(self.accepted(index))}, got {each.value}"
        return f"`{self.name}` has no form for ({', '.join(each.value for each in given)})"


def either(types: Iterable[Type]) -> str:
    """'a score or positive score': types as an error names them."""
    names = [each.value for each in types]
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def choice(
    name: str, *choices: Value, default: Value | None = None, drawn: tuple[Value, ...] | None = None
) -> Parameter:
    return Parameter(
        name=name,
        choices=choices,
        default=choices[0] if default is None else default,
        drawn=choices if drawn is None else drawn,
    )


def same(*types: Type) -> tuple[Signature, ...]:
    return tuple(((each,), each) for each in types)


def inner(term: Term, shape: Shape) -> int:
    """Channels per head of a feature or value; the width of a stream or latent (whose head count is 1)."""
    if term.type is Type.STREAM:
        return shape.width
    if term.type is Type.LATENT:
        return inner(term.arguments[0], shape) if term.operation.shares else _latent_width(term, shape)
    return shape.key if term.type in FEATURES else shape.value


def _latent_width(term: Term, shape: Shape) -> int:
    """At least two channels: the normalisation of one leaves its sign alone."""
    return max(2, shape.width // term.integer("part"))
