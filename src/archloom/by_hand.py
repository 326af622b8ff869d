"""A person, or another program, in the model's place: the next request of a campaign, and an answer put on its record.

A campaign answers from its record what it asked before. So an answer recorded for the request that it will make next is
what the model will have said when the campaign goes on.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from archloom.agents.language_model.record import Record
from archloom.agents.proposer import AnswerAwaited, Proposer, ProposerFailed
from archloom.arms import ARM, known_lessons, make_language_model, own_arms, takes_part
from archloom.config import Config
from archloom.db.records import CampaignState, LanguageModelCall, Lesson, Origin, Protocol
from archloom.db.store import Store
from archloom.errors import ConfigError
from archloom.planner import generator
from archloom.rehearsal import at_its_end
from archloom.search_space.identity import term_id

MAX_ANSWER = 1_000_000
"""Characters of an answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far a proposal comes by what is on record.

    Either `wanted` is the request that is to be answered next, or `candidate` and `term` are what was proposed, or
    `refused` says why nothing was. `due` is the arm whose turn it is in the campaign, None if it is nobody's.
    """

    due: str | None
    wanted: LanguageModelCall | None = None
    candidate: str = ""
    term: str = ""
    refused: str = ""


def next_step(store: Store, campaign: str) -> Step:
    """What the language-model arm of a campaign does next. Nothing is sent or written.

    Errors: `ConfigError` for a campaign without that arm.
    """
    record = store.campaign(campaign)
    config, protocol = Config.from_json(record.config), store.protocol(record.protocol)
    _check(config)
    arm = _arm(config, protocol, known=store.calls(campaign), lessons=known_lessons(config, store))
    planner, due = at_its_end(store, campaign, {**own_arms(config), ARM: arm})
    try:
        found = planner.propose(len(planner.candidates), ARM)
    except AnswerAwaited as wanted:
        return Step(due=due, wanted=wanted.call)
    if found.candidate.origin is not Origin.LANGUAGE_MODEL:
        return Step(due=due, refused=found.problems[0])
    return Step(due=due, candidate=found.candidate.id, term=found.candidate.term)


def answer(store: Store, campaign: str, text: str) -> Step:
    """Put an answer on the record for the request that is next, and see what follows.

    Errors: `ConfigError` if no request of this arm is next, the campaign runs, or the answer is too long.
    """
    step = next_step(store, campaign)
    if step.due != ARM:
        turn = (
            f"the {step.due} arm's turn" if step.due else "no arm's turn: results are missing, or the budget is spent"
        )
        raise ConfigError(f"it is {turn} in campaign {campaign!r}\n  → archloom resume {campaign}, then propose again")
    if store.campaign(campaign).state is CampaignState.RUNNING:
        raise ConfigError(f"campaign {campaign!r} is running, and asks for itself\n  → stop it, then propose again")
    if step.wanted is None:
        raise ConfigError(f"nothing is asked: {step.refused or step.term}\n  → archloom resume {campaign}")
    store.reserve_call(campaign, _answered(step.wanted, text))
    return next_step(store, campaign)


def first_step(config: Config, protocol: Protocol, *, answers: Sequence[str] = ()) -> Step:
    """The same for a campaign that has not begun: nothing is measured, and nothing is kept of the answers.

    Errors: `ConfigError` for a configuration without a language-model arm, or an answer too long.
    """
    _check(config)
    known: list[LanguageModelCall] = []
    for text in (*answers, None):
        step = _first(config, protocol, known)
        if step.wanted is None or text is None:
            break
        known.append(_answered(step.wanted, text))
    return step


def _first(config: Config, protocol: Protocol, known: Sequence[LanguageModelCall]) -> Step:
    arm = _arm(config, protocol, known=known, lessons=())
    try:
        (proposal,) = arm.ask((), 1, generator(config.campaign.seed, index=len(protocol.baselines), number=0))
    except AnswerAwaited as wanted:
        return Step(due=ARM, wanted=wanted.call)
    except ProposerFailed as problem:
        return Step(due=ARM, refused=str(problem))
    return Step(due=ARM, candidate=term_id(proposal.term), term=proposal.term.text)


def _arm(
    config: Config, protocol: Protocol, *, known: Iterable[LanguageModelCall], lessons: Sequence[Lesson]
) -> Proposer:
    """The arm over what is on record; `AnswerAwaited` ends it where a model would be asked."""
    return make_language_model(config, protocol, record=Record({}, known=known, by_hand=True), lessons=lessons)


def _check(config: Config) -> None:
    if not takes_part(config):
        raise ConfigError(
            f"campaign {config.campaign.name!r} has no language-model arm\n  → give search.arms.language_model a share"
        )


def _answered(call: LanguageModelCall, text: str) -> LanguageModelCall:
    """The call with what was written by hand, which costs nothing."""
    if len(text) > MAX_ANSWER:
        raise ConfigError(f"the answer has {len(text):,} characters; at most {MAX_ANSWER:,} are read")
    message = {"role": "assistant", "content": text}
    body = {"choices": [{"index": 0, "message": message}], "usage": {"prompt_tokens": 0, "completion_tokens": 0}}
    return replace(call, response=json.dumps(body), prompt_tokens=0, completion_tokens=0, cost=0)
