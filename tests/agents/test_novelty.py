"""The nearest relatives of an architecture: found by its bag of operations, measured by what was changed."""

from collections import Counter
from random import Random

from archloom.agents.language_model.novelty import ALIGNED, Census
from archloom.db.records import Candidate, Origin, Trial
from archloom.search_space.difference import difference
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse
from archloom.search_space.variation import mutate

from .laboratory import FAR, GOOD, OTHER, SAMPLER, architecture_of, trial


def drawn(count: int, *, seed: int) -> list[Trial]:
    rng = Random(seed)
    terms = {term_id(term): term for term in (canonical(SAMPLER.architecture(rng)) for _ in range(count))}
    return [
        Trial(candidate=Candidate(id=identity, term=term.text, origin=Origin.RANDOM, index=index), results=())
        for index, (identity, term) in enumerate(terms.items())
    ]


def test_the_nearest_comes_first_with_its_changes() -> None:
    others = [trial(FAR, 0, None), trial(OTHER, 1, None)]
    term = parse(architecture_of(GOOD))
    first, second = Census().relatives(term, others, within=99)
    assert (first.trial, second.trial) == (others[1], others[0])
    assert first.changes == difference(parse(others[1].candidate.term), term)
    assert 0 < first.distance < second.distance


def test_those_that_are_aligned_have_the_nearest_bags() -> None:
    known = drawn(100, seed=1)
    for seed in range(5):
        term = canonical(SAMPLER.architecture(Random(f"new {seed}")))
        found = Census().relatives(term, known, within=99)
        apart = sorted(_apart(term, parse(each.candidate.term)) for each in known)
        assert sorted(_apart(term, parse(each.trial.candidate.term)) for each in found) == apart[:ALIGNED]
        assert [each.distance for each in found] == sorted(each.distance for each in found)


def test_only_what_is_within_the_distance_is_found() -> None:
    """By bags alone nothing is left out that an alignment would find near."""
    known, rng = drawn(60, seed=4), Random(5)
    for _ in range(10):
        child = mutate(parse(rng.choice(known).candidate.term), SAMPLER, rng).term
        apart = [sum(change.operations for change in difference(parse(each.candidate.term), child)) for each in known]
        found = Census().relatives(child, known, within=4)
        near = sorted(distance for distance in apart if distance < 4)
        assert [each.distance for each in found] == near[: len(found)]
        assert len(found) == min(len(near), ALIGNED)


def _apart(one: Term, other: Term) -> int:
    """Operations that one has and the other has not, counted plainly."""
    counts, theirs = (
        Counter(each.operation.name for each in walk(term) if not each.operation.shares) for term in (one, other)
    )
    return ((counts - theirs) + (theirs - counts)).total()


def test_a_census_that_is_kept_finds_what_a_new_one_finds() -> None:
    known, kept = drawn(150, seed=3), Census()
    for count in (10, 80, 150, 20):
        term = canonical(SAMPLER.architecture(Random(count)))
        assert kept.relatives(term, known[:count], within=99) == Census().relatives(term, known[:count], within=99)


def test_nothing_is_near_where_there_is_nothing() -> None:
    assert Census().relatives(parse(architecture_of(GOOD)), [], within=9) == ()
