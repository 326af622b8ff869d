"""How many mutations lie between the systems of the zoo.

Run as `python tests/benchmarks/bench_reachability.py`. For every system: the edits of a path found from
`linear_attention`, from a random architecture, and from its nearest system of the zoo, which is that with the shortest
path of linear_attention and the CLOSE ones at the least distance. Paths are found by a greedy search, so each number is
an upper bound of the shortest. `--nearest` leaves out random starts, and names after the options are the systems to
search. Systems are searched side by side, one on each core; the figures do not depend on the machine. Nothing is gated
here.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from random import Random
from statistics import median
from time import perf_counter

from archloom.search_space import zoo
from archloom.search_space.distance import distance
from archloom.search_space.grammar import UNLIMITED, shared_grammar
from archloom.search_space.reachability import path
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, depth

DEPTH, MAX_SIZE, WIDTH, LENGTH = 2, 96, 64, 64
START = "linear_attention"
COLUMNS = (START, "random", "nearest")
CLOSE = 3


def edits(start: Term, goal: Term, sampler: Sampler) -> int | None:
    found = path(start, goal, sampler=sampler)
    return None if found is None else len(found) - 1


def searched(name: str, systems: Mapping[str, Term], only_nearest: bool) -> tuple[str, dict[str, int | None]]:
    """The name of the nearest system, and the edits found by column."""
    sampler = Sampler(grammar=shared_grammar(DEPTH, MAX_SIZE, WIDTH, LENGTH), load=UNLIMITED)
    goal = systems[name]
    others = [each for each in systems if each != name]
    close = sorted(others, key=lambda each: (distance(systems[each], goal), each))[:CLOSE]
    found = {each: edits(systems[each], goal, sampler) for each in dict.fromkeys([START, *close])}
    counts = {START: found[START]}
    if not only_nearest:
        counts["random"] = edits(sampler.architecture(Random(name)), goal, sampler)
    found.pop(name, None)
    nearest, counts["nearest"] = min(found.items(), key=lambda each: (each[1] is None, each[1]))
    return nearest, counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--nearest", action="store_true", help="no paths from random architectures")
    parser.add_argument("names", nargs="*", help="systems to search; all of them by default")
    options = parser.parse_args()
    began = perf_counter()
    systems = {name: zoo.load(name, depth=DEPTH) for name in zoo.names()}
    other = {name for name, term in systems.items() if depth(term) != DEPTH}
    left = {name: term for name, term in systems.items() if name not in other}
    names = options.names or list(left)
    columns: dict[str, list[int | None]] = {which: [] for which in COLUMNS}
    print(f"{'system':24s} {START:>18s} {'random':>8s} {'nearest':>8s}  nearest system")
    search = partial(searched, systems=left, only_nearest=options.nearest)
    with ProcessPoolExecutor(os.cpu_count(), mp_context=get_context("spawn")) as pool:
        for name, (nearest, counts) in zip(names, pool.map(search, names), strict=True):
            for which, count in counts.items():
                columns[which].append(count)
            shown = [f"{counts.get(which, '-')!s:>{max(8, len(which))}s}" for which in COLUMNS]
            print(f"{name:24s} {' '.join(shown)}  {nearest}", flush=True)
    for which, found in columns.items():
        known = [count for count in found if count is not None]
        if known:
            print(f"from {which:18s} median {median(known):g}, most {max(known)}, no path {len(found) - len(known)}")
    print(f"of another depth: {', '.join(sorted(other)) or 'none'}")
    print(f"{perf_counter() - began:.0f} s")


if __name__ == "__main__":
    main()
