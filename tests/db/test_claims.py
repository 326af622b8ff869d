"""The gate of discoveries: its arithmetic against oracles, its refusals, and its rates over simulated campaigns."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy import stats

from archloom.db.claims import Claim, Judgement, control, holm, judge
from archloom.db.effects import bounded, paired, standings
from archloom.db.noise import noise_floor
from archloom.db.records import FailureKind, Origin, Protocol, Training, Trial

SeededTrial = Callable[..., Trial]
SeededProtocol = Callable[..., Protocol]
Outcomes = Mapping[str, Mapping[int, float | FailureKind]]

SELECTION, FRESH = (0, 1), (10, 11, 12, 13, 14)
SEEDS = (*SELECTION, *FRESH)

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=6)


def closed_testing(p: Sequence[float]) -> list[float]:
    """Every intersection of hypotheses tested by Bonferroni; one's own p-value is the largest that it is part of."""
    subsets = [s for n in range(1, len(p) + 1) for s in itertools.combinations(range(len(p)), n)]
    tested = {subset: min(1.0, len(subset) * min(p[place] for place in subset)) for subset in subsets}
    return [max(tested[subset] for subset in subsets if place in subset) for place in range(len(p))]


def test_holm_by_hand() -> None:
    # In order: 4 x .005, then 3 x .01, then 2 x .03, and 1 x .04 is raised to what came before it.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02], abs=1e-15)
    assert holm([0.4, 0.9, 0.5]) == (1.0, 1.0, 1.0)
    assert holm([]) == ()


@given(p_values)
def test_holm_is_closed_testing_by_bonferroni(p: list[float]) -> None:
    assert holm(p) == pytest.approx(closed_testing(p), abs=1e-12)


@given(p_values, st.randoms(use_true_random=False))
def test_laws_of_holm(p: list[float], random: object) -> None:
    corrected = holm(p)
    order = sorted(range(len(p)), key=lambda place: p[place])
    assert [corrected[place] for place in order] == sorted(corrected)
    assert all(mine <= theirs <= 1 for mine, theirs in zip(p, corrected, strict=True))
    # One more candidate, however bad or good, helps nobody who was there.
    for other in (1.0, 0.5, 0.0):
        assert all(after >= before for after, before in zip(holm([*p, other]), corrected, strict=False))
    assert holm(p[::-1]) == pytest.approx(corrected[::-1], abs=1e-15)


def curve(mean: float, spread: Sequence[float]) -> dict[int, float]:
    """Scores on the selection's and the fresh seeds, about a mean."""
    return {seed: mean + each for seed, each in zip(SEEDS, spread, strict=True)}


STEADY = (0.06, -0.05, 0.04, 0.01, -0.03, 0.05, -0.06)
OTHER = (-0.03, 0.05, 0.0, 0.06, -0.06, -0.04, 0.03)


@pytest.fixture(scope="session")
def zoo(seeded_trial: SeededTrial) -> list[Trial]:
    """A baseline at .5 and one at .3."""
    return [
        seeded_trial(0, {"mqar": curve(0.3, OTHER)}, origin=Origin.ZOO, name="linear"),
        seeded_trial(1, {"mqar": curve(0.5, STEADY)}, origin=Origin.ZOO, name="softmax"),
    ]


@pytest.fixture(scope="session")
def recall(seeded_protocol: SeededProtocol) -> Protocol:
    return seeded_protocol("mqar", seeds=SELECTION)


def claim(*candidates: Trial, seeds: tuple[int, ...] = FRESH, controls: Sequence[Trial] = ()) -> Claim:
    return Claim(
        candidates=tuple(trial.candidate.id for trial in candidates),
        seeds=seeds,
        rung=0,
        controls=tuple(trial.candidate.id for trial in controls),
    )


def test_a_clear_winner_is_promoted(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    winner = seeded_trial(2, {"mqar": curve(0.8, OTHER)})
    (found,) = judge(claim(winner), [*zoo, winner], recall)
    assert (found.ruling, found.reasons, found.opponent) == ("promoted", (), zoo[1].candidate.id)
    assert 0 < found.low < found.effect < found.high
    assert found.corrected == found.p < 0.01


def test_the_test_is_a_paired_t_of_bounded_effects(
    zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial
) -> None:
    """The oracle is scipy's, against each baseline; the claim's is the less certain one."""
    drawn = np.random.default_rng(0).uniform(0.45, 0.6, (3, 7)).tolist()
    tried = [seeded_trial(2 + n, {"mqar": dict(zip(SEEDS, scores, strict=True))}) for n, scores in enumerate(drawn)]
    trials = [*zoo, *tried]
    noise = noise_floor(trials, task="mqar", rung=0)
    judged = judge(claim(*tried), trials, recall)
    for trial, found in zip(tried, judged, strict=True):
        differences = [[bounded(x) for x in paired(trial, other, noise=noise, seeds=FRESH)] for other in zoo]
        tests = [stats.ttest_1samp(each, 0, alternative="greater") for each in differences]
        assert found.p == pytest.approx(max(test.pvalue for test in tests), rel=1e-9)
        assert found.effect == pytest.approx(np.mean(differences[1]), rel=1e-12)
    assert [found.corrected for found in judged] == list(holm([found.p for found in judged]))
    first = min(judged, key=lambda found: found.p)
    place = judged.index(first)
    level = 0.05 / 3
    interval = stats.ttest_1samp([bounded(x) for x in paired(tried[place], zoo[1], noise=noise, seeds=FRESH)], 0)
    expected = interval.confidence_interval(1 - 2 * level)
    assert (first.low, first.high) == pytest.approx((expected.low, expected.high), rel=1e-9)


@settings(max_examples=40)
@given(st.lists(st.floats(0.3, 0.9), min_size=4, max_size=4), st.integers(0, 1000))
def test_who_is_promoted_has_an_interval_above_zero_and_a_small_p_value(
    zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial, levels: list[float], seed: int
) -> None:
    spread = np.random.default_rng(seed).uniform(-0.05, 0.05, (4, 7))
    tried = [
        seeded_trial(2 + n, {"mqar": curve(level, each)})
        for n, (level, each) in enumerate(zip(levels, spread.tolist(), strict=True))
    ]
    for found in judge(claim(*tried), [*zoo, *tried], recall):
        assert (found.low > 0) == (found.corrected <= 0.05)
        assert (found.ruling == "promoted") == (not found.reasons)
        assert found.ruling == "refused" or found.low > 0


def test_permuting_the_fresh_seeds_of_all_changes_nothing(
    zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial
) -> None:
    tried = seeded_trial(2, {"mqar": curve(0.6, OTHER)})
    (before,) = judge(claim(tried), [*zoo, tried], recall)
    (after,) = judge(claim(tried, seeds=FRESH[::-1]), [*zoo, tried], recall)
    assert (after.effect, after.low, after.p) == pytest.approx((before.effect, before.low, before.p), rel=1e-9)


def refusal(found: tuple[Judgement, ...]) -> str:
    assert [each.ruling for each in found] == ["refused"] * len(found)
    return "; ".join(found[0].reasons)


def test_refusals_say_why(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    winner = seeded_trial(2, {"mqar": curve(0.8, OTHER)})
    trials = [*zoo, winner]
    few = judge(claim(winner, seeds=FRESH[:4]), trials, recall)
    assert refusal(few) == "too few seeds: 4, and a claim takes 5 at least"
    assert refusal(judge(claim(winner, seeds=FRESH[:1]), trials, recall)).startswith("too few seeds: 1,")
    reused = judge(claim(winner, seeds=(1, *FRESH)), trials, recall)
    assert refusal(reused) == "seeds reused from selection: 1; take ones no rung has"
    assert refusal(judge(claim(winner, seeds=(*FRESH, 10)), trials, recall)) == "a seed is counted twice"
    lost = judge(claim(winner, seeds=(*FRESH, 15)), trials, recall)
    assert "not measured: softmax on mqar at seed 15" in refusal(lost)
    assert (lost[0].p, lost[0].corrected, lost[0].opponent) == (1.0, 1.0, "")
    assert math.isnan(lost[0].effect)
    wider = replace(recall, baselines=(("linear", ""), ("gla", ""), ("softmax", "")))
    assert refusal(judge(claim(winner), trials, wider)) == "a baseline is not among the trials: gla"


def test_a_protocol_that_differs_in_more_than_seeds_is_refused(
    zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial
) -> None:
    winner = seeded_trial(2, {"mqar": curve(0.8, OTHER)})
    stage = replace(recall.rungs[0].stages[0], seeds=FRESH)
    fresh = replace(recall, rungs=(replace(recall.rungs[0], stages=(stage,), keep=1.0),))
    assert judge(claim(winner), [*zoo, winner], recall, measured_under=fresh)[0].ruling == "promoted"
    for other in (
        replace(fresh, width=64),
        replace(fresh, training=Training(clip=2.0)),
        replace(fresh, rungs=(replace(fresh.rungs[0], stages=(replace(stage, steps=11),)),)),
    ):
        found = judge(claim(winner), [*zoo, winner], recall, measured_under=other)
        assert refusal(found) == f"the protocol differs: selection by {recall.id}, fresh seeds under {other.id}"


def test_what_is_sure_and_small_is_refused(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    """Two points of a hundred on every seed: certain, and less than another seed would make."""
    shadow = seeded_trial(2, {"mqar": curve(0.52, STEADY)})
    (found,) = judge(claim(shadow), [*zoo, shadow], recall)
    assert found.p < 0.05
    assert refusal((found,)).startswith("the effect, 0.")
    assert "below the noise floor of one seed, 0.83" in refusal((found,))


def test_one_success_among_many_tries_is_refused(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    hopeful = seeded_trial(2, {"mqar": curve(0.6, OTHER)})
    others = [seeded_trial(n, {"mqar": curve(0.3, STEADY)}) for n in range(3, 33)]
    (alone,) = judge(claim(hopeful), [*zoo, hopeful], recall)
    (first, *_) = judge(claim(hopeful, *others), [*zoo, hopeful, *others], recall)
    assert (alone.ruling, first.ruling) == ("promoted", "refused")
    assert first.corrected == pytest.approx(31 * first.p)
    assert first.reasons[0].startswith("the interval contains zero: [-")
    assert first.reasons[0].endswith("after correction for 31 candidates")


def test_failures_are_the_worst_on_both_sides(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    broken = {**curve(0.9, STEADY), 12: math.nan}
    failing = seeded_trial(2, {"mqar": dict.fromkeys(SEEDS, FailureKind.DIVERGED)})
    torn = seeded_trial(3, {"mqar": broken})
    judged = judge(claim(torn, failing), [*zoo, torn, failing], recall)
    assert [found.ruling for found in judged] == ["refused", "refused"]
    assert judged[1].effect == -5
    assert judged[1].p > 0.99
    # Opponents that always fail are beaten by whoever does not, and not by who does.
    dead = seeded_trial(4, {"mqar": dict.fromkeys(SEEDS, FailureKind.DIVERGED)}, origin=Origin.ZOO)
    alive = seeded_trial(5, {"mqar": curve(0.5, STEADY)})
    over_dead = judge(claim(alive, failing), [dead, alive, failing], recall)
    assert [(found.effect, found.ruling) for found in over_dead] == [(5, "promoted"), (0, "refused")]


def test_a_control_must_be_beaten_too(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    winner = seeded_trial(2, {"mqar": curve(0.8, OTHER)})
    draws = [seeded_trial(n, {"mqar": curve(0.2 * n - 0.4, STEADY)}, origin=Origin.RANDOM) for n in range(3, 7)]
    trials = [*zoo, winner, *draws]
    assert control(trials, recall, n=2, rung=0) is draws[1]
    assert control(trials, recall, n=10, rung=0) is draws[3]
    assert control(zoo, recall, n=10, rung=0) is None
    (found,) = judge(claim(winner, controls=[draws[3]]), trials, recall)
    assert (found.ruling, found.opponent) == ("refused", draws[3].candidate.id)
    assert judge(claim(winner, controls=[draws[1]]), trials, recall)[0].ruling == "promoted"
    # A control that makes the claim is not its own opponent.
    assert judge(claim(draws[3], controls=[draws[3]]), trials, recall)[0].ruling == "promoted"


def test_a_claim_on_one_task_looks_at_no_other(seeded_trial: SeededTrial, seeded_protocol: SeededProtocol) -> None:
    protocol = seeded_protocol("mqar", "text", seeds=SELECTION)
    zoo = seeded_trial(0, {"mqar": curve(0.5, STEADY), "text": curve(0.5, STEADY)}, origin=Origin.ZOO)
    mixed = seeded_trial(1, {"mqar": curve(0.7, OTHER), "text": curve(0.3, OTHER)})
    rulings = {
        task: judge(replace(claim(mixed), task=task), [zoo, mixed], protocol)[0].ruling
        for task in ("mqar", "text", None)
    }
    assert rulings == {"mqar": "promoted", "text": "refused", None: "refused"}


def test_errors_say_what_was_claimed(zoo: list[Trial], recall: Protocol, seeded_trial: SeededTrial) -> None:
    tried = seeded_trial(2, {"mqar": curve(0.7, OTHER)})
    trials = [*zoo, tried]
    absent = seeded_trial(9, {})
    for wrong, among, message in (
        (claim(absent), trials, f"no trials of {absent.candidate.short} among the 3 given"),
        (claim(), trials, "one or more different candidates, got 0"),
        (claim(tried, tried), trials, "different candidates, got 2"),
        (claim(zoo[1]), trials, "softmax is a baseline"),
        (claim(tried), [tried], "neither a baseline nor a control"),
        (replace(claim(tried), task="text"), trials, "rung 0 has no task 'text'; it has mqar"),
        (replace(claim(tried), rung=1), trials, "rungs 0 to 0, and 1"),
        (replace(claim(tried), alpha=1.0), trials, "between 0 and 1, got 1.0"),
    ):
        with pytest.raises(ValueError, match=message.replace("(", r"\(")):
            judge(wrong, among, recall)


# -- simulated campaigns ----------------------------------------------------------------------------------------------

TRIED, FINALISTS, UNIT = 200, 5, 0.08


def simulate(
    rng: np.random.Generator,
    protocol: Protocol,
    seeded_trial: SeededTrial,
    *,
    zoo: Sequence[float],
    best: float = 0.0,
    spread: float = 0.0,
) -> tuple[set[int], int | None]:
    """The candidates that the gate promotes, and the one that the best mean on the seeds of selection names, if any.

    `TRIED` candidates as good as a baseline at 0, but the last is better by `best` units of noise; the deviations of
    their noise are lognormal with `spread`. The `FINALISTS` best are measured on the fresh seeds.
    """
    baselines = len(zoo)
    levels = np.array([*zoo, *[0.0] * (TRIED - 1), best])
    units = UNIT * np.exp(spread * rng.standard_normal(len(levels)))
    noise = rng.standard_normal((len(levels), 2, len(SEEDS)))
    x: NDArray[np.float64] = 0.8 + levels[:, None, None] * UNIT + units[:, None, None] * noise
    scores = np.sin(np.clip(x, 0, math.pi / 2)) ** 2

    def trial(n: int, seeds: int) -> Trial:
        by_task = {
            task: dict(zip(SEEDS, each, strict=False))
            for task, each in zip(("mqar", "text"), scores[n, :, :seeds].tolist(), strict=True)
        }
        return seeded_trial(n, by_task, origin=Origin.ZOO if n < baselines else Origin.EVOLUTION)

    selected = [trial(n, len(SELECTION)) for n in range(len(levels))]
    standing = standings(selected, protocol, rung=0)
    order = sorted(range(baselines, len(levels)), key=lambda n: -standing[selected[n].candidate.id])[:FINALISTS]
    for n in (*range(baselines), *order):
        selected[n] = trial(n, len(SEEDS))
    judged = judge(claim(*(selected[n] for n in order)), selected, protocol)
    means = scores[:, :, : len(SELECTION)].mean((1, 2))
    naive = baselines + int(means[baselines:].argmax())
    promoted = {n - baselines for n, found in zip(order, judged, strict=True) if found.ruling == "promoted"}
    return promoted, naive - baselines if means[naive] > means[:baselines].max() else None


def test_of_candidates_that_are_not_better_hardly_one_is_promoted(
    seeded_protocol: SeededProtocol, seeded_trial: SeededTrial
) -> None:
    """500 campaigns of 200 candidates as good as the baseline: the gate is held to its 5%, "best mean wins" is not."""
    rng = np.random.default_rng(3)
    protocol = seeded_protocol("mqar", "text", seeds=SELECTION)
    outcomes = [simulate(rng, protocol, seeded_trial, zoo=(0,)) for _ in range(500)]
    false, naive = (sum(map(bool, rate)) / 500 for rate in zip(*[(p, n is not None) for p, n in outcomes], strict=True))
    print(f"\nno candidate is better: the gate promotes one in {false:.1%} of campaigns, the best mean in {naive:.1%}")
    assert false <= 0.05
    assert naive > 0.95


def test_unequal_noise_does_not_open_the_gate(seeded_protocol: SeededProtocol, seeded_trial: SeededTrial) -> None:
    """Deviations spread over a factor of five either way: selection prefers the noisy, and the gate knows."""
    rng = np.random.default_rng(4)
    protocol = seeded_protocol("mqar", "text", seeds=SELECTION)
    false = sum(bool(simulate(rng, protocol, seeded_trial, zoo=(0,), spread=0.8)[0]) for _ in range(100)) / 100
    print(f"\nno candidate is better, unequal noise: the gate promotes one in {false:.1%} of campaigns")
    # A true rate of 5% exceeds 10% in 100 campaigns once in ninety.
    assert false <= 0.1


def test_a_candidate_two_units_better_is_mostly_found(
    seeded_protocol: SeededProtocol, seeded_trial: SeededTrial
) -> None:
    rng = np.random.default_rng(5)
    protocol = seeded_protocol("mqar", "text", seeds=SELECTION)
    outcomes = [simulate(rng, protocol, seeded_trial, zoo=(0, -1, -2, -4), best=2.0) for _ in range(100)]
    last = TRIED - 1
    found, false = (sum(rate) / 100 for rate in zip(*[(last in p, bool(p - {last})) for p, _ in outcomes], strict=True))
    naive, wrong = (
        sum(rate) / 100 for rate in zip(*[(n == last, n not in (last, None)) for _, n in outcomes], strict=True)
    )
    print(f"\none is two units better: the gate finds it in {found:.1%}, another in {false:.1%}; ", end="")
    print(f"the best mean in {naive:.1%}, another in {wrong:.1%}")
    assert found > 0.6
    assert false <= 0.05 < wrong
