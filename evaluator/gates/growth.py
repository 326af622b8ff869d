"""Growth of the executed work with length, against what the lowering promises."""

import math
from collections.abc import Sequence

from archloom.evaluator.gates.subject import Subject

LINEAR_EXPONENT = 1.05
LARGEST_EXPONENT = 2.25
"""Quadratic, and a logarithm on it: distances over a graph of tokens take one."""

NEGLIGIBLE = 0.01


def cost(subject: Subject) -> str | None:
    """Executed operations grow no faster with length than the lowering promises."""
    lengths, works = subject.counted_lengths, subject.works
    for unit in ("flops", "elements", "calls"):
        counts = [getattr(work, unit) for work in works]
        if subject.linear:
            found, most = added_exponent(counts), LINEAR_EXPONENT
        else:
            found, most = exponent(counts, lengths), LARGEST_EXPONENT
        if found > most:
            return f"{unit} grow with length^{found:.2f} up to {lengths[-1]} tokens; at most {most} was promised"
    return None


def exponent(counts: Sequence[int], lengths: Sequence[int]) -> float:
    """Slope of log(count) over log(length) between the shortest and the longest."""
    return math.log(max(1, counts[-1]) / max(1, counts[0])) / math.log(lengths[-1] / lengths[0])


def added_exponent(counts: Sequence[int]) -> float:
    """The p of a + b T^p through the counts at three lengths, each twice the one before; 0 if next to nothing is added.

    What does not grow is left out, so that a small quadratic part shows: a linear cost has p = 1 whatever `a` is.
    """
    first, second = counts[1] - counts[0], counts[2] - counts[1]
    return math.log2(second / max(1, first)) if second > NEGLIGIBLE * counts[2] else 0.0
