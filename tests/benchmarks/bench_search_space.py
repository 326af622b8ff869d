"""How fast the algebra is: draws, edits, ids and texts per second of one core; how often a draw is a duplicate; what
becomes of mutations.

Run as `python tests/benchmarks/bench_search_space.py`. With `--functional N`, N canonical mixers of different ids are
built in float64 as well, and those that share the evaluator's functional fingerprint are counted and shown. Each figure
is the best of three passes in process time, after a warm-up that fills the counting tables. Nothing is gated here.
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
from archloom.search_space.variation import Outcome, crossover, mutate, rates

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


def outcomes(count: int) -> None:
    """Prints what became of `count` tries of each kind of mutation."""
    sampler, rng = Sampler.default(depth=4, width=WIDTH, length=LENGTH), Random(3)
    report = rates([sampler.architecture(rng) for _ in range(100)], sampler, rng, tries=count)
    print(f"{'mutation':12s}" + "".join(f"{outcome.value:>13s}" for outcome in Outcome))
    for kind, shares in report.items():
        print(f"{kind:12s}" + "".join(f"{100 * shares[outcome]:12.1f}%" for outcome in Outcome))


def functional(sampler: Sampler, count: int) -> None:
    """Prints how many of `count` architectures of one mixer and different ids compute what an earlier one does."""
    import torch

    from archloom.evaluator.gates import fingerprint

    torch.set_num_threads(1)
    rng = Random(4)
    classes: dict[str, dict[str, str]] = {}
    ids: set[str] = set()
    while len(ids) < count:
        mixer = sampler.mixer(rng)
        if term_id(mixer) not in ids:
            ids.add(term_id(mixer))
            classes.setdefault(fingerprint(zoo.as_architecture(mixer, depth=1)), {})[term_id(mixer)] = mixer.text
    again = count - len(classes)
    print(f"functional duplicates among {count:,d} mixers of different ids: {again} ({100 * again / count:.2f} %)")
    for alike in classes.values():
        if len(alike) > 1:
            print("\n  = ".join(["  " + text for text in alike.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=2000, help="calls per timed pass")
    parser.add_argument("--functional", type=int, default=0, help="mixers to compare by function")
    arguments = parser.parse_args()
    count = arguments.count
    sampler = Sampler.default(depth=DEPTH, width=WIDTH, length=LENGTH)
    for name, per_second in speeds(sampler, count).items():
        print(f"{name:24s} {per_second:9,.0f} /s")
    print(f"{'buildable of 300':24s} {buildable(sampler, 300):9.1f} %")
    whole, mixers = duplicates(sampler, 10_000)
    print(f"{'duplicates of 10,000':24s} {whole:9,d} architectures, {mixers:,d} mixers")
    outcomes(count)
    if arguments.functional:
        functional(sampler, arguments.functional)


if __name__ == "__main__":
    main()
