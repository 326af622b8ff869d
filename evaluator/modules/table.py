"""The table of modules by operation name, and the compiler of one mixer."""

from archloom.evaluator.modules import elementwise as e
from archloom.evaluator.modules import scores as s
from archloom.evaluator.modules.base import Operator, Shared
from archloom.evaluator.modules.passes import Pass
from archloom.search_space.costs import Widths
from archloom.search_space.operations import SHARED
from archloom.search_space.plans import heads_of
from archloom.search_space.terms import Term


class Toeplitz(Operator):
    """A filter as a kernel; `Pass` reads the filter's taps."""


MODULES: dict[str, type[Operator]] = {
    "x": e.Input,
    "shift": e.Shift,
    "project": e.Projection,
    "value": e.Projection,
    "conv": e.ShortConvolution,
    "silu": e.Silu,
    "elu1": e.EluPlusOne,
    "relu": e.Relu,
    "channel_softmax": e.ChannelSoftmax,
    "unit": e.Unit,
    "rotary": e.Rotary,
    "norm": e.HeadNorm,
    "scale": e.Scale,
    "weigh": e.Weigh,
    "mul": e.Multiply,
    "add": e.Add,
    "beta": e.Beta,
    "double": e.Double,
    "step": e.Step,
    "retention": e.Retention,
    "forget": e.Forget,
    "selective": e.Selective,
    "forget_channels": e.ForgetChannels,
    "selective_channels": e.SelectiveChannels,
    "sigmoid": e.Sigmoid,
    "dot": s.Dot,
    "decayed_dot": s.DecayedDot,
    "gram": s.Gram,
    "decayed_gram": s.DecayedGram,
    "decay": s.Decay,
    "exp": s.Exp,
    "taylor2": s.Taylor2,
    "relu2": s.Relu2,
    "times": s.Times,
    "causal": s.Mask,
    "window": s.Mask,
    "rownorm": s.RowNorm,
    "damp": s.Damp,
    "dense": s.DenseKernel,
    "implicit": s.ImplicitFilter,
    "exponential": s.ExponentialFilter,
    "toeplitz": Toeplitz,
    "apply": Pass,
    "resolve": Pass,
    "let": Shared,
}
"""Every operation inside a mixer. To add one, write its class and a row here and in `search_space/operations.py`."""


def compile_mixer(mixer: Term, *, widths: Widths, length: int) -> Operator:
    """The module of a mixer's body; a shared node becomes one module with several readers."""
    heads = mixer.integer("heads")
    shape = widths.shape(heads, length)
    modules: dict[int, Operator] = {}

    def build(node: Term) -> Operator:
        if id(node) not in modules:
            modules[id(node)] = MODULES[node.operation.name](
                term=node, shape=shape, heads=heads_of(node, heads), inputs=[build(each) for each in node.arguments]
            )
        return modules[id(node)]

    body = build(separated(mixer.arguments[0]))
    for module in modules.values():
        if isinstance(module, Pass):
            module.bind(modules)
    return body


def separated(body: Term) -> Term:
    """The same term in which only shared nodes are one object in several places: equal subterms get own weights."""
    memo: dict[int, Term] = {}

    def copy(node: Term) -> Term:
        if id(node) in memo:
            return memo[id(node)]
        fresh = Term(node.operation, node.values, tuple([copy(each) for each in node.arguments]), node.type)
        if node.operation is SHARED:
            memo[id(node)] = fresh
        return fresh

    return copy(body)
