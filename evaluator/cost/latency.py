"""Seconds of a piece of work, on a machine that does other things too: the median of repeats after a warm-up.

On a CPU, with one thread, a repeat in which the thread had to wait for a core took much longer than the time it ran; it
says nothing of the work and is left out as long as `LEAST` others stay. Work spread over threads or done by a GPU shows
no such sign: all repeats count. How far the middle half of them spreads is told, so that a reader can see whether the
machine was quiet.
"""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

LEAST, MOST, PATIENCE = 5, 50, 5
WAITED = 1.1
"""A repeat that took this many times as long as its thread ran was disturbed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """`seconds` is the median of `repeats`; the middle half of them lies within `spread` of it, as a part of it."""

    seconds: float
    repeats: int
    spread: float

    @property
    def method(self) -> str:
        return f"median of {self.repeats}, middle half within {self.spread:.0%}"


def time_of(run: Callable[[], object], *, device: torch.device, seconds: float = 0.3) -> Timing:
    """Time `run` for about `seconds`, `LEAST` to `MOST` times after two that do not count.

    Where the machine is busy it takes up to `PATIENCE` times as long, until `LEAST` repeats were undisturbed.
    """
    once(run, device)
    once(run, device)
    alone = device.type == "cpu" and torch.get_num_threads() == 1
    started, laps = time.perf_counter(), [once(run, device) for _ in range(LEAST)]
    while len(laps) < MOST:
        passed = time.perf_counter() - started
        if passed > PATIENCE * seconds or (passed > seconds and (not alone or _quiet(laps) >= LEAST)):
            break
        laps.append(once(run, device))
    if alone:
        laps = undisturbed(laps)
    low, median, high = statistics.quantiles([wall for wall, _ in laps], n=4)
    return Timing(seconds=median, repeats=len(laps), spread=max(high - median, median - low) / median)


def undisturbed(laps: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Laps of (seconds passed, seconds run) that did not wait; of fewer than `LEAST`, those that waited least."""
    by_waiting = sorted(laps, key=lambda lap: lap[0] / max(lap[1], 1e-9))
    return by_waiting[: max(LEAST, _quiet(laps))]


def _quiet(laps: list[tuple[float, float]]) -> int:
    return sum(wall <= WAITED * ran for wall, ran in laps)


def once(run: Callable[[], object], device: torch.device) -> tuple[float, float]:
    """Seconds that passed until the device was done with one run, and seconds that this thread ran."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    started, ran = time.perf_counter(), time.thread_time()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - started, time.thread_time() - ran
