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
    judged = [
        (trial, made)
        for trial in history
        if trial.candidate.origin is not Origin.ZOO
        and ((made := board.digest(trial.candidate.id)).failure is not None or made.rung >= 0)
    ]
    if not judged:
        return {}
    rungs = np.array([-1 if made.failure is not None else made.rung for _, made in judged])
    fitness = np.array([_fitness(trial, made.rung) if made.failure is None else 0.0 for trial, made in judged])
    order = np.lexsort((fitness, rungs))
    places = np.empty(len(judged))
    places[order] = np.arange(len(judged))
    places[rungs < 0] = 0.0
    placed = (places / max(1, len(judged) - 1)).tolist()
    return {trial.candidate.id: place for (trial, _), place in zip(judged, placed, strict=True)}


def _fitness(trial: Trial, rung: int) -> float:
    """`trial.fitness(rung)`, found at once where it stands last."""
    if trial.standings and trial.standings[-1][0] == rung:
        return trial.standings[-1][1]
    return trial.fitness(rung)
