"""How each candidate of a campaign came out: its place among those that are no baselines, from 0 to 1."""

from collections.abc import Sequence

import numpy as np

from archloom.agents.language_model.board import Board
from archloom.db.records import Origin, Trial


def outcomes(history: Sequence[Trial], board: Board) -> dict[str, float]:
    """By candidate id its place, 0 for the last and 1 for the first; failures are last, all alike.

    Trials go by the highest rung they completed and their fitness there. What has no result yet has no outcome.
    `board` holds the history.
    """
    names, rungs, fitness = [], [], []
    for trial in history:
        if trial.candidate.origin is Origin.ZOO:
            continue
        made = board.digest(trial.candidate.id)
        if made.failure is not None:
            rungs.append(-1)
            fitness.append(0.0)
        elif made.rung >= 0:
            rungs.append(made.rung)
            fitness.append(_fitness(trial, made.rung))
        else:
            continue
        names.append(trial.candidate.id)
    places = np.empty(len(names))
    places[np.lexsort((fitness, rungs))] = np.arange(len(names)) / max(1, len(names) - 1)
    places[np.array(rungs) < 0] = 0.0
    return dict(zip(names, places.tolist(), strict=True))


def _fitness(trial: Trial, rung: int) -> float:
    """`trial.fitness(rung)`, found at once where it stands last."""
    if trial.standings and trial.standings[-1][0] == rung:
        return trial.standings[-1][1]
    return trial.fitness(rung)
