"""Replicates trained as one batched run, against one replicate and against as many runs one after another.

    python tests/benchmarks/bench_together.py [--device cuda] [--replicates 8] [--systems mha mamba2] [--task mqar]

All runs are of the same steps of one task of a suite, evaluations included, in float32 and PyTorch's deterministic
mode, on one thread of the CPU. Replicates differ in learning rate and read the same batches, as those of a grid, or
with `--seeds` have a seed and batches of their own each. Times are the least of `--repeats`; on the CPU those of the
processor, which others on the machine disturb less. The aim on a GPU: eight replicates in at most three times the time
of one. `calls` are the operations that PyTorch is asked for in a training step together, views left out, as a multiple
of those of one replicate: what a device that is hardly loaded would take its time for.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import replace

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from archloom.config import ProtocolSection
from archloom.db.records import Protocol, Task
from archloom.evaluator.model import build_model
from archloom.evaluator.tasks import TaskRunner, make_runner
from archloom.evaluator.together import Replicate, train_together
from archloom.evaluator.training import deterministic, keep_memory, train
from archloom.kernels.backends import preferring
from archloom.protocol import section_protocol
from archloom.search_space import zoo

SYSTEMS = ("mha", "linear_attention", "mamba2", "gated_deltanet", "hyena", "mamba")


class Bench:
    """One system on one task, as replicates of different learning rates or seeds."""

    def __init__(self, system: str, protocol: Protocol, task: Task, runner: TaskRunner, *, device: str) -> None:
        self.text = zoo.load(system, depth=protocol.depth).text
        self.protocol, self.task, self.runner, self.device = protocol, task, runner, device

    def replicates(self, count: int, *, seeds: bool) -> list[Replicate]:
        return [
            Replicate(
                model=build_model(self.text, protocol=self.protocol, task=self.task, seed=seed).to(self.device),
                seed=seed,
                learning_rate=1e-2 / 2 ** (0 if seeds else number / 4),
            )
            for number in range(count)
            for seed in [number if seeds else 0]
        ]

    def together(self, replicates: list[Replicate], *, steps: int) -> None:
        train_together(replicates, self.runner, training=self.protocol.training, steps=steps)

    def alone(self, one: Replicate, *, steps: int) -> None:
        training = replace(self.protocol.training, learning_rate=one.learning_rate)
        train(one.model, self.runner, training=training, steps=steps, seed=one.seed)


def seconds(run: Callable[[], None], device: str) -> float:
    """Of one call, the device's work included."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    started = clock()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - started


class Calls(TorchDispatchMode):
    """Counts operations that are no views."""

    count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        self.count += not function.is_view
        return function(*args, **(kwargs or {}))


def calls(run: Callable[[int], None]) -> int:
    """Operations of one training step: what ten steps more make more, over ten."""
    counts = []
    for steps in (5, 15):
        with Calls() as counted:
            run(steps)
        counts.append(counted.count)
    return (counts[1] - counts[0]) // 10


def times_the_calls(bench: Bench, count: int, *, seeds: bool) -> float:
    with deterministic(0):
        one = calls(lambda steps: bench.alone(bench.replicates(1, seeds=seeds)[0], steps=steps))
        return calls(lambda steps: bench.together(bench.replicates(count, seeds=seeds), steps=steps)) / one


def row(bench: Bench, *, count: int, steps: int, seeds: bool, repeats: int) -> tuple[float, float, float]:
    """Least seconds of one run, of `count` runs one after another, and of `count` together."""
    with deterministic(0):
        bench.alone(bench.replicates(1, seeds=seeds)[0], steps=3)  # loads what is loaded late
        bench.together(bench.replicates(count, seeds=seeds), steps=3)
        one, after, together = [], [], []
        for _ in range(repeats):
            each = [
                seconds(lambda one=one: bench.alone(one, steps=steps), bench.device)
                for one in bench.replicates(count, seeds=seeds)
            ]
            one.append(min(each))
            after.append(sum(each))
            all_of_them = bench.replicates(count, seeds=seeds)
            together.append(seconds(lambda: bench.together(all_of_them, steps=steps), bench.device))  # noqa: B023
    return min(one), min(after), min(together)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda"))
    parser.add_argument("--kernels", default="chunked", choices=("chunked", "triton"))
    parser.add_argument("--replicates", type=int, default=8)
    parser.add_argument("--systems", nargs="+", default=SYSTEMS, help="zoo entries")
    parser.add_argument("--suite", default="standard")
    parser.add_argument("--task", default="mqar", help="one of the suite")
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--seeds", action="store_true", help="a seed and batches of its own for each replicate")
    parser.add_argument("--repeats", type=int, default=2)
    options = parser.parse_args()
    keep_memory()
    protocol = section_protocol(ProtocolSection.model_validate({"suite": options.suite}), baselines=())
    task = protocol.task(options.task)
    runner, count = make_runner(task), options.replicates
    where = torch.cuda.get_device_name() if options.device == "cuda" else "CPU, one thread"
    print(
        f"{where}, {options.kernels} kernels; {task.name}, {task.length} tokens, batch {task.batch}, width "
        f"{protocol.width}, {protocol.depth} blocks; {options.steps} steps, {count} replicates, "
        f"{'a seed each' if options.seeds else 'a learning rate each'}"
    )
    print(f"{'':20s} {'one, s':>8s} {'in turn':>8s} {'together':>8s} {'/ one':>8s} {'gain':>8s} {'calls':>8s}")
    for system in options.systems:
        bench = Bench(system, protocol, task, runner, device=options.device)
        with preferring(options.kernels):
            one, after, together = row(
                bench, count=count, steps=options.steps, seeds=options.seeds, repeats=options.repeats
            )
            more = times_the_calls(bench, count, seeds=options.seeds)
        times = f"{one:8.2f} {after:8.2f} {together:8.2f} {together / one:8.2f}"
        print(f"{system:20s} {times} {after / together:7.2f}x {more:7.2f}x", flush=True)


if __name__ == "__main__":
    main()
