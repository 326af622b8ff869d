"""What the language-model arm costs outside its endpoint, and how long its prompts are.

    python tests/benchmarks/bench_language_model.py [--sizes 100 1000 10000] [--lessons 200]

A campaign of each size is made up: drawn architectures with scores on three tasks and two seeds, a tenth of them
failed, a lesson for some. The model answers at once with a new architecture. Wall time of a whole proposal (digest,
retrieval, prompt, account, parsing, canonical form, relatives), and beside it the time of the processor, which is what
remains on an idle machine; the first proposal also reads every term once, as a campaign that resumes does.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from typing import Any

from archloom.agents.knowledge.entries import entries
from archloom.agents.language_model.endpoints import Model, Reply
from archloom.agents.language_model.lengths import tokens
from archloom.agents.language_model.proposer import LanguageModelProposer, Settings
from archloom.agents.language_model.record import Record
from archloom.config import Config
from archloom.db.records import Candidate, EvaluationKey, Failure, FailureKind, Lesson, Origin, Protocol, Result, Trial
from archloom.evaluator.task_table import KINDS
from archloom.protocol import to_protocol
from archloom.search_space.identity import term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse

TASKS, SEEDS = ("mqar", "parity", "selective_copying"), (0, 1)
PROPOSALS = 30
FILE = {
    "campaign": {"name": "bench"},
    "protocol": {
        "tasks": [{"name": task} for task in TASKS],
        "rungs": [{"stages": [{"task": task, "steps": 200, "seeds": list(SEEDS)} for task in TASKS]}],
    },
}


class Instant:
    """A model that answers at once: a term drawn by the request's seed."""

    def __init__(self, sampler: Sampler) -> None:
        self._sampler, self.seconds, self.prompts = sampler, 0.0, [""]

    def complete(self, body: Mapping[str, Any], *, again: Callable[[], bool] = lambda: True) -> Reply:
        started = time.perf_counter()
        if body["response_format"]["json_schema"]["name"] == "critic":
            answer = {"novel": True, "reason": ""}
        else:
            term = self._sampler.architecture(Random(f"{body['seed']} {len(body['messages'])}")).text
            answer = {"hypothesis": "a guess", "term": term, "parent": "", "edits": [], "predictions": [], "cites": []}
        self.prompts.append("".join(message["content"] for message in body["messages"]))
        text = json.dumps({"choices": [{"message": {"content": json.dumps(answer)}}]})
        self.seconds += time.perf_counter() - started
        return Reply(text=text, seconds=0.0)


def trials(count: int, *, protocol: Protocol, sampler: Sampler, rng: Random) -> list[Trial]:
    """The baselines and `count` candidates with results."""
    found = []
    for index, (name, text) in enumerate(protocol.baselines):
        candidate = Candidate(id=term_id(parse(text)), term=text, origin=Origin.ZOO, index=index, name=name)
        found.append(measured(candidate, rng, failed=False))
    known = {trial.candidate.id for trial in found}
    while len(found) < count + len(protocol.baselines):
        term = sampler.architecture(rng)
        if term_id(term) not in known:
            known.add(term_id(term))
            candidate = Candidate(
                id=term_id(term),
                term=term.text,
                origin=Origin.LANGUAGE_MODEL,
                index=len(found),
                rationale="a guess",
                author="instant",
                predictions=(("mqar", 0.1),),
            )
            found.append(measured(candidate, rng, failed=rng.random() < 0.1))
    return found


def measured(candidate: Candidate, rng: Random, *, failed: bool) -> Trial:
    failure = Failure(kind=FailureKind.DIVERGED, reason="the loss is not finite at step 17") if failed else None
    results = tuple(
        Result(
            key=EvaluationKey(candidate=candidate.id, task=task, rung=0, seed=seed),
            score=None if failed else rng.random(),
            metrics={},
            failure=failure,
            seconds=1.0,
        )
        for task in TASKS
        for seed in SEEDS
    )
    standings = ((0, rng.uniform(-5, 5)),)
    return Trial(candidate=candidate, results=results[:1] if failed else results, standings=standings)


def measure(size: int, *, lessons: int) -> None:
    protocol = to_protocol(Config.model_validate(FILE))
    sampler, rng = Sampler.default(depth=protocol.depth), Random(size)
    history = trials(size, protocol=protocol, sampler=sampler, rng=rng)
    own = [trial for trial in history if trial.candidate.author]
    words = " ".join(entry.prose for entry in entries()).split()
    learnt = [
        Lesson(
            text=" ".join(words[(start := rng.randrange(len(words) - 40)) : start + 40]),
            candidate=trial.candidate.id,
            evidence=(trial.results[0].key,),
            when=datetime.now(UTC),
        )
        for trial in rng.choices(own, k=lessons)
    ]
    told = Instant(sampler)
    arm = LanguageModelProposer(
        Settings(goal="a mixer that recalls and tracks state with a small state", analyst=False),
        record=Record({"instant": told}),  # type: ignore[dict-item]
        models=[Model(name="instant", base_url="http://instant.test/v1", prompt_price=0.0, completion_price=0.0)],
        sampler=sampler,
        protocol=protocol,
        about={task: KINDS[task].about for task in TASKS},
        entries=entries(),
        lessons=learnt,
    )
    taken = []
    for number in range(PROPOSALS + 1):
        changed = rng.randrange(len(history))
        history[changed] = replace(history[changed], results=tuple(history[changed].results))
        before, wall, processor = told.seconds, time.perf_counter(), time.process_time()
        arm.ask(history, 1, Random(number))
        outside = told.seconds - before
        taken.append((1e3 * (time.perf_counter() - wall - outside), 1e3 * (time.process_time() - processor - outside)))
    first, *rest = taken
    longest = max(map(tokens, told.prompts))
    middle, middle_cpu = (statistics.median(each) for each in zip(*rest, strict=True))
    print(
        f"{size:6d} candidates, {lessons} lessons: median {middle:.1f} ms a proposal outside the endpoint (processor "
        f"{middle_cpu:.1f}), worst {max(rest)[0]:.1f}, first {first[0]:.0f}; longest prompt "
        f"{longest:,} tokens, estimated from its bytes"
    )


if __name__ == "__main__":
    options = argparse.ArgumentParser()
    options.add_argument("--sizes", type=int, nargs="+", default=[100, 1000, 10_000])
    options.add_argument("--lessons", type=int, default=200)
    chosen = options.parse_args()
    for each in chosen.sizes:
        measure(each, lessons=chosen.lessons)
