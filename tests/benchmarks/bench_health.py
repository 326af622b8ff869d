"""What watching a run costs: a `Recorder`'s work of one default proxy run as a part of that run's training time.

Run as `python tests/benchmarks/bench_health.py [NAMES]`. The run is MQAR at D 32, two blocks, 64 tokens, batch 32, 250
steps on one thread; the recorder is told 250 norms and observes five times. Nothing is gated here.
"""

from __future__ import annotations

import argparse
import time

import torch

from archloom.db.records import Task, Training
from archloom.evaluator.health import Recorder
from archloom.evaluator.model import Model
from archloom.evaluator.tasks import make_runner
from archloom.evaluator.training import EVALUATIONS, deterministic, train
from archloom.search_space import zoo
from archloom.search_space.costs import solve_widths, target_parameters

WIDTH, STEPS = 32, 250
TASK = Task(name="mqar", vocabulary=128, length=64, batch=32, options=(("pairs", 16),))
NAMES = ("mha", "linear_attention", "mamba2", "long_conv", "deltanet", "kda", "mamba", "rwkv7")


def part_of_training(name: str) -> tuple[float, float]:
    """Seconds of training, and of the recorder in the same run."""
    architecture = zoo.load(name)
    target = target_parameters(zoo.load("mha"), width=WIDTH, length=TASK.length)
    widths = solve_widths(architecture, target=target, width=WIDTH, length=TASK.length, tolerance=0.02)
    runner = make_runner(TASK)
    with deterministic(0):
        model = Model(architecture, widths=widths, vocabulary=TASK.vocabulary, length=TASK.length)
        trained = train(model, runner, training=Training(), steps=STEPS, seed=0)
        started = time.perf_counter()
        recorder = Recorder(steps=STEPS, batch=runner.evaluation_batches()[0])
        for step in range(STEPS):
            recorder.stepped(1.0)
            if (step + 1) % (STEPS // EVALUATIONS) == 0:
                recorder.observe(model, step=step + 1)
        recorder.series()
        return trained.seconds, time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", default=NAMES, help="zoo entries")
    for name in parser.parse_args().names:
        training, watching = part_of_training(name)
        print(f"{name:20s} training {training:6.1f} s   health {1000 * watching:6.1f} ms   {watching / training:6.2%}")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
