"""A task's kind and the settings of its dials, looked up and checked. No torch here."""

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.dials import Dials, Kind, alike, faults
from archloom.evaluator.task_table import KINDS

KIND = "kind"
"""Option that names the kind of a task where its name is not the kind, so that a protocol can hold two of one kind."""


def kind_name(task: Task) -> str:
    """The kind of a task: its option `kind`, or its name. Raises `ConfigError` if there is no such kind."""
    name = str(dict(task.options).get(KIND, task.name))
    if name not in KINDS:
        raise ConfigError(
            f"task {task.name!r} is of unknown kind {name!r}; {alike(name, KINDS)}. Name the task after its kind, or "
            f"set its option {KIND!r}."
        )
    return name


def kind_of(task: Task) -> Kind:
    """The row of a task's kind; raises as `kind_name` does."""
    return KINDS[kind_name(task)]


def dials(task: Task) -> Dials:
    """The settings of a task. Raises `ConfigError` for an unknown one, a wrong type or a value out of range."""
    kind = kind_of(task)
    given = {name: value for name, value in task.options if name != KIND}
    for name, rule in faults(kind, given):
        if rule is None:
            hint = alike(name, (dial.name for dial in kind.dials))
            raise ConfigError(f"task {task.name!r} has no option {name!r}; {hint}")
        raise ConfigError(f"option {name!r} of task {task.name!r} is {given[name]!r}: it {rule}")
    return Dials({dial.name: dial.cast(given.get(dial.name, dial.default)) for dial in kind.dials})


def require(task: Task, *rules: tuple[bool, str]) -> None:
    """Raise `ConfigError` with every broken rule among (kept, what is wrong and what to take instead)."""
    if broken := [rule for kept, rule in rules if not kept]:
        raise ConfigError(f"task {task.name!r} cannot be drawn: {'; '.join(broken)}")
