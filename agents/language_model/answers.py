"""What a language model wrote, read from the answer of its server. Pure functions.

Its text is data of any kind and any length: it is never executed, all that is kept of it is cut to a length, and the
time to read it is bounded whatever it holds. Of each role's answer one table (`Fields`) gives the JSON schema that
servers hold a model to and the reader of what came.

The object that is wanted may stand among prose, in a fence or after a model's thoughts. JSON itself is not mended, but
for line breaks inside its texts: a trailing comma or a `None` goes back to the model as a mistake.
"""

import json
import re
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archloom.agents.language_model.quoting import plain
from archloom.agents.language_model.shapes import Code, Fields, Many, Number, Prose, Truth, read, schema
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import Role
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.terms import TermError

MAX_TEXT = 400_000
"""Characters of a model's text that are read, the last ones: an answer follows what leads to it."""
MAX_TERM = 10_000
"""Characters of a term, and of each side of an edit."""
MAX_HYPOTHESIS = 2_000
MAX_REASON = 600
"""Characters of a reason or a lesson."""
MAX_NAME = 64
MAX_EDITS = 16
MAX_PREDICTIONS = 32
MAX_CITES = 16
GRADES = (1.0, 10.0)
"""The worst grade and the best."""
LARGEST = 1e30
"""A number of a vector is smaller."""
MAX_TOKENS = 2**31 - 1
"""A larger count of tokens is no count."""

MAX_STARTS = 500
"""Places of a text where an object is looked for, the last ones."""
MAX_FENCES = 100
"""Fences that are looked into, the last ones."""
MAX_WORK = 2_000_000
"""Characters that are gone through while objects are looked for, the same ones again counted again."""
WORK_OF_OBJECT = 10
"""Characters that a list or an object counts for."""

_DECODER = json.JSONDecoder(strict=False)  # a term over several lines is often written so
_OBJECT = re.compile(r'\{\s*"')
_TAG = re.compile(r"[\w+-]*[ \t]*\r?\n")  # of a fence: its language
_CALL = re.compile(r"(?:#[^\n]*\n\s*)*(?:grammar\s+\d+\s+)?([A-Za-z_]\w*)\s*\(", re.ASCII)


# -- what a server sends ----------------------------------------------------------------------------------------------


def content(response: str) -> str:
    """What the model wrote, from the answer of a server (JSON text), without surrogates, which no request can carry.

    Errors: `ProposerFailed` if the answer holds no such thing: an error, a refusal, an answer cut off before any text.
    """
    value = _json(response)
    match value:
        case {"choices": [{"message": {"content": str() | list() as said}}, *_]}:
            text = said if isinstance(said, str) else "".join(_parts(said))
            if text.strip():
                return text.encode("utf-8", "replace").decode()
    match value:
        case {"choices": [{"message": {"refusal": str(told)}}, *_]} if told:
            raise ProposerFailed(f"the model declined: {plain(told, length=MAX_REASON)}")
        case {"choices": [{"finish_reason": "length"}, *_]}:
            raise ProposerFailed("the answer was cut off before the model wrote any text; raise `max_tokens`")
        case {"choices": [{"message": {"content": str() | list()}}, *_]}:
            return ""
        case {"error": {"message": str(told)} | str(told)}:
            raise ProposerFailed(plain(told, length=MAX_REASON) or "the server reports an error and does not say which")
    raise ProposerFailed(f"the server's answer is no chat completion: {plain(response, length=100)!r}")


def usage(response: str) -> tuple[int, int] | None:
    """Prompt and completion tokens as the server counted them, None where it did not."""
    match _json(response):
        case {"usage": {"prompt_tokens": prompt, "completion_tokens": completion}}:
            if _is_count(prompt) and _is_count(completion):
                return prompt, completion
        case {"usage": {"prompt_tokens": prompt, "total_tokens": total}}:
            if _is_count(prompt) and _is_count(total) and total >= prompt:
                return prompt, total - prompt
    return None


def vectors(response: str, *, count: int) -> NDArray[np.float32]:
    """The `count` vectors [N, D] of an answer with embeddings. Errors: `ProposerFailed` if it holds others."""
    match _json(response):
        case {"data": [*rows]}:
            found = {row.get("index"): row.get("embedding") for row in rows if isinstance(row, dict)}
            listed = [found.get(place) for place in range(count)]
            sizes = {len(each) if isinstance(each, list) else 0 for each in listed}
            if len(sizes) == 1 and sizes != {0} and all(_is_number(x) for each in listed for x in each or ()):
                return np.array(listed, dtype=np.float32)
    raise ProposerFailed(f"the server's answer has no {count} vectors of one length: {plain(response, length=100)!r}")


def _is_number(value: object) -> bool:
    return isinstance(value, float | int) and not isinstance(value, bool) and abs(value) < LARGEST


def _parts(said: list[Any]) -> Iterator[str]:
    for part in said:
        match part:
            case {"type": "text", "text": str(text)}:
                yield text


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value <= MAX_TOKENS


def _json(text: str) -> object:
    """The value of a JSON text, None if it is none (or nested beyond reason)."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):
        return None


# -- the object in a text ---------------------------------------------------------------------------------------------


def found(text: str, *, keys: Collection[str]) -> Mapping[str, object] | None:
    """The JSON object in a model's text that has most of the `keys`, of equals the last; None if none has any.

    A text that is an object as a whole, or is one after the thoughts it begins with, holds no other.
    """
    after = _after_thoughts(text)
    for whole in dict.fromkeys((text[-MAX_TEXT:], after)):
        best = _best([_json(whole)], keys)
        if best is not None:
            return best
    return _best([*map(_json, _fenced(after)), *_objects(after, keys)], keys)


def _best(values: Collection[object], keys: Collection[str]) -> Mapping[str, object] | None:
    objects = [value for value in values if isinstance(value, dict) and _held(value, keys)]
    return max(reversed(objects), key=lambda value: _held(value, keys), default=None)


def _held(value: Mapping[str, object], keys: Collection[str]) -> int:
    return sum(key in value for key in keys)


def _after_thoughts(text: str) -> str:
    """What is read of a text, without the thoughts that it begins with; with them if they do not end."""
    if text.lstrip().startswith("<think>"):
        _, end, rest = text.partition("</think>")
        text = rest if end else text
    return text[-MAX_TEXT:]


def _fenced(text: str) -> list[str]:
    """What stands in fences, without the language that a fence may name."""
    parts = text.split("```")[1::2][-MAX_FENCES:]
    return [part[tag.end() :] if (tag := _TAG.match(part)) else part for part in parts]


def _objects(text: str, keys: Collection[str]) -> Iterator[dict[str, object]]:
    """The objects of a text, outermost first where they have any of the keys, else what is inside them too."""
    starts = [match.start() for match in _OBJECT.finditer(text)][-MAX_STARTS:]
    base = starts[0] if starts else 0
    text = text[base:]
    left, reached = MAX_WORK, 0
    for start in [each - base for each in starts]:
        if start < reached or left <= 0:
            continue
        value = None
        try:
            value, end = _DECODER.raw_decode(text, start)
        except json.JSONDecodeError as problem:
            # Of a text that does not end, its position is the beginning.
            end = len(text) if problem.msg.startswith("Unterminated") else problem.pos
        except (ValueError, RecursionError):  # a number of too many digits, or nested beyond reason
            end = len(text)
        # For the line of a mistake all before it is gone through, fast; lists and objects keep the collector busy.
        opened = text.count("[", start, end) + text.count("{", start, end)
        left -= end - start + start // 10 + WORK_OF_OBJECT * opened
        if isinstance(value, dict) and _held(value, keys):
            reached = end
            yield value


# -- what an answer holds ---------------------------------------------------------------------------------------------

_CODE = Code(MAX_TERM)
_EDIT = Fields({"replace": _CODE, "by": _CODE})
_PREDICTION = Fields({"task": Prose(MAX_NAME), "change": Number(-1.0, 1.0)})
_RESEARCHER = Fields(
    {
        "hypothesis": Prose(MAX_HYPOTHESIS),
        "term": _CODE,
        "parent": Prose(MAX_NAME),
        "edits": Many(_EDIT, MAX_EDITS, cut=False),
        "predictions": Many(_PREDICTION, MAX_PREDICTIONS, cut=True),
        "cites": Many(Prose(MAX_NAME + 1), MAX_CITES, cut=True),  # one more, to tell a name that is too long
    }
)
_CRITIC = Fields({"novel": Truth(), "reason": Prose(MAX_REASON)})
_ANALYST = Fields({"lesson": Prose(MAX_REASON)})
_GRADES = ("grammar", "creativity", "consistency")
_GRADER = Fields({**dict.fromkeys(_GRADES, Number(*GRADES)), "age": Prose(MAX_NAME)})

SCHEMAS: Mapping[Role, Mapping[str, Any]] = {
    Role.RESEARCHER: schema(_RESEARCHER),
    Role.REPAIR: schema(_RESEARCHER),
    Role.CRITIC: schema(_CRITIC),
    Role.ANALYST: schema(_ANALYST),
    Role.GRADER: schema(_GRADER),
}
"""The JSON schema of each role's answer; a repair is a researcher's answer again."""


def _given(text: str, shape: Fields, value: Mapping[str, object] | None) -> dict[str, Any]:
    """The fields of the object that was found in a text; a text or a list that it does not give is empty.

    Errors: `TermError` if none was found, or a field has another shape.
    """
    if value is None:
        wanted = ", ".join(f'"{name}"' for name in shape.parts)
        raise TermError(f"the answer must be one JSON object with {wanted}; {_complaint(text)}")
    given = {}
    for name, part in shape.parts.items():
        each = value.get(name)
        if each is None:
            each = [] if isinstance(part, Many) else "" if isinstance(part, Prose | Code) else None
        given[name] = read(each, part, name)
    return given


def _complaint(text: str) -> str:
    """Why the first object of a text cannot be read."""
    text = _after_thoughts(text)
    start = text.find("{")
    if start < 0:
        return "it holds no object"
    try:
        _DECODER.raw_decode(text, start)
    except json.JSONDecodeError as problem:
        near = plain(text[max(start, problem.pos - 30) : problem.pos + 10], length=40)
        return f"what it holds is no JSON: {problem.msg} near `{near}`"
    except (ValueError, RecursionError):
        return "what it holds is nested too deeply or has a number of too many digits"
    return "the object it holds has none of these"


# -- the answers of the roles -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Of a term's text, `replace` gives way to `by`."""

    replace: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A researcher's answer: a `term`, or `edits` of a `parent`, and never both.

    `parent` is a candidate's id (whole or short) or the name of a system, "" if none is given; with a term it only says
    where that comes from. `predictions` are (task, change of score expected, -1 to 1), each task once. `cites` are the
    names of the knowledge and the lessons that the answer rests on.
    """

    hypothesis: str
    term: str
    parent: str
    edits: tuple[Edit, ...]
    predictions: tuple[tuple[str, float], ...]
    cites: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """A critic's answer: whether the candidate is `novel`, and why."""

    novel: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Grade:
    """A grader's answer about a story: three grades from 1 to 10, and in words the `age` of who wrote it, or ""."""

    grammar: float
    creativity: float
    consistency: float
    age: str = ""


def researcher(text: str, *, tasks: Collection[str]) -> Answer:
    """A researcher's answer, from a model's text; a bare term is one without a hypothesis.

    Where a whole term is given, edits beside it are left out; so are predictions of other than `tasks`, and names that
    are empty or too long to be any. Errors: `TermError`, with what the model must mend.
    """
    value = found(text, keys=_RESEARCHER.parts)
    if value is None and (bare := _bare(text)):
        value = {"term": bare}
    given = _given(text, _RESEARCHER, value)
    term, edits = given["term"], () if given["term"] else tuple([Edit(**edit) for edit in given["edits"]])
    if not term and not edits:
        raise TermError('the answer has neither a "term" nor "edits"; write one of the two')
    if edits and not given["parent"]:
        raise TermError('the answer has "edits" and no "parent"; name the candidate or the system that they change')
    predictions = {each["task"]: each["change"] for each in given["predictions"] if each["task"] in tasks}
    cites = dict.fromkeys(name for name in given["cites"] if 0 < len(name) <= MAX_NAME)
    return Answer(
        hypothesis=given["hypothesis"],
        term=term,
        parent=given["parent"],
        edits=edits,
        predictions=tuple(predictions.items()),
        cites=tuple(cites),
    )


def critic(text: str) -> Verdict:
    """A critic's verdict, from a model's text. Errors: `TermError`, with what the model must mend."""
    given = _given(text, _CRITIC, found(text, keys=_CRITIC.parts))
    return Verdict(novel=given["novel"], reason=given["reason"])


def analyst(text: str) -> str:
    """An analyst's lesson, one plain line, from a model's text. Errors: `TermError`, with what the model must mend."""
    lesson: str = _given(text, _ANALYST, found(text, keys=_ANALYST.parts))["lesson"]
    if not lesson:
        raise TermError('the "lesson" is empty; say in one sentence what was learnt')
    return lesson


def grader(text: str) -> Grade:
    """A grader's opinion of a story, from a model's text.

    A grade outside the scale is refused: one of 85 was given on another scale. Errors: `TermError`, with what the model
    must mend.
    """
    value = found(text, keys=_GRADER.parts)
    given = _given(text, _GRADER, value)
    if value is not None and (odd := [name for name in _GRADES if value[name] != given[name]]):
        raise TermError(f"{', '.join(odd)}: a grade is a number from {GRADES[0]:g} to {GRADES[1]:g}, and no other")
    return Grade(**given)


def _bare(text: str) -> str:
    """The term that a text, or else the last of its fences, is without any object around it; "" if there is none."""
    text = _after_thoughts(text)
    for part in (text.strip(), *(each.strip() for each in reversed(_fenced(text)))):
        call = _CALL.match(part)
        if call and call[1] in OPERATIONS and part.endswith(")"):
            return part
    return ""
