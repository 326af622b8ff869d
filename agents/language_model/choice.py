"""Which model writes the next proposal: the one that promises most per cost, with its share of doubt.

Thompson sampling (Thompson 1933; Chapelle and Li 2011) over the outcomes of each model's candidates, a Beta law from a
uniform prior, where a draw is multiplied by the model's weight and divided by what a proposal of it costs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from random import Random

from archloom.agents.language_model.endpoints import Model
from archloom.agents.language_model.record import Spending, price
from archloom.db.records import Trial

PROMPT, COMPLETION = 10_000, 2_000
"""Tokens of the one proposal that every model is credited with before it has made any."""
CHEAPEST = 0.05
"""A model counts as no cheaper than this share of the dearest, so that a price of 0 is not worth any outcome."""


def ranked(
    models: Sequence[Model],
    *,
    trials: Iterable[Trial],
    outcomes: Mapping[str, float],
    spent: Mapping[str, Spending],
    rng: Random,
) -> tuple[Model, ...]:
    """The models, the one to ask first first. `outcomes` are 0 to 1 by candidate id, `spent` is by model."""
    if len(models) == 1:
        return tuple(models)
    gains: dict[str, list[float]] = defaultdict(list)
    for trial in trials:
        if trial.candidate.author and trial.candidate.id in outcomes:
            gains[trial.candidate.author].append(outcomes[trial.candidate.id])
    costs = costs_of_proposals(models, spent)
    drawn = {model.name: _draw(gains[model.name], rng) * model.weight / costs[model.name] for model in models}
    return tuple(sorted(models, key=lambda model: -drawn[model.name]))


def costs_of_proposals(models: Sequence[Model], spent: Mapping[str, Spending]) -> dict[str, float]:
    """By model what a proposal of it costs in money, failed ones included; in tokens where all are free."""
    free = all(price(model, PROMPT, COMPLETION) == 0 for model in models)
    costs = {}
    for model in models:
        credited = PROMPT + COMPLETION if free else price(model, PROMPT, COMPLETION)
        past = spent.get(model.name, Spending())
        costs[model.name] = (credited + (past.tokens if free else past.cost)) / (1 + past.proposals)
    least = CHEAPEST * max(costs.values())
    return {name: max(cost, least) for name, cost in costs.items()}


def _draw(outcomes: Sequence[float], rng: Random) -> float:
    return rng.betavariate(1 + sum(outcomes), 1 + len(outcomes) - sum(outcomes))
