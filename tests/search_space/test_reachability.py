"""Reachability: a path is a chain of one-edit neighbours, from the start to the goal."""

import pytest

from archloom.search_space import reachability, zoo
from archloom.search_space.grammar import UNLIMITED, shared_grammar
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.reachability import path
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.variation import in_budget

from .sampled import fresh

SAMPLER = Sampler(grammar=shared_grammar(2, 96, 64, 64), load=UNLIMITED)


@pytest.mark.parametrize(
    ("start", "goal", "most"), [("mha", "sliding_window", 1), ("gla", "retnet", 3), ("mha", "gqa", 3)]
)
def test_paths_lead_from_start_to_goal_over_valid_terms(start: str, goal: str, most: int) -> None:
    found = path(zoo.load(start), zoo.load(goal), sampler=SAMPLER)
    assert found is not None
    assert (term_id(found[0]), term_id(found[-1])) == (term_id(zoo.load(start)), term_id(zoo.load(goal)))
    assert len(found) - 1 <= most
    assert len({term_id(each) for each in found}) == len(found)
    for each in found:
        assert canonical(fresh(each)).text == each.text
        assert in_budget(each, SAMPLER)


def test_a_term_is_no_step_from_itself_and_another_depth_is_not_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachability, "MAX_SEEN", 2_000)
    assert path(zoo.load("mha"), fresh(zoo.load("mha")), sampler=SAMPLER) == [zoo.load("mha")]
    deeper = parse("repeat(block(mix(apply(dense, value(x))), none), times=3)")
    assert path(deeper, zoo.load("just_dense"), sampler=SAMPLER) is None


def test_operations_that_are_never_drawn_are_reached_by_planting_them() -> None:
    small = parse("repeat(block(mix(apply(dense, value(x))), mlp), times=2)")
    found = path(small, zoo.load("no_mixer"), sampler=SAMPLER)
    assert found is not None
    assert len(found) - 1 == 1
