"""What the researcher is told: the algebra once a campaign, and where the campaign stands at every call."""

import re
from collections.abc import Mapping, Sequence

from archloom.agents.knowledge.entries import Entry
from archloom.agents.language_model.board import Digest
from archloom.agents.language_model.lengths import fitted
from archloom.agents.language_model.operation_sheet import sheet
from archloom.agents.language_model.prompting import filled, prompt
from archloom.agents.language_model.quoting import CUT, plain, quoted
from archloom.agents.language_model.situation import Situation
from archloom.db.records import Lesson, Protocol, Role, Task
from archloom.search_space import GRAMMAR_VERSION, zoo
from archloom.search_space.operations import FAMILIES, OPERATIONS
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse

GOAL_LENGTH = 500
REASON_LENGTH = 200
LESSON_LENGTH = 400
ENTRY_LENGTH = 900
TASK_LENGTH = 160
NAME_LENGTH = 80
TERM_LENGTH = 2_000
"""Characters of a term to build on; a longer one is shown in part and cannot be edited."""
FAILED_TERM_LENGTH = 160
WEAK_TASKS = 2
"""Tasks that retrieval asks for: those on which the best parent is worst."""

ORDER = (
    ("knowledge", 4),
    ("near_misses", 1),
    ("failures", 3),
    ("lessons", 3),
    ("knowledge", 2),
    ("parents", 4),
    ("near_misses", 0),
    ("knowledge", 0),
    ("failures", 1),
    ("lessons", 0),
    ("parents", 2),
    ("baselines", 4),
    ("failures", 0),
    ("parents", 0),
    ("baselines", 0),
)
"""What is left out of a message that is too long, the least useful first."""

_NAME = re.compile(r"(?<![\w=])[a-z]\w*(?![\w=])")
"""A name in a term that is no parameter's and no value."""
_ALL_HAVE = frozenset(each.name for family in ("streams", "mixers", "blocks", "stacks") for each in FAMILIES[family])
"""Operations that say little of what a mixer does."""


def system(sampler: Sampler, *, protocol: Protocol, lets: int) -> str:
    """The part that is the same in every call of a campaign: the task, the form of an answer, the algebra and its
    limits, and the protocol's baselines as terms. `lets` is the most of a mixer."""
    places = {
        "grammar": str(GRAMMAR_VERSION),
        "depth": str(sampler.grammar.depth),
        "size": str(sampler.grammar.max_size),
        "lets": str(lets),
        "operations": sheet(),
        "systems": _systems(protocol),
    }
    return filled(prompt(Role.RESEARCHER).system, places)


def user(
    now: Situation,
    *,
    goal: str,
    about: Mapping[str, str],
    lessons: Sequence[Lesson],
    entries: Sequence[Entry],
    room: int,
) -> str:
    """Where the campaign stands, in at most `room` estimated tokens; lessons and entries best first.

    `about` says what a task measures, by its name. Errors: `ValueError` if goal and protocol alone take more.
    """
    sections = {
        "baselines": [f"{each.name}: {_scores(each, now)}" for each in now.baselines],
        "parents": [_candidate(each, now) for each in now.parents],
        "near_misses": [_candidate(each, now) for each in now.near_misses],
        "failures": ([_kinds(now)] if now.kinds else []) + [_failure(each) for each in now.failures],
        "lessons": [quoted(f"{each.name}: {each.text}", length=LESSON_LENGTH) for each in lessons],
        "knowledge": [quoted(_entry(each), length=ENTRY_LENGTH) for each in entries],
    }
    fixed = {"goal": plain(goal, length=GOAL_LENGTH) or "none given", "protocol": _protocol(now.protocol, about)}
    template = prompt(Role.RESEARCHER).user

    def render(left: Mapping[str, Sequence[str]]) -> str:
        return filled(template, fixed | {name: "\n".join(items) or "none" for name, items in left.items()})

    return fitted(sections, order=ORDER, render=render, room=room)


def query(now: Situation, *, goal: str, about: Mapping[str, str]) -> str:
    """The words for which knowledge is looked up: the goal, the weak tasks, the operations of the parents."""
    best: dict[str, float] = {}
    for each in now.parents:
        for task, score in zip(now.tasks[each.rung], each.scores, strict=True):
            best[task] = max(score, best.get(task, score))
    weak = sorted(best, key=lambda task: best[task])[:WEAK_TASKS]
    words = [plain(goal, length=GOAL_LENGTH)]
    words += [f"{plain(task, length=NAME_LENGTH)} {plain(about.get(task, ''), length=TASK_LENGTH)}" for task in weak]
    names = dict.fromkeys(name for each in now.parents for name in _NAME.findall(each.candidate.term))
    words += [name for name in names if name in OPERATIONS and name not in _ALL_HAVE]
    return " ".join(words)


def _systems(protocol: Protocol) -> str:
    """A line for each baseline, or for the standard systems where a protocol has none."""
    terms = dict(protocol.baselines) or {name: zoo.load(name, depth=protocol.depth).text for name in zoo.STANDARD}
    lines = []
    for name, term in terms.items():
        if name in zoo.names():
            known = zoo.entry(name)
            lines.append(f"{name} ({known.title}): {parse(known.text).text}")
        else:
            lines.append(f"{plain(name, length=NAME_LENGTH)}: {plain(term, length=TERM_LENGTH)}")
    return "\n".join(lines)


def _protocol(protocol: Protocol, about: Mapping[str, str]) -> str:
    known = {term: name for name, term in protocol.baselines}
    matched = known.get(protocol.reference, "the reference")
    lines = [
        f"Protocol: models of width {protocol.width} and at most {protocol.depth} blocks, each as wide as gives it "
        f"the parameters of {plain(matched, length=NAME_LENGTH)}, within {protocol.tolerance:.0%}.",
        "Tasks:",
        *(f"- {_task(task, about)}" for task in protocol.tasks),
        "Rungs, each on the best of the one before:",
    ]
    for number, rung in enumerate(protocol.rungs):
        stages = ", ".join(
            f"{plain(stage.task, length=NAME_LENGTH)} {stage.steps} steps x {len(stage.seeds)} seeds"
            for stage in rung.stages
        )
        rises = f"; {rung.keep:.0%} rise" if number + 1 < len(protocol.rungs) else ""
        lines.append(f"- rung {number}: {stages}{rises}")
    return "\n".join(lines)


def _task(task: Task, about: Mapping[str, str]) -> str:
    told = about.get(task.name, "")
    sizes = f"{task.length} tokens, {task.vocabulary} symbols"
    return f"{plain(task.name, length=NAME_LENGTH)}: {sizes}{'; ' if told else ''}{plain(told, length=TASK_LENGTH)}"


def _candidate(each: Digest, now: Situation) -> str:
    term = plain(each.candidate.term, length=TERM_LENGTH)
    part = " (shown in part: write a term, no edits)" if term.endswith(CUT) else ""
    return f"{each.name}: {_scores(each, now, differences=True)}{part}\n  {term}"


def _scores(each: Digest, now: Situation, *, differences: bool = False) -> str:
    said = []
    for task, score, best in zip(now.tasks[each.rung], each.scores, now.best[each.rung], strict=True):
        difference = f" ({score - best[1]:+.3f})" if differences and best is not None else ""
        said.append(f"{plain(task, length=NAME_LENGTH)} {score:.3f}{difference}")
    return f"rung {each.rung}: {', '.join(said)}"


def _kinds(now: Situation) -> str:
    return f"So far: {', '.join(f'{count} {kind}' for kind, count in now.kinds)}. The last, latest first:"


def _failure(each: Digest) -> str:
    assert each.failure is not None, each
    term = plain(each.candidate.term, length=FAILED_TERM_LENGTH)
    return f"{each.name}: {each.failure.kind.value}: {term}\n{quoted(each.failure.reason, length=REASON_LENGTH)}"


def _entry(each: Entry) -> str:
    told = (f"good at: {each.strengths}", f"bad at: {each.weaknesses}", f"use: {each.use}")
    fields = [field for field in told if not field.endswith(": ")]
    operations = f" (operations: {', '.join(each.operations)})" if each.operations else ""
    return "\n".join((f"{each.name}{operations}", each.mechanism, *fields))
