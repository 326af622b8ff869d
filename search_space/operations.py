"""The one table of operations: what a term can be made of, how each is typed, and what it costs.

To add an operation, add a row here and a module of the same name in `evaluator/modules`. The row holds its signatures
(argument types -> result type), its parameters with their allowed values, a one-line description, its equation, and its
own cost at a `Shape`; the grammar, the text form, sampling, variation and documentation follow from the row.
The cost of applying a kernel depends on how it is lowered and is found in `costs.py`.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import TypedDict

from archloom.search_space.terms import Term, TermError, Value
from archloom.search_space.types import FEATURES, GATES, KERNELS, SCORES, SHAREABLE, VALUES, Type

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


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """A number or word that an operation carries; `choices` are all it may be, `default` what text may omit."""

    name: str
    choices: tuple[Value, ...]
    default: Value


Cost = Callable[[Shape, "Term", int], int]
"""(shape, term, heads of the term) -> parameters, FLOPs per token, or state floats."""


class _Linear(TypedDict):
    """The costs of a linear map, for `Operation(**...)`."""

    weights: Cost
    flops: Cost


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
    scopes: bool = False  # a mixer: the boundary of sharing
    shares: bool = False  # the `let` node
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


def choice(name: str, *choices: Value, default: Value | None = None) -> Parameter:
    return Parameter(name=name, choices=choices, default=choices[0] if default is None else default)


def same(*types: Type) -> tuple[Signature, ...]:
    return tuple(((each,), each) for each in types)


def inner(term: Term, shape: Shape) -> int:
    """Channels per head of a feature or value; the model width of a stream (whose head count is 1)."""
    if term.type is Type.STREAM:
        return shape.width
    return shape.key if term.type in FEATURES else shape.value


S, F, V, M, X = Type.SCORE, FEATURES, Type.VALUE, Type.MIXED, Type.STREAM
SHARE = choice("share", 1, 2, 4)
WIDTH = choice("width", 2, 3, 4, default=4)
RANK = choice("rank", 4, 8, 16, default=16)


def _projection(width: Callable[[Shape], int]) -> _Linear:
    return {
        "weights": lambda s, t, h: s.width * h * width(s),
        "flops": lambda s, t, h: 2 * s.width * h * width(s),
    }


def _output_weights(shape: Shape, term: Term, heads: int) -> int:
    return heads * shape.value * shape.width


def _output_flops(shape: Shape, term: Term, heads: int) -> int:
    return 2 * _output_weights(shape, term, heads)


def _per_head_gate() -> _Linear:
    return {
        "weights": lambda s, t, h: (s.width + 1) * s.heads,
        "flops": lambda s, t, h: 2 * s.width * s.heads,
    }


def _low_rank(extra: int) -> _Linear:
    return {
        "weights": lambda s, t, h: (
            s.width * t.integer("rank") + (t.integer("rank") + 1) * s.heads * s.key + extra * s.heads
        ),
        "flops": lambda s, t, h: 2 * t.integer("rank") * (s.width + s.heads * s.key),
    }


def _elementwise(count: int = 1) -> Cost:
    return lambda s, t, h: count * h * inner(t, s)


def _score_each(count: int) -> Cost:
    return lambda s, t, h: count * h * s.length // 2


STREAMS = (
    Operation(name="x", rows=(((), X),), summary="the block's normalised input", equation=r"x_t"),
    Operation(
        name="shift",
        rows=same(X),
        summary="token shift: a learned blend, channel by channel, of this token and the one before",
        equation=r"\mu \odot {0}_{t-1} + (1 - \mu) \odot {0}_t",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: s.width,
        flops=lambda s, t, h: 3 * s.width,
        state=lambda s, t, h: s.width,
    ),
)

FEATURE_MAPS = (
    Operation(
        name="project",
        rows=(((X,), Type.FEATURE),),
        parameters=(SHARE,),
        summary="linear projection to features; `share` query heads use one head of it",
        equation=r"W {0}_t",
        weight=3.0,
        parametric=True,
        **_projection(lambda s: s.key),
    ),
    Operation(
        name="conv",
        rows=((((X,)), X), ((F,), Type.FEATURE), *same(V, M)),
        parameters=(WIDTH,),
        summary="short causal depthwise convolution",
        equation=r"\sum_{j<w} c_j \odot {0}_{t-j}",
        weight=0.5,
        parametric=True,
        weights=lambda s, t, h: h * inner(t, s) * t.integer("width"),
        flops=lambda s, t, h: 2 * h * inner(t, s) * t.integer("width"),
        state=lambda s, t, h: h * inner(t, s) * (t.integer("width") - 1),
    ),
    Operation(
        name="silu",
        rows=(((Type.FEATURE,), Type.FEATURE), *same(V, M)),
        summary="SiLU, entry by entry",
        equation=r"\mathrm{silu}({0}_t)",
        weight=0.4,
        flops=_elementwise(4),
    ),
    Operation(
        name="elu1",
        rows=(((Type.FEATURE,), Type.POSITIVE_FEATURE),),
        summary="ELU plus one: a positive feature map",
        equation=r"\mathrm{elu}({0}_t) + 1",
        flops=_elementwise(3),
    ),
    Operation(
        name="relu",
        rows=(((Type.FEATURE,), Type.POSITIVE_FEATURE),),
        summary="ReLU: a non-negative, sparse feature map",
        equation=r"\mathrm{relu}({0}_t)",
        weight=0.5,
        flops=_elementwise(),
    ),
    Operation(
        name="channel_softmax",
        rows=(((Type.FEATURE,), Type.POSITIVE_FEATURE),),
        summary="softmax over the channels of each head",
        equation=r"\mathrm{softmax}_K({0}_t)",
        weight=0.5,
        flops=_elementwise(5),
    ),
    Operation(
        name="unit",
        rows=(((Type.FEATURE,), Type.UNIT_FEATURE), ((Type.POSITIVE_FEATURE,), Type.UNIT_FEATURE)),
        summary="l2 normalisation of each head",
        equation=r"{0}_t / \lVert {0}_t \rVert_2",
        weight=2.0,
        flops=_elementwise(4),
    ),
    Operation(
        name="rotary",
        rows=same(Type.FEATURE, Type.UNIT_FEATURE),
        summary="rotary position embedding",
        equation=r"R_t {0}_t",
        weight=0.5,
        flops=_elementwise(3),
    ),
    Operation(
        name="norm",
        rows=same(Type.FEATURE, V, M),
        summary="RMS normalisation of each head with a learned scale shared by the heads",
        equation=r"\gamma \odot {0}_t / \mathrm{rms}({0}_t)",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: inner(t, s),
        flops=_elementwise(5),
    ),
)

VALUE_OPERATIONS = (
    Operation(
        name="value",
        rows=(((X,), V),),
        parameters=(SHARE,),
        summary="linear projection to values; `share` query heads use one head of it",
        equation=r"W {0}_t",
        weight=3.0,
        parametric=True,
        **_projection(lambda s: s.value),
    ),
    Operation(
        name="scale",
        rows=tuple(((each, GATES), each) for each in VALUES),
        summary="values scaled token by token by a gate or step",
        equation=r"{1}_t \, {0}_t",
        flops=_elementwise(),
    ),
    Operation(
        name="weigh",
        rows=same(*VALUES),
        summary="learned scale of each channel of each head",
        equation=r"w \odot {0}_t",
        weight=0.2,
        parametric=True,
        weights=lambda s, t, h: h * s.value,
        flops=_elementwise(),
    ),
    Operation(
        name="mul",
        rows=(((V, V), V), ((V, M), M), ((M, V), M), ((M, M), M)),
        summary="elementwise product: gating",
        equation=r"{0}_t \odot {1}_t",
        weight=1.0,
        commutative=True,
        flops=_elementwise(),
    ),
    Operation(
        name="add",
        rows=(((V, V), V), ((V, M), M), ((M, V), M), ((M, M), M)),
        summary="sum",
        equation=r"{0}_t + {1}_t",
        commutative=True,
        weight=0.4,
        flops=_elementwise(),
    ),
    Operation(
        name="apply",
        rows=(((KERNELS, VALUES), M),),
        summary="a kernel applied to values",
        equation=r"\sum_{s \le t} {0}_{ts} \, {1}_s",
        weight=4.0,
    ),
    Operation(
        name="resolve",
        rows=(((Type.CONTRACTION, VALUES), M),),
        summary="strictly causal resolvent of a contraction: the write of the delta rule",
        equation=r"\left[(I + \mathrm{strict}({0}))^{-1} {1}\right]_t",
        weight=30.0,
    ),
)

GATE_OPERATIONS = (
    Operation(
        name="beta",
        rows=(((X,), Type.GATE),),
        summary="a sigmoid gate per head",
        equation=r"\sigma(w^\top {0}_t + b)",
        parametric=True,
        **_per_head_gate(),
    ),
    Operation(
        name="double",
        rows=(((Type.GATE,), Type.DOUBLE_GATE),),
        summary="a gate stretched to (0,2): negative eigenvalues for a delta rule",
        equation=r"2 \, {0}_t",
        flops=lambda s, t, h: s.heads,
    ),
    Operation(
        name="step",
        rows=(((X,), Type.STEP),),
        summary="a positive step size per head",
        equation=r"\mathrm{softplus}(w^\top {0}_t + b)",
        parametric=True,
        **_per_head_gate(),
    ),
    Operation(
        name="retention",
        rows=(((), Type.HEAD_DECAY),),
        summary="fixed decay, slower from head to head (RetNet)",
        equation=r"\log(1 - 2^{-5-h})",
    ),
    Operation(
        name="forget",
        rows=(((X,), Type.HEAD_DECAY),),
        summary="data-dependent forget gate per head, as log decay",
        equation=r"\log \sigma(w^\top {0}_t + b)",
        parametric=True,
        **_per_head_gate(),
    ),
    Operation(
        name="selective",
        rows=(((Type.STEP,), Type.HEAD_DECAY),),
        summary="decay of a discretised state space: learned rate times step (Mamba-2)",
        equation=r"-e^{a} \, {0}_t",
        parametric=True,
        weights=lambda s, t, h: s.heads,
        flops=lambda s, t, h: s.heads,
    ),
    Operation(
        name="forget_channels",
        rows=(((X,), Type.CHANNEL_DECAY),),
        parameters=(RANK,),
        summary="low-rank data-dependent forget gate per channel (GLA)",
        equation=r"\tfrac{1}{16} \log \sigma(W_2 W_1 {0}_t + b)",
        parametric=True,
        **_low_rank(0),
    ),
    Operation(
        name="selective_channels",
        rows=(((X,), Type.CHANNEL_DECAY),),
        parameters=(RANK,),
        summary="low-rank data-dependent decay per channel with a learned rate per head (KDA)",
        equation=r"-e^{a} \, \mathrm{softplus}(W_2 W_1 {0}_t + b)",
        parametric=True,
        **_low_rank(1),
    ),
)

_SIGNED_PAIRS = tuple(
    ((a, b), Type.POSITIVE_SCORE if a is b is Type.POSITIVE_FEATURE else Type.SCORE) for a in F for b in F
)
_GRAMS = ((Type.GATE, Type.GRAM), (Type.DOUBLE_GATE, Type.DOUBLE_GRAM))
_SIGNS = (Type.SCORE, Type.POSITIVE_SCORE)

SCORE_OPERATIONS = (
    Operation(
        name="dot",
        rows=_SIGNED_PAIRS,
        summary="scaled inner products of queries and keys",
        equation=r"K^{-1/2} \langle {0}_t, {1}_s \rangle",
        weight=3.0,
    ),
    Operation(
        name="decayed_dot",
        rows=tuple(((*pair, Type.CHANNEL_DECAY), result) for pair, result in _SIGNED_PAIRS),
        summary="inner products decayed channel by channel between source and query",
        equation=r"K^{-1/2} \sum_i {0}_{ti} {1}_{si} e^{G_{ti} - G_{si}},\; G = \mathrm{cumsum}({2})",
        weight=2.0,
    ),
    Operation(
        name="gram",
        rows=tuple(((Type.UNIT_FEATURE, gate), result) for gate, result in _GRAMS),
        summary="how much a unit key overlaps earlier ones, times a gate: what a delta rule erases",
        equation=r"{1}_t \langle {0}_t, {0}_s \rangle",
        weight=4.0,
    ),
    Operation(
        name="decayed_gram",
        rows=tuple(((Type.UNIT_FEATURE, gate, Type.CHANNEL_DECAY), result) for gate, result in _GRAMS),
        summary="gram score decayed channel by channel",
        equation=r"{1}_t \sum_i {0}_{ti} {0}_{si} e^{G_{ti} - G_{si}},\; G = \mathrm{cumsum}({2})",
        weight=4.0,
    ),
    Operation(
        name="decay",
        rows=tuple(((each, Type.HEAD_DECAY), each) for each in SCORES),
        summary="scores decayed between source and query, head by head",
        equation=r"{0}_{ts} \, e^{G_t - G_s},\; G = \mathrm{cumsum}({1})",
        weight=2.0,
    ),
    Operation(
        name="exp",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="exponential of scores",
        equation=r"e^{{0}_{ts}}",
        weight=2.0,
        flops=_score_each(1),
    ),
    Operation(
        name="taylor2",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="second-order Taylor polynomial of exp: positive and still of finite rank",
        equation=r"1 + {0}_{ts} + {0}_{ts}^2 / 2",
    ),
    Operation(
        name="relu2",
        rows=(((S,), Type.POSITIVE_SCORE),),
        summary="squared ReLU of scores",
        equation=r"\mathrm{relu}({0}_{ts})^2",
        weight=0.5,
        flops=_score_each(2),
    ),
    Operation(
        name="sigmoid",
        rows=(((S,), Type.POSITIVE_SCORE), *same(V, M)),
        summary="sigmoid, entry by entry: positive scores, or values that gate others",
        equation=r"\sigma({0})",
        weight=0.2,
        flops=lambda s, t, h: 3 * h * (s.length // 2 if t.type is Type.POSITIVE_SCORE else s.value),
    ),
    Operation(
        name="times",
        rows=tuple(
            ((a, b), Type.POSITIVE_SCORE if a is b is Type.POSITIVE_SCORE else S) for a in _SIGNS for b in _SIGNS
        ),
        summary="elementwise product of scores",
        equation=r"{0}_{ts} \, {1}_{ts}",
        commutative=True,
        weight=0.3,
        flops=_score_each(1),
    ),
)

KERNEL_OPERATIONS = (
    Operation(
        name="causal",
        rows=(
            ((S,), Type.KERNEL),
            ((Type.POSITIVE_SCORE,), Type.POSITIVE_KERNEL),
            (((Type.GRAM, Type.DOUBLE_GRAM),), Type.CONTRACTION),
        ),
        summary="every earlier token and this one",
        equation=r"{0}_{ts} \, [s \le t]",
        weight=3.0,
    ),
    Operation(
        name="window",
        rows=(
            ((S,), Type.KERNEL),
            ((Type.POSITIVE_SCORE,), Type.POSITIVE_KERNEL),
            ((Type.GRAM,), Type.CONTRACTION),
        ),
        parameters=(choice("width", 4, 8, 16, 32, default=16),),
        summary="this token and the `width` - 1 before it",
        equation=r"{0}_{ts} \, [0 \le t - s < w]",
    ),
    Operation(
        name="rownorm",
        rows=(((Type.POSITIVE_KERNEL,), Type.NORMALISED_KERNEL),),
        summary="rows divided by their sums",
        equation=r"{0}_{ts} / \sum_r {0}_{tr}",
        weight=3.0,
    ),
    Operation(
        name="damp",
        rows=(((Type.NORMALISED_KERNEL, Type.GATE), Type.CONTRACTION),),
        summary="rows of a normalised kernel scaled by a gate: a contraction that `resolve` takes",
        equation=r"{1}_t \, {0}_{ts}",
    ),
    Operation(
        name="toeplitz",
        rows=(((Type.FILTER,), Type.KERNEL),),
        summary="long convolution with a filter per channel",
        equation=r"{0}_{t-s}",
        weight=0.15,
    ),
    Operation(
        name="dense",
        rows=(((), Type.KERNEL),),
        summary="one learned lower-triangular matrix per head, up to the protocol's length",
        equation=r"W_{ts}",
        weight=0.05,
        parametric=True,
        weights=lambda s, t, h: s.heads * (s.length * (s.length + 1) // 2),
    ),
    Operation(
        name="implicit",
        rows=(((), Type.FILTER),),
        summary="filter written by a small sine network of the position under an exponential window (Hyena)",
        equation=r"\mathrm{MLP}_{\sin}(\tau) \odot (e^{-\delta \tau} + c)",
        parametric=True,
        weights=lambda s, t, h: 5 * 16 + 16 + 16 * 16 + 16 + 16 * s.heads * s.value,
        flops=lambda s, t, h: 2 * 16 * (5 + 16 + s.heads * s.value),
    ),
    Operation(
        name="exponential",
        rows=(((), Type.FILTER),),
        parameters=(choice("order", 2, 4, 8, default=4),),
        summary="filter that sums learned decaying exponentials: a diagonal state space that ignores its input",
        equation=r"\sum_n c_n e^{-\lambda_n \tau}",
        parametric=True,
        weights=lambda s, t, h: 2 * t.integer("order") * s.heads * s.value,
        flops=lambda s, t, h: 2 * t.integer("order") * s.heads * s.value,
    ),
)

MIXERS = (
    Operation(
        name="mix",
        rows=(((M,), Type.MIXER),),
        parameters=(choice("heads", *HEADS, default=2),),
        summary="a mixer: heads are joined and projected back to the stream",
        equation=r"W_o {0}_t",
        scopes=True,
        parametric=True,
        weights=_output_weights,
        flops=_output_flops,
    ),
    Operation(
        name="pointwise",
        rows=(((V,), Type.MIXER),),
        parameters=(choice("heads", *HEADS, default=2),),
        summary="a mixer that mixes no tokens: the control",
        equation=r"W_o {0}_t",
        weight=0.0,
        scopes=True,
        parametric=True,
        weights=_output_weights,
        flops=_output_flops,
    ),
    Operation(
        name="together",
        rows=(((Type.MIXER, Type.MIXER), Type.MIXER),),
        summary="two mixers side by side, summed",
        equation=r"{0}(x) + {1}(x)",
        commutative=True,
        weight=60.0,  # two mixers are few among the terms of a size
    ),
    Operation(
        name="chain",
        rows=(((Type.MIXER, Type.MIXER), Type.MIXER),),
        summary="the second mixer reads the first one's output",
        equation=r"{1}({0}(x))",
        weight=20.0,
    ),
)

BLOCKS = (
    Operation(
        name="mlp",
        rows=(((), Type.CHANNEL),),
        parameters=(choice("activation", "gelu", "relu2", "silu"),),
        summary="two-layer channel mixer",
        equation=r"W_2\, \phi(W_1 x)",
        weight=3.0,
        parametric=True,
        weights=lambda s, t, h: 2 * s.width * s.hidden,
        flops=lambda s, t, h: 4 * s.width * s.hidden,
    ),
    Operation(
        name="glu",
        rows=(((), Type.CHANNEL),),
        parameters=(choice("activation", "silu", "gelu"),),
        summary="gated channel mixer",
        equation=r"W_3 (\phi(W_1 x) \odot W_2 x)",
        weight=3.0,
        parametric=True,
        weights=lambda s, t, h: 3 * s.width * s.hidden,
        flops=lambda s, t, h: 6 * s.width * s.hidden,
    ),
    Operation(
        name="none",
        rows=(((), Type.CHANNEL),),
        summary="no channel mixer; the mixer is widened to the same parameter count",
        equation=r"0",
        weight=0.5,
    ),
    Operation(
        name="block",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="pre-norm residual block: mixer, then channel mixer",
        equation=r"y = x + {0}(\mathrm{norm}\, x);\; y + {1}(\mathrm{norm}\, y)",
        weight=2.0,
        parametric=True,
        weights=lambda s, t, h: (1 if t.arguments[1].operation.name == "none" else 2) * s.width,
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="parallel",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="pre-norm residual block: mixer and channel mixer read the same input",
        equation=r"x + {0}(\mathrm{norm}\, x) + {1}(\mathrm{norm}\, x)",
        weight=0.5,
        parametric=True,
        weights=lambda s, t, h: s.width,
        blocks=lambda t, inner: 1,
    ),
)

MAX_TIMES = 64
TIMES = choice("times", *range(1, MAX_TIMES + 1))
PERIODS = (2, 3, 4, 6, 8)

STACKS = (
    Operation(
        name="repeat",
        rows=(((Type.BLOCK,), Type.STACK),),
        parameters=(TIMES,),
        summary="the block `times` times, each with weights of its own",
        equation=r"{0}^{\times n}",
        weight=3.0,
        blocks=lambda t, inner: t.integer("times"),
    ),
    Operation(
        name="every",
        rows=(((Type.BLOCK, Type.BLOCK), Type.STACK),),
        parameters=(choice("period", *PERIODS), TIMES),
        summary="a hybrid: `times` blocks of the first kind, but every `period`-th is of the second",
        equation=r"({0}^{\times p-1}, {1})^{\times}",
        weight=300.0,
        blocks=lambda t, inner: t.integer("times"),
    ),
    Operation(
        name="then",
        rows=(((Type.STACK, Type.STACK), Type.STACK),),
        summary="one stack after another",
        equation=r"{0}; {1}",
        weight=20.0,
        blocks=lambda t, inner: sum(inner),
    ),
)

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
    "kernels": KERNEL_OPERATIONS,
    "mixers": MIXERS,
    "blocks": BLOCKS,
    "stacks": STACKS,
}

OPERATIONS: dict[str, Operation] = {each.name: each for family in FAMILIES.values() for each in family}
"""Every operation that text can name. `let` is syntax and not in this table."""


def share(value: Term) -> Term:
    """A new shared node: use the returned object in several places of one mixer."""
    if value.type not in SHAREABLE:
        raise TermError(f"a `let` cannot bind a {value.type.value}: bind the features, values or gates it is made of")
    return value if value.operation.shares else Term(SHARED, (), (value,), value.type)


def term(name: str, *arguments: Term, **values: Value) -> Term:
    """`term("window", scores, width=8)`: the checked constructor that people and the parser use."""
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
