"""Random search and regularised evolution as pure functions of a history."""

from random import Random

from archloom.agents.evolution import Evolution, population, standing
from archloom.agents.random_search import RandomSearch
from archloom.db.records import Candidate, EvaluationKey, Failure, FailureKind, Origin, Result, Trial
from archloom.search_space import zoo
from archloom.search_space.identity import term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.variation import in_budget

SAMPLER = Sampler.default(depth=2, max_size=40)


def trial(index: int, name: str, *scores: float, origin: Origin = Origin.EVOLUTION, failed: bool = False) -> Trial:
    term = zoo.load(name)
    candidate = Candidate(id=f"{index:064x}", term=term.text, origin=origin, index=index)
    failure = Failure(kind=FailureKind.DIVERGED, reason="step 3") if failed else None
    results = tuple(
        Result(
            key=EvaluationKey(candidate=candidate.id, task="mqar", rung=rung, seed=0),
            score=score,
            metrics={},
            failure=None,
            seconds=1.0,
        )
        for rung, score in enumerate(scores)
    )
    if failure:
        key = EvaluationKey(candidate=candidate.id, task="text", rung=len(scores), seed=0)
        results += (Result(key=key, score=None, metrics={}, failure=failure, seconds=1.0),)
    return Trial(candidate=candidate, results=results)


def test_random_search_ignores_history_and_draws_in_budget() -> None:
    arm = RandomSearch(sampler=SAMPLER)
    history = [trial(0, "mha", 0.9)]
    blind, told = arm.ask([], 20, Random(1)), arm.ask(history, 20, Random(1))
    assert [p.term for p in blind] == [p.term for p in told]
    assert len({term_id(p.term) for p in blind}) > 15
    assert all(in_budget(p.term, SAMPLER) and p.origin is Origin.RANDOM and not p.parents for p in blind)


def test_the_population_is_the_young_filled_up_with_the_best_baselines() -> None:
    zoo_trials = [trial(i, "mha", score, origin=Origin.ZOO) for i, score in enumerate((0.1, 0.9, 0.5))]
    own = [trial(10 + i, "gla", 0.2) for i in range(5)]
    assert [t.candidate.index for t in population([*zoo_trials, *own[:2]], 4)] == [1, 2, 10, 11]
    assert [t.candidate.index for t in population([*zoo_trials, *own], 4)] == [11, 12, 13, 14]
    assert population([trial(0, "mha"), trial(1, "mha", 0.5, failed=True)], 4) == []


def test_a_higher_rung_outranks_a_higher_score() -> None:
    assert standing(trial(0, "mha", 0.9)) < standing(trial(1, "mha", 0.5, 0.1)) < standing(trial(2, "mha", 0.5, 0.2))


def test_children_differ_from_their_parents_and_name_them() -> None:
    history = [trial(i, name, 0.1 * i, origin=Origin.ZOO) for i, name in enumerate(zoo.names())]
    arm = Evolution(sampler=SAMPLER, population=8, tournament=2, crossover=0.5)
    children = arm.ask(history, 40, Random(3))
    by_id = {t.candidate.id: t.candidate for t in history}
    operators = {child.operator for child in children}
    assert "crossover" in operators
    assert len(operators) > 3
    for child in children:
        assert len(child.parents) == (2 if child.operator == "crossover" else 1)
        assert all(term_id(parse(by_id[parent].term)) != term_id(child.term) for parent in child.parents)
        assert in_budget(child.term, SAMPLER)


def test_the_tournament_prefers_the_better() -> None:
    history = [trial(i, "mha", i / 10) for i in range(8)]
    arm = Evolution(sampler=SAMPLER, population=8, tournament=4, crossover=0.0)
    parents = [int(p.parents[0], 16) for p in arm.ask(history, 200, Random(0))]
    assert sum(parents) / len(parents) > 5
    assert set(parents) <= set(range(3, 8)), "the worst of a tournament of four never wins"


def test_the_same_history_and_seed_give_the_same_children() -> None:
    history = [trial(i, name, 0.3) for i, name in enumerate(("mha", "gla", "kda"))]
    arm = Evolution(sampler=SAMPLER)
    first, second = arm.ask(history, 10, Random(5)), arm.ask(history, 10, Random(5))
    assert [p.term.text for p in first] == [p.term.text for p in second]


def test_without_a_history_evolution_draws() -> None:
    (proposal,) = Evolution(sampler=SAMPLER).ask([], 1, Random(0))
    assert proposal.operator == "sample"
    assert proposal.parents == ()
