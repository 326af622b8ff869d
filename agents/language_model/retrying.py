"""Why a try of a call failed, and how long to wait before another. Pure functions.

Waits grow twofold from try to try with full jitter (each is uniform between nothing and its limit), so that callers who
were turned away together do not come back together. What the server asks for in `Retry-After` comes on top.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

from archloom.agents.language_model.exchange import Exchange

FIRST_WAIT = 0.5
"""Seconds: the most that is waited after the first try."""
LONGEST_WAIT = 30.0
"""Seconds: the most that a wait grows to."""

PASSING = frozenset({408, 409, 429})
"""Refusals that another try may mend, as every status from 500 on."""
GATEWAY_TIMEOUTS = frozenset({504, 524})
"""The model behind the server may have gone on, and cost what it costs."""
REFUSALS = frozenset({400, 422})
"""The server does not take the request as it is written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Why a try failed. `again`: another try may help. `billed`: the server may have charged for this one."""

    told: str
    status: int | None = None
    again: bool = False
    billed: bool = False
    retry_after: float | None = None
    """Seconds that the server asks to wait."""


def fault(exchange: Exchange, *, broken: str, now: datetime) -> Fault | None:
    """What is wrong with an exchange that is over, None if nothing is.

    `broken`: how the connection broke, "" if it did not. `now`: the date, for a `Retry-After` that is one.
    """
    if exchange.status is not None and not exchange.good:
        return _refusal(exchange, exchange.status, now)
    if exchange.refused:
        return Fault(told=f"sends {exchange.refused}; it is not read", status=exchange.status, billed=True)
    if not broken:
        return None
    if not exchange.sent:
        return Fault(told=f"no connection: {broken}", again=True)
    what = "no answer" if exchange.status is None else "half an answer"
    return Fault(told=f"{what}: {broken}", status=exchange.status, again=True, billed=True)


def _refusal(exchange: Exchange, status: int, now: datetime) -> Fault:
    said = server_words(bytes(exchange.body))
    match status:
        case _ if 300 <= status < 400:
            target = exchange.headers.get("location", "nowhere")
            told = f"redirects ({status}) to {target}; write the address that answers itself as `base_url`"
        case 401 | 403:
            told = (
                f"refuses the key ({status}); put a key that this server takes into the environment variable that "
                f"`key_variable` names: {said}"
            )
        case 404:
            told = f"knows no such model or no such address (404); check `model` and `base_url`: {said}"
        case _ if status in REFUSALS:
            told = f"refuses the request ({status}): {said}"
        case _:
            told = f"fails with status {status}: {said}"
    # A quota that is used up comes with the status of "too many requests", and no wait brings it back.
    passing = status in PASSING or status >= 500
    return Fault(
        told=told,
        status=status,
        again=passing and b"insufficient_quota" not in exchange.body,
        billed=status in GATEWAY_TIMEOUTS,
        retry_after=retry_after(exchange.headers, now=now),
    )


def server_words(body: bytes) -> str:
    """What the body of an error says, in the forms that servers use; the body's beginning if it has none of them."""
    text = body.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    match value:
        case {"error": {"message": str(words)}} | {"error": str(words)} | {"message": str(words)}:
            pass
        case {"detail": str(words)}:
            pass
        case _:
            words = text
    return words.strip() or "it does not say why"


def retry_after(headers: Mapping[str, str], *, now: datetime) -> float | None:
    """Seconds that `Retry-After` asks to wait (RFC 9110, section 10.2.3: seconds or a date), None if it does not."""
    text = headers.get("retry-after", "")
    try:
        seconds = float(text)
    except ValueError:
        try:
            date = parsedate_to_datetime(text)
        except ValueError:
            return None
        seconds = ((date if date.tzinfo else date.replace(tzinfo=UTC)) - now).total_seconds()
    return None if math.isnan(seconds) else max(seconds, 0.0)


def pause(fault: Fault, *, tries: int, retries: int, left: float, deadline: float, jitter: float) -> float | str:
    """Seconds to wait after `tries` tries, or, as a text, why there is no other.

    `left`: seconds to the deadline. `jitter`: a uniform number between 0 and 1.
    """
    if not fault.again:
        return fault.told
    asked = fault.retry_after or 0.0
    if asked >= left > 0:
        return (
            f"asks to wait {asked:.3g} s, and {left:.3g} s are left of the deadline; "
            f"call less often (`concurrency`) or raise `deadline`: {fault.told}"
        )
    late = f"no answer within {deadline:g} s (tries: {tries}); raise `deadline`. The last one: {fault.told}"
    if left <= 0:
        return late
    if tries > retries:
        return f"no answer (tries: {tries}); try later, or raise `retries`. The last one: {fault.told}"
    wait = jitter * min(FIRST_WAIT * 2.0 ** (tries - 1), LONGEST_WAIT)
    if wait >= left:
        return late
    return asked + wait if asked + wait < left else asked


def one_line(text: str) -> str:
    """The text in one line; control, formatting and surrogate characters are blanks."""
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())
