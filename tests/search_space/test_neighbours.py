"""Neighbourhoods: finite, without repeats, lazy, and the home of every mutation that draws first least subterms."""

from itertools import islice
from random import Random

import pytest

from archloom.search_space import variation, zoo
from archloom.search_space.edits import KINDS
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.neighbours import neighbours
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, TermError, depth, size, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type
from archloom.search_space.variation import in_budget, mutate

from .sampled import architectures, fresh, sampler

SMALL = "repeat(block(mix(apply(dense, value(x)), heads=1), mlp), times=2)"
TIED = "repeat(block(mix(let k = unit(project(x)) in apply(masked(dot(k, k), visible), value(x))), none), times=2)"


@pytest.mark.parametrize("text", [SMALL, zoo.load("linear_attention").text, TIED])
def test_neighbours_are_new_canonical_and_in_budget(text: str) -> None:
    the = sampler()
    around = [child.term for child in neighbours(parse(text), sampler=the)]
    assert len(around) > 50
    assert len({term_id(each) for each in around} | {term_id(parse(text))}) == len(around) + 1
    for each in around[:: 1 + len(around) // 100]:
        assert canonical(fresh(each)).text == each.text
        assert in_budget(each, the)
        assert depth(each) == 2


def test_they_come_lazily() -> None:
    assert len(list(islice(neighbours(zoo.load("kda"), sampler=sampler()), 5))) == 5


def test_neighbours_of_a_small_term_by_hand() -> None:
    around = {child.term.text: child.operator for child in neighbours(parse(SMALL), sampler=sampler())}
    assert around[SMALL.replace("heads=1", "heads=4")] == "point"
    assert around[SMALL.replace("value(x)", "conv(value(x), width=2)")] == "insert"
    assert around[SMALL.replace("value(x)", "value(conv(x, width=3))")] in ("insert", "redraw")
    assert SMALL.replace("mlp", "glu") in around
    wider = parse(SMALL.replace("value(x)", "silu(value(x))"))
    assert SMALL in {child.term.text for child in neighbours(wider, sampler=sampler())}


def first_least(type_: Type, the: Sampler) -> Term:
    least = the.grammar.least_terms(type_)
    if not least:
        raise TermError(f"nothing makes a {type_.value}")
    return least[0]


def test_mutations_that_draw_first_least_subterms_stay_in_the_neighbourhood(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(variation, "_fresh", lambda type_, the, _: first_least(type_, the))
    the = Sampler(grammar=sampler(3).grammar, sharing=0.0)
    rng = Random(1)
    met = set()
    parents = sorted(architectures(40, seed=2, depth=3), key=size)
    for parent in (parents[2], parents[8], parse(TIED.replace("times=2", "times=3"))):
        around = {child.term.text for child in neighbours(parent, sampler=the)}
        for _ in range(100):
            child = mutate(parent, the, rng)
            met.add(child.operator)
            assert child.term.text in around
    assert len(met) > len(KINDS) / 2


def edited(mixer: str, kind: str) -> set[str]:
    """The mixers that edits of a kind make of one."""
    before, after = "repeat(block(mix(", ", heads=1), none), times=2)"
    around = neighbours(parse(before + mixer + after), sampler=sampler())
    return {child.term.text[len(before) : -len(after)] for child in around if child.operator == kind}


def test_a_copy_has_weights_of_its_own_or_is_made_over_the_same_streams() -> None:
    read = "apply(masked(dot(project(x), project(conv(x))), visible), value(x))"
    copies = edited(f"mul({read}, silu(value(x)))", "copy")
    assert f"mul({read}, silu({read}))" in copies
    read = "apply(masked(dot(k1, k2), visible), v1)"
    lets = "let k1 = project(x) in let k2 = project(conv(x)) in let v1 = value(x) in "
    assert canonical_mixer(f"{lets}mul({read}, silu({read}))") in copies


def test_a_use_of_a_let_is_retargeted_to_another() -> None:
    lets = "let k = project(x) in let l = project(conv(x)) in "
    reads = "add(apply(masked(dot(k, k), visible), value(x)), apply(masked(dot(l, l), visible), value(x)))"
    found = edited(lets + reads, "retarget")
    assert canonical_mixer(lets + reads.replace("dot(k, k)", "dot(l, k)")) in found


def test_what_is_never_drawn_is_planted_around_a_subterm_or_over_fresh_ones() -> None:
    found = edited("apply(masked(dot(project(x), project(x)), visible), value(x))", "plant")
    assert "apply(masked(dot(sinusoid, project(x)), visible), value(x))" in found
    assert "subtract(apply(masked(dot(project(x), project(x)), visible), value(x)), value(x))" in found


def test_draws_and_other_kinds_of_mutation_leave_out_what_is_never_drawn() -> None:
    the, rng = sampler(), Random(11)
    never = {each for each in OPERATIONS.values() if each.weight == 0 and not each.shares}
    assert never
    for parent in architectures(60, seed=12):
        assert never.isdisjoint(node.operation for node in walk(parent))
        child = mutate(parent, the, rng)
        assert child.operator in ("plant", "hybrid") or never.isdisjoint(n.operation for n in walk(child.term))


def canonical_mixer(text: str) -> str:
    before, after = "repeat(block(mix(", ", heads=1), none), times=2)"
    return canonical(parse(before + text + after)).text[len(before) : -len(after)]
