"""How long the researcher's prompt is, and how long it takes to write, at 1,000 and 10,000 candidates.

    python tests/benchmarks/bench_prompts.py

Terms are drawn by the sampler; a trial has 3 tasks and 2 seeds, every ninth a second rung, every seventh failed. A cold
board holds nothing, a warm one all but the last trial, as at every call of a campaign but the first. The history is
built anew for each call, as the planner does, with the same candidates and results. Processor time, the least and the
median of the calls. Tokens are `lengths.tokens`, an estimate on the safe side.
"""

import hashlib
import statistics
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from random import Random

from archloom.agents.knowledge.entries import entries
from archloom.agents.language_model import researcher
from archloom.agents.language_model.board import Board
from archloom.agents.language_model.lengths import MAX_PROMPT_TOKENS, room_beside, tokens
from archloom.agents.language_model.situation import situation
from archloom.db.records import (
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    Lesson,
    Origin,
    Protocol,
    Result,
    Rung,
    Stage,
    Task,
    Trial,
)
from archloom.search_space import zoo
from archloom.search_space.sampling import Sampler

SIZES, CALLS, TERMS = (1_000, 10_000), 40, 300
TASKS, SEEDS, GOAL = ("mqar", "parity", "selective_copy"), (0, 1), "recall and state tracking at constant state"
SAMPLER = Sampler.default(depth=2)
PROTOCOL = Protocol(
    version=2,
    grammar=2,
    reference=zoo.load("mha").text,
    width=64,
    depth=2,
    tasks=tuple(Task(name=name, vocabulary=64, length=64, batch=32) for name in TASKS),
    rungs=tuple(
        Rung(stages=tuple(Stage(task=name, steps=steps, seeds=SEEDS) for name in TASKS)) for steps in (250, 1000)
    ),
    baselines=tuple((name, zoo.load(name).text) for name in zoo.STANDARD),
)
LESSONS = [
    Lesson(
        text="A resolvent over softmax scores raised copying by 0.12 over its parent and left parity at chance.",
        candidate=str(number),
        evidence=(EvaluationKey(candidate=str(number), task="mqar", rung=0, seed=0),),
        when=datetime(2026, 1, 1, tzinfo=UTC),
    )
    for number in range(6)
]


def trial(index: int, term: str, name: str | None = None) -> Trial:
    rng = Random(index)
    identity = hashlib.sha256(str(index).encode()).hexdigest()
    rungs = 2 if name or index % 9 == 0 else 1
    keys = [
        EvaluationKey(candidate=identity, task=task, rung=rung, seed=seed)
        for rung in range(rungs)
        for task in TASKS
        for seed in SEEDS
    ]
    bad = Failure(kind=FailureKind.DIVERGED, reason="the loss became NaN at step 120 of 250")
    if name is None and index % 7 == 0:
        results = (Result(key=keys[0], score=None, metrics={}, failure=bad, seconds=1.0),)
    else:
        results = tuple(Result(key=key, score=rng.random(), metrics={}, failure=None, seconds=1.0) for key in keys)
    origin = Origin.ZOO if name else Origin.LANGUAGE_MODEL
    return Trial(candidate=Candidate(id=identity, term=term, origin=origin, index=index, name=name), results=results)


def history(size: int) -> list[Trial]:
    rng = Random(1)
    terms = [SAMPLER.architecture(rng).text for _ in range(TERMS)]
    baselines = [trial(index, term, name) for index, (name, term) in enumerate(PROTOCOL.baselines)]
    return baselines + [trial(index, terms[index % TERMS]) for index in range(len(baselines), size)]


def written(trials: Sequence[Trial], board: Board, *, room: int) -> tuple[float, str]:
    """Milliseconds of the processor, and the message."""
    shown = [Trial(candidate=each.candidate, results=(*each.results,)) for each in trials]
    known, started = entries()[:6], time.process_time()
    now = situation(shown, protocol=PROTOCOL, board=board)
    researcher.query(now, goal=GOAL, about={})
    text = researcher.user(now, goal=GOAL, about={}, lessons=LESSONS, entries=known, room=room)
    return 1e3 * (time.process_time() - started), text


def measure() -> None:
    system = researcher.system(SAMPLER, protocol=PROTOCOL, lets=8)
    print(f"system part: {len(system):,} characters, at most {tokens(system):,} tokens")
    for size in SIZES:
        trials, room = history(size), room_beside(system)
        cold = [written(trials, Board(PROTOCOL), room=room)[0] for _ in range(5)]
        board = Board(PROTOCOL)
        written(trials[:-CALLS], board, room=room)
        warm = [written(trials[: size - left], board, room=room) for left in reversed(range(CALLS))]
        taken, text = [each for each, _ in warm], warm[-1][1]
        whole = tokens(system) + tokens(text)
        print(f"{size:,} candidates: at most {whole:,} of {MAX_PROMPT_TOKENS:,} tokens; ", end="")
        print(f"cold {min(cold):.1f} ms (median {statistics.median(cold):.1f}), ", end="")
        print(f"warm {min(taken):.1f} ms (median {statistics.median(taken):.1f})")


if __name__ == "__main__":
    measure()
