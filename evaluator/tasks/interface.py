"""What a proxy task is to the training loop: batches, a tally of what the model did on them, and a score in [0, 1]."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from torch import Tensor

from archloom.db.records import Task
from archloom.errors import ConfigError

IGNORED = -100
"""The target of a position that is not scored (the default `ignore_index` of `torch.nn.functional.cross_entropy`)."""

KIND = "kind"
"""Option that names the kind of a task where its name is not the kind, so that a protocol can hold two of one kind."""

Option = TypeVar("Option", int, float, str)


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """`inputs` [B, T] int64 symbols and `targets` [B, T] int64 symbols, `IGNORED` where nothing is scored."""

    inputs: Tensor
    targets: Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """Sums over scored positions: `nats` of cross-entropy, how many were `correct` by argmax, and how many `scored`."""

    nats: float
    correct: int
    scored: int

    @property
    def loss(self) -> float:
        """Mean cross-entropy in nats."""
        return self.nats / self.scored

    @property
    def accuracy(self) -> float:
        return self.correct / self.scored


class TaskRunner(Protocol):
    """A task that can be trained on. It is a function of its record: all randomness comes from the arguments."""

    @property
    def batch(self) -> int:
        """Sequences in a training batch."""

    @property
    def solved(self) -> float | None:
        """The score from which the task counts as solved, or None where no such score is meaningful."""

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """The batch of training step `step` in [0, total_steps): the same for the same three numbers."""

    def evaluation_batches(self) -> Sequence[Batch]:
        """The evaluation set: the same for every run."""

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """The task's named numbers for a tally of the evaluation set."""

    def score(self, tally: Tally) -> float:
        """In [0, 1], higher is better, 0 at chance."""


def check_options(task: Task, *, known: frozenset[str]) -> None:
    """Raise `ConfigError` if the task has an option that its kind does not know."""
    if unknown := sorted({name for name, _ in task.options} - known - {KIND}):
        raise ConfigError(
            f"task {task.name!r} has no option {unknown[0]!r}; remove it or write one of {', '.join(sorted(known))}"
        )


def read_option(task: Task, name: str, default: Option) -> Option:
    """The option `name` of a task as the type of `default`; raises `ConfigError` if it is of another type."""
    value = dict(task.options).get(name, default)
    if isinstance(default, float) and isinstance(value, int):
        value = float(value)
    if not isinstance(value, type(default)):
        raise ConfigError(
            f"option {name!r} of task {task.name!r} is {value!r}; give a value of type {type(default).__name__}"
        )
    return value
