"""How a kernel will be applied, read off its term: lowering by attributes and never by name.

`plan(kernel)` peels a kernel into its parts (damping gates, row normalisation, mask, head decays, score nonlinearity,
base score) and says which pass serves it:

    LINEAR    finite rank: chunkwise pass with a state, linear in T
    SOFTMAX   row-normalised exponential scores: fused attention
    TOEPLITZ  long convolution by FFT
    DENSE     everything else: the literal L x L operator, which is also the oracle of the other three
"""

from dataclasses import dataclass
from enum import Enum

from archloom.search_space.operations import Shape
from archloom.search_space.terms import Term
from archloom.search_space.types import FEATURES, VALUES, Type


class Form(Enum):
    LINEAR = "linear"
    SOFTMAX = "softmax"
    TOEPLITZ = "toeplitz"
    DENSE = "dense"


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The parts of a kernel term. `query`, `key` are feature terms; `gate` multiplies rows of the score (gram, damp).

    `head_decays` are summed; `channel_decay` belongs to the inner product; `taylor` marks the feature map of taylor2.
    For TOEPLITZ and DENSE only `form` and `window` are meaningful.
    """

    form: Form
    query: Term | None = None
    key: Term | None = None
    gate: Term | None = None
    head_decays: tuple[Term, ...] = ()
    channel_decay: Term | None = None
    taylor: bool = False
    normalised: bool = False
    window: int | None = None

    @property
    def parts(self) -> tuple[Term, ...]:
        """Every term the pass reads."""
        named = (self.query, self.key, self.gate, self.channel_decay)
        return (*(each for each in named if each is not None), *self.head_decays)

    @property
    def linear_in_length(self) -> bool:
        return self.form is Form.LINEAR or (self.form is Form.SOFTMAX and self.window is not None)


_DENSE = Plan(form=Form.DENSE)


def plan(kernel: Term) -> Plan:
    """The plan of a kernel term."""
    node, normalised = kernel, False
    if node.operation.name == "toeplitz":
        return Plan(form=Form.TOEPLITZ)
    if node.operation.name == "rownorm":
        node, normalised = node.arguments[0], True
    if node.operation.name not in ("causal", "window"):
        return _DENSE
    window = node.integer("width") if node.operation.name == "window" else None
    decays, score = _peel_decays(node.arguments[0])
    if score.operation.name == "exp" and normalised and score.arguments[0].operation.name == "dot":
        query, key = score.arguments[0].arguments
        return Plan(form=Form.SOFTMAX, query=query, key=key, head_decays=decays, normalised=True, window=window)
    if window is not None:
        return Plan(form=Form.DENSE, window=window)
    return _linear(score, decays, normalised)


def _linear(score: Term, decays: tuple[Term, ...], normalised: bool) -> Plan:
    taylor = score.operation.name == "taylor2"
    base = score.arguments[0] if taylor else score
    match base.operation.name:
        case "dot":
            query, key = base.arguments
            return Plan(
                form=Form.LINEAR, query=query, key=key, head_decays=decays, taylor=taylor, normalised=normalised
            )
        case "decayed_dot" if not taylor:
            query, key, channel = base.arguments
            return Plan(
                form=Form.LINEAR,
                query=query,
                key=key,
                head_decays=decays,
                channel_decay=channel,
                normalised=normalised,
            )
        case "gram":
            key, gate = base.arguments
            return Plan(form=Form.LINEAR, query=key, key=key, gate=gate, head_decays=decays)
        case "decayed_gram":
            key, gate, channel = base.arguments
            return Plan(form=Form.LINEAR, query=key, key=key, gate=gate, head_decays=decays, channel_decay=channel)
        case _:
            return _DENSE


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
        and reader.gate is None
        and not reader.taylor
        and not reader.normalised
        and reader.key is writer.key
        and reader.channel_decay is writer.channel_decay
        and len(reader.head_decays) == len(writer.head_decays)
        and all(a is b or _same_constant(a, b) for a, b in zip(reader.head_decays, writer.head_decays, strict=True))
    )


def _same_constant(a: Term, b: Term) -> bool:
    return a.operation.name == b.operation.name == "retention"


def heads_of(term: Term, heads: int) -> int:
    """How many heads a per-head term has in a mixer of `heads` heads (`share` makes fewer); 1 for a stream."""
    if term.type is Type.STREAM:
        return 1
    if "share" in term.operation.position:
        return max(1, heads // term.integer("share"))
    if term.type not in FEATURES and term.type not in VALUES:
        return _score_heads(term, heads)
    return max((heads_of(each, heads) for each in term.arguments if each.type is not Type.STREAM), default=heads)


def _score_heads(term: Term, heads: int) -> int:
    """Heads of a score or kernel: those of its features; gates, decays, filters and dense kernels have all of them."""
    parts = [each for each in term.arguments if each.type is not Type.STREAM]
    if not parts or term.type in (Type.GATE, Type.DOUBLE_GATE, Type.STEP, Type.HEAD_DECAY, Type.CHANNEL_DECAY):
        return heads
    return max(heads_of(each, heads) for each in parts)


def feature_width(the: Plan, shape: Shape) -> int:
    """Rank of a LINEAR plan: the key width, or 1 + K + K^2 under taylor2."""
    return 1 + shape.key + shape.key**2 if the.taylor else shape.key
