"""The language-model arm: an architecture written by a model behind any server that speaks the OpenAI API.

A model's text is data. It is cut to length, parsed by the algebra, held to the sampler's budget and never evaluated; a
term that is refused goes back with the reason, up to `repairs` times. Every call is recorded, failed ones too, and a
request that was recorded is answered from the record: a campaign that resumes asks the network nothing twice and gets
the same proposals. What cannot be mended here raises `ProposerFailed`, and the campaign asks another arm.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import Any
from urllib.parse import urlsplit

from archloom.agents.language_model.instructions import experience, instructions
from archloom.agents.proposer import Proposal, ProposerFailed
from archloom.db.records import LanguageModelCall, Origin, Trial
from archloom.errors import ConfigError
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, TermError, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type
from archloom.search_space.variation import in_budget
from archloom.search_space.zoo import as_architecture

MAX_TERM = 10_000
"""Characters of a term that is read."""
MAX_RATIONALE = 2_000
"""Characters of a rationale that is kept."""
MAX_ANSWER = 1_000_000
"""Characters of a server's answer that is recorded and read."""
MAX_REASON = 500
MAX_TOKENS = 8_192
MAX_LETS = 8
"""`let`s of one mixer: identity may have to try every order of those that look alike."""
MAX_COUNT = 2**31 - 1

Message = dict[str, str]

_SCHEMA = {
    "type": "object",
    "properties": {"term": {"type": "string"}, "rationale": {"type": "string"}},
    "required": ["term", "rationale"],
    "additionalProperties": False,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Client:
    """A model and how it is reached: `complete` sends the body of a chat-completions request and gives the answer's
    text, or raises `ProposerFailed`."""

    model: str
    complete: Callable[[Mapping[str, Any]], str]


def make_client(*, base_url: str, model: str, key: str, timeout: float = 60.0, retries: int = 1) -> Client:
    """A client for `model` at `base_url`. `timeout` in seconds holds for each of the `retries` + 1 tries of a call.

    Errors: `ConfigError` for an address that is none, or a key that cannot be sent.
    """
    _check_address(base_url)
    if not key.isascii():
        raise ConfigError("the key of the language model has characters outside ASCII; copy it again")

    def complete(request: Mapping[str, Any]) -> str:
        import openai  # takes about a second, and only this arm needs it

        try:
            with openai.OpenAI(api_key=key or "none", base_url=base_url, timeout=timeout, max_retries=retries) as api:
                return api.chat.completions.with_raw_response.create(**request).text
        except openai.OpenAIError as problem:
            # The cause says "connection refused" where the error itself says "connection error".
            told = str(problem.__cause__ or problem) if isinstance(problem, openai.APIConnectionError) else str(problem)
            hidden = told.replace(key, "***") if key else told
            raise ProposerFailed(f"{model} at {base_url}: {_plain(hidden, MAX_REASON)}") from problem

    return Client(model=model, complete=complete)


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"{base_url!r} is no address of a language model; write https://host/v1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LanguageModelProposer:
    """Shows the model the best `elites` trials and the last failures, and takes one new architecture per call.

    `record` is called with every call to the server; `replay` holds the calls recorded before.
    """

    client: Client
    sampler: Sampler
    record: Callable[[LanguageModelCall], None]
    elites: int = 8
    repairs: int = 3
    replay: Sequence[LanguageModelCall] = ()

    def ask(self, history: Sequence[Trial], n: int, rng: Random) -> list[Proposal]:
        """Errors: `ProposerFailed` if the server does not answer or no answer holds a new valid term."""
        return [self._proposal(history, seed=rng.getrandbits(31)) for _ in range(n)]

    def _proposal(self, history: Sequence[Trial], *, seed: int) -> Proposal:
        messages: list[Message] = [
            {"role": "system", "content": instructions(self.sampler, lets=MAX_LETS)},
            {"role": "user", "content": experience(history, elites=self.elites)},
        ]
        tried = {trial.candidate.id for trial in history}
        reason = ""
        for repair in range(self.repairs + 1):
            answer = content(self._answer(messages, seed=seed))
            try:
                term, rationale = read(answer, self.sampler, tried=tried)
            except TermError as refusal:
                reason = str(refusal)
                messages.append({"role": "assistant", "content": answer[: MAX_TERM + MAX_RATIONALE]})
                messages.append({"role": "user", "content": f"That was refused. {reason}\nAnswer again, mended."})
            else:
                operator = "repair" if repair else "write"
                return Proposal(term=term, origin=Origin.LANGUAGE_MODEL, operator=operator, rationale=rationale)
        raise ProposerFailed(f"{self.client.model}: no valid term in {self.repairs + 1} answers; the last: {reason}")

    def _answer(self, messages: Sequence[Message], *, seed: int) -> str:
        """The server's answer to a conversation, from the record if it was asked before."""
        request = {
            "model": self.client.model,
            "messages": list(messages),
            "seed": seed,
            "max_completion_tokens": MAX_TOKENS,
            "response_format": {
                "type": "json_schema",
                "json_schema": {"name": "proposal", "strict": True, "schema": _SCHEMA},
            },
        }
        written = json.dumps(request, sort_keys=True)
        known = next((call for call in self.replay if call.request == written), None)
        if known is not None:
            return known.response
        started = time.monotonic()
        try:
            response = self.client.complete(request)[:MAX_ANSWER]
        except ProposerFailed as problem:
            response = json.dumps({"error": {"message": str(problem)}})
        prompt_tokens, completion_tokens = _tokens(response)
        self.record(
            LanguageModelCall(
                at=datetime.now(UTC),
                model=self.client.model,
                request=written,
                response=response,
                prompt_tokens=prompt_tokens,
                completion_tokens=completion_tokens,
                seconds=time.monotonic() - started,
            )
        )
        return response


def content(response: str) -> str:
    """What the model wrote, from the answer of a server (JSON text), without surrogates, which no request can carry.

    Errors: `ProposerFailed` if the answer holds no such thing.
    """
    match _json(response):
        case {"choices": [{"message": {"content": str(text)}}, *_]}:
            return text.encode("utf-8", "replace").decode()
        case {"choices": [{"message": {"refusal": str(text)}}, *_]}:
            raise ProposerFailed(f"the model declined: {_plain(text, MAX_REASON)}")
        case {"error": {"message": str(text)}}:
            raise ProposerFailed(_plain(text, MAX_REASON))
    raise ProposerFailed(f"the server's answer is no chat completion: {_plain(response, 100)!r}")


def read(answer: str, sampler: Sampler, *, tried: set[str]) -> tuple[Term, str]:
    """The canonical architecture and the rationale that a model wrote as a JSON object.

    Errors: `TermError`, with what the model must mend, unless it is valid, in budget and not among the ids `tried`.
    """
    match _json(answer):
        case {"term": str(text), "rationale": str(rationale)}:
            pass
        case _:
            raise TermError('the answer must be one JSON object with the texts "term" and "rationale" and nothing else')
    if len(text) > MAX_TERM:
        raise TermError(f"the term has {len(text)} characters; at most {MAX_TERM} are read")
    try:
        term = _architecture(text, sampler)
    except RecursionError:
        raise TermError("the term is nested too deeply; write a simpler one") from None
    if term_id(term) in tried:
        raise TermError("this architecture has been tried already; write another one")
    return term, _plain(rationale, MAX_RATIONALE)


def _architecture(text: str, sampler: Sampler) -> Term:
    part = parse(text)
    architecture = as_architecture(part, depth=sampler.grammar.depth)
    if architecture.type is not Type.STACK:
        raise TermError(f"the term is a {part.type.value}; write a mixer, a block or a stack")
    for mixer in [node for node in walk(architecture) if node.operation.scopes]:
        if sum(node.operation.shares for node in walk(mixer)) > MAX_LETS:
            raise TermError(f"a mixer has more than {MAX_LETS} `let`s; share less")
    term = canonical(architecture)
    if not in_budget(term, sampler):
        raise TermError(
            f"the architecture is too large; keep it within {sampler.grammar.max_size} operations, "
            f"{sampler.grammar.depth} blocks and fewer or smaller projections per mixer"
        )
    return term


def _tokens(response: str) -> tuple[int, int]:
    """Prompt and completion tokens as the server counted them, 0 where it did not."""
    match _json(response):
        case {"usage": {"prompt_tokens": int(prompt), "completion_tokens": int(completion)}}:
            return min(max(prompt, 0), MAX_COUNT), min(max(completion, 0), MAX_COUNT)
    return 0, 0


def _json(text: str) -> object:
    """The value of a JSON text, None if it is none (or nested beyond reason)."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _plain(text: str, length: int) -> str:
    """One line of at most `length` characters: control, formatting and surrogate characters are blanks."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:length]
