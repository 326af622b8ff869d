"""How new an architecture is: its nearest relatives in the campaign, and how many operations they differ by.

A bag of operations is compared with all others first, which costs nothing; the few that are nearest are then aligned
with it operation by operation (`search_space.difference`).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archloom.db.records import Trial
from archloom.search_space.difference import Change, difference
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse

Bags = NDArray[np.int8]

ALIGNED = 3
"""How many of the nearest bags are aligned."""
MOST = 63
"""The difference of two counts fits into a byte."""
_COLUMNS = {name: column for column, name in enumerate(OPERATIONS)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Relative:
    """A trial, and the changes that make the new architecture of it."""

    trial: Trial
    changes: tuple[Change, ...]

    @property
    def distance(self) -> int:
        """Operations touched."""
        return sum(change.operations for change in self.changes)


class Census:
    """The bags of operations of the candidates met so far: it saves counting them again, and nothing else."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._bags: Bags = np.zeros((64, len(_COLUMNS)), dtype=np.int8)
        self._sizes: list[int] = []

    def relatives(self, term: Term, trials: Sequence[Trial], *, within: int) -> tuple[Relative, ...]:
        """The nearest of the trials, at most `ALIGNED`, that differ by fewer than `within` operations; nearest first.

        An operation touched changes two counts at most, so half their difference is never more than the distance, and
        what lies farther by its bag alone is not aligned.
        """
        for trial in trials:
            if trial.candidate.id not in self._rows:
                self._count(trial)
        rows = [self._rows[trial.candidate.id] for trial in trials]
        apart = self._apart(bag(term))[rows]
        near = np.flatnonzero(apart < 2 * within)
        nearest = near[np.argsort(apart[near], kind="stable")][:ALIGNED].tolist()
        found = [
            Relative(trial=trials[place], changes=difference(parse(trials[place].candidate.term), term))
            for place in nearest
        ]
        return tuple(sorted((each for each in found if each.distance < within), key=lambda each: each.distance))

    def _apart(self, counts: Bags) -> NDArray[np.int32]:
        """The sum of the differences from each bag [rows]: its size, but for the columns that the term has too."""
        columns = np.flatnonzero(counts)
        shared = self._bags[: len(self._sizes), columns].astype(np.int32)
        here: NDArray[np.int32] = np.abs(shared - counts[columns]).sum(axis=1) - shared.sum(axis=1)
        return here + np.array(self._sizes, dtype=np.int32)

    def _count(self, trial: Trial) -> None:
        row = self._rows[trial.candidate.id] = len(self._rows)
        if row == len(self._bags):
            self._bags = np.vstack([self._bags, np.zeros_like(self._bags)])
        self._bags[row] = bag(parse(trial.candidate.term))
        self._sizes.append(int(self._bags[row].sum(dtype=np.int32)))


def bag(term: Term) -> Bags:
    """How often each operation occurs, up to `MOST`: [operations]."""
    counts = np.zeros(len(_COLUMNS), dtype=np.int8)
    for node in walk(term):
        column = _COLUMNS.get(node.operation.name)
        if column is not None and counts[column] < MOST:
            counts[column] += 1
    return counts
