"""Budget: what the protocol allows, and a module that has what the algebra counts."""

from archloom.errors import ConfigError
from archloom.evaluator.gates.subject import Subject
from archloom.evaluator.model import protocol_widths
from archloom.evaluator.task_kinds import kind_of
from archloom.search_space.costs import costs
from archloom.search_space.patterns import CAUSAL, misfits
from archloom.search_space.terms import depth


def budget(subject: Subject) -> str | None:
    """Depth within the protocol's, a meaning under every task's pattern, and widths that match its parameter count."""
    blocks = depth(subject.architecture)
    if blocks > subject.protocol.depth:
        return f"{blocks} blocks; the protocol allows {subject.protocol.depth}"
    if odd := misfits(subject.architecture, CAUSAL):
        return f"{', '.join(odd)} has no meaning under the causal pattern, under which candidates are tested"
    for task in subject.protocol.tasks:
        pattern = kind_of(task).pattern
        if odd := misfits(subject.architecture, pattern):
            return f"task {task.name} is {pattern.name}, under which {', '.join(odd)} has no meaning"
        try:
            protocol_widths(subject.architecture, protocol=subject.protocol, length=task.length, pattern=pattern)
        except ConfigError as problem:
            return f"task {task.name}: {problem}"
    return None


def build(subject: Subject) -> str | None:
    """The module has exactly the parameters that the algebra counts."""
    counted = costs(subject.architecture, subject.widths, subject.task.length).parameters
    built = subject.model.stack_parameters
    return None if built == counted else f"built with {built} parameters where the term counts {counted}"
