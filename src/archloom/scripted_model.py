"""A stand-in for a language model: it plays every role from the request alone, at random and without understanding.

    with ScriptedServer(reply, models=(NAME,)) as server: ...

It drives the whole path of the language-model arm (prompts, HTTP, parsing, repair, critic, lessons, budgets, records)
where there is no model. Its terms are drawn from the grammar or are mutations of a parent that the prompt shows; now
and then an answer is broken, so that repair has work. It is a function of the request: the same one gets the same
answer.
What it scores says nothing of language models.
"""

import json
import re
from collections.abc import Mapping, Sequence
from functools import cache
from random import Random
from typing import Any, assert_never

from archloom.config import ModelSection
from archloom.db.records import Role
from archloom.scripted_server import Scripted
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.variation import mutate

NAME = "scripted"
PRICE = 0.1
"""Money per million tokens: nobody is paid, but there is something to add up."""
BROKEN = 0.25
"""Share of the first answers that are broken."""
EDITED = 0.5
"""Share of the answers that edit a parent, once there is one."""
ADMITTED = 0.8
"""Share of the proposals that its critic calls novel."""

_LIMITS = re.compile(r"at\s+most (\d+) blocks\..*?at most (\d+) operations", re.DOTALL)
_PARENT = re.compile(r"^(\w+): rung \d+: [^\n]*\n  (\S[^\n]*)$", re.MULTILINE)
_PARENTS = re.compile(r"^Parents:(.*?)^Failures", re.MULTILINE | re.DOTALL)
_TASK = re.compile(r"^- (\w+): \d+ tokens", re.MULTILINE)
_LESSON = re.compile(r"^> (lesson-[0-9a-f]+):", re.MULTILINE)
_CANDIDATE = re.compile(r"^Candidate (\S+):", re.MULTILINE)


def section(base_url: str) -> ModelSection:
    """The model as a campaign's configuration has it."""
    return ModelSection(
        base_url=base_url, model=NAME, key_variable="", prompt_price=PRICE, completion_price=PRICE, max_tokens=4096
    )


def reply(request: Mapping[str, Any]) -> Scripted:
    """What a scripted server sends for a request; 400 for one that asks for no answer of a known schema."""
    match request:
        case {"messages": [*messages], "response_format": {"json_schema": {"name": str(name)}}} if name in set(Role):
            texts = [str(message["content"]) for message in messages]
            return Scripted(text=_answer(Role(name), texts, Random(f"{request.get('seed')} {len(texts)}")))
    message = "the scripted model answers requests that name a role's JSON schema (structured = true)"
    return Scripted(status=400, body=json.dumps({"error": {"message": message}}).encode())


def _answer(role: Role, texts: Sequence[str], rng: Random) -> str:
    match role:
        case Role.RESEARCHER:
            return _broken(rng) if rng.random() < BROKEN else _proposal(texts, rng)
        case Role.REPAIR:
            return _proposal(texts, rng)
        case Role.CRITIC:
            return json.dumps({"novel": rng.random() < ADMITTED, "reason": "drawn by lot"})
        case Role.ANALYST:
            found = _CANDIDATE.search(texts[-1])
            return json.dumps({"lesson": f"Drawn by lot: nothing was learnt from {found[1] if found else 'it'}."})
        case Role.GRADER:
            grades = ("grammar", "creativity", "consistency")
            return json.dumps({**{name: rng.randint(1, 10) for name in grades}, "age": ""})
        case Role.EMBEDDER:
            return ""  # asked elsewhere, in another protocol
    assert_never(role)


def _broken(rng: Random) -> str:
    """Prose, an operation that there is none of, or a term that does not end."""
    wrong = ("mix(wizardry(x))", "mix(apply(masked(dot(project(x), project(x)), visible), value(x))")
    given = {"hypothesis": "It is broken on purpose.", "edits": [], "parent": "", "predictions": [], "cites": []}
    texts = ("I would try something with a longer memory.", *(json.dumps({**given, "term": term}) for term in wrong))
    return rng.choice(texts)


def _proposal(texts: Sequence[str], rng: Random) -> str:
    """A researcher's answer. `texts` are the conversation: the algebra, the situation, refused answers and reasons."""
    algebra, situation = texts[0], texts[1]
    sampler = _sampler(*_limits(algebra))
    parents = _parents(situation)
    term, parent, edits = "", "", []
    if parents and rng.random() < EDITED:
        parent, old = rng.choice(parents)
        edits = [{"replace": old, "by": mutate(parse(old), sampler, rng).term.text}]
    else:
        term = sampler.architecture(rng).text
    answer = {
        "hypothesis": "Drawn by lot: no mechanism is meant.",
        "term": term,
        "parent": parent,
        "edits": edits,
        "predictions": [
            {"task": task, "change": round(rng.uniform(-0.1, 0.1), 3)} for task in _TASK.findall(situation)
        ],
        "cites": _LESSON.findall(situation)[:1],
    }
    return json.dumps(answer)


def _parents(situation: str) -> list[tuple[str, str]]:
    """The ids and whole terms of the parents and near misses that a prompt shows."""
    shown = _PARENTS.search(situation)
    return [(name, term) for name, term in _PARENT.findall(shown[1] if shown else "") if term.endswith(")")]


def _limits(algebra: str) -> tuple[int, int]:
    """Blocks and operations of the largest architecture, as the prompt says them."""
    found = _LIMITS.search(algebra)
    return (int(found[1]), int(found[2])) if found else (1, 48)


@cache
def _sampler(depth: int, size: int) -> Sampler:
    return Sampler.default(depth=depth, max_size=size)
