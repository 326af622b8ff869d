"""From a configuration to the records that a campaign is run by: its protocol and its baselines.

What a name stands for is looked up here, before anything is written: architectures in the zoo, text on the disk.
"""

import difflib
from collections.abc import Sequence
from dataclasses import replace

from archloom.config import Config, ProtocolSection, TaskSection
from archloom.db.records import PROTOCOL_VERSION, Protocol, Rung, Stage, Stopping, Task, Training
from archloom.errors import ConfigError
from archloom.evaluator.task_kinds import KIND
from archloom.search_space import GRAMMAR_VERSION, identity, text, zoo
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.types import Type


def to_protocol(config: Config) -> Protocol:
    """The protocol that a configuration asks for: reference and baselines as canonical text, the corpus as a digest.

    Errors: `ConfigError` for a reference that is neither a name of the zoo nor a term and for a baseline that is not
    in the zoo, `EnvironmentProblem` for text that cannot be read. Nothing is written; PyTorch is imported.
    """
    return section_protocol(config.protocol, baselines=baselines(config))


def section_protocol(section: ProtocolSection, *, baselines: Sequence[str]) -> Protocol:
    """The protocol of a section, with systems of the zoo as baselines; errors as `to_protocol`."""
    protocol = Protocol(
        version=PROTOCOL_VERSION,
        grammar=GRAMMAR_VERSION,
        reference=_reference_text(section),
        width=section.width,
        depth=section.depth,
        tolerance=section.tolerance,
        tasks=tuple(_task(task) for task in section.tasks),
        rungs=tuple(
            Rung(
                keep=rung.keep,
                stages=tuple(Stage(task=stage.task, steps=stage.steps, seeds=stage.seeds) for stage in rung.stages),
            )
            for rung in section.rungs
        ),
        training=Training(
            **section.training.model_dump(exclude={"rates"}), rates=tuple(section.training.rates.items())
        ),
        suite=section.suite,
        baselines=tuple((name, zoo.load(name, depth=section.depth).text) for name in baselines),
        stopping=Stopping(**section.stopping.model_dump()),
    )
    _check_tasks(protocol)
    return protocol


def check_version(protocol: Protocol) -> None:
    """Raise `ConfigError` if the protocol's scores mean something else to this version of archloom."""
    if protocol.version != PROTOCOL_VERSION:
        raise ConfigError(
            f"protocol {protocol.id} is of version {protocol.version} and this archloom measures by version "
            f"{PROTOCOL_VERSION}: its scores could not be compared. Its results can be read; to measure, start a new "
            "campaign from the same file with --fresh-name"
        )


def baselines(config: Config) -> tuple[str, ...]:
    """The names of the baselines. Errors: `ConfigError` for a name that is not in the zoo or not causal."""
    known = zoo.names()
    for name in config.search.baselines or ():
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"the zoo holds {', '.join(known)}"
            raise ConfigError(f"search.baselines: {name!r} is not in the zoo; {hint}")
        pattern = zoo.entry(name).pattern
        if pattern != CAUSAL:
            raise ConfigError(f"search.baselines: {name!r} is {pattern.name}; the tasks of a campaign are causal")
    return zoo.STANDARD if config.search.baselines is None else config.search.baselines


def _task(section: TaskSection) -> Task:
    """The record of a task, its own options sorted by name; text is pinned by the digest of its corpus."""
    from archloom.evaluator.tasks import data_digest

    own: dict[str, int | float | str] = dict(section.dials)
    if section.kind != section.name:
        own[KIND] = section.kind
    task = Task(
        name=section.name,
        vocabulary=section.vocabulary,
        length=section.length,
        batch=section.batch,
        options=tuple(sorted(own.items())),
    )
    if "digest" in own:
        pinned = own | {"digest": own["digest"] or data_digest(task)}
        task = replace(task, options=tuple(sorted(pinned.items())))
    return task


def _check_tasks(protocol: Protocol) -> None:
    """Raise `ConfigError` if a task cannot be drawn, or a stage asks a text for more than it has: it would be seen more
    than once."""
    from archloom.evaluator.tasks import corpus_size, make_runner

    sizes = {task.name: corpus_size(make_runner(task)) for task in protocol.tasks}
    for stage in (stage for rung in protocol.rungs for stage in rung.stages):
        task = protocol.task(stage.task)
        size, asked = sizes[task.name], stage.steps * task.batch * task.length
        if size is not None and asked > size:
            most = size // (task.batch * task.length)
            raise ConfigError(
                f"task {task.name!r} is to train on {asked:,} symbols and its text has {size:,}: take a longer text, "
                f"or at most {most} steps of {task.batch} times {task.length}"
            )


def _reference_text(section: ProtocolSection) -> str:
    """The canonical text of the reference at the protocol's depth."""
    known = zoo.names()
    if section.reference in known:
        return zoo.load(section.reference, depth=section.depth).text
    if "(" in section.reference:
        term = zoo.as_architecture(text.parse(section.reference), depth=section.depth)
        if term.type is not Type.STACK:
            raise ConfigError(f"protocol.reference should be a mixer, a block or a stack; it is a {term.type.value}")
        return identity.canonical(term).text
    raise ConfigError(f"protocol.reference = {section.reference!r}: neither a term nor in the zoo: {', '.join(known)}")
