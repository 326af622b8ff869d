"""The table of modules by operation name, and the compiler of one mixer."""

from archloom.evaluator.modules import (
    convolutions,
    features,
    filters,
    gates,
    kernels,
    masks,
    memory,
    normalisers,
    positions,
    projections,
    readouts,
    recurrences,
    scores,
    streams,
    values,
)
from archloom.evaluator.modules.base import Operator, Shared
from archloom.evaluator.modules.passes import Pass
from archloom.search_space.costs import Widths
from archloom.search_space.operations import SHARED
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.plans import heads_of
from archloom.search_space.terms import Term

MODULES: dict[str, type[Operator]] = {
    **streams.MODULES,
    **features.MODULES,
    **values.MODULES,
    **gates.MODULES,
    **scores.MODULES,
    **masks.MODULES,
    **kernels.MODULES,
    **filters.MODULES,
    **normalisers.MODULES,
    **positions.MODULES,
    **projections.MODULES,
    **recurrences.MODULES,
    **readouts.MODULES,
    **convolutions.MODULES,
    **memory.MODULES,
    "apply": Pass,
    "resolve": Pass,
    "let": Shared,
}
"""Every operation inside a mixer. To add one, write its class and a row in the file of its family, and its row in
`search_space/operations`."""


def compile_mixer(mixer: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> Operator:
    """The module of a mixer's body; a shared node becomes one module with several readers."""
    heads = mixer.integer("heads")
    shape = widths.shape(heads, length, inner=mixer.integer("inner"), pattern=pattern)
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
