"""Candidates an hour: the plain loop against the evaluator, on the same candidates, tasks and machine.

    python tests/benchmarks/bench_evaluator.py [--candidates 12] [--suite standard]

The plain loop is what a script would do: one candidate and task after another in one process, every step of the
protocol, PyTorch's default threads, memory and denormal numbers as they come. The evaluator runs the gates too, ends
runs by their own curve, and has one single-threaded worker a core. Scores of the two are compared: what ends early must
not score worse. Candidates are zoo systems and random draws, half and half, which the gates let pass.
"""

import argparse
import os
import time
from random import Random
from statistics import fmean

import torch
from torch.nn import functional

from archloom.config import ProtocolSection
from archloom.db.records import GATES, EvaluationKey, Protocol, TrialSpec
from archloom.evaluator.executors import make_executor
from archloom.evaluator.model import build_model
from archloom.evaluator.tasks import make_runner
from archloom.evaluator.training import evaluate
from archloom.protocol import section_protocol
from archloom.search_space import zoo
from archloom.search_space.sampling import Sampler


def candidates(count: int, protocol: Protocol) -> list[str]:
    rng = Random(0)
    sampler = Sampler.default(depth=protocol.depth)
    known = [zoo.load(name, depth=protocol.depth).text for name in zoo.STANDARD[: (count + 1) // 2]]
    drawn = [sampler.architecture(rng, depth=protocol.depth).text for _ in range(20 * count)]
    passing: list[str] = []
    with make_executor("inline") as executor:
        for text in drawn:
            executor.submit(spec(text, protocol, task=GATES, steps=0))
            (done,) = executor.completed(timeout=1.0)
            if done.measurement is not None and done.measurement.failure is None:
                passing.append(text)
            if len(passing) == count - len(known):
                break
    return known + passing


def spec(text: str, protocol: Protocol, *, task: str, steps: int, seed: int = 0) -> TrialSpec:
    key = EvaluationKey(candidate=f"{hash(text)}", task=task, rung=0, seed=seed)
    return TrialSpec(key=key, term=text, protocol=protocol, steps=steps)


def plain(texts: list[str], protocol: Protocol) -> tuple[float, list[float]]:
    """Seconds and final scores of a loop without any of the evaluator's care."""
    started, scores = time.perf_counter(), []
    for text in texts:
        for stage in protocol.rungs[0].stages:
            task = protocol.task(stage.task)
            runner = make_runner(task)
            torch.manual_seed(0)
            model = build_model(text, protocol=protocol, task=task, seed=0)
            optimizer = torch.optim.AdamW(model.parameters(), lr=protocol.training.learning_rate)
            for step in range(stage.steps):
                batch = runner.training_batch(step, total_steps=stage.steps, seed=0)
                at = batch.scored
                outputs = model(batch.inputs)[at]
                if batch.targets.is_floating_point():
                    loss = functional.mse_loss(outputs, batch.targets[at])
                else:
                    loss = functional.cross_entropy(outputs, batch.targets[at])
                optimizer.zero_grad()
                torch.autograd.backward(loss)
                torch.nn.utils.clip_grad_norm_(model.parameters(), protocol.training.clip)
                optimizer.step()
            scores.append(runner.score(evaluate(model, runner.evaluation_batches())))
    return time.perf_counter() - started, scores


def served(texts: list[str], protocol: Protocol, *, workers: int) -> tuple[float, list[float]]:
    """Seconds, from the first submission with warm workers to the last result, and final scores."""
    specs = [
        spec(text, protocol, task=stage.task, steps=stage.steps) for text in texts for stage in protocol.rungs[0].stages
    ]
    gates = [spec(text, protocol, task=GATES, steps=0) for text in texts]
    scores: dict[EvaluationKey, float] = {}
    with make_executor("process", workers=workers) as executor:
        for each in gates[:workers]:
            executor.submit(each)
        _drain(executor, workers)  # workers have started
        started = time.perf_counter()
        for each in (*gates, *specs):
            executor.submit(each)
        for done in _drain(executor, len(gates) + len(specs)):
            if done.spec.key.task != GATES:
                found = done.measurement.score if done.measurement else None
                scores[done.spec.key] = 0.0 if found is None else found
    return time.perf_counter() - started, [scores[each.key] for each in specs]


def _drain(executor, count):  # type: ignore[no-untyped-def]
    found = []
    while len(found) < count:
        found += executor.completed(timeout=10.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--candidates", type=int, default=12)
    parser.add_argument("--suite", default="standard")
    options = parser.parse_args()
    protocol = section_protocol(ProtocolSection.model_validate({"suite": options.suite}), baselines=())
    texts = candidates(options.candidates, protocol)
    names = ", ".join(stage.task for stage in protocol.rungs[0].stages)
    print(f"{len(texts)} candidates on {names}; {os.cpu_count()} cores, {torch.get_num_threads()} threads in the loop")
    ways = {"plain loop": plain(texts, protocol)}
    for workers in sorted({1, os.cpu_count() or 1}):
        ways[f"evaluator, {workers} workers"] = served(texts, protocol, workers=workers)
    reference = ways["plain loop"][0]
    for name, (seconds, scores) in ways.items():
        rate = 3600 * len(texts) / seconds
        print(f"{name:24s} {rate:8.1f} candidates an hour  {reference / seconds:5.2f}x  mean score {fmean(scores):.3f}")


if __name__ == "__main__":
    main()
