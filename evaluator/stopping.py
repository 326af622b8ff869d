"""When a run may end early: a rule on the candidate's own learning curve, and nothing else.

It asks no other candidate and no clock, so a run ends at the same step wherever and whenever it is repeated. Two curves
are judged. One that has *solved* the task. And one that has *never left chance*, but only late: recall is learnt in a
sudden rise after a plateau, by delta rules later than by others, and a task whose difficulty ramps up is not the task
itself before its ramp ends. A curve that has once risen is left alone, however it fares: it may rise again.

A run that ends early is credited with its last score. Since a score that stands still could still grow a little, as the
learning rate falls, every candidate and baseline of a protocol must run under the same rule, and `solved` be high.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """When to stop a run on one task. `ramp` and `patience` are shares of its steps, `chance` and `solved` scores.

    Nothing is called hopeless before `ramp + patience` of the steps; from 1 on nothing ever is. `chance` is the highest
    score that luck reaches, `solved` is None for a task that is never solved, and `in_a_row` evaluations confirm it.

    Errors: `ValueError` for shares or scores outside [0, 1], `solved` not above `chance`, `in_a_row` below 1.
    """

    ramp: float = 0.0
    patience: float = 0.5
    chance: float = 0.02
    solved: float | None = 0.99
    in_a_row: int = 2

    def __post_init__(self) -> None:
        for name, value in (("ramp", self.ramp), ("patience", self.patience), ("chance", self.chance)):
            if not 0 <= value <= 1:
                raise ValueError(f"{name} is a share or a score within [0, 1], got {value}")
        if self.solved is not None and not self.chance < self.solved <= 1:
            raise ValueError(f"solved lies above chance, {self.chance}, and at most at 1, got {self.solved}")
        if self.in_a_row < 1:
            raise ValueError(f"a score is confirmed by 1 evaluation or more in a row, got {self.in_a_row}")


def stop(scores: Mapping[int, float], *, step: int, steps: int, rule: Rule) -> str | None:
    """Why a run may end after step `step` of `steps`, or None; `scores` in [0, 1] by the step they were measured after.

    Only scores up to `step` are looked at, and a score that is no number counts as one at chance. After the last step
    there is nothing left to stop.

    Errors: `ValueError` for a step outside [1, steps].
    """
    if not 1 <= step <= steps:
        raise ValueError(f"the step is one of 1 to {steps}, got {step}")
    known = [0.0 if math.isnan(scores[at]) else scores[at] for at in sorted(scores) if at <= step]
    if step == steps or not known:
        return None
    last = known[-rule.in_a_row :]
    if rule.solved is not None and len(last) == rule.in_a_row and min(last) >= rule.solved:
        return f"solved: {rule.in_a_row} scores in a row are {rule.solved:g} or more, the last one {known[-1]:.3f}"
    if step >= (rule.ramp + rule.patience) * steps and max(known) <= rule.chance:
        return f"still at chance after {step} of {steps} steps: no score above {rule.chance:g}"
    return None
