"""Suites and kinds are data that hold together: every suite can be drawn, every kind has its runner and its row."""

import pytest
import torch

from archloom.config import ProtocolSection
from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.suites import SUITES
from archloom.evaluator.task_kinds import dials, kind_of
from archloom.evaluator.task_table import KINDS
from archloom.evaluator.tasks import TASKS, make_runner
from archloom.protocol import section_protocol


def default_task(kind: str) -> Task:
    row = KINDS[kind]
    return Task(name=kind, vocabulary=row.vocabulary, length=row.length, batch=row.batch)


def test_every_kind_has_a_row_and_a_runner() -> None:
    assert set(TASKS) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_is_drawn_at_its_defaults_as_its_row_says(kind: str) -> None:
    task, row = default_task(kind), KINDS[kind]
    runner = make_runner(task)
    batches = [runner.training_batch(0, total_steps=10, seed=0), *runner.evaluation_batches()]
    assert len(batches[0].inputs) == runner.batch == task.batch
    assert 0.0 <= runner.ramp <= 1.0
    for batch in batches:
        assert batch.inputs.shape[1] <= task.length
        assert batch.scored.any()
        assert (batch.source is not None) == row.pattern.cross
        if row.vectors:
            assert batch.inputs.dtype == batch.targets.dtype == torch.float32
            assert batch.inputs.shape[2] == batch.targets.shape[2] == task.vocabulary
        else:
            assert batch.inputs.dtype == batch.targets.dtype == torch.int64
            assert 0 <= int(batch.inputs.min()) <= int(batch.inputs.max()) < task.vocabulary
            assert int(batch.targets[batch.scored].max()) < task.vocabulary


@pytest.mark.parametrize("name", SUITES)
def test_a_suite_is_a_protocol(name: str) -> None:
    suite = SUITES[name]
    protocol = section_protocol(ProtocolSection.model_validate({"suite": name}), baselines=())
    assert protocol.suite == suite.title == f"{name}/{suite.version}"
    assert (protocol.width, protocol.depth) == (suite.width, suite.depth)
    assert [task.name for task in protocol.tasks] == [task["name"] for task in suite.tasks]
    spent = {stage.task for rung in protocol.rungs for stage in rung.stages}
    assert spent == {task.name for task in protocol.tasks}, "a task that no rung trains says nothing"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((("pears", 3),), "no option 'pears'; did you mean 'pairs'?"),
        ((("pairs", 1),), "'pairs' of task 'mqar' is 1: it should be at least 2"),
        ((("pairs", True),), "should be of type int"),
        ((("pairs", 2.0),), "should be of type int"),
        ((("ramp", 1.5),), "should be from 0 to 1"),
    ],
)
def test_a_dial_out_of_range_is_refused_with_its_range(
    options: tuple[tuple[str, int | float | str], ...], said: str
) -> None:
    with pytest.raises(ConfigError, match=said.replace("?", r"\?")):
        dials(Task(name="mqar", vocabulary=64, length=32, batch=8, options=options))


def test_whole_numbers_do_for_real_dials_and_choices_are_closed() -> None:
    task = Task(name="mqar", vocabulary=64, length=32, batch=8, options=(("ramp", 0),))
    assert dials(task).number("ramp") == 0.0
    odd = Task(name="permutations", vocabulary=6, length=48, batch=8, options=(("group", "s7"),))
    with pytest.raises(ConfigError, match="should be one of s3, a5, s5"):
        dials(odd)


def test_an_unknown_kind_is_refused_with_what_was_meant() -> None:
    with pytest.raises(ConfigError, match="did you mean 'parity'"):
        kind_of(Task(name="parety", vocabulary=2, length=8, batch=8))


@pytest.mark.parametrize("kind", KINDS)
def test_data_is_a_function_of_seed_and_step_and_never_that_of_the_evaluation(kind: str) -> None:
    def draw(step: int, seed: int) -> torch.Tensor:
        return make_runner(default_task(kind)).training_batch(step, total_steps=10, seed=seed).inputs

    torch.manual_seed(1)  # the global generator is to play no part
    first = draw(9, 7)
    torch.manual_seed(2)
    assert torch.equal(first, draw(9, 7))
    assert not torch.equal(first, draw(9, 8))
    assert not torch.equal(draw(8, 7), first)
    one, other = (make_runner(default_task(kind)).evaluation_batches() for _ in range(2))
    for a, b in zip(one, other, strict=True):
        assert torch.equal(a.inputs, b.inputs)
        torch.testing.assert_close(a.targets, b.targets, rtol=0, atol=0, equal_nan=True)
