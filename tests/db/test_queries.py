"""Leaderboard, Pareto front, failures and lineage on small histories written out by hand."""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.db.queries import OBJECTIVES, Row, failures, leaderboard, lineage, pareto
from archloom.db.records import GATES, Candidate, FailureKind, Origin, Trial
from archloom.errors import ConfigError, NotFoundError

MakeTrial = Callable[..., Trial]


def test_leaderboard_ranks_by_rung_then_score_then_age(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(0, {("mqar", 0): 0.9}),
        make_trial(1, {("mqar", 0): 0.5, ("mqar", 1): 0.2}),
        make_trial(2, {("mqar", 0): 0.95}),
        make_trial(3, {("mqar", 0): 0.9}),
        make_trial(4, {(GATES, 0): FailureKind.CAUSALITY}),
        make_trial(5, {(GATES, 0): None}),
        make_trial(6, {("mqar", 0): math.nan}),
        make_trial(7, {("mqar", 0): 1.0, ("mqar", 1): FailureKind.DIVERGED}),
    ]
    rows = leaderboard(trials)
    assert [(row.rank, row.candidate.index, row.rung) for row in rows] == [(1, 1, 1), (2, 2, 0), (3, 0, 0), (4, 3, 0)]
    assert [row.score for row in rows] == [0.2, 0.95, 0.9, 0.9]
    assert leaderboard(trials, limit=2) == rows[:2]
    # At rung 0 the failure that comes at rung 1 has not happened yet.
    assert [row.candidate.index for row in leaderboard(trials, rung=0)] == [7, 2, 0, 3, 1]
    assert [row.candidate.index for row in leaderboard(trials, rung=1)] == [1]


def test_row_takes_each_number_from_its_own_task(make_trial: MakeTrial) -> None:
    measured = {"loss": 1.25, "parameters": 1000.0, "flops": 5.0, "state_bytes": 64.0}
    full = make_trial(0, {("mqar", 0): 0.2, ("mqar", 1): 0.6, ("text", 1): 0.4}, metrics=measured)
    bare = make_trial(1, {("copy", 0): 0.3})
    first, second = leaderboard([bare, full])
    assert (first.score, first.recall, first.loss) == (0.5, 0.6, 1.25)
    assert (first.parameters, first.flops, first.state_bytes, first.seconds) == (1000.0, 5.0, 64.0, 6.0)
    unknown = (second.recall, second.loss, second.parameters, second.flops, second.state_bytes)
    assert all(map(math.isnan, unknown))
    # The loss of another task is not the loss of text.
    (only,) = leaderboard([make_trial(0, {("mqar", 0): 0.2}, metrics=measured)])
    assert math.isnan(only.loss)


def row(rank: int, **objectives: float) -> Row:
    candidate = Candidate(id=f"{rank}", term="", origin=Origin.RANDOM, index=rank)
    return Row(rank=rank, candidate=candidate, rung=0, **{**dict.fromkeys(OBJECTIVES, 0.0), **objectives})


small = st.sampled_from([0.0, 1.0, 2.0, 3.0, math.inf, math.nan])


@given(st.lists(st.tuples(small, small, small), max_size=12))
def test_pareto_front_is_what_nobody_beats(points: list[tuple[float, float, float]]) -> None:
    rows = [row(n, score=score, loss=loss, flops=flops) for n, (score, loss, flops) in enumerate(points)]

    def beats(a: Row, b: Row) -> bool:
        no_worse = a.score >= b.score and a.loss <= b.loss and a.flops <= b.flops
        return no_worse and (a.score > b.score or a.loss < b.loss or a.flops < b.flops)

    whole = [r for r in rows if not any(map(math.isnan, (r.score, r.loss, r.flops)))]
    expected = tuple(r for r in whole if not any(beats(other, r) for other in whole))
    assert pareto(rows, ["score", "loss", "flops"]) == expected


def test_pareto_of_one_objective_is_the_best_and_its_equals() -> None:
    rows = [row(1, score=0.5), row(2, score=0.9), row(3, score=0.9), row(4, score=math.nan)]
    assert [found.rank for found in pareto(rows, ["score"])] == [2, 3]
    assert pareto([], ["score"]) == ()


@pytest.mark.parametrize("objectives", [["score", "beauty"], [], ["rank"]])
def test_unknown_objective_names_the_known_ones(objectives: list[str]) -> None:
    with pytest.raises(ConfigError) as refused:
        pareto([row(1)], objectives)
    assert all(name in str(refused.value) for name in (*OBJECTIVES, *objectives[-1:]))


def test_failures_are_counted_once_per_candidate_by_first_kind(make_trial: MakeTrial) -> None:
    trials = [
        make_trial(0, {(GATES, 0): FailureKind.DECODE}),
        make_trial(1, {(GATES, 0): None, ("mqar", 0): FailureKind.DIVERGED, ("text", 0): FailureKind.TIMEOUT}),
        make_trial(2, {("mqar", 0): FailureKind.DIVERGED}),
        make_trial(3, {("mqar", 0): 0.5}),
    ]
    found = failures(trials)
    assert [(failed.kind, failed.count, failed.candidate.index) for failed in found] == [
        (FailureKind.DIVERGED, 2, 1),
        (FailureKind.DECODE, 1, 0),
    ]
    assert found[0].reason == "diverged of 1"
    assert failures([]) == ()


def test_lineage_is_every_ancestor_once_oldest_first(make_trial: MakeTrial) -> None:
    trials: list[Trial] = []

    def add(index: int, *parents: int) -> None:
        ids = tuple(trials[parent].candidate.id for parent in parents)
        trials.append(make_trial(index, {}, parents=ids or ("from elsewhere",)))

    for index, parents in enumerate([(), (), (0,), (2, 1), (2,), (3, 4), (1,)]):
        add(index, *parents)
    assert [ancestor.index for ancestor in lineage(trials, trials[5].candidate.id)] == [0, 1, 2, 3, 4]
    assert [ancestor.index for ancestor in lineage(trials, trials[6].candidate.id)] == [1]
    assert lineage(trials, trials[0].candidate.id) == ()
    with pytest.raises(NotFoundError, match="unheard"):
        lineage(trials, "unheard of")


def test_half_a_rung_is_not_ranked_as_a_whole_one(make_trial: MakeTrial) -> None:
    whole = make_trial(0, {("mqar", 0): 0.4, ("mqar", 1): 0.4})
    half = make_trial(1, {("mqar", 0): 0.5, ("mqar", 1): 0.9})
    waiting = replace(half, unfinished=frozenset({1}))
    assert [row.candidate.index for row in leaderboard([whole, half])] == [1, 0]
    assert [(row.candidate.index, row.rung) for row in leaderboard([whole, waiting])] == [(0, 1), (1, 0)]
    assert [row.candidate.index for row in leaderboard([whole, waiting], rung=1)] == [0]
