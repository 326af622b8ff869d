"""A running campaign on stderr: a live panel on a terminal, a plain line every ten seconds elsewhere."""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

from archloom.display import number, plain, seconds

if TYPE_CHECKING:
    from archloom.progress import Progress

LINE_SECONDS = 10.0


@contextmanager
def following(stream: TextIO, *, clock: Callable[[], float] = time.monotonic) -> Iterator[Callable[["Progress"], None]]:
    """A function that shows the progress it is given; `clock` counts the seconds between plain lines."""
    console = Console(file=stream, markup=False, highlight=False, emoji=False)
    if console.is_terminal:
        with Live(console=console, refresh_per_second=4, transient=True) as live:
            yield lambda progress: live.update(panel(progress))
        return
    last = -math.inf

    def write(progress: "Progress") -> None:
        nonlocal last
        now = clock()
        if now - last >= LINE_SECONDS:
            last = now
            stream.write(f"{plain(', '.join(parts(progress)))}\n")
            stream.flush()

    yield write


def parts(progress: "Progress") -> tuple[str, ...]:
    """What there is to say, in the order of interest."""
    limit = "" if progress.wall_limit is None else f" of {seconds(progress.wall_limit)}"
    said = (
        f"{progress.candidates}/{progress.candidates_total} candidates",
        standing(progress),
        f"{progress.running} running",
        f"{progress.failures} failed" if progress.failures else "",
        f"{seconds(progress.wall_seconds)}{limit}",
        f"{seconds(progress.eta_seconds)} left" if math.isfinite(progress.eta_seconds) else "",
        f"overhead {progress.overhead:.0%}" if math.isfinite(progress.overhead) else "",
    )
    return tuple(part for part in said if part)


def standing(progress: "Progress") -> str:
    """The best candidate against the best baseline."""
    ours = f"best {number(progress.best)} ({progress.best_name})" if progress.best_name else "no score yet"
    theirs = f" against {number(progress.best_baseline)} ({progress.baseline_name})" if progress.baseline_name else ""
    return f"{ours}{theirs}"


def panel(progress: "Progress") -> Table:
    drawn = Table.grid(padding=(0, 2))
    bar = ProgressBar(total=max(1, progress.candidates_total), completed=progress.candidates, width=32)
    first, *rest = parts(progress)
    drawn.add_row(progress.campaign, bar, first)
    drawn.add_row("", plain(standing(progress)), "")
    drawn.add_row("", plain(", ".join(rest[1:])), "")
    return drawn
