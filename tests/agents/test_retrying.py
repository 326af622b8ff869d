"""How long a call waits before another try, and what it gives up when a server does not know a field."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.agents.language_model.plain_forms import PLAINER, next_field, plainer
from archloom.agents.language_model.retrying import Fault, pause, retry_after

BODY = {"model": "tiny", "messages": [], "seed": 7, "max_completion_tokens": 100, "response_format": {}, "own": 1}
NOW = datetime(2025, 3, 4, 5, 6, 7, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("7", 7.0),
        ("0.25", 0.25),
        ("-3", 0.0),
        ("Tue, 04 Mar 2025 05:07:07 GMT", 60.0),
        ("Tue, 04 Mar 2025 05:07:07 -0000", 60.0),
        ("Tue, 04 Mar 2025 06:06:08 +0100", 1.0),
        ("Tue, 04 Mar 2025 05:00:00 GMT", 0.0),
        ("inf", float("inf")),
        ("nan", None),
        ("soon", None),
        ("", None),
    ],
)
def test_retry_after_is_read(text: str, seconds: float | None) -> None:
    assert retry_after({"retry-after": text}, now=NOW) == seconds


@given(
    tries=st.integers(1, 2000),
    left=st.floats(-10, 1000),
    jitter=st.floats(0, 1),
    asked=st.none() | st.floats(0, 1000),
)
def test_a_wait_is_at_least_what_was_asked_and_ends_before_the_deadline(
    tries: int, left: float, jitter: float, asked: float | None
) -> None:
    passing = Fault(told="no", again=True, retry_after=asked)
    wait = pause(passing, tries=tries, retries=1000, left=left, deadline=1000.0, jitter=jitter)
    if isinstance(wait, str):
        assert tries > 1000 or left <= max(asked or 0.0, min(0.5 * 2.0**tries, 30.0))
    else:
        assert (asked or 0.0) <= wait <= (asked or 0.0) + 30.0
        assert wait < left


@given(given_up=st.frozensets(st.sampled_from(list(PLAINER))))
def test_plainer_forms_keep_everything_else(given_up: frozenset[str]) -> None:
    plain = plainer(BODY, given_up=given_up)
    assert not given_up & set(plain)
    assert {field: value for field, value in BODY.items() if field not in given_up}.items() <= plain.items()
    assert set(plain) - set(BODY) == ({"max_tokens"} if "max_completion_tokens" in given_up else set())
    left = next_field(BODY, given_up=given_up, refusal="")
    assert (left is None) is (given_up == frozenset(PLAINER))
    assert left not in given_up


def test_a_field_that_the_refusal_names_is_given_up_first() -> None:
    assert next_field(BODY, given_up=frozenset(), refusal="400: unknown parameter 'seed'") == "seed"
    assert next_field(BODY, given_up=frozenset({"seed"}), refusal="400: unknown parameter 'seed'") == "response_format"
    assert next_field({"messages": []}, given_up=frozenset(), refusal="seed") is None
