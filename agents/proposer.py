"""What every arm of the search is: a pure function from a history and a generator to proposals.

A proposer keeps no state between calls and never sees the store, so a campaign that was killed goes on exactly where it
stood: the same history and the same seed give the same proposals.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Protocol

from archloom.db.records import LanguageModelCall, Origin, Trial
from archloom.errors import ArchloomError
from archloom.search_space.terms import Term


class ProposerFailed(ArchloomError):
    """An arm could not propose; the campaign asks another one and records why."""


class AnswerAwaited(ArchloomError):
    """An arm waits for an answer to `call` that a person gives: the campaign stops until it is there."""

    def __init__(self, call: LanguageModelCall) -> None:
        super().__init__(f"the {call.role} is to be answered by hand: archloom propose --dry-run")
        self.call = call


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """A canonical architecture and where it comes from; `parents` are candidate ids, the rest is as in `Candidate`."""

    term: Term
    origin: Origin
    operator: str
    parents: tuple[str, ...] = ()
    rationale: str | None = None
    author: str | None = None
    predictions: tuple[tuple[str, float], ...] = ()
    cites: tuple[str, ...] = ()


class Proposer(Protocol):
    """An arm. `history` holds the finished trials this arm may learn from, by index; scores are higher-is-better."""

    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        """`n` proposals, valid and in budget; they may repeat what the campaign has tried (it asks again)."""
        ...
