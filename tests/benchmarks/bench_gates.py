"""Milliseconds of each gate, and of all of them, per candidate on one core.

Run as `python tests/benchmarks/bench_gates.py`. Candidates are the causal zoo and sampled architectures, at the widths
of a two-block transformer 32 wide and tasks of up to `--length` tokens. Times are of the process, after a warm-up;
building a model is part of the first gate that asks for it. Shown are median, 95th percentile and largest, the largest
with whose it is, and what stopped a candidate.
"""

import argparse
from collections import Counter, defaultdict
from random import Random
from time import process_time

import numpy as np

from archloom.db.records import Protocol, Task
from archloom.evaluator.gates import GATES, Subject, fingerprint
from archloom.evaluator.training import deterministic
from archloom.search_space import zoo
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term

WIDTH, DEPTH, VOCABULARY = 32, 2, 48


def protocol(length: int) -> Protocol:
    return Protocol(
        version=1,
        grammar=1,
        reference=zoo.load("mha").text,
        width=WIDTH,
        depth=DEPTH,
        tasks=(Task(name="text", vocabulary=VOCABULARY, length=length, batch=4),),
        rungs=(),
    )


def candidates(count: int, length: int) -> dict[str, Term]:
    """The causal zoo, and `count` sampled architectures."""
    sampler, rng = Sampler.default(depth=DEPTH, width=WIDTH, length=length), Random(1)
    named = {name: zoo.load(name) for name in zoo.names(CAUSAL)}
    return named | {f"sample {number}": sampler.architecture(rng) for number in range(count)}


def times(architecture: Term, under: Protocol) -> tuple[dict[str, float], str | None]:
    """Milliseconds by gate up to the one that stops the candidate, and which that is."""
    subject = Subject(architecture=architecture, protocol=under, seed=0)
    spent: dict[str, float] = {}
    for kind, gate in GATES:
        start = process_time()
        reason = gate(subject)
        spent[gate.__name__] = 1e3 * (process_time() - start)
        if reason is not None:
            return spent, f"{kind.value}: {reason}"
    start = process_time()
    fingerprint(architecture)
    spent["fingerprint"] = 1e3 * (process_time() - start)
    return spent, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sampled", type=int, default=100, help="sampled architectures beside the zoo")
    parser.add_argument("--length", type=int, default=64, help="tokens of the longest task")
    arguments = parser.parse_args()
    under, spent, stopped = protocol(arguments.length), defaultdict(list), Counter[str]()
    with deterministic(0):
        times(zoo.load("mha"), under)
        for name, architecture in candidates(arguments.sampled, arguments.length).items():
            by_gate, reason = times(architecture, under)
            if reason is not None:
                stopped[f"{name}, {reason}"] += 1
                continue
            for gate, each in by_gate.items():
                spent[gate].append((each, name))
            spent["all"].append((sum(by_gate.values()), name))
    print(f"{'ms':12s} {'median':>8s} {'95%':>8s} {'largest':>8s}")
    for gate, each in spent.items():
        median, most = np.percentile([time for time, _ in each], (50, 95))
        largest, whose = max(each)
        print(f"{gate:12s} {median:8.1f} {most:8.1f} {largest:8.1f}  {whose}")
    print(f"{len(spent['all'])} candidates passed")
    print(*(f"stopped: {each}" for each in stopped), sep="\n")


if __name__ == "__main__":
    main()
