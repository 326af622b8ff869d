"""Which model is asked: gain per cost, learnt from what each has brought, with a share for doubt."""

from collections import Counter
from dataclasses import replace
from random import Random

import pytest

from archloom.agents.language_model.choice import COMPLETION, PROMPT, costs_of_proposals, ranked
from archloom.agents.language_model.record import Spending, price
from archloom.db.records import Trial

from .laboratory import FAR, GOOD, OTHER, model, trial

DEAR, CHEAP = model("dear", prompt_price=10.0, completion_price=10.0), model("cheap")


def firsts(models: tuple, *, trials: list[Trial] = [], outcomes: dict[str, float] = {}, spent: dict = {}) -> Counter:  # type: ignore[type-arg]  # noqa: B006
    """How often each model is the first of a thousand draws."""
    return Counter(
        ranked(models, trials=trials, outcomes=outcomes, spent=spent, rng=Random(seed))[0].name for seed in range(1000)
    )


def test_of_equal_models_each_is_asked_as_often() -> None:
    counted = firsts((replace(CHEAP, name="one"), replace(CHEAP, name="two")))
    assert 430 < counted["one"] < 570  # five standard deviations of a fair coin


def test_a_model_of_half_the_cost_is_asked_more_often_and_one_of_twice_the_weight_as_well() -> None:
    half = model("half", prompt_price=1.0, completion_price=1.0)
    twice = model("twice", prompt_price=2.0, completion_price=2.0)
    assert firsts((half, twice))["half"] > 650
    assert firsts((replace(half, name="one"), replace(half, name="heavy", weight=2.0)))["heavy"] > 650


def test_what_a_model_brought_outweighs_its_price() -> None:
    made = [
        trial(mixer, index, (0.5, 0.5), author=name)
        for index, (mixer, name) in enumerate(((GOOD, "dear"), (OTHER, "cheap"), (FAR, "cheap")))
    ]
    identities = [each.candidate.id for each in made]
    same_price = replace(DEAR, name="cheap")
    good = dict(zip(identities, (1.0, 0.0, 0.0), strict=True))
    assert firsts((DEAR, same_price), trials=made, outcomes=good)["dear"] > 750
    unfinished: dict[str, float] = {}
    assert 430 < firsts((DEAR, same_price), trials=made, outcomes=unfinished)["dear"] < 570


def test_costs_are_of_a_proposal_failed_ones_included() -> None:
    first = price(DEAR, PROMPT, COMPLETION)
    spent = {"dear": Spending(proposals=2, cost=8 * first, tokens=1), "gone": Spending(proposals=9, cost=9)}
    assert costs_of_proposals([DEAR], spent)["dear"] == pytest.approx(9 * first / 3)
    assert costs_of_proposals([DEAR], {})["dear"] == first


def test_a_free_model_is_not_infinitely_good_and_free_models_are_told_apart_by_tokens() -> None:
    free, talker = (model(name, prompt_price=0.0, completion_price=0.0) for name in ("free", "talker"))
    costs = costs_of_proposals([DEAR, free], {})
    assert costs["free"] == 0.05 * costs["dear"] > 0
    spent = {"talker": Spending(proposals=1, tokens=108_000), "free": Spending(proposals=1, tokens=6_000)}
    costs = costs_of_proposals([free, talker], spent)
    assert (costs["free"], costs["talker"]) == (9_000, 60_000)


def test_the_order_is_a_function_of_the_generator() -> None:
    models = (DEAR, CHEAP, model("third"))
    assert all(
        ranked(models, trials=[], outcomes={}, spent={}, rng=Random(seed))
        == ranked(models, trials=[], outcomes={}, spent={}, rng=Random(seed))
        for seed in range(20)
    )
