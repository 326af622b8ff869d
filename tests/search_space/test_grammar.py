"""Counting: with equal weights the tables are the exact numbers of terms, and drawing in proportion is uniform."""

from collections import Counter
from functools import cache
from itertools import product
from random import Random

import pytest

from archloom.search_space.grammar import UNLIMITED, Grammar
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, Value, size, walk
from archloom.search_space.text import one_line, parse
from archloom.search_space.types import Type

DEPTH = 2
ENUMERABLE = 3_000
LIMIT = 24  # eighths of D^2, a whole number of D^2

Written = tuple[str, int]
"""A term as text, and its depth in blocks (0 unless it is a block or stack)."""


@cache
def uniform() -> Grammar:
    return Grammar(depth=DEPTH, max_size=9, uniform=True)


def depth_of(result: Type, types: tuple[Type, ...], values: dict[str, Value], inside: list[int]) -> int | None:
    """Depth of a term by the rules in words; None where the grammar leaves it out: hybrids of compound blocks, and
    compound blocks of fewer than two."""
    if result is Type.BLOCK:
        return 1 if types != (Type.STACK,) else inside[0] if inside[0] > 1 else None
    if {"period", "times"} <= values.keys():
        return int(values["times"]) if inside == [1, 1] else None
    return int(values["times"]) * inside[0] if "times" in values else sum(inside)


@cache
def every_term(type_: Type, count: int) -> tuple[Written, ...]:
    """All terms of one type with `count` operations, by trying every operation, parameter value and division."""
    found = []
    for operation in OPERATIONS.values():
        if operation.weight == 0 or CAUSAL not in operation.patterns:
            continue
        for types, result in operation.signatures.items():
            if result is not type_:
                continue
            for sizes in product(range(1, count), repeat=len(types)):
                if 1 + sum(sizes) != count:
                    continue
                for inside in product(*(every_term(t, n) for t, n in zip(types, sizes, strict=True))):
                    for values in product(*([(p.name, v) for v in p.drawn] for p in operation.parameters)):
                        blocks = depth_of(result, types, dict(values), [each[1] for each in inside])
                        if blocks is not None and blocks <= DEPTH:
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
    assert reached or claimed > ENUMERABLE


def test_counts_of_the_smallest_architectures_by_hand() -> None:
    grammar = uniform()
    # Of x or earlier: value with 3 shares; toeplitz_value; value_by_position with 2 periods.
    values = 2 * (3 + 1 + 2)
    # What mixes a value without another argument: maximum, spaced with 2 reaches. 3 heads.
    smallest = values * (1 + 2) * 3
    assert grammar.count((Type.MIXER, 0), 4) == smallest
    channels = int(grammar.count((Type.CHANNEL, 0), 1))
    blocks = ("block", "parallel", "gru", "scaled", "replacing", "conditioned", "blended")
    assert grammar.count((Type.BLOCK, 1), 6) == smallest * channels * len(blocks)
    assert grammar.count((Type.STACK, 2), 7) == smallest * channels * len(blocks)  # repeat, one admissible `times`
    assert grammar.count((Type.STACK, 3), 7) == 0


@pytest.mark.parametrize(
    ("type_", "count"), [(Type.GRAM, 6), (Type.VALUE, 3), (Type.MIXER, 4), (Type.CONTRACTION, 6), (Type.STREAM, 3)]
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
    others = [each for each in OPERATIONS.values() if each.signatures.get((Type.STREAM,)) is Type.STREAM]
    rest = sum(each.weight for each in others if each.name != "shift")
    for weight in (1.0, 2.0):
        grammar = Grammar(depth=1, max_size=4, weights={"shift": weight})
        sampler = Sampler(grammar=grammar, load=UNLIMITED, sharing=0.0)
        rng = Random(3)
        draws = 4_000
        shifts = sum(sampler.of_size((Type.STREAM, 0), 2, rng).operation.name == "shift" for _ in range(draws))
        expected = weight / (weight + rest)
        assert shifts / draws == pytest.approx(expected, abs=4 * (expected * (1 - expected) / draws) ** 0.5)
        sampled.append(shifts)
    assert sampled[0] < sampled[1]


def test_a_limit_on_the_load_keeps_exactly_the_terms_within_it() -> None:
    """At a small size all draws under a limit are terms within it, and nearly all of those occur."""
    grammar = uniform()
    every = [text for text, _ in every_term(Type.MIXED, 4)]
    within = [text for text in every if grammar.load(walk(parse(text))) <= LIMIT]
    assert 0.1 * len(every) < len(within) < 0.9 * len(every)
    sampler = Sampler(grammar=grammar, load=LIMIT, sharing=0.0)
    rng = Random(4)
    drawn = {one_line(sampler.of_size((Type.MIXED, 0), 4, rng)) for _ in range(40 * len(within))}
    assert drawn <= {one_line(parse(text)) for text in within}
    assert len(drawn) > 0.9 * len(within)


def test_cells_know_their_extremes() -> None:
    grammar = uniform()
    for count in (4, 5):
        loads = [grammar.load(walk(parse(text))) for text, _ in every_term(Type.MIXER, count)]
        cell = grammar.cell((Type.MIXER, 0), count)
        assert (cell.least, cell.most) == (min(loads), max(loads))
    assert [cell.size for cell in grammar.cells((Type.MIXER, 0), max_size=7)] == [4, 5, 6, 7]
    assert grammar.cells((Type.MIXER, 0), limit=0) == []


def test_an_impossible_limit_is_an_error_that_says_so() -> None:
    grammar = uniform()
    with pytest.raises(ValueError, match="no mixer has at most 3 operations within load"):
        Sampler(grammar=grammar).mixer(Random(0), max_size=3)
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
