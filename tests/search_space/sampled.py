"""Terms for tests: fixed streams of sampled architectures and mixers, and copies without cached results."""

from functools import cache
from random import Random

from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term
from archloom.search_space.text import one_line, parse


@cache
def sampler(depth: int = 2) -> Sampler:
    return Sampler.default(depth=depth, max_size=40, width=32, length=32)


def architectures(count: int, *, seed: int, depth: int = 2) -> list[Term]:
    rng = Random(seed)
    return [sampler(depth).architecture(rng) for _ in range(count)]


def mixers(count: int, *, seed: int, max_size: int = 24) -> list[Term]:
    rng = Random(seed)
    return [sampler().mixer(rng, max_size=max_size) for _ in range(count)]


def fresh(term: Term) -> Term:
    """The same term without what identity caches on its nodes."""
    return parse(one_line(term))
