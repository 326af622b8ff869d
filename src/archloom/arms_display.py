"""What the command line draws of a comparison of arms."""

import math
from collections.abc import Sequence

from rich.table import Table

from archloom.arm_comparison import COSTS, ArmSummary, Difference, Interval
from archloom.arms_bench import Measured
from archloom.display import count, number, table


def compared(found: Measured) -> str:
    """What was compared, in a sentence or two."""
    seeds = f"seeds {found.seeds[0]} to {found.seeds[-1]}"
    where = f"suite {found.suite}" if found.suite else "tasks of its own"
    return (
        f"Each arm alone in {len(found.seeds)} campaigns ({seeds}, paired by seed) of at most {found.candidates} "
        f"candidates under protocol {found.protocol} ({where}), with the same baselines, which are not counted. Model: "
        f"{', '.join(found.models)}. Money: an hour of a device at {found.device_price:g}, and what the calls cost. "
        "Fitness: the best so far where all arms of a replicate have spent the same, in [-5, 5]; 0 is as good as the "
        "best baseline of every task. Intervals: 95%, Student's t over the replicates, each for one "
        "comparison."
    )


def arms(found: Sequence[ArmSummary]) -> Table:
    """An arm a row: what all its replicates spent, and its best fitness at equal cost."""
    rows = [
        (
            each.arm,
            count(each.candidates),
            count(each.evaluations),
            count(each.failed),
            count(each.refusals),
            count(each.fallbacks),
            f"{each.device_seconds:,.1f}",
            count(each.calls),
            count(each.tokens),
            f"{each.money:.5f}",
            *(_interval(each.best[cost]) for cost in COSTS),
        )
        for each in found
    ]
    spent = ("candidates", "evaluations", "failed", "refused", "by others", "device s", "calls", "tokens", "money")
    equal = tuple(f"best, equal {cost}" for cost in COSTS)
    return table(("arm", *spent, *equal), rows, right=(*spent, *equal))


def differences(found: Sequence[Difference]) -> Table:
    rows = [
        (
            each.equal,
            f"{each.arm} - {each.control}",
            _interval(each.by, sign="+"),
            f"{each.better:.2f}",
            _verdict(each.by),
        )
        for each in found
    ]
    return table(("at equal", "difference of best fitness", "by", "P(better)", "so"), rows, right=("by", "P(better)"))


def _verdict(by: Interval) -> str:
    """Only an interval without 0 tells."""
    return "better" if by.low > 0 else "worse" if by.high < 0 else "cannot be told"


def _interval(found: Interval, *, sign: str = "") -> str:
    low, high = (number(each) if math.isfinite(each) else str(each) for each in (found.low, found.high))
    return f"{found.mean:{sign}.3f} [{low}, {high}]"
