"""The arithmetic of equal cost, against numbers worked out by hand."""

import math
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.arm_comparison import (
    Interval,
    Point,
    Run,
    best_within,
    bests,
    differences,
    interval,
    limits,
    summaries,
    walked,
    yardstick,
)
from archloom.db.records import (
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    LanguageModelCall,
    Origin,
    Protocol,
    Result,
    Role,
    Rung,
    Stage,
    Task,
    Trial,
)
from archloom.errors import ConfigError

PROTOCOL = Protocol(
    version=2,
    grammar=1,
    reference="x",
    width=16,
    depth=1,
    tasks=(Task(name="mqar", vocabulary=16, length=12, batch=8),),
    rungs=(Rung(stages=(Stage(task="mqar", steps=8, seeds=(0, 1)),)),),
)


def trial(name: str, index: int, scores: Sequence[float], *, origin: Origin, seconds: float = 9.0) -> Trial:
    """A candidate with a gates result and one score a seed; without scores it failed at the gates."""
    failure = None if scores else Failure(kind=FailureKind.CAUSALITY, reason="it looks ahead")
    key = EvaluationKey(candidate=name, task="gates", rung=0, seed=0)
    results = [Result(key=key, score=None, metrics={}, failure=failure, seconds=seconds)]
    for seed, score in enumerate(scores):
        key = EvaluationKey(candidate=name, task="mqar", rung=0, seed=seed)
        results.append(Result(key=key, score=score, metrics={}, failure=None, seconds=seconds))
    return Trial(candidate=Candidate(id=name, term="x", origin=origin, index=index), results=tuple(results))


def call(ask: int, cost: int) -> LanguageModelCall:
    return LanguageModelCall(
        key=f"{ask} {cost}",
        at=datetime(2026, 1, 1, tzinfo=UTC),
        role=Role.RESEARCHER,
        prompt="researcher/1",
        endpoint="http://x.test/v1",
        model="tiny",
        ask=ask,
        request="{}",
        response="{}",
        prompt_tokens=100,
        completion_tokens=20,
        cost=cost,
        seconds=1.0,
    )


def run(arm: str, seed: int, *points: tuple[int, float, float]) -> Run:
    """`points` are (evaluations, money, best) after each candidate."""
    path = tuple(
        Point(candidates=number, evaluations=evaluations, money=money, best=best)
        for number, (evaluations, money, best) in enumerate(points, start=1)
    )
    return Run(
        arm=arm,
        seed=seed,
        path=path,
        failed=1,
        fallbacks=0,
        refusals=2,
        device_seconds=10.0,
        calls=3,
        tokens=50,
        money=path[-1].money,
    )


def test_a_path_adds_up_candidates_evaluations_and_money_and_never_forgets_its_best() -> None:
    history = [
        trial("baseline", 0, (0.5, 0.5), origin=Origin.ZOO),
        trial("a", 1, (0.6, 0.6), origin=Origin.LANGUAGE_MODEL),
        trial("b", 2, (), origin=Origin.LANGUAGE_MODEL),
        trial("c", 3, (0.9, 0.9), origin=Origin.EVOLUTION),
        trial("d", 4, (0.7, 0.7), origin=Origin.LANGUAGE_MODEL),
    ]
    found = walked(
        history,
        arm="language_model",
        seed=7,
        fitness={"baseline": 0.0, "a": 1.0, "b": -5.0, "c": 4.0, "d": 2.0},
        calls={1: [call(1, 2_000_000_000), call(1, 500_000_000)], 3: [call(2, 1_000_000_000)]},
        refusals=1,
        device_price=200.0,
    )
    # 9 s at 200 an hour cost 0.5; the baseline's 27 s are not counted
    assert [(p.candidates, p.evaluations, p.money, p.best) for p in found.path] == [
        (1, 3, pytest.approx(1.5 + 2.5), 1.0),
        (2, 4, pytest.approx(2.0 + 2.5), 1.0),
        (3, 7, pytest.approx(3.5 + 3.5), 1.0),  # what evolution wrote in its place is paid for and worth nothing
        (4, 10, pytest.approx(5.0 + 3.5), 2.0),
    ]
    assert (found.failed, found.fallbacks, found.refusals) == (1, 1, 1)
    assert (found.device_seconds, found.calls, found.tokens) == (90.0, 3, 360)
    assert found.money == pytest.approx(8.5)


def test_all_campaigns_are_measured_with_one_yardstick() -> None:
    baseline = trial("baseline", 0, (0.5, 0.5), origin=Origin.ZOO)
    quiet = [baseline, trial("a", 1, (0.6, 0.58), origin=Origin.RANDOM)]
    noisy = [
        baseline,
        trial("b", 1, (0.3, 0.9), origin=Origin.EVOLUTION),
        trial("a", 2, (0.6, 0.58), origin=Origin.EVOLUTION),
    ]
    first, second = yardstick([quiet, noisy], PROTOCOL, names=("quiet", "noisy"))
    # by hand: three architectures with two seeds each, so three degrees of freedom
    scale = {score: math.asin(math.sqrt(score)) for score in (0.3, 0.5, 0.58, 0.6, 0.9)}
    squares = (scale[0.6] - scale[0.58]) ** 2 / 2 + (scale[0.9] - scale[0.3]) ** 2 / 2
    noise = math.sqrt(squares / 3)
    effects = [(scale[score] - scale[0.5]) / noise for score in (0.6, 0.58)]
    expected = sum(5 * x / (5 + abs(x)) for x in effects) / 2
    assert first["a"] == second["a"] == pytest.approx(expected, rel=1e-9)
    assert first["baseline"] == 0.0


def test_a_candidate_that_failed_at_the_gates_has_the_worst_fitness() -> None:
    history = [trial("baseline", 0, (0.5, 0.6), origin=Origin.ZOO), trial("a", 1, (), origin=Origin.RANDOM)]
    (found,) = yardstick([history], PROTOCOL, names=("only",))
    assert found["a"] == -5.0


def test_without_a_baseline_there_is_no_yardstick() -> None:
    with pytest.raises(ConfigError, match=r"no baseline of one, two .* rung 0.*search\.baselines"):
        yardstick([[trial("a", 0, (0.5, 0.5), origin=Origin.RANDOM)], []], PROTOCOL, names=("one", "two"))


def test_arms_are_compared_where_the_poorest_stopped() -> None:
    cheap = run("random", 0, (1, 0.1, -1.0), (4, 0.2, 0.5), (7, 0.3, 0.5))
    dear = run("language_model", 0, (3, 0.25, 0.0), (6, 0.9, 1.0), (9, 1.5, 3.0))
    assert limits([cheap, dear], "candidates") == {0: 3}
    assert limits([cheap, dear], "evaluations") == {0: 7}
    assert limits([cheap, dear], "money") == {0: 0.3}
    assert bests([cheap, dear], "candidates") == {"random": (0.5,), "language_model": (3.0,)}
    assert bests([cheap, dear], "evaluations") == {"random": (0.5,), "language_model": (1.0,)}
    assert bests([cheap, dear], "money") == {"random": (0.5,), "language_model": (0.0,)}
    assert best_within(dear, "money", 0.2) == -5.0, "no candidate was paid for"


def test_replicates_are_paired_by_seed_whatever_their_order() -> None:
    runs = [
        run("a", 1, (1, 1.0, 3.0)),
        run("b", 0, (1, 1.0, 0.0)),
        run("a", 0, (1, 1.0, 1.0)),
        run("b", 1, (1, 1.0, 1.0)),
        run("a", 2, (1, 1.0, 4.0)),
        run("b", 2, (1, 1.0, 1.0)),
    ]
    found = {each.equal: each for each in differences(runs, arm="a", controls=("b",))}
    assert set(found) == {"candidates", "evaluations", "money"}
    # differences 1, 2, 3: mean 2, deviation 1; t for 95% on two degrees of freedom is 4.302653 (tables)
    half = 4.302653 / math.sqrt(3)
    assert found["money"].by.mean == 2.0
    assert (found["money"].by.low, found["money"].by.high) == pytest.approx((2 - half, 2 + half), rel=1e-6)
    # of the nine pairs of (1, 3, 4) and (0, 1, 1), seven are won and two are tied
    assert found["money"].better == pytest.approx((7 + 2 / 2) / 9)


def test_a_summary_adds_replicates_and_keeps_intervals_in_the_range_of_fitness() -> None:
    runs = [run("a", seed, (2, 0.5, best), (5, 1.0, best)) for seed, best in enumerate((-4.0, 4.0))]
    (found,) = summaries(runs)
    assert (found.replicates, found.candidates, found.evaluations, found.failed) == (2, 4, 10, 2)
    assert (found.refusals, found.device_seconds, found.calls, found.tokens, found.money) == (4, 20.0, 6, 100, 2.0)
    assert found.best["money"] == Interval(mean=0.0, low=-5.0, high=5.0)


def test_one_value_has_no_interval() -> None:
    assert interval([0.5]) == Interval(mean=0.5, low=-math.inf, high=math.inf)


spending = st.lists(
    st.tuples(st.integers(1, 5), st.floats(0.01, 2.0), st.floats(-5.0, 5.0)), min_size=1, max_size=8
).map(
    lambda steps: [
        (
            sum(each[0] for each in steps[: place + 1]),
            sum(each[1] for each in steps[: place + 1]),
            max(each[2] for each in steps[: place + 1]),
        )
        for place in range(len(steps))
    ]
)


@given(spending, spending)
def test_no_arm_is_given_more_than_the_other_spent(
    first: list[tuple[int, float, float]], second: list[tuple[int, float, float]]
) -> None:
    runs = [run("a", 0, *first), run("b", 0, *second)]
    for cost in ("candidates", "evaluations", "money"):
        (limit,) = limits(runs, cost).values()
        totals = [getattr(each.path[-1], cost) for each in runs]
        assert limit == min(totals)
        for each, points in zip(runs, (first, second), strict=True):
            (best,) = bests(runs, cost)[each.arm]
            spent = [getattr(point, cost) for point in each.path]
            paid = [points[place][2] for place, amount in enumerate(spent) if amount <= limit]
            assert best == (paid[-1] if paid else -5.0)
            if spent[-1] == limit:
                assert best == points[-1][2], "the poorest is judged by all that it found"
