"""A teacher's opinion of a story, asked of a language model, after Eldan & Li 2023 (TinyStories, arXiv:2305.07759).

The story is a model's text and so data: it is quoted, and what it says changes nothing but its grade. A grade is an
opinion too: it is told to people, and no proposer reads it.
"""

from collections.abc import Sequence

from archloom.agents.language_model import answers, other_roles
from archloom.agents.language_model.answers import Grade
from archloom.agents.language_model.endpoints import CallFailed, Model
from archloom.agents.language_model.prompting import filled, prompt
from archloom.agents.language_model.quoting import quoted
from archloom.agents.language_model.record import Message, Record, Request
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import Role
from archloom.search_space.terms import TermError

STORY_LENGTH = 8_000
"""Characters of a beginning, and of what follows it, that are shown."""
MAX_SHOWN = 2_000
"""Characters of a refused answer that go back with the refusal."""


def conversation(beginning: str, continuation: str) -> tuple[Message, Message]:
    """What the grader is told of a story."""
    told = prompt(Role.GRADER)
    places = {
        "beginning": quoted(beginning, length=STORY_LENGTH),
        "continuation": quoted(continuation, length=STORY_LENGTH),
    }
    return {"role": "system", "content": told.system}, {"role": "user", "content": filled(told.user, places)}


def grade(
    record: Record, model: Model, *, beginning: str, continuation: str, seed: int, ask: int, repairs: int
) -> Grade:
    """A model's grade of a story; an answer that is none goes back with the reason, at most `repairs` times.

    Errors: `CallFailed` if the server gives no answer, `ProposerFailed` if a limit forbids the call or no answer is a
    grade, `NotRecorded` if nothing can be asked and the record does not know.
    """
    messages, reason = list(conversation(beginning, continuation)), ""
    for _ in range(repairs + 1):
        text = _answer(record, model, messages, seed=seed, ask=ask)
        try:
            return answers.grader(text)
        except TermError as refusal:
            reason = str(refusal)
        messages += [{"role": "assistant", "content": text[:MAX_SHOWN]}, other_roles.repair(reason)]
    raise ProposerFailed(f"{model.name}: no grade in {repairs + 1} answers; the last: {reason}")


def _answer(record: Record, model: Model, messages: Sequence[Message], *, seed: int, ask: int) -> str:
    """What a model writes. A call that failed earlier is made anew, which takes another seed; one that fails now ends
    it."""
    while True:
        known = len(record.calls)
        request = Request(role=Role.GRADER, messages=tuple(messages), seed=seed, ask=ask)
        try:
            return record.answer(model, request)[0]
        except CallFailed:
            if len(record.calls) > known or record.off(model):
                raise
        seed += 1
