"""Regularised evolution (Real et al. 2019, arXiv:1802.01548, algorithm 1), seeded from the zoo.

The population is the youngest `population` of the arm's own candidates with a score, filled up with the best baselines
while there are too few; a parent is the best of a random tournament. Trials are compared by the highest rung they
reached and their fitness there, so a candidate that was judged worth more training beats one that was not.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from archloom.agents.proposer import Proposal
from archloom.db.records import Origin, Trial
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.variation import Child, crossover, mutate


@dataclass(frozen=True, slots=True, kw_only=True)
class Evolution:
    """`tournament` trials compete to be a parent; a share `crossover` of the children has two."""

    sampler: Sampler
    population: int = 24
    tournament: int = 4
    crossover: float = 0.2

    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        alive = population(history, self.population)
        return [self._proposal(alive, rng) for _ in range(n)]

    def _proposal(self, alive: Sequence[Trial], rng: Random) -> Proposal:
        if not alive:
            return Proposal(term=self.sampler.architecture(rng), origin=Origin.EVOLUTION, operator="sample")
        parents = [self._winner(alive, rng)]
        if len(alive) > 1 and rng.random() < self.crossover:
            parents.append(self._winner([each for each in alive if each is not parents[0]], rng))
        child = self._child(parents, rng)
        if child.operator != "crossover":
            parents = parents[:1]
        return Proposal(
            term=child.term,
            origin=Origin.EVOLUTION,
            operator=child.operator,
            parents=tuple(parent.candidate.id for parent in parents),
        )

    def _child(self, parents: Sequence[Trial], rng: Random) -> Child:
        terms = [parse(parent.candidate.term) for parent in parents]
        if len(terms) == 1:
            return mutate(terms[0], self.sampler, rng)
        return crossover(terms[0], terms[1], self.sampler, rng)

    def _winner(self, alive: Sequence[Trial], rng: Random) -> Trial:
        return max(rng.sample(alive, min(self.tournament, len(alive))), key=standing)


def population(history: Sequence[Trial], size: int) -> list[Trial]:
    """The youngest `size` scored candidates of the arm, filled up with the best-scored baselines."""
    scored = [trial for trial in history if trial.rung >= 0 and trial.failure is None]
    own = [trial for trial in scored if trial.candidate.origin is not Origin.ZOO][-size:]
    seeds = sorted((trial for trial in scored if trial.candidate.origin is Origin.ZOO), key=standing, reverse=True)
    return seeds[: size - len(own)] + own


def standing(trial: Trial) -> tuple[int, float]:
    """How trials are ordered: the rung reached, then the fitness there."""
    fitness = trial.fitness(trial.rung)
    return trial.rung, -math.inf if math.isnan(fitness) else fitness
