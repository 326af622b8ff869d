"""How a kernel will be applied, read off its term: lowering by attributes and never by name.

`plan(kernel)` peels a kernel into its parts (damping gates, row normalisation, mask, head decays, score nonlinearity,
base score) and says which pass serves it:

    LINEAR    finite rank: chunkwise pass with a state, linear in T; a sum of inner products is one of joined features
    WINDOWED  finite rank in a window: blocks of a band, linear in T, over the last keys and values
    SOFTMAX   row-normalised exponential scores: fused attention
    SCORES    a function of every score, of which blocks of rows exist at a time: attention without a softmax
    TOEPLITZ  long convolution by FFT
    FEATURE_TOEPLITZ  finite rank times a factor of the lag: long convolutions of k v^T
    CIRCULAR  convolution around the ends of the sequence with a filter given by its spectrum, by FFT
    TAPS      a narrow band of given weights: one multiply-add per tap
    DENSE     everything else: the literal L x L operator, which is also the oracle of the others
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from typing import Literal

from archloom.search_space.operations import Shape, inner
from archloom.search_space.terms import Term
from archloom.search_space.types import MASKS, PER_HEAD, Type


class Form(Enum):
    LINEAR = "linear"
    WINDOWED = "windowed"
    SOFTMAX = "softmax"
    SCORES = "scores"
    TOEPLITZ = "toeplitz"
    FEATURE_TOEPLITZ = "feature toeplitz"
    CIRCULAR = "circular"
    TAPS = "taps"
    DENSE = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class Product:
    """An inner product of features, or the constant 1 if it has none, times the temperatures of the `temper` terms."""

    query: Term | None = None
    key: Term | None = None
    tempers: tuple[Term, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of a kernel term. `query`, `key` are feature terms; `gate` multiplies rows of the score (gram).

    `tempers` scale the inner product, and `added` are summed with it; `head_decays` are summed; `channel_decay` belongs
    to the inner product; `taylor` marks the feature map of taylor2, and `quad` is the term of a shifted square. Rows
    are divided by their sum where `normalised`, by their sum and one where also `sink`, by the number of visible tokens
    where `averaged`. `exclusive` kernels leave out the present token and its decay; `rate` multiplies keys, channel by
    channel; `turned` is the lrpe whose rates turn query and key; `route` spreads both, and a decay per head, over
    slots; `relative` holds the factor of the lag; `function` is that of the scores; `damp` multiplies rows of the
    kernel. For the other forms only `form` and
    `window` are meaningful.
    """

    form: Form
    query: Term | None = None
    key: Term | None = None
    tempers: tuple[Term, ...] = ()
    added: tuple[Product, ...] = ()
    gate: Term | None = None
    relative: Term | None = None
    head_decays: tuple[Term, ...] = ()
    channel_decay: Term | None = None
    taylor: bool = False
    quad: Term | None = None
    exclusive: bool = False
    rate: Term | None = None
    turned: Term | None = None
    route: Term | None = None
    normalised: bool = False
    sink: bool = False
    averaged: bool = False
    function: Literal["sigmoid", "relu2"] | None = None
    damp: Term | None = None
    window: int | None = None

    @property
    def products(self) -> tuple[Product, ...]:
        return (Product(query=self.query, key=self.key, tempers=self.tempers), *self.added)

    @property
    def keys(self) -> tuple[Term, ...]:
        """The keys whose channels lie side by side."""
        return tuple(each.key for each in self.products if each.key is not None)

    @property
    def parts(self) -> tuple[Term, ...]:
        """Every term the pass reads."""
        named = [part for each in self.products for part in (each.query, each.key, *each.tempers)]
        named += [
            self.gate,
            self.damp,
            self.quad,
            self.channel_decay,
            self.relative,
            self.rate,
            self.turned,
            self.route,
        ]
        return (*(each for each in named if each is not None), *self.head_decays)

    @property
    def held(self) -> int | None:
        """How many tokens before the present one the window holds; None for all."""
        return None if self.window is None else self.window - 1

    @property
    def linear_in_length(self) -> bool:
        bounded = self.form in (Form.SOFTMAX, Form.SCORES) and self.window is not None
        return bounded or self.form in (Form.LINEAR, Form.WINDOWED, Form.TAPS)


_DENSE = Plan(form=Form.DENSE)


def plan(kernel: Term) -> Plan:
    """The plan of a kernel term."""
    if kernel.type is Type.FILTER:
        return Plan(form=Form.TOEPLITZ)
    if kernel.type is Type.SPECTRUM:
        return Plan(form=Form.CIRCULAR)
    if kernel.operation.name == "damp":
        found = plan(kernel.arguments[0])
        served = found.form in (Form.SOFTMAX, Form.SCORES) and found.damp is None and not found.sink
        return replace(found, damp=kernel.arguments[1]) if served else _DENSE
    if kernel.operation.name == "taps":
        return Plan(form=Form.TAPS, window=kernel.integer("width"))
    by = kernel.operation.name if kernel.operation.name in _DIVISIONS else None
    node = kernel.arguments[0] if by else kernel
    normalised, sink, averaged = by in ("rownorm", "rownorm_plus_one"), by == "rownorm_plus_one", by == "rowmean"
    if node.operation.name in ("exclusive", "rated_gram") and not averaged:
        return replace(_exclusive(node), normalised=normalised, sink=sink)
    if node.operation.name != "masked" or node.arguments[1].operation.name not in ("visible", "window"):
        return _DENSE
    mask = node.arguments[1]
    window = mask.integer("width") if mask.operation.name == "window" else None
    decays, score = _peel_decays(node.arguments[0])
    if score.operation.name == "exp" and normalised and not (sink and (decays or mask.type is not Type.VISIBLE)):
        products = _products(score.arguments[0])
        if products and all(each.key is not None for each in products):
            found = replace(_of(products), form=Form.SOFTMAX, head_decays=decays, window=window)
            return replace(found, normalised=True, sink=sink)
    if score.operation.name in ("sigmoid", "relu2") and not (averaged and window):
        products = _products(score.arguments[0])
        if products and all(each.key is not None for each in products):
            function: Literal["sigmoid", "relu2"] = "sigmoid" if score.operation.name == "sigmoid" else "relu2"
            found = replace(_of(products), form=Form.SCORES, function=function, head_decays=decays, window=window)
            return replace(found, normalised=normalised, sink=sink, averaged=averaged)
    found = _linear(score, decays)
    if window is not None:
        if found.form is not Form.LINEAR or found.turned or found.route or averaged:
            return Plan(form=Form.DENSE, window=window)
        found = replace(found, form=Form.WINDOWED, window=window)
    if found is _DENSE:
        return found
    return replace(found, normalised=normalised, sink=sink, averaged=averaged)


_DIVISIONS = ("rownorm", "rownorm_plus_one", "rowmean")


def _linear(score: Term, decays: tuple[Term, ...]) -> Plan:
    square = score.operation.name in ("taylor2", "quad")
    base = score.arguments[0] if square else score
    products = _products(base)
    if products:
        taylor, quad = score.operation.name == "taylor2", score if score.operation.name == "quad" else None
        return replace(_of(products), head_decays=decays, taylor=taylor, quad=quad)
    match base.operation.name:
        case "decayed_dot" if not square:
            query, key, channel = base.arguments
            return Plan(form=Form.LINEAR, query=query, key=key, head_decays=decays, channel_decay=channel)
        case "lrpe" if not square:
            query, key = base.arguments
            return Plan(form=Form.LINEAR, query=query, key=key, head_decays=decays, turned=base)
        case "partitioned" if not square:
            query, key, route, decay = base.arguments
            return Plan(form=Form.LINEAR, query=query, key=key, head_decays=decays, channel_decay=decay, route=route)
        case "gram":
            key, gate = base.arguments
            return Plan(form=Form.LINEAR, query=key, key=key, gate=gate, head_decays=decays)
        case "decayed_gram":
            key, gate, channel = base.arguments
            return Plan(form=Form.LINEAR, query=key, key=key, gate=gate, head_decays=decays, channel_decay=channel)
        case "relative" if base.arguments[0].operation.name == "dot" and not (decays or square):
            query, key = base.arguments[0].arguments
            return Plan(form=Form.FEATURE_TOEPLITZ, query=query, key=key, relative=base)
        case _:
            return _DENSE


def _exclusive(kernel: Term) -> Plan:
    """The plan of a kernel over strictly earlier tokens."""
    query, second, decay = kernel.arguments
    if kernel.operation.name == "rated_gram":
        return Plan(form=Form.LINEAR, query=query, key=query, rate=second, channel_decay=decay, exclusive=True)
    if decay.type is Type.CHANNEL_DECAY:
        return Plan(form=Form.LINEAR, query=query, key=second, channel_decay=decay, exclusive=True)
    return Plan(form=Form.LINEAR, query=query, key=second, head_decays=(decay,), exclusive=True)


def _of(products: tuple[Product, ...]) -> Plan:
    first, *added = products
    return Plan(form=Form.LINEAR, query=first.query, key=first.key, tempers=first.tempers, added=tuple(added))


def _products(score: Term) -> tuple[Product, ...]:
    """The inner products that a score is the sum of; none if it is no such sum."""
    match score.operation.name:
        case "dot":
            return (Product(query=score.arguments[0], key=score.arguments[1]),)
        case "ones":
            return (Product(),)
        case "temper":
            return tuple(replace(each, tempers=(*each.tempers, score)) for each in _products(score.arguments[0]))
        case "plus":
            left, right = map(_products, score.arguments)
            return (*left, *right) if left and right else ()
        case _:
            return ()


def _peel_decays(score: Term) -> tuple[tuple[Term, ...], Term]:
    decays: list[Term] = []
    while score.operation.name == "decay":
        decays.append(score.arguments[1])
        score = score.arguments[0]
    return tuple(decays), score


def fuses(reader: Plan, writer: Plan) -> bool:
    """Whether apply(reader, resolve(writer, v)) is one delta-rule pass: same keys and decays, by sharing."""
    return (
        reader.form is writer.form is Form.LINEAR
        and writer.gate is not None
        and reader.gate is reader.turned is reader.route is None
        and not (reader.taylor or reader.quad or reader.added or reader.exclusive)
        and not (reader.normalised or reader.averaged)
        and reader.key is writer.key
        and reader.channel_decay is writer.channel_decay
        and len(reader.head_decays) == len(writer.head_decays)
        and all(a is b or _same_constant(a, b) for a, b in zip(reader.head_decays, writer.head_decays, strict=True))
    )


def _same_constant(a: Term, b: Term) -> bool:
    return a.operation is b.operation and a.operation.name in ("retention", "slopes")


def heads_of(term: Term, heads: int) -> int:
    """How many heads a per-head term has in a mixer of `heads` heads (`share` makes fewer); 1 for a stream or mask."""
    if term.type in _ONE_HEAD:
        return 1
    if "share" in term.operation.position:
        return max(1, heads // term.integer("share"))
    if term.type in PER_HEAD:
        return heads
    parts = [each for each in term.arguments if each.type not in _ONE_HEAD]
    return max((heads_of(each, heads) for each in parts), default=heads)


_ONE_HEAD = frozenset((Type.STREAM, Type.LATENT, Type.ROUTE, *MASKS))


def feature_width(the: Plan, shape: Shape) -> int:
    """Width of the joined features: the key width for each inner product and 1 for a constant, or 1 + K + K^2 of that K
    under a polynomial of second order; twice as much if turned, times the slots of a route."""
    width = sum(1 if each.key is None else shape.key for each in the.products)
    if the.taylor or the.quad:
        return 1 + width + width**2
    return width * (2 if the.turned else 1) * (slots(the.route) if the.route else 1)


def slots(route: Term) -> int:
    while route.operation.shares:
        (route,) = route.arguments
    return route.integer("slots")


def remembered(the: Plan, value: Term | None, shape: Shape) -> tuple[Term, ...]:
    """What a SOFTMAX or SCORES pass keeps of every token: its keys and the values it is applied to, or the latents they
    are expanded from where those are narrower."""
    read = _distinct(the.keys if value is None else (*the.keys, value))
    nodes = []
    for node in read:
        source = latent_of(node)
        shared = source is not None and source.operation.shares
        alike = [each for each in read if latent_of(each) is source] if shared else [node]
        narrower = source is not None and numbers(source, shape) < sum(numbers(each, shape) for each in alike)
        nodes.append(source if source is not None and narrower else node)
    return _distinct(nodes)


def _distinct(terms: Sequence[Term]) -> tuple[Term, ...]:
    """The terms without repeats of a shared node: what is not shared is computed wherever it stands."""
    return tuple(
        each for i, each in enumerate(terms) if not (each.operation.shares and any(each is one for one in terms[:i]))
    )


def latent_of(term: Term) -> Term | None:
    """The shared latent that features or values are expanded from, if they are."""
    while term.operation.shares:
        (term,) = term.arguments
    return term.arguments[0] if term.operation.name in ("expand", "expand_value") else None


def numbers(term: Term, shape: Shape) -> int:
    """Numbers that a feature, value or latent has per token."""
    return heads_of(term, shape.heads) * inner(term, shape)
