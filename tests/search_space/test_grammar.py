"""Counting: with equal weights the tables are the exact numbers of terms, and drawing in proportion is uniform."""

from collections import Counter
from functools import cache
from itertools import product
from random import Random

import pytest

from archloom.search_space.grammar import UNLIMITED, Grammar
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, size, walk
from archloom.search_space.text import one_line, parse
from archloom.search_space.types import Type

DEPTH = 2
ENUMERABLE = 3_000
LIMIT = 24  # eighths of D^2, a whole number of D^2

Written = tuple[str, int]
"""A term as text, and its depth in blocks (0 unless it is a stack)."""


@cache
def uniform() -> Grammar:
    return Grammar(depth=DEPTH, max_size=9, uniform=True)


@cache
def every_term(type_: Type, count: int) -> tuple[Written, ...]:
    """All terms of one type with `count` operations, by trying every operation, parameter value and division."""
    found = []
    for operation in OPERATIONS.values():
        if operation.weight == 0:
            continue
        for types, result in operation.signatures.items():
            if result is not type_:
                continue
            for sizes in product(range(1, count), repeat=len(types)):
                if 1 + sum(sizes) != count:
                    continue
                for inside in product(*(every_term(t, n) for t, n in zip(types, sizes, strict=True))):
                    for values in product(*([(p.name, v) for v in p.choices] for p in operation.parameters)):
                        blocks = dict(values).get("times", sum(each[1] for each in inside))
                        assert isinstance(blocks, int)
                        if blocks <= DEPTH:
                            parts = [each[0] for each in inside] + [f"{name}={value}" for name, value in values]
                            found.append((f"{operation.name}({', '.join(parts)})", blocks))
    return tuple(found)


@pytest.mark.parametrize("symbol", uniform().productions, ids=lambda symbol: f"{symbol[0].name}-{symbol[1]}")
def test_counts_are_those_of_an_enumeration(symbol: tuple[Type, int]) -> None:
    type_, blocks = symbol
    reached = 0
    for count in range(1, 10):
        claimed = uniform().count(symbol, count)
        if claimed > ENUMERABLE:
            break
        terms = [text for text, found in every_term(type_, count) if found == blocks]
        assert claimed == len(terms) == len(set(terms))
        reached += bool(terms)
    assert reached


def test_counts_of_the_smallest_architectures_by_hand() -> None:
    grammar = uniform()
    # mix(apply(dense, value(x))): 3 shares x 3 heads; conv(4 widths...) and the filters need one operation more
    assert grammar.count((Type.MIXER, 0), 5) == 3 * 3
    # mlp has 3 activations, glu 2, none 1; block and parallel
    assert grammar.count((Type.BLOCK, 0), 7) == 9 * 6 * 2
    assert grammar.count((Type.STACK, 2), 8) == 108  # repeat, with its one admissible `times`
    assert grammar.count((Type.STACK, 3), 8) == 0


@pytest.mark.parametrize(
    ("type_", "count"), [(Type.GRAM, 7), (Type.VALUE, 4), (Type.MIXER, 6), (Type.CONTRACTION, 8), (Type.STREAM, 4)]
)
def test_draws_are_uniform(type_: Type, count: int) -> None:
    """Chi-square against equal chances, with ten draws to a term: its spread is sqrt(2 df), 4.5 of them allowed."""
    grammar = uniform()
    sampler = Sampler(grammar=grammar, load=UNLIMITED, sharing=0.0)
    number = int(grammar.count((type_, 0), count))
    rng = Random(20)
    seen = Counter(one_line(sampler.of_size((type_, 0), count, rng)) for _ in range(10 * number))
    statistic = sum((seen[text] - 10) ** 2 / 10 for text in seen) + 10 * (number - len(seen))
    freedom = number - 1
    assert abs(statistic - freedom) < 4.5 * (2 * freedom) ** 0.5
    assert len(seen) > 0.99 * number


def test_draws_follow_weights() -> None:
    """Twice the weight of an operation doubles its share among the terms that differ in it alone."""
    sampled = []
    for weight in (1.0, 2.0):
        grammar = Grammar(depth=1, max_size=4, weights={"shift": weight})
        sampler = Sampler(grammar=grammar, load=UNLIMITED, sharing=0.0)
        rng = Random(3)
        draws = 4_000
        shifts = sum(sampler.of_size((Type.STREAM, 0), 2, rng).operation.name == "shift" for _ in range(draws))
        expected = weight / (weight + OPERATIONS["conv"].weight)
        assert shifts / draws == pytest.approx(expected, abs=4 * (expected * (1 - expected) / draws) ** 0.5)
        sampled.append(shifts)
    assert sampled[0] < sampled[1]


def test_a_limit_on_the_load_keeps_exactly_the_terms_within_it() -> None:
    """At a small size all draws under a limit are terms within it, and nearly all of those occur."""
    grammar = uniform()
    every = [text for text, _ in every_term(Type.MIXER, 7)]
    within = [text for text in every if grammar.load(walk(parse(text))) <= LIMIT]
    assert 0.1 * len(every) < len(within) < 0.9 * len(every)
    sampler = Sampler(grammar=grammar, load=LIMIT, sharing=0.0)
    rng = Random(4)
    drawn = {one_line(sampler.of_size((Type.MIXER, 0), 7, rng)) for _ in range(20 * len(within))}
    assert drawn <= {one_line(parse(text)) for text in within}
    assert len(drawn) > 0.9 * len(within)


def test_cells_know_their_extremes() -> None:
    grammar = uniform()
    for count in (5, 6, 7):
        loads = [grammar.load(walk(parse(text))) for text, _ in every_term(Type.MIXER, count)]
        cell = grammar.cell((Type.MIXER, 0), count)
        assert (cell.least, cell.most) == (min(loads), max(loads))
    assert [cell.size for cell in grammar.cells((Type.MIXER, 0), max_size=7)] == [5, 6, 7]
    assert grammar.cells((Type.MIXER, 0), limit=0) == []


def test_an_impossible_limit_is_an_error_that_says_so() -> None:
    grammar = uniform()
    with pytest.raises(ValueError, match="no mixer has at most 4 operations within load"):
        Sampler(grammar=grammar).mixer(Random(0), max_size=4)
    with pytest.raises(ValueError, match="within load 1"):
        Sampler(grammar=grammar, load=1).mixer(Random(0))


def test_leaves_and_sizes() -> None:
    def nested(term: Term) -> int:
        return 1 + sum(nested(argument) for argument in term.arguments)

    sampler = Sampler(grammar=uniform(), load=UNLIMITED, sharing=0.0)
    rng = Random(5)
    for count in (5, 6, 7, 8, 9):
        term = sampler.of_size((Type.MIXER, 0), count, rng)
        assert nested(term) == size(term) == count
