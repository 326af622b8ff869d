"""How a task grows to its full difficulty over the first part of training."""


def grown(full: int, *, step: int, total_steps: int, ramp: float) -> int:
    """How much of `full` training step `step` has: 1 at the first, all once `ramp * total_steps` steps are done.

    It grows by one in equal stages between; without a ramp it is `full` from the first step.
    """
    done = step / (ramp * total_steps) if ramp else 1.0
    return min(full, 1 + int(full * done))
