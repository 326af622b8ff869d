"""Weights refitted on elites: the grammar in which what has proved good is likelier.

A grammar draws a term of a given size with probability prod w(operation) / Z(size): an exponential family in the
logarithms of the weights, whose likelihood rises along observed minus expected counts (Della Pietra and others, IEEE
PAMI 19, 1997). Expected counts follow exactly from the counting tables. One multiplicative step is taken, as large as
still raises the likelihood of the elites. A shared stream is counted once, as if its later uses were not there.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from math import log

from archloom.errors import ConfigError
from archloom.search_space.grammar import Cell, Grammar, symbol
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.terms import Term, depth, size, walk
from archloom.search_space.types import Type

STEPS = (1.0, 0.5, 0.25, 0.125, 0.0625)
"""Exponents of the step, the largest that raises the likelihood being taken."""


def refit(elites: Sequence[Term], *, smoothing: float) -> dict[str, float]:
    """Weights for `Grammar(weights=...)`, by operation, under which architectures like the elites are likelier.

    An operation seen r times as often as the prior expects has its weight multiplied by (r + smoothing) /
    (1 + smoothing) at most: with `smoothing` > 0 none becomes 0, and the larger it is the nearer they are to the prior.
    Elites with an operation that is never drawn are left out; a ConfigError if none is left or `smoothing` is not > 0.
    """
    known = [term for term in elites if all(node.operation.weight > 0 for node in _nodes(term))]
    if not known:
        raise ConfigError(
            "no elite to refit the weights on: each has an operation that is never drawn, or there is none"
        )
    if not smoothing > 0:
        raise ConfigError(f"smoothing is {smoothing}: it must be above 0, or weights would become 0")
    prior = {name: operation.weight for name, operation in OPERATIONS.items() if operation.weight > 0}
    grammar = _grammar(known, prior)
    observed = Counter(node.operation.name for term in known for node in _nodes(term))
    expected = expected_counts(known, grammar)
    ratios = {
        name: (observed[name] / expected[name] + smoothing) / (1 + smoothing) if expected[name] > 0 else 1.0
        for name in prior
    }
    before = log_likelihood(known, grammar)
    for step in STEPS:
        weights = {name: weight * ratios[name] ** step for name, weight in prior.items()}
        if log_likelihood(known, _grammar(known, weights)) > before:
            return weights
    return prior


def log_likelihood(terms: Sequence[Term], grammar: Grammar) -> float:
    """The summed log probability that the grammar draws these architectures, given their sizes."""
    weights = {
        each.operation: each.weight / len(each.settings) for made in grammar.productions.values() for each in made
    }
    total = 0.0
    for term in terms:
        total += sum(log(weights[node.operation]) for node in _nodes(term)) - log(_cell(term, grammar).count)
    return total


def expected_counts(terms: Sequence[Term], grammar: Grammar) -> dict[str, float]:
    """How often each operation is expected in as many draws of the same sizes and depths."""
    uses: defaultdict[Cell, float] = defaultdict(float)
    for term in terms:
        uses[_cell(term, grammar)] += 1
    expected: defaultdict[str, float] = defaultdict(float)
    for count in range(grammar.max_size, 0, -1):  # arguments are smaller than what they are arguments of
        for cell in [cell for cell in uses if cell.size == count]:
            for weight, (production, children) in grammar.ways(cell):
                share = uses[cell] * weight / cell.count
                if production is not None:  # a row of arguments has no operation
                    expected[production.operation.name] += share
                for child in children:
                    uses[child] += share
    return expected


def _nodes(term: Term) -> list[Term]:
    return [node for node in walk(term) if not node.operation.shares]


def _cell(term: Term, grammar: Grammar) -> Cell:
    return grammar.cell(symbol(Type.STACK, depth(term)), size(term))


def _grammar(terms: Sequence[Term], weights: Mapping[str, float]) -> Grammar:
    return Grammar(depth=max(map(depth, terms)), max_size=max(map(size, terms)), weights=weights)
