"""Outcomes: a candidate's place among its like, and what lessons are worth by it."""

from dataclasses import replace

import pytest

from archloom.agents.knowledge.lessons import FADED, weighed
from archloom.agents.language_model.board import Board
from archloom.agents.language_model.outcomes import outcomes
from archloom.db.records import Lesson, Origin, Trial

from .laboratory import FAR, GOOD, OTHER, PROTOCOL, WHEN, trial

MIXERS = (GOOD, OTHER, FAR, FAR.replace("16", "8"), GOOD.replace("elu1", "exp"))


def placed(*trials: Trial) -> list[float | None]:
    board = Board(PROTOCOL)
    board.hold(trials)
    found = outcomes(trials, board)
    return [found.get(each.candidate.id) for each in trials]


def test_places_are_by_fitness_and_failures_last() -> None:
    trials = [
        trial(mixer, i, s)
        for i, (mixer, s) in enumerate(zip(MIXERS, ((0.5, 0.5), None, (0.9, 0.9), None, (0.1, 0.1)), strict=True))
    ]
    assert placed(*trials) == [0.75, 0.0, 1.0, 0.0, 0.5]


def test_standings_come_before_scores_and_baselines_have_no_place() -> None:
    low, high = trial(GOOD, 0, (0.1, 0.1)), trial(OTHER, 1, (0.9, 0.9))
    low = replace(low, standings=((0, 2.0),))
    high = replace(high, standings=((0, -2.0),))
    assert placed(low, high, trial(FAR, 2, (0.5, 0.5), origin=Origin.ZOO)) == [1.0, 0.0, None]


def test_what_has_no_result_yet_has_no_place() -> None:
    waiting = replace(trial(FAR, 1, (0.5, 0.5)), results=())
    assert placed(waiting) == [None]
    assert placed(trial(GOOD, 0, (0.5, 0.5)), waiting) == [0.0, None]


def lesson(text: str) -> Lesson:
    return Lesson(text=text, candidate="c", evidence=(trial(GOOD, 0, None).results[0].key,), when=WHEN)


@pytest.mark.parametrize(
    ("outcomes", "score"),
    [((), 1.0), ((1.0,), 4 / 3), ((0.0,), 2 / 3), ((1.0, 1.0), 1.5), ((0.0, 0.0), 0.5), ((0.0, 0.0, 0.0), 0.0)],
)
def test_a_lesson_is_worth_what_cites_it_and_fades(outcomes: tuple[float, ...], score: float) -> None:
    told, other = lesson("cited"), lesson("another")
    citing = [
        trial(mixer, i, (0.5, 0.5), cites=(told.name, told.name)) for i, mixer in enumerate(MIXERS[: len(outcomes)])
    ]
    by_id = {each.candidate.id: outcome for each, outcome in zip(citing, outcomes, strict=True)}
    first, second = weighed([told, other], by_id, [*citing, trial(FAR.replace("16", "4"), 9, None, cites=(told.name,))])
    assert first.score == pytest.approx(score)
    assert second.score == 1.0
    assert first.score == 0 or first.score >= FADED
