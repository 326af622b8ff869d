"""Lessons: what campaigns taught, with the evaluations that show it."""

import math
from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One thing learnt. `evidence` are the ids of the evaluations it rests on, `when` it was written, with a time zone.

    `score` is what it has proved worth: 1 for a lesson that no proposal has used yet, more if the proposals that cite
    it do better than others, less if they do worse, 0 for one that has faded and is no longer found.

    Errors: `ValueError` for an empty text, no evidence, a score that is negative or not finite, a naive time.
    """

    text: str
    evidence: tuple[int, ...]
    score: float = 1.0
    when: datetime

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise ValueError("a lesson has no text; say in a sentence what was learnt")
        if not self.evidence:
            raise ValueError(f"the lesson {self.text!r} has no evidence; name the evaluations that show it")
        if not (math.isfinite(self.score) and self.score >= 0):
            raise ValueError(f"a lesson's score is {self.score}; it is a finite number, 0 or more")
        if self.when.tzinfo is None:
            raise ValueError(f"a lesson's time, {self.when}, has no time zone; use UTC")
