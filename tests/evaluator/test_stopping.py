"""When runs end early: on curves like those that proxies were seen to have."""

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.evaluator.stopping import Rule, stop

STEPS = 500
EVALUATED = range(25, STEPS + 1, 25)


def sigmoid(*, middle: float, width: float = 10, top: float = 1.0) -> dict[int, float]:
    """A plateau at chance, and a sudden rise about a step."""
    return {step: top / (1 + math.exp((middle - step) / width)) for step in EVALUATED}


def first_stop(scores: Mapping[int, float], rule: Rule) -> tuple[int, str] | None:
    """The run as training would see it: the rule is asked after every evaluation, and knows no later one."""
    for step in EVALUATED:
        seen = {at: score for at, score in scores.items() if at <= step}
        reason = stop(seen, step=step, steps=STEPS, rule=rule)
        if reason is not None:
            return step, reason
    return None


def test_what_never_leaves_chance_is_stopped_and_not_before_its_time() -> None:
    at_chance = {step: 0.01 * (step % 3 == 0) for step in EVALUATED}
    found = first_stop(at_chance, Rule(ramp=0.4))
    assert found == (450, "still at chance after 450 of 500 steps: no score above 0.02")
    assert first_stop(at_chance, Rule()) == (250, "still at chance after 250 of 500 steps: no score above 0.02")
    assert first_stop(at_chance, Rule(ramp=0.5)) is None


def test_a_late_rise_is_waited_for() -> None:
    """Grokking at 80% of the steps, with no sign of it at 75%."""
    late = sigmoid(middle=410)
    assert max(score for step, score in late.items() if step <= 300) < 0.02
    assert first_stop(late, Rule(ramp=0.4)) is None
    # The same curve on a task without a ramp is at chance when its time is over: patience is what saves it.
    assert first_stop(late, Rule(ramp=0.0, patience=0.5)) is not None
    assert first_stop(late, Rule(ramp=0.0, patience=0.9)) is None


def test_who_has_risen_once_is_left_alone() -> None:
    fallen = {step: 0.3 if step == 200 else 0.0 for step in EVALUATED}
    slow = {step: 0.0001 * step for step in EVALUATED}
    assert first_stop(fallen, Rule(ramp=0.2)) is None
    assert first_stop(slow, Rule()) is None


def test_what_is_solved_twice_in_a_row_is_stopped() -> None:
    early = sigmoid(middle=100)
    found = first_stop(early, Rule(ramp=0.4, solved=0.99))
    assert found is not None
    step, reason = found
    assert early[step - 25] >= 0.99 > early[step - 50]
    assert reason == f"solved: 2 scores in a row are 0.99 or more, the last one {early[step]:.3f}"
    spike = {**dict.fromkeys(EVALUATED, 0.5), 200: 1.0, 300: 1.0}
    assert first_stop(spike, Rule()) is None
    assert first_stop(spike, Rule(in_a_row=1)) == (
        200,
        "solved: 1 scores in a row are 0.99 or more, the last one 1.000",
    )
    assert first_stop(dict.fromkeys(EVALUATED, 1.0), Rule(solved=None)) is None
    assert first_stop(dict.fromkeys(EVALUATED, 1.0), Rule()) == (
        50,
        "solved: 2 scores in a row are 0.99 or more, the last one 1.000",
    )


def test_a_score_that_is_no_number_is_no_score() -> None:
    curve = dict.fromkeys(EVALUATED, math.nan)
    assert first_stop(curve, Rule()) == (250, "still at chance after 250 of 500 steps: no score above 0.02")
    assert stop({25: 1.0, 50: math.nan}, step=50, steps=STEPS, rule=Rule()) is None
    assert stop({}, step=400, steps=STEPS, rule=Rule()) is None


@given(
    st.dictionaries(st.integers(1, STEPS), st.floats(0, 1)),
    st.integers(1, STEPS),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_laws(scores: dict[int, float], step: int, ramp: float, patience: float) -> None:
    rule = Rule(ramp=ramp, patience=patience)
    found = stop(scores, step=step, steps=STEPS, rule=rule)
    past = {at: score for at, score in sorted(scores.items(), reverse=True) if at <= step}
    assert stop(past, step=step, steps=STEPS, rule=rule) == found  # neither the future nor an order is looked at
    assert stop(scores, step=STEPS, steps=STEPS, rule=rule) is None
    if found is not None and found.startswith("still"):
        assert step >= (ramp + patience) * STEPS
        assert max(past.values()) <= rule.chance
    if found is not None and found.startswith("solved"):
        assert sum(score >= 0.99 for score in past.values()) >= 2


def test_errors_say_what_was_given() -> None:
    for step in (0, STEPS + 1):
        with pytest.raises(ValueError, match=f"one of 1 to 500, got {step}"):
            stop({}, step=step, steps=STEPS, rule=Rule())
    for wrong, message in (
        ({"ramp": 1.5}, "ramp is a share or a score within .*, got 1.5"),
        ({"patience": -0.1}, "patience is .*, got -0.1"),
        ({"chance": math.nan}, "chance is .*, got nan"),
        ({"solved": 0.01}, "solved lies above chance, 0.02, and at most at 1, got 0.01"),
        ({"in_a_row": 0}, "1 evaluation or more in a row, got 0"),
    ):
        with pytest.raises(ValueError, match=message):
            Rule(**wrong)  # type: ignore[arg-type]
