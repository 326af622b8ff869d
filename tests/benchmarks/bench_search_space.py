"""How fast the algebra is: draws, edits, ids and texts per second of one core, and how often a draw is a duplicate.

Run as `python tests/benchmarks/bench_search_space.py`. Each figure is the best of three passes in process time, after a
warm-up that fills the counting tables. Nothing is gated here.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from random import Random
from time import process_time

from archloom.errors import ConfigError
from archloom.search_space import zoo
from archloom.search_space.costs import solve_widths, target_parameters
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term
from archloom.search_space.text import parse
from archloom.search_space.variation import crossover, mutate

WIDTH, LENGTH, DEPTH = 64, 64, 2
PASSES = 3


def rate(work: Callable[[int], object], count: int) -> float:
    """Calls per second of process time, best of `PASSES`; `work` is given the pass's seed offset plus its index."""
    best = float("inf")
    for number in range(PASSES):
        start = process_time()
        for index in range(count):
            work(number * count + index)
        best = min(best, process_time() - start)
    return count / best


def bare(term: Term) -> Term:
    """A copy without the results that terms cache."""
    return parse(term.text)


def speeds(sampler: Sampler, count: int) -> dict[str, float]:
    rng = Random(0)
    for _ in range(count):  # fills the tables
        sampler.architecture(rng)
        sampler.mixer(rng)
    parents = [sampler.architecture(rng) for _ in range(64)]
    texts = [parent.text for parent in parents]
    fresh = [bare(sampler.architecture(rng)) for _ in range(PASSES * count)]
    return {
        "architectures sampled": rate(lambda _: sampler.architecture(rng), count),
        "mixers sampled": rate(lambda _: sampler.mixer(rng), count),
        "mutations": rate(lambda i: mutate(parents[i % 64], sampler, rng), count),
        "crossovers": rate(lambda i: crossover(parents[i % 64], parents[(i * 7 + 1) % 64], sampler, rng), count),
        "ids of fresh terms": rate(lambda i: term_id(fresh[i]), count),
        "texts parsed": rate(lambda i: parse(texts[i % 64]), count),
    }


def buildable(sampler: Sampler, count: int) -> float:
    """Percentage of draws whose widths can be solved to within 2% of the reference's parameters."""
    target = target_parameters(zoo.load("mha"), width=WIDTH, length=LENGTH)
    rng, solved = Random(1), 0
    for _ in range(count):
        try:
            solve_widths(sampler.architecture(rng), target=target, width=WIDTH, length=LENGTH, tolerance=0.02)
        except ConfigError:
            continue
        solved += 1
    return 100 * solved / count


def duplicates(sampler: Sampler, count: int) -> tuple[int, int]:
    """Repeated ids among `count` architectures and among `count` mixers."""
    rng = Random(2)
    architectures = {term_id(sampler.architecture(rng)) for _ in range(count)}
    mixers = {term_id(canonical(sampler.mixer(rng))) for _ in range(count)}
    return count - len(architectures), count - len(mixers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="calls per timed pass")
    count = parser.parse_args().count
    sampler = Sampler.default(depth=DEPTH, width=WIDTH, length=LENGTH)
    for name, per_second in speeds(sampler, count).items():
        print(f"{name:24s} {per_second:9,.0f} /s")
    print(f"{'buildable of 300':24s} {buildable(sampler, 300):9.1f} %")
    whole, mixers = duplicates(sampler, 10_000)
    print(f"{'duplicates of 10,000':24s} {whole:9,d} architectures, {mixers:,d} mixers")


if __name__ == "__main__":
    main()
