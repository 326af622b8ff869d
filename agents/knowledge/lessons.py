"""What lessons prove worth: a lesson that proposals rest on is judged by how these proposals do, and may fade.

A proposal's outcome is its place among its arm's candidates, 0 for the last (failures are all last) and 1 for the
first. A lesson starts at 1, as if `PRIOR` proposals of middling outcome had cited it, and moves with those that do.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from archloom.db.records import Lesson, Trial

PRIOR = 2.0
"""Proposals of middling outcome that a new lesson is credited with."""
FADED = 0.5
"""A lesson whose score falls below this fades: it is found no more."""
MIDDLING = 0.5


def weighed(lessons: Iterable[Lesson], outcomes: Mapping[str, float], trials: Iterable[Trial]) -> tuple[Lesson, ...]:
    """The lessons with the scores that `trials` give them by their `outcomes`, 0 to 1 by candidate id."""
    citing: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.candidate.cites and (outcome := outcomes.get(trial.candidate.id)) is not None:
            for name in set(trial.candidate.cites):
                citing[name].append(outcome)
    if not citing:
        return tuple(lessons)
    return tuple(
        replace(lesson, score=_score(citing[lesson.name])) if lesson.name in citing else lesson for lesson in lessons
    )


def _score(outcomes: Sequence[float]) -> float:
    score = (PRIOR * MIDDLING + sum(outcomes)) / (PRIOR + len(outcomes)) / MIDDLING
    return score if score >= FADED else 0.0
