"""Proxy tasks: small seeded problems whose score at little spend says something of an architecture at large spend."""

from collections.abc import Callable, Mapping

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks.interface import IGNORED, KIND, Batch, Tally, TaskRunner, read_option
from archloom.evaluator.tasks.recall import AssociativeRecall
from archloom.evaluator.tasks.text import ByteText, corpus_digest

__all__ = ["IGNORED", "TASKS", "Batch", "Tally", "TaskRunner", "corpus_digest", "make_runner"]

TASKS: Mapping[str, Callable[[Task], TaskRunner]] = {
    "mqar": AssociativeRecall.from_task,
    "text": ByteText.from_task,
}
"""Every kind of task. A new kind is a new line here."""


def make_runner(task: Task) -> TaskRunner:
    """The runner of a task. Its kind is its option `kind`, or its name where that option is not given.

    Raises `ConfigError` for an unknown kind or a bad option, `EnvironmentProblem` if its data cannot be read.
    """
    kind = read_option(task, KIND, task.name)
    if kind not in TASKS:
        raise ConfigError(
            f"task {task.name!r} is of unknown kind {kind!r}; the kinds are {', '.join(sorted(TASKS))}. "
            f"Name the task after one, or set its option {KIND!r}."
        )
    return TASKS[kind](task)
