"""The record of an arm's calls: asked once, paid once, answered from the record ever after.

A call is reserved, at the most that it can cost, before it is sent, and settled by its answer. A limit of tokens or
money therefore holds whatever happens between the two: what a killed process had in flight stays reserved, since its
server may have charged for it. A request that the record answers is not sent again, so a campaign that resumes pays
nothing twice, and one that is replayed with no clients needs no network.
"""

import json
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from math import ceil
from typing import Any

import numpy as np
from numpy.typing import NDArray

from archloom.agents.language_model.answers import SCHEMAS, content, usage, vectors
from archloom.agents.language_model.endpoints import CallFailed, Client, Model
from archloom.agents.language_model.prompting import prompt
from archloom.agents.proposer import AnswerAwaited, ProposerFailed
from archloom.db.records import BILLION, LanguageModelCall, Role

TOKENS_OF_FRAME = 16
"""Tokens that a server's chat template adds to a message, at most."""
OFF = (401, 403, 404)
"""Answers of a server that no later call will change: its model is not asked again by this process."""

Message = Mapping[str, str]
Keep = Callable[[LanguageModelCall], None]


class NotRecorded(ProposerFailed):
    """A replay asks what the campaign did not ask."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The most that a campaign may spend: tokens, and money in billionths. None is no limit."""

    tokens: int | None = None
    cost: int | None = None


UNLIMITED = Limits()


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """What a model took for proposals so far: how many, tokens, and money in billionths."""

    proposals: int = 0
    tokens: int = 0
    cost: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What is asked of a model in a role: `seed` goes to the server, `ask` is the seed of the proposal that it serves,
    `subject` the candidate that it is about, if it is about one."""

    role: Role
    messages: tuple[Message, ...]
    seed: int
    ask: int
    subject: str | None = None

    @property
    def prompt(self) -> str:
        """The version of its role's text."""
        return prompt(self.role).title

    def body(self, model: Model) -> dict[str, Any]:
        """The body of a chat-completions request."""
        body: dict[str, Any] = {
            "model": model.name,
            "messages": list(self.messages),
            "seed": self.seed,
            "max_completion_tokens": model.max_tokens,
        }
        if model.structured:
            form = {"name": self.role.value, "strict": True, "schema": SCHEMAS[self.role]}
            body["response_format"] = {"type": "json_schema", "json_schema": form}
        return body


class Record:
    """The calls of one campaign. `clients` reach the models by name; without any, only the record answers.

    `reserve` and `settle` store a call before and after it is made. `by_hand` says that what is not on record is
    answered by a person, later, but for embeddings, which no person can give. Safe for several threads.
    """

    def __init__(
        self,
        clients: Mapping[str, Client],
        *,
        known: Iterable[LanguageModelCall] = (),
        reserve: Keep = lambda call: None,
        settle: Keep = lambda call: None,
        limits: Limits = UNLIMITED,
        by_hand: bool = False,
    ) -> None:
        self._by_hand = by_hand
        self._clients, self._reserve, self._settle, self._limits = clients, reserve, settle, limits
        self._calls: dict[str, LanguageModelCall] = {}
        self._of: dict[int, list[str]] = defaultdict(list)
        self._asks: dict[str, set[int]] = defaultdict(set)
        self._by_model: dict[str, Spending] = {}
        self._tokens = self._cost = 0
        for call in known:
            self._put(call)
        self._answers = _answers(self._calls.values())
        self._off: dict[str, str] = {}
        self._lock = threading.Lock()

    @property
    def calls(self) -> tuple[LanguageModelCall, ...]:
        """All calls, in the order reserved."""
        with self._lock:
            return tuple(self._calls.values())

    @property
    def spent(self) -> tuple[int, int]:
        """Tokens, and money in billionths: what was paid and what is reserved."""
        with self._lock:
            return self._tokens, self._cost

    @property
    def spending(self) -> dict[str, Spending]:
        """By model what was paid and what is reserved."""
        with self._lock:
            return dict(self._by_model)

    def asked(self, ask: int) -> tuple[str, ...]:
        """The models that were asked anything for one proposal, each once, in order."""
        with self._lock:
            calls = [self._calls[key] for key in self._of.get(ask, ())]
        return tuple(dict.fromkeys(call.model for call in calls if call.role is not Role.EMBEDDER))

    def studied(self, ask: int) -> frozenset[str]:
        """The candidates that an analyst was asked about before this proposal, whatever came of it."""
        found = set()
        with self._lock:
            first = self._of.get(ask, [""])[0]
            for key, call in self._calls.items():
                if key == first:
                    break
                if call.role is Role.ANALYST and call.subject and call.response is not None:
                    found.add(call.subject)
        return frozenset(found)

    def off(self, model: Model) -> str:
        """Why a model is not asked again by this process; "" if it is."""
        return self._off.get(model.name, "")

    def answer(self, model: Model, request: Request) -> tuple[str, datetime]:
        """What a model writes, and when it was asked.

        Errors: `CallFailed` if its server gives no answer, `ProposerFailed` if a limit forbids the call or the answer
        is none; `NotRecorded` if it is not on record and there is no client, `AnswerAwaited` if a person is to give it.
        """
        call = self._answered(
            model, request.role, request.prompt, request.body(model), ask=request.ask, subject=request.subject
        )
        return content(call.response or ""), call.at

    def vectors(self, model: Model, texts: Sequence[str], *, ask: int) -> NDArray[np.float32]:
        """The vectors [N, D] of texts by a model of embeddings. Errors: as `answer`."""
        body = {"model": model.name, "input": list(texts), "encoding_format": "float"}
        call = self._answered(model, Role.EMBEDDER, "embedder/1", body, ask=ask)
        return vectors(call.response or "", count=len(texts))

    def _answered(
        self, model: Model, role: Role, version: str, body: Mapping[str, Any], *, ask: int, subject: str | None = None
    ) -> LanguageModelCall:
        """The call with this body, from the record or made. Errors: as `answer`."""
        written = json.dumps(body, sort_keys=True)
        known = self._answers.get(written)
        if known is None:
            most = _most(model, role, version, written, parts=_parts(body), ask=ask)
            known = self._call(model, replace(most, subject=subject))
        failure = _failure(known.response)
        if failure is not None:
            raise CallFailed(failure[0], status=failure[1])
        return known

    def _call(self, model: Model, most: LanguageModelCall) -> LanguageModelCall:
        if self._by_hand and most.role is not Role.EMBEDDER:
            raise AnswerAwaited(most)
        client = self._clients.get(model.name)
        if client is None:
            raise NotRecorded(f"the record has no answer of {model.name} to this request")
        if model.name in self._off:
            raise CallFailed(self._off[model.name])
        self._take(most)
        started = time.monotonic()
        tokens: tuple[int, int] | None = (0, 0)
        try:
            reply = client.complete(json.loads(most.request), again=lambda: self._may_try_again(most))
            response, lost, tokens = reply.text, reply.lost, usage(reply.text)
        except CallFailed as problem:
            response, lost = json.dumps({"error": {"message": str(problem), "status": problem.status}}), problem.lost
            if problem.status in OFF:
                self._off[model.name] = str(problem)
        told, said = tokens or (most.prompt_tokens, most.completion_tokens)
        answered = replace(
            most,
            response=response,
            prompt_tokens=told + lost * most.prompt_tokens,
            completion_tokens=said + lost * most.completion_tokens,
            cost=price(model, told, said) + lost * most.cost,
            seconds=time.monotonic() - started,
        )
        with self._lock:
            self._put(answered)
            self._answers[answered.request] = answered
        self._settle(answered)
        return answered

    def _take(self, most: LanguageModelCall) -> None:
        """Reserve a call. Errors: `ProposerFailed` if it can take more than is left."""
        with self._lock:
            if forbidden := self._forbidden(most):
                raise ProposerFailed(forbidden)
            self._put(most)
        self._reserve(most)

    def _may_try_again(self, most: LanguageModelCall) -> bool:
        """Whether there is room for another try, which is then reserved: the server may charge for the last one too."""
        with self._lock:
            if self._forbidden(most):
                return False
            held = self._calls[most.key]
            held = replace(
                held,
                prompt_tokens=held.prompt_tokens + most.prompt_tokens,
                completion_tokens=held.completion_tokens + most.completion_tokens,
                cost=held.cost + most.cost,
            )
            self._put(held)
        self._settle(held)
        return True

    def _put(self, call: LanguageModelCall) -> None:
        old = self._calls.get(call.key)
        if old is None:
            self._of[call.ask].append(call.key)
        self._calls[call.key] = call
        tokens, cost = _tokens(call) - (_tokens(old) if old else 0), call.cost - (old.cost if old else 0)
        self._tokens += tokens
        self._cost += cost
        if call.role is Role.GRADER:
            return  # a grade is no part of a proposal, and may not sway which model makes the next
        self._asks[call.model].add(call.ask)
        before = self._by_model.get(call.model, Spending())
        self._by_model[call.model] = Spending(
            proposals=len(self._asks[call.model]), tokens=before.tokens + tokens, cost=before.cost + cost
        )

    def _forbidden(self, call: LanguageModelCall) -> str:
        """The limit that a call would break, or ""."""
        tokens, cost, most = self._tokens, self._cost, _tokens(call)
        if self._limits.tokens is not None and tokens + most > self._limits.tokens:
            return (
                f"budget.tokens = {self._limits.tokens:,}: {tokens:,} are spent or reserved and {call.model} may take "
                f"{most:,} more"
            )
        if self._limits.cost is not None and cost + call.cost > self._limits.cost:
            return (
                f"budget.money = {self._limits.cost / BILLION:g}: {cost / BILLION:.6f} is spent or reserved and "
                f"{call.model} may cost {call.cost / BILLION:.6f} more"
            )
        return ""


def _most(model: Model, role: Role, version: str, written: str, *, parts: int, ask: int) -> LanguageModelCall:
    """The call at the most that one try can take."""
    size = len(written.encode()) + TOKENS_OF_FRAME * parts
    return LanguageModelCall(
        key=uuid.uuid4().hex,
        at=datetime.now(UTC),
        role=role,
        prompt=version,
        endpoint=model.base_url,
        model=model.name,
        ask=ask,
        request=written,
        response=None,
        prompt_tokens=size,
        completion_tokens=model.max_tokens,
        cost=price(model, size, model.max_tokens),
        seconds=0.0,
    )


def price(model: Model, prompt_tokens: int, completion_tokens: int) -> int:
    """What a call costs, in billionths of the currency, rounded up. Prices are per million tokens."""
    told, said = Decimal(repr(model.prompt_price)), Decimal(repr(model.completion_price))
    return ceil(1000 * (prompt_tokens * told + completion_tokens * said))


def _parts(body: Mapping[str, Any]) -> int:
    """How many texts a request has, each of which a server puts into a frame."""
    return len(body.get("messages") or body.get("input") or ())


def _tokens(call: LanguageModelCall) -> int:
    return call.prompt_tokens + call.completion_tokens


def _answers(calls: Iterable[LanguageModelCall]) -> dict[str, LanguageModelCall]:
    """The answer to each request: the first that is one, else the first failure. A request names its model, whose
    server may move."""
    found: dict[str, LanguageModelCall] = {}
    for call in calls:
        if call.response is not None:
            known = found.setdefault(call.request, call)
            if _failure(known.response) and not _failure(call.response):
                found[call.request] = call
    return found


def _failure(response: str | None) -> tuple[str, int | None] | None:
    """What a recorded call failed by, and the HTTP status; None for an answer."""
    if response is None or not response.startswith('{"error": {"message": '):
        return None
    try:
        written = json.loads(response)
    except (ValueError, RecursionError):
        return None
    match written:
        case {"error": {"message": str(message), "status": int() | None as status}}:
            return message, status
    return None
