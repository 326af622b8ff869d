"""Proxy tasks: small seeded problems whose score at little spend says something of an architecture at large spend."""

from collections.abc import Callable, Mapping

from archloom.db.records import Task
from archloom.evaluator.task_kinds import kind_name
from archloom.evaluator.tasks.interface import IGNORED, Batch, Tally, TaskRunner
from archloom.evaluator.tasks.recall import AssociativeRecall
from archloom.evaluator.tasks.text import ByteText, corpus_digest

__all__ = ["IGNORED", "TASKS", "Batch", "Tally", "TaskRunner", "corpus_digest", "make_runner"]

TASKS: Mapping[str, Callable[[Task], TaskRunner]] = {
    "mqar": AssociativeRecall.from_task,
    "text": ByteText.from_task,
}
"""The runner of every kind of task. A new kind is a line here and a row of `task_table.KINDS`."""


def make_runner(task: Task) -> TaskRunner:
    """The runner of a task. Its kind is its option `kind`, or its name where that option is not given.

    Raises `ConfigError` for an unknown kind or a bad option, `EnvironmentProblem` if its data cannot be read.
    """
    return TASKS[kind_name(task)](task)
