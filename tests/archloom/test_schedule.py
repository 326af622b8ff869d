"""The pure decisions of a campaign: who rises, which arm is due."""

import random
from dataclasses import replace

from archloom.db.records import Candidate, EvaluationKey, Origin, Protocol, Result, Rung, Stage, Task, Trial
from archloom.schedule import Job, next_arm, promotion, rung_trials, visible_trials


def protocol(keep: float = 0.5) -> Protocol:
    stages = (Stage(task="mqar", steps=1, seeds=(0, 1)),)
    return Protocol(
        version=1,
        grammar=1,
        reference="",
        width=8,
        depth=1,
        tasks=(Task(name="mqar", vocabulary=8, length=8, batch=1),),
        rungs=(Rung(stages=stages, keep=keep), Rung(stages=stages, keep=keep), Rung(stages=stages)),
    )


def trial(index: int, *scores: float, origin: Origin = Origin.RANDOM) -> Trial:
    """A trial with one score on each rung, for both seeds."""
    candidate = Candidate(id=f"{index:064x}", term="", origin=origin, index=index)
    results = tuple(
        Result(
            key=EvaluationKey(candidate=candidate.id, task="mqar", rung=rung, seed=seed),
            score=score,
            metrics={},
            failure=None,
            seconds=1.0,
        )
        for rung, score in enumerate(scores)
        for seed in (0, 1)
    )
    return Trial(candidate=candidate, results=results)


def test_the_best_half_rises_best_first() -> None:
    trials = [trial(0, 0.1), trial(1, 0.9), trial(2, 0.5), trial(3, 0.2)]
    begun: set[Job] = set()
    rises = []
    while (job := promotion(trials, protocol(), begun)) is not None:
        begun.add(job)
        rises.append(job)
    assert rises == [Job(candidate=1, rung=1), Job(candidate=2, rung=1)]


def test_higher_rungs_go_first_and_ties_go_to_the_older() -> None:
    trials = [trial(0, 0.5, 0.5), trial(1, 0.5, 0.5), trial(2, 0.5), trial(3, 0.5)]
    begun = {Job(candidate=0, rung=1), Job(candidate=1, rung=1)}
    assert promotion(trials, protocol(), begun) == Job(candidate=0, rung=2)


def test_baselines_and_incomplete_rungs_do_not_count() -> None:
    half = trial(1, 0.9)
    half = Trial(candidate=half.candidate, results=half.results[:1])
    trials = [trial(0, 0.9, origin=Origin.ZOO), half, trial(2, 0.1), trial(3, 0.2)]
    assert promotion(trials, protocol(), set()) == Job(candidate=3, rung=1)
    assert promotion(trials[:3], protocol(), set()) is None


def two_tasks() -> Protocol:
    """One rung of two tasks, two seeds each, and one above."""
    stages = tuple(Stage(task=task, steps=1, seeds=(0, 1)) for task in ("mqar", "text"))
    tasks = tuple(Task(name=task, vocabulary=8, length=8, batch=1) for task in ("mqar", "text"))
    return replace(protocol(), tasks=tasks, rungs=(Rung(stages=stages, keep=0.5), Rung(stages=stages)))


def two_scores(index: int, mqar: tuple[float, float], text: tuple[float, float], *, origin: Origin) -> Trial:
    """A trial on the two tasks of the lowest rung."""
    first, second = trial(index, 0, origin=origin), trial(index, 0, origin=origin)
    results = [
        replace(result, key=replace(result.key, task=task), score=score)
        for task, scores, source in (("mqar", mqar, first), ("text", text, second))
        for result, score in zip(source.results, scores, strict=True)
    ]
    return replace(first, results=tuple(results))


def test_candidates_rise_by_units_of_seed_noise_once_there_are_baselines() -> None:
    """Three points of a steady task count more than eight of a noisy one; means would say otherwise."""
    steady = two_scores(1, (0.45, 0.55), (0.43, 0.43), origin=Origin.RANDOM)
    noisy = two_scores(2, (0.43, 0.73), (0.4, 0.4), origin=Origin.RANDOM)
    baseline = two_scores(0, (0.4, 0.7), (0.40, 0.41), origin=Origin.ZOO)
    assert noisy.score(0) > steady.score(0)
    assert promotion([steady, noisy], two_tasks(), set()) == Job(candidate=2, rung=1)
    assert promotion([baseline, steady, noisy], two_tasks(), set()) == Job(candidate=1, rung=1)
    # A baseline that has not run both tasks is none yet.
    half = replace(baseline, results=baseline.results[:3])
    assert promotion([half, steady, noisy], two_tasks(), set()) == Job(candidate=2, rung=1)


def test_a_promotion_depends_on_the_trials_and_not_on_their_order() -> None:
    draw = random.Random(0)

    def scores() -> tuple[float, float]:
        return draw.random(), draw.random()

    trials = [two_scores(n, scores(), scores(), origin=Origin.ZOO if n < 3 else Origin.RANDOM) for n in range(20)]
    expected = promotion(trials, two_tasks(), set())
    for _ in range(20):
        draw.shuffle(trials)
        assert promotion(trials, two_tasks(), set()) == expected


def test_arms_get_their_shares_at_every_length() -> None:
    shares = (("evolution", 0.5), ("random", 0.3), ("language_model", 0.2))
    spent: dict[str, int] = {}
    for total in range(1, 201):
        arm = next_arm(shares, spent)
        spent[arm] = spent.get(arm, 0) + 1
        for name, share in shares:
            assert abs(spent.get(name, 0) - share * total) < 1.01


def test_a_rung_has_one_trial_for_each_task_and_seed() -> None:
    trials = list(rung_trials(trial(0).candidate, protocol(), 1, timeout_seconds=3))
    assert [(t.key.task, t.key.seed, t.key.rung, t.steps) for t in trials] == [("mqar", 0, 1, 1), ("mqar", 1, 1, 1)]


def test_visible_trials_are_those_with_results_by_index() -> None:
    candidates = [trial(i).candidate for i in range(3)]
    results = {2: trial(2, 0.1).results, 0: trial(0, 0.3).results, 1: ()}
    assert [t.candidate.index for t in visible_trials(candidates, results)] == [0, 2]
    assert all(len(t.results) == 2 for t in visible_trials(candidates, results))
    assert visible_trials(candidates, {}) == []
