"""How many mutations lie between the systems of the zoo.

Run as `python tests/benchmarks/bench_reachability.py`. For every system: the edits of a path found from
`linear_attention`, from a random architecture, and from its nearest system of the zoo, which is that with the shortest
path of the CLOSE ones at the least distance. Paths are found by a greedy search, so each number is an upper bound of
the shortest. Systems with an operation that is never drawn are left out and
named. With `--nearest`, only the paths from the nearest system are searched. Nothing is gated here.
"""

from __future__ import annotations

import argparse
from random import Random
from statistics import median
from time import process_time

from archloom.search_space import zoo
from archloom.search_space.distance import distance
from archloom.search_space.grammar import UNLIMITED, shared_grammar
from archloom.search_space.reachability import path
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, depth, walk

DEPTH, MAX_SIZE, WIDTH, LENGTH = 2, 96, 64, 64
START = "linear_attention"
CLOSE = 3


def edits(start: Term, goal: Term, sampler: Sampler) -> int | None:
    found = path(start, goal, sampler=sampler)
    return None if found is None else len(found) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nearest", action="store_true", help="only the paths from the nearest system")
    only_nearest = parser.parse_args().nearest
    began = process_time()
    grammar = shared_grammar(DEPTH, MAX_SIZE, WIDTH, LENGTH)
    sampler = Sampler(grammar=grammar, load=UNLIMITED)
    systems = {name: zoo.load(name, depth=DEPTH) for name in zoo.names()}
    never = {
        name
        for name, term in systems.items()
        if any(n.operation.weight == 0 and not n.operation.shares for n in walk(term))
    }
    other = {name for name, term in systems.items() if depth(term) != DEPTH}
    left = {name: term for name, term in systems.items() if name not in never | other}
    rng = Random(0)
    columns: dict[str, list[int | None]] = {START: [], "random": [], "nearest": []}
    print(f"{'system':24s} {START:>18s} {'random':>8s} {'nearest':>8s}  nearest system")
    for name, goal in left.items():
        close = sorted((each for each in left if each != name), key=lambda each: (distance(left[each], goal), each))
        found = {each: edits(left[each], goal, sampler) for each in close[:CLOSE]}
        nearest = min(found, key=lambda each: (found[each] is None, found[each]))
        starts = {} if only_nearest else {START: left[START], "random": sampler.architecture(rng)}
        counts = {which: edits(start, goal, sampler) for which, start in starts.items()} | {"nearest": found[nearest]}
        for which, count in counts.items():
            columns[which].append(count)
        shown = [
            f"{counts.get(which, '-')!s:>{width}s}" for which, width in ((START, 18), ("random", 8), ("nearest", 8))
        ]
        print(f"{name:24s} {' '.join(shown)}  {nearest}", flush=True)
    for which, counts in columns.items():
        known = [count for count in counts if count is not None]
        missed = len(counts) - len(known)
        if known:
            print(f"from {which:18s} median {median(known):g}, most {max(known)}, no path found {missed}")
    print(f"never drawn: {', '.join(sorted(never)) or 'none'}; of another depth: {', '.join(sorted(other)) or 'none'}")
    print(f"{process_time() - began:.0f} s")


if __name__ == "__main__":
    main()
