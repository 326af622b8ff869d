"""Budgets while sampling: every draw and every child is within parameters, FLOPs and state, as `costs` counts them."""

from collections import defaultdict
from functools import cache
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.search_space.bounds import bound_of, bounds
from archloom.search_space.costs import costs, default_widths
from archloom.search_space.grammar import Grammar, Limits, symbol
from archloom.search_space.identity import term_id
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.types import Type
from archloom.search_space.variation import crossover, in_budget, mutate

WIDTH, DEPTH = 32, 2
ALL = Limits(parameters=28_000, flops=90_000, state_bytes=40_000)


@cache
def limited(limits: Limits, length: int = 128) -> Sampler:
    return Sampler.default(depth=DEPTH, max_size=36, width=WIDTH, length=length, limits=limits)


def within(term: Term, limits: Limits, length: int = 128) -> bool:
    found = costs(term, default_widths(WIDTH), length)
    return (
        (limits.parameters is None or found.parameters <= limits.parameters)
        and (limits.flops is None or found.flops <= limits.flops * length)
        and (limits.state_bytes is None or found.state_bytes <= limits.state_bytes)
    )


@pytest.mark.parametrize(
    "limits", [ALL, Limits(flops=70_000), Limits(state_bytes=20_000), Limits(parameters=26_000)], ids=str
)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_draw_and_child_is_within_its_limits(limits: Limits, seed: int) -> None:
    the, rng = limited(limits), Random(seed)
    mother, father = the.architecture(rng), the.architecture(rng)
    for term in (mother, father, mutate(mother, the, rng).term, crossover(mother, father, the, rng).term):
        assert within(term, limits)
        assert in_budget(term, the)


def test_limits_bind_and_leave_a_wide_space() -> None:
    rng = Random(1)
    free = Sampler.default(depth=DEPTH, max_size=36, width=WIDTH, length=128)
    assert sum(not within(free.architecture(rng), ALL) for _ in range(200)) > 40
    draws = [limited(ALL).architecture(rng) for _ in range(400)]
    assert len({term_id(draw) for draw in draws}) > 300
    assert len({node.operation for draw in draws for node in walk(draw)}) > len(OPERATIONS) / 2


@pytest.mark.parametrize("length", [16, 128, 2048])
def test_bounds_hold_for_whole_architectures_and_are_not_loose(length: int) -> None:
    known = bounds(WIDTH, length)
    the = Sampler.default(depth=1, max_size=36, width=WIDTH, length=length)
    rng = Random(length)
    slack = []
    for _ in range(400):
        term = the.architecture(rng)
        found, bound = costs(term, default_widths(WIDTH), length), bound_of(term, known)
        assert found.parameters <= bound.parameters + WIDTH
        assert found.flops <= bound.flops * length
        assert found.state_bytes <= 4 * bound.state
        slack.append(bound.flops * length / found.flops)
    assert sorted(slack)[200] < 1.5


def test_limits_that_nothing_keeps_are_said() -> None:
    with pytest.raises(ValueError, match="no stack has at most"):
        Sampler.default(depth=1, max_size=20, limits=Limits(flops=10)).architecture(Random(0))
    with pytest.raises(ValueError, match="at most 80"):
        Sampler(grammar=Grammar(depth=1, max_size=10, limits=ALL), load=81)


def test_limits_that_bind_nothing_change_no_chance() -> None:
    plain = Sampler.default(depth=DEPTH, max_size=36, width=WIDTH, length=128).grammar
    wide = limited(Limits(parameters=10**9)).grammar
    for type_ in Type:
        for size in range(1, 25):
            assert chances(wide, type_, size) == pytest.approx(chances(plain, type_, size))


def chances(grammar: Grammar, type_: Type, size: int) -> dict[tuple[str, tuple[int, ...]], float]:
    """The weight with which a term of the type is made by each operation over arguments of each size."""
    found: dict[tuple[str, tuple[int, ...]], float] = defaultdict(float)
    for cell in [each for each in grammar.cells(symbol(type_), max_size=size) if each.size == size]:
        choices = grammar.choices(cell)
        weights = [b - a for a, b in pairwise((0.0, *choices.cumulative))]
        for weight, (production, children) in zip(weights, choices.entries, strict=True):
            assert production is not None
            found[production.operation.name, tuple(child.size for child in children)] += weight
    return found
