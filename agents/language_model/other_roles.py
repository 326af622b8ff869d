"""What the other roles are told: a refusal to repair, a proposal to judge for novelty, a result to learn from."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from archloom.agents.language_model.board import Digest, digest, rung_tasks
from archloom.agents.language_model.prompting import filled, prompt
from archloom.agents.language_model.quoting import plain, quoted
from archloom.db.records import Failure, Protocol, Role, Trial
from archloom.search_space.difference import Change, difference
from archloom.search_space.text import parse

REASON_LENGTH = 1_000
HYPOTHESIS_LENGTH = 1_000
TERM_LENGTH = 2_000
NAME_LENGTH = 80
TASK_LENGTH = 160
CHANGES = 12
"""Changes of a relative that are shown."""

Message = Mapping[str, str]
Relatives = Sequence[tuple[Trial, Sequence[Change]]]
"""Trials, and for each the changes that make the proposed architecture of it."""


def repair(reason: str) -> Message:
    """The user's turn after an answer that was refused for `reason`."""
    places = {"reason": quoted(reason, length=REASON_LENGTH)}
    return {"role": "user", "content": filled(prompt(Role.REPAIR).user, places)}


def critic(term: str, *, hypothesis: str, relatives: Relatives, protocol: Protocol) -> tuple[Message, Message]:
    """The critic's conversation about a proposed term, given its nearest relatives."""
    expected = rung_tasks(protocol)
    told = []
    for trial, changes in relatives:
        made = digest(trial, expected)
        lines = [f"{made.name}: {_scored(made, protocol)}", f"  {plain(made.candidate.term, length=TERM_LENGTH)}"]
        told.append("\n".join([*lines, *(f"  {line}" for line in _told(changes))]))
    places = {
        "term": plain(term, length=TERM_LENGTH),
        "hypothesis": quoted(hypothesis, length=HYPOTHESIS_LENGTH),
        "relatives": "\n".join(told) or "none: it is the first of its campaign",
    }
    return _conversation(Role.CRITIC, places)


def analyst(
    trial: Trial,
    *,
    protocol: Protocol,
    parent: Trial | None,
    baselines: Sequence[Trial],
    about: Mapping[str, str] = MappingProxyType({}),
) -> tuple[Message, Message]:
    """The analyst's conversation about a candidate that was measured or failed: its predictions beside its scores.

    Scores are compared at the highest rung that the candidate completed. `about` says what a task measures, by its
    name. Errors: `TermError` if the text of the candidate or its parent is no term.
    """
    expected = rung_tasks(protocol)
    made = digest(trial, expected)
    above = None if parent is None else digest(parent, expected)
    known = [each for each in (digest(baseline, expected) for baseline in baselines) if each.failure is None]
    failures = [f"{each.kind.value}:\n{quoted(each.reason, length=REASON_LENGTH)}" for each in _failures(trial)]
    places = {
        "candidate": made.name,
        "term": plain(made.candidate.term, length=TERM_LENGTH),
        "hypothesis": quoted(made.candidate.rationale or "", length=HYPOTHESIS_LENGTH),
        "changes": "none: it was written whole" if above is None else "\n".join(_changed(above, made)),
        "scores": _compared(made, protocol=protocol, about=about, parent=above, baselines=known),
        "failures": "\n".join(failures) or "none",
    }
    return _conversation(Role.ANALYST, places)


def _conversation(role: Role, places: Mapping[str, str]) -> tuple[Message, Message]:
    told = prompt(role)
    return {"role": "system", "content": told.system}, {"role": "user", "content": filled(told.user, places)}


def _changed(old: Digest, new: Digest) -> list[str]:
    return _told(difference(parse(old.candidate.term), parse(new.candidate.term)))


def _told(changes: Sequence[Change]) -> list[str]:
    lines = [f"- {plain(change.line, length=TERM_LENGTH)}" for change in changes[:CHANGES]]
    return lines + ([f"- and {len(changes) - CHANGES} changes more"] if len(changes) > CHANGES else [])


def _scored(made: Digest, protocol: Protocol) -> str:
    if made.failure is not None:
        return f"failed ({made.failure.kind.value})"
    if made.rung < 0:
        return "not measured yet"
    tasks = rung_tasks(protocol)[made.rung]
    said = [f"{plain(task, length=NAME_LENGTH)} {score:.3f}" for task, score in zip(tasks, made.scores, strict=True)]
    return f"rung {made.rung}: {', '.join(said)}"


def _compared(
    made: Digest,
    *,
    protocol: Protocol,
    about: Mapping[str, str],
    parent: Digest | None,
    baselines: Sequence[Digest],
) -> str:
    """A line for each task: predicted change, measured score, and the change from the parent and the best baseline."""
    known = {task.name for task in protocol.tasks}
    predicted = {task: by for task, by in made.candidate.predictions if task in known}
    against = "the best baseline" if parent is None else "the parent"
    if made.rung < 0:
        said = [f"- {plain(task, length=NAME_LENGTH)}: predicted change {by:+.3f}" for task, by in predicted.items()]
        return "\n".join([f"nothing was measured; predicted changes against {against}:", *(said or ["none"])])
    lines = [f"at rung {made.rung}, predicted changes against {against}:"]
    for place, task in enumerate(rung_tasks(protocol)[made.rung]):
        parts = [f"predicted change {predicted[task]:+.3f}" if task in predicted else "nothing predicted"]
        parts.append(f"measured {made.scores[place]:.3f}")
        if parent is not None and parent.ladder[made.rung]:
            parts.append(_beside("parent", parent, made, place=place))
        having = [each for each in baselines if each.ladder[made.rung]]
        if having:
            best = max(having, key=lambda each: each.ladder[made.rung][place])
            parts.append(_beside(f"best baseline {best.name}", best, made, place=place))
        measures = plain(about.get(task, ""), length=TASK_LENGTH)
        name = plain(task, length=NAME_LENGTH)
        lines.append(f"- {name}{f' ({measures})' if measures else ''}: {', '.join(parts)}")
    return "\n".join(lines)


def _beside(name: str, other: Digest, made: Digest, *, place: int) -> str:
    theirs = other.ladder[made.rung][place]
    return f"{name} {theirs:.3f} (change {made.scores[place] - theirs:+.3f})"


def _failures(trial: Trial) -> list[Failure]:
    """Each kind once, as it came first."""
    found = [result.failure for result in trial.results if result.failure is not None]
    return list({each.kind: each for each in reversed(found)}.values())[::-1]
