"""A model behind a server that speaks the OpenAI API, and one call to it that ends.

Whatever the server does, `Client.complete` gives the body of an answer or raises `CallFailed` within the model's
deadline, all tries and waits included. An answer above `MAX_ANSWER` bytes is not read to its end, redirects are not
followed (the key stays with the host it was written for), and the key is in no error.

A call has a connection of its own. One that was kept could turn out to be closed after a request was written to it, and
then nobody knows whether the request is paid for; against the seconds of an answer a handshake is nothing.
"""

import random
import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from threading import BoundedSemaphore, Lock, local
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from archloom.agents.language_model.exchange import Ended, Exchange
from archloom.agents.language_model.plain_forms import next_field, plainer
from archloom.agents.language_model.retrying import REFUSALS, Fault, fault, one_line, pause
from archloom.agents.proposer import ProposerFailed
from archloom.errors import ConfigError

if TYPE_CHECKING:
    import openai

MAX_ERROR_LENGTH = 500
"""Characters of an error."""
LONGEST_CONNECT = 10.0
"""Seconds for a connection to one address of the host."""
LONGEST_DEADLINE = 86_400
"""Seconds."""
HEADERS = {"Connection": "close", "Accept-Encoding": "identity"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model, where it is reached, and what it costs."""

    name: str
    """What the server calls it."""
    base_url: str
    key: str = field(default="", repr=False)
    """"" for a server that needs none."""
    prompt_price: float
    """Money per million tokens."""
    completion_price: float
    """Money per million tokens."""
    weight: float = 1.0
    structured: bool = True
    """Whether to ask for answers that follow a JSON schema."""
    max_tokens: int = 8_192
    """The most tokens of an answer."""
    deadline: float = 180.0
    """Seconds for a call with all its tries and waits."""
    retries: int = 4
    concurrency: int = 4
    """Calls at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """The body of a server's answer, as it came.

    `seconds`: the whole call, waits included. `lost`: earlier tries that the server may have charged for as well.
    """

    text: str
    seconds: float
    lost: int = 0


class CallFailed(ProposerFailed):
    """A call got no answer. `status`: the HTTP status of the last try, None if none came. `lost`: tries that the server
    may have charged for all the same (no answer in time, half an answer, one too large)."""

    def __init__(self, message: str, *, status: int | None = None, lost: int = 0) -> None:
        super().__init__(message)
        self.status = status
        self.lost = lost

    @property
    def billed(self) -> bool:
        """Whether the server may have charged for the call."""
        return self.lost > 0


def check(model: Model) -> None:
    """Errors: `ConfigError` for an address that is none, a key that cannot be sent, or limits that allow no call."""
    if not _is_address(model.base_url):
        raise ConfigError(
            f"{one_line(model.base_url)!r} is no address of a language model; write https://host/v1, "
            "with no name, password, query or fragment"
        )
    if not (model.key.isascii() and model.key.isprintable()) or " " in model.key:
        raise ConfigError(
            "the key of the language model has blanks, control characters or characters outside ASCII; copy it again"
        )
    if not (0 < model.deadline <= LONGEST_DEADLINE and model.retries >= 0 and model.concurrency >= 1):
        raise ConfigError(
            f"the language model {model.name!r} has deadline {model.deadline}, retries {model.retries} and concurrency "
            f"{model.concurrency}; they must be within {LONGEST_DEADLINE}, at least 0 and at least 1"
        )


def _is_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
        host = re.fullmatch(r"[\w.:-]+", parts.hostname or "", re.ASCII)
        plain = parts.username is None and parts.password is None and not parts.query and not parts.fragment
        good = parts.scheme in ("http", "https") and host is not None and parts.port != 0
    except ValueError:
        return False
    return good and plain and text.isprintable() and " " not in text


class Client:
    """Calls to one model, from any number of threads.

    `sleep` takes seconds; `jitter` gives uniform numbers between 0 and 1. Errors: `ConfigError`, as `check`.
    """

    def __init__(
        self,
        model: Model,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        check(model)
        self.model = model
        self._sleep = sleep
        self._jitter = jitter
        self._places = BoundedSemaphore(model.concurrency)
        self._given_up: frozenset[str] = frozenset()
        self._lock = Lock()
        self._here = local()
        self._api: openai.OpenAI | None = None

    def __repr__(self) -> str:
        return f"Client({self.model!r})"

    def complete(self, body: Mapping[str, Any], *, again: Callable[[], bool] = lambda: True) -> Reply:
        """The answer to a chat-completions request with this body (`model`, `messages` and whatever else it holds), or
        to one for embeddings (`model`, `input`).

        `again` is called before each try that follows one which may have been charged for, and says whether it may be.
        A server that refuses a field of `plain_forms.PLAINER` is asked without it, now and in later calls.
        Errors: `CallFailed`, one printable line; `ValueError` for a body that is no JSON (NaN, half a surrogate pair).
        """
        api = self._opened()
        started = time.monotonic()
        ends = started + self.model.deadline
        if not self._places.acquire(timeout=self.model.deadline):
            calls = f"{self.model.concurrency} calls at once are allowed, and none of them ended"
            raise self._failure(f"{calls} within {self.model.deadline:g} s; raise `concurrency` or `deadline`")
        try:
            text, lost = self._answer(api, body, ends, again)
        finally:
            self._places.release()
        return Reply(text=text, seconds=time.monotonic() - started, lost=lost)

    def close(self) -> None:
        """A closed client opens again with its next call."""
        with self._lock:
            if self._api is not None:
                self._api.close()
            self._api = None

    def _opened(self) -> "openai.OpenAI":
        import openai  # takes about a second, and only this arm needs it

        here = self._here  # the hooks must not hold the client itself
        with self._lock:
            if self._api is None:
                http = openai.DefaultHttpxClient(
                    follow_redirects=False,
                    event_hooks={
                        "request": [lambda request: here.exchange.asked(request)],
                        "response": [lambda response: here.exchange.answered(response)],
                    },
                )
                self._api = openai.OpenAI(
                    api_key=self.model.key or "none",
                    base_url=self.model.base_url,
                    max_retries=0,
                    http_client=http,
                    default_headers=HEADERS,
                )
            return self._api

    def _answer(
        self, api: "openai.OpenAI", body: Mapping[str, Any], ends: float, again: Callable[[], bool]
    ) -> tuple[str, int]:
        """The text of the answer, and how many tries before it may have been charged for."""
        given_up = self._given_up
        tries = lost = 0
        while (left := ends - time.monotonic()) > 0:
            outcome = self._try(api, plainer(body, given_up=given_up), left)
            if isinstance(outcome, str):
                self._given_up = given_up
                return outcome, lost
            lost += outcome.billed
            if outcome.status in REFUSALS:
                unknown = next_field(body, given_up=given_up, refusal=outcome.told)
                if unknown is not None:
                    given_up |= {unknown}
                    continue
            tries += 1
            wait = pause(
                outcome,
                tries=tries,
                retries=self.model.retries,
                left=ends - time.monotonic(),
                deadline=self.model.deadline,
                jitter=self._jitter(),
            )
            if isinstance(wait, str):
                raise self._failure(wait, status=outcome.status, lost=lost)
            if outcome.billed and not again():
                forbidden = f"the budget has no room for another try, and the last may have cost: {outcome.told}"
                raise self._failure(forbidden, status=outcome.status, lost=lost)
            self._sleep(wait)
        raise self._failure(f"no answer within {self.model.deadline:g} s (tries: {tries}); raise `deadline`", lost=lost)

    def _try(self, api: "openai.OpenAI", body: Mapping[str, Any], seconds: float) -> str | Fault:
        """The text of an answer, or what went wrong, after `seconds` at the latest."""
        import openai

        broken = ""
        asked = "input" if "input" in body else "messages"
        post: Any = api.embeddings if "input" in body else api.chat.completions
        rest = {name: value for name, value in body.items() if name not in ("model", asked)}
        with Exchange(seconds=seconds) as self._here.exchange:
            exchange: Exchange = self._here.exchange
            try:
                with post.with_streaming_response.create(
                    model=body["model"],
                    **{asked: body[asked]},
                    extra_body=rest,
                    timeout=openai.Timeout(seconds, connect=min(seconds, LONGEST_CONNECT)),
                ):
                    pass  # `exchange` has read it
            except Ended:
                pass
            except openai.APIConnectionError as problem:
                # The cause says "connection refused" where the error itself says "connection error".
                cause = problem.__cause__ or problem
                broken = "the deadline came" if exchange.late else str(cause) or type(cause).__name__
        found = fault(exchange, broken=broken, now=datetime.now(UTC))
        return found if found is not None else exchange.body.decode("utf-8", "replace")

    def _failure(self, told: str, *, status: int | None = None, lost: int = 0) -> CallFailed:
        text = f"{self.model.name} at {self.model.base_url}: {told}"
        hidden = text.replace(self.model.key, "***") if self.model.key else text
        return CallFailed(one_line(hidden)[:MAX_ERROR_LENGTH], status=status, lost=lost)
