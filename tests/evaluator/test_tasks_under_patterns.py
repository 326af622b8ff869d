"""Tasks of the patterns beside causal self, with real models: built, trained, and refused where they must be."""

import math

import pytest

from archloom.db.records import Protocol, Task, Training
from archloom.errors import ConfigError
from archloom.evaluator.model import build_model
from archloom.evaluator.task_table import KINDS
from archloom.evaluator.tasks import make_runner
from archloom.evaluator.training import TrainingResult, deterministic, train
from archloom.search_space import zoo
from archloom.search_space.patterns import CAUSAL, misfits
from archloom.search_space.text import parse

TASKS = ("mirror", "set_recall", "translation", "compositional")
SYSTEMS = ("mha", "linear_attention", "gated_deltanet", "mamba2", "hyena", "mla", "two_stage", "perceiver_memory")


def task_of(name: str, *, batch: int, evaluation: int) -> Task:
    kind, options = KINDS[name], (("evaluation", evaluation),)
    return Task(name=name, vocabulary=kind.vocabulary, length=kind.length, batch=batch, options=options)


def trained(system: str, task: Task, *, width: int, steps: int) -> TrainingResult:
    reference = zoo.load("mha", depth=1).text
    protocol = Protocol(
        version=1, grammar=1, reference=reference, width=width, depth=1, tasks=(task,), rungs=(), tolerance=0.1
    )
    with deterministic(0):
        model = build_model(zoo.load(system, depth=1).text, protocol=protocol, task=task, seed=0)
        return train(model, make_runner(task), training=Training(learning_rate=1e-2), steps=steps, seed=0)


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_systems_train_under_the_pattern(name: str, system: str) -> None:
    result = trained(system, task_of(name, batch=4, evaluation=8), width=16, steps=3)
    assert result.failure is None
    assert result.score is not None
    assert 0 <= result.score <= 1
    assert all(math.isfinite(value) for name, value in result.metrics.items() if name != "steps_to_95")


@pytest.mark.parametrize("name", TASKS)
def test_a_system_without_a_meaning_is_refused_before_training(name: str) -> None:
    pattern = KINDS[name].pattern
    assert pattern != CAUSAL
    system = "lina_speech"
    assert misfits(parse(zoo.load(system, depth=1).text), pattern) == ["initial_state"]
    with pytest.raises(ConfigError, match=f"{name!r} is {pattern.name}, under which initial_state has no meaning"):
        trained(system, task_of(name, batch=4, evaluation=8), width=16, steps=1)


def test_attention_learns_set_recall_and_a_model_that_reads_nothing_does_not() -> None:
    task = task_of("set_recall", batch=32, evaluation=128)
    learnt = trained("mha_conv", task, width=32, steps=160).score
    blind = trained("no_mixer", task, width=32, steps=160).score
    assert learnt is not None
    assert blind is not None
    assert learnt > 0.9
    assert blind < 0.06  # four standard errors of 1,024 answers at 1/8, above chance
