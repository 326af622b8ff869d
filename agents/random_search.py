"""The control arm: fresh draws from the grammar, blind to what was learnt."""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from archloom.agents.proposer import Proposal
from archloom.db.records import Origin, Trial
from archloom.search_space.sampling import Sampler


@dataclass(frozen=True, slots=True, kw_only=True)
class RandomSearch:
    """Draws architectures of the sampler's depth."""

    sampler: Sampler

    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        return [
            Proposal(term=self.sampler.architecture(rng), origin=Origin.RANDOM, operator="sample") for _ in range(n)
        ]
