"""Variation: children are valid, canonical, in budget and new; every kind of edit happens; seeds decide."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.search_space import zoo
from archloom.search_space.grammar import Grammar
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.neighbours import neighbours
from archloom.search_space.sampling import Sampler
from archloom.search_space.stacks import layers
from archloom.search_space.terms import Term, depth, places, size, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type
from archloom.search_space.variation import KINDS, Child, Outcome, crossover, in_budget, mutate, rates

from .sampled import architectures, fresh, sampler


def check(child: Child, parent: Term, the: Sampler) -> None:
    assert child.term.type is Type.STACK
    assert parse(child.term.text) == child.term
    assert canonical(fresh(child.term)).text == child.term.text
    assert term_id(child.term) != term_id(parent)
    assert in_budget(child.term, the)
    assert depth(child.term) == depth(parent)
    assert size(child.term) <= the.grammar.max_size


@given(seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_children_are_valid_in_budget_and_different(seed: int) -> None:
    rng = Random(seed)
    the = sampler(3)
    mother, father = the.architecture(rng), the.architecture(rng)
    for _ in range(3):
        check(mutate(mother, the, rng), mother, the)
        child = crossover(mother, father, the, rng)
        check(child, mother, the)


@pytest.mark.parametrize("name", zoo.names())
def test_the_zoo_can_be_varied(name: str) -> None:
    rng = Random(1)
    the = Sampler.default(depth=2, max_size=64, width=64, length=64)
    parent = zoo.load(name)
    children = {mutate(parent, the, rng).term.text for _ in range(20)}
    assert len(children) > 10
    for text in children:
        assert in_budget(parse(text), the)


def test_every_kind_of_mutation_occurs_and_redraws_are_rare() -> None:
    rng = Random(2)
    the = sampler(4)
    parents = architectures(50, seed=3, depth=4)
    kinds = Counter(mutate(parent, the, rng).operator for parent in parents for _ in range(120))
    assert all(kinds[kind] >= 2 for kind in KINDS)
    assert kinds["redraw"] < 3000
    assert set(kinds) == set(KINDS)


def test_rates_add_up_and_no_kind_is_idle() -> None:
    report = rates(architectures(40, seed=12, depth=4), sampler(4), Random(11), tries=200)
    assert set(report) == set(KINDS)
    for shares in report.values():
        assert sum(shares.values()) == pytest.approx(1)
        assert shares[Outcome.ACCEPTED] > 0.02


def test_stack_kinds_keep_the_blocks_they_find() -> None:
    """Ratio, duplicate and merge make hybrids of the blocks that are there."""
    blocks = ("block(mix(apply(dense, value(x))), mlp)", "parallel(mix(apply(implicit, conv(value(x)))), glu)")
    parent = parse(f"every({blocks[0]}, {blocks[1]}, period=3, times=6)")
    the = Sampler.default(depth=6, max_size=64)
    found = {child.operator: child.term for child in neighbours(parent, sampler=the)}
    for kind in ("ratio", "duplicate", "merge"):
        assert {layer.text for layer in layers(found[kind])} <= set(blocks)
        assert depth(found[kind]) == 6
    assert {len({layer.text for layer in layers(found[kind])}) for kind in ("merge", "ratio")} == {1, 2}


def test_crossover_prefers_homologous_places() -> None:
    """Of parents that differ in their scores alone, most children differ from the mother there alone."""
    mother = parse(
        "repeat(block(mix(apply(masked(dot(project(x), project(x)), visible), conv(value(x)))), mlp), times=2)"
    )
    father = parse(
        mother.text.replace("dot(project(x), project(x))", "relu2(dot(rotary(project(x)), project(conv(x))))")
    )
    children = [crossover(mother, father, sampler(), Random(seed)) for seed in range(60)]
    crossed = [child.term.text for child in children if child.operator == "crossover"]
    assert len(crossed) > 50
    assert sum(text.endswith("conv(value(x)))), mlp), times=2)") for text in crossed) > 0.7 * len(crossed)


def test_tying_makes_a_let_and_untying_takes_one_away() -> None:
    rng = Random(4)
    the = sampler()
    changes: dict[str, list[int]] = {"tie": [], "untie": []}
    for parent in architectures(200, seed=5):
        for _ in range(5):
            child = mutate(parent, the, rng)
            if child.operator in changes:
                changes[child.operator].append(child.term.text.count("let ") - parent.text.count("let "))
    assert len(changes["tie"]) > 10
    assert sum(change >= 0 for change in changes["tie"]) > 0.8 * len(changes["tie"])
    assert len(changes["untie"]) > 10
    assert sum(change <= 0 for change in changes["untie"]) > 0.7 * len(changes["untie"])


def test_a_child_of_crossover_contains_material_of_the_father() -> None:
    """A donor is a subterm of the father that the mother did not have: parents without a common operation show it."""
    mother = parse("repeat(block(mix(apply(dense, value(x)), heads=1), glu), times=2)")
    father = parse(
        "repeat(parallel(mix(let k = unit(rotary(project(conv(x), share=2))) in apply(masked(relu2(dot(k, k)), window),"
        " norm(conv(value(shift(x), share=2)))), heads=4), mlp), times=2)"
    )
    rng = Random(6)
    the = sampler()
    of_father = {node.operation.name for node in walk(father)} - {node.operation.name for node in walk(mother)}
    inherited: Counter[str] = Counter()
    for _ in range(100):
        child = crossover(mother, father, the, rng)
        if child.operator == "crossover":
            names = {node.operation.name for node in walk(child.term)}
            new = names & of_father
            assert new or _numbers(child.term) != _numbers(mother)
            assert names <= {node.operation.name for each in (mother, father) for node in walk(each)}
            inherited.update(new)
    assert len(inherited) > 5


def _numbers(term: Term) -> list[object]:
    return [value for node in walk(term) for value in node.values]


def test_a_donor_keeps_its_own_sharing() -> None:
    mother = parse("repeat(block(mix(apply(masked(dot(project(x), project(x)), visible), value(x))), mlp))")
    father = parse(
        "repeat(block(mix(let k = unit(conv(project(x))) in apply(masked(dot(k, k), visible), silu(value(x)))), mlp))"
    )
    the = Sampler.default(depth=1, max_size=40, width=32, length=32)
    rng = Random(7)
    tied = 0
    for _ in range(200):
        child = crossover(mother, father, the, rng)
        if child.operator == "crossover" and "let k1 = unit(conv(project(x" in child.term.text:
            tied += child.term.text.count("k1") == 3
    assert tied > 5


def test_seeds_decide() -> None:
    the = sampler()
    mother, father = zoo.load("kda"), zoo.load("mamba2")
    for edit in (lambda rng: mutate(mother, the, rng), lambda rng: crossover(mother, father, the, rng)):
        first = [edit(Random(seed)) for seed in range(20)]
        assert [edit(Random(seed)) for seed in range(20)] == first
        assert len({child.term.text for child in first}) > 10


def test_parents_are_left_as_they_were() -> None:
    mother, father = architectures(2, seed=9)
    before = mother.text, father.text, [place.path for place in places(mother)]
    rng = Random(0)
    for _ in range(20):
        crossover(mother, father, sampler(), rng)
        mutate(mother, sampler(), rng)
    assert (fresh(mother).text, fresh(father).text, [place.path for place in places(mother)]) == before


def test_a_parent_without_a_neighbour_in_budget_is_redrawn() -> None:
    """A budget so small that edits rarely fit still gives a child."""
    the = Sampler(grammar=Grammar(depth=1, max_size=8))
    parent = the.architecture(Random(1))
    for seed in range(10):
        check(mutate(parent, the, Random(seed)), parent, the)


def test_budgets_bind() -> None:
    the = sampler()
    small = architectures(1, seed=10)[0]
    assert in_budget(small, the)
    assert not in_budget(parse(small.text.replace("times=2", "times=3")), the)
    assert not in_budget(small, Sampler(grammar=the.grammar, load=1))
    heavy = "add(" * 11 + "value(x)" + ", value(x))" * 11
    assert not in_budget(parse(f"repeat(block(mix(apply(dense, {heavy})), mlp), times=2)"), the)
