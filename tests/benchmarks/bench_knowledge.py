"""How long retrieval takes among 10,000 lessons, and what it costs to keep the index.

    python tests/benchmarks/bench_knowledge.py

Lessons are 20 to 60 words drawn from the prose of the entries, queries whole sentences of it. Wall time, and beside it
the time of the processor, which is what remains on an idle machine.
"""

import re
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from random import Random

from archloom.agents.knowledge.entries import entries
from archloom.agents.knowledge.retrieval import Index, search, searched
from archloom.db.records import EvaluationKey, Lesson

LESSONS, QUERIES = 10_000, 50
START = datetime(2026, 1, 1, tzinfo=UTC)
SHOWN = EvaluationKey(candidate="one", task="mqar", rung=0, seed=0)


def milliseconds(work: Callable[[], object]) -> tuple[float, float]:
    wall, processor = time.perf_counter(), time.process_time()
    work()
    return 1e3 * (time.perf_counter() - wall), 1e3 * (time.process_time() - processor)


def told(name: str, taken: list[tuple[float, float]]) -> None:
    (middle, worst), (middle_cpu, worst_cpu) = (
        (ordered[len(ordered) // 2], ordered[-1]) for ordered in map(sorted, zip(*taken, strict=True))
    )
    print(f"{name}: median {middle:.1f} ms, worst {worst:.1f} (processor {middle_cpu:.1f}, {worst_cpu:.1f})")


def drawn(rng: Random) -> tuple[list[Lesson], list[str]]:
    words = " ".join(entry.prose for entry in entries()).split()
    lessons = []
    for number in range(LESSONS + QUERIES):
        start, length = rng.randrange(len(words) - 60), rng.randint(20, 60)
        score, when = rng.choice((0.5, 1.0, 1.5)), START + timedelta(minutes=number)
        text = " ".join(words[start : start + length])
        lessons.append(Lesson(text=text, candidate=str(number), evidence=(SHOWN,), score=score, when=when))
    sentences = [each for entry in entries() for each in re.split(r"(?<=\.) ", entry.prose)]
    return lessons, rng.sample(sentences, QUERIES)


def measure() -> None:
    lessons, queries = drawn(Random(0))
    first, later = lessons[:LESSONS], lessons[LESSONS:]
    index = Index()
    told(f"building the index of {LESSONS:,} lessons", [milliseconds(lambda: index.hold(first))])
    length = sum(len(searched(query)) for query in queries) / QUERIES
    told(f"a query of {length:.0f} words", [milliseconds(lambda q=q: index.search(q, limit=8)) for q in queries])
    told("adding a lesson", [milliseconds(lambda one=one: index.add([one])) for one in later])
    told("bringing the index up to date, nothing new", [milliseconds(lambda: index.hold(lessons)) for _ in range(9)])
    kept = [milliseconds(lambda q=q: search(q, entries=(), lessons=lessons, limit=8, index=index)) for q in queries]
    told("search with a kept index, all lessons handed over", kept)


if __name__ == "__main__":
    measure()
