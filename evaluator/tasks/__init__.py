"""Proxy tasks: small seeded problems whose score at little spend says something of an architecture at large spend."""

from collections.abc import Callable, Mapping

from archloom.db.records import Task
from archloom.evaluator.dials import Dials
from archloom.evaluator.task_kinds import dials, kind_name
from archloom.evaluator.tasks.backcopy import BigramBackcopy
from archloom.evaluator.tasks.compositional import Compositional
from archloom.evaluator.tasks.crossed import SetRecall, Translation
from archloom.evaluator.tasks.interface import IGNORED, Batch, Tally, TaskRunner
from archloom.evaluator.tasks.mad_copying import Compression, SelectiveCopying
from archloom.evaluator.tasks.mad_memorisation import Memorisation
from archloom.evaluator.tasks.mad_recall import DictionaryRecall
from archloom.evaluator.tasks.mirror import Mirror
from archloom.evaluator.tasks.passkey import Passkey
from archloom.evaluator.tasks.recall import AssociativeRecall
from archloom.evaluator.tasks.regression import InContextRegression, TestTimeRegression
from archloom.evaluator.tasks.state_tracking import WordProblem
from archloom.evaluator.tasks.stories import StoredStories, stories, story_digest
from archloom.evaluator.tasks.text import ByteText, corpus_digest

__all__ = [
    "IGNORED",
    "TASKS",
    "Batch",
    "Tally",
    "TaskRunner",
    "corpus_digest",
    "corpus_size",
    "data_digest",
    "make_runner",
]

TASKS: Mapping[str, Callable[[Task], TaskRunner]] = {
    "mqar": AssociativeRecall.from_task,
    "in_context_recall": DictionaryRecall.in_context,
    "fuzzy_recall": DictionaryRecall.fuzzy,
    "noisy_recall": DictionaryRecall.noisy,
    "selective_copying": SelectiveCopying.from_task,
    "compression": Compression.from_task,
    "memorisation": Memorisation.from_task,
    "parity": WordProblem.parity,
    "permutations": WordProblem.permutations,
    "bigram_backcopy": BigramBackcopy.from_task,
    "in_context_regression": InContextRegression.from_task,
    "test_time_regression": TestTimeRegression.from_task,
    "passkey": Passkey.from_task,
    "mirror": Mirror.from_task,
    "set_recall": SetRecall.from_task,
    "translation": Translation.from_task,
    "compositional": Compositional.from_task,
    "text": ByteText.from_task,
    "stories": stories,
}
"""The runner of every kind of task. A new kind is a line here and a row of `task_table.KINDS`."""


def make_runner(task: Task) -> TaskRunner:
    """The runner of a task. Its kind is its option `kind`, or its name where that option is not given.

    Raises `ConfigError` for an unknown kind or a bad option, `EnvironmentProblem` if its data cannot be read.
    """
    return TASKS[kind_name(task)](task)


def corpus_size(runner: TaskRunner) -> int | None:
    """Symbols that a task on text has for training; None where data is drawn anew at every step."""
    match runner:
        case ByteText():
            return len(runner.corpus.training)
        case StoredStories():
            return len(runner.training)
        case _:
            return None


DIGESTS: Mapping[str, Callable[[Dials], str]] = {
    "text": lambda given: corpus_digest(given.text("source")),
    "stories": lambda given: story_digest(given.text("source"), tokens=given.integer("tokens")),
}
"""By which files the kinds that read any are pinned; empty where they read none."""


def data_digest(task: Task) -> str:
    """SHA-256 of what a task reads from the disk, "" if nothing. Raises as `make_runner` does."""
    digest = DIGESTS.get(kind_name(task))
    return digest(dials(task)) if digest else ""
