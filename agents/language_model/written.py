"""From what a researcher wrote to an architecture of the campaign's space: parsed, canonical, in budget, and new.

Every refusal is a `TermError` that says what to mend, and goes back to the model.
"""

from collections.abc import Collection, Sequence

from archloom.agents.language_model.answers import Answer
from archloom.agents.language_model.edits import edited
from archloom.db.records import Trial
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, TermError, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type
from archloom.search_space.variation import in_budget
from archloom.search_space.zoo import as_architecture

MAX_LETS = 8
"""`let`s of one mixer: identity may have to try every order of those that look alike."""


def parent_of(answer: Answer, history: Sequence[Trial]) -> Trial | None:
    """The trial that an answer builds on, by the beginning of its id or a baseline's name; None if it names none.

    Errors: `TermError` if it names no one trial.
    """
    if not answer.parent:
        return None
    named = [trial for trial in history if trial.candidate.name == answer.parent]
    found = named or [trial for trial in history if trial.candidate.id.startswith(answer.parent)]
    if len(found) != 1:
        many = f"{len(found)} candidates begin so; write more letters" if found else "write an id that you are shown"
        raise TermError(f'there is no one candidate "{answer.parent}": {many}')
    return found[0]


def architecture(answer: Answer, *, parent: Trial | None, sampler: Sampler, tried: Collection[str]) -> Term:
    """The canonical architecture of an answer. Errors: `TermError` unless it is valid, in budget and not `tried`."""
    text = answer.term
    if answer.edits and parent is not None:
        text = edited(parse(parent.candidate.term), answer.edits)
    try:
        term = _canonical(text, sampler)
    except RecursionError:
        raise TermError("the term is nested too deeply; write a simpler one") from None
    if term_id(term) in tried:
        raise TermError("this architecture has been tried already; write another one")
    return term


def _canonical(text: str, sampler: Sampler) -> Term:
    part = parse(text)
    whole = as_architecture(part, depth=sampler.grammar.depth)
    if whole.type is not Type.STACK:
        raise TermError(f"the term is a {part.type.value}; write a mixer, a block or a stack")
    for mixer in [node for node in walk(whole) if node.operation.scopes]:
        if sum(node.operation.shares for node in walk(mixer)) > MAX_LETS:
            raise TermError(f"a mixer has more than {MAX_LETS} `let`s; share less")
    term = canonical(whole)
    if not in_budget(term, sampler):
        raise TermError(
            f"the architecture is too large; keep it within {sampler.grammar.max_size} operations, "
            f"{sampler.grammar.depth} blocks and fewer or smaller projections per mixer"
        )
    return term
