"""Calls to a model, against a real server on loopback that fails in the ways servers do."""

import gc
import json
import socket
import threading
import time
import traceback
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from random import Random
from typing import Any
from urllib.parse import urlsplit

import pytest

from archloom.agents.language_model.endpoints import MAX_ERROR_LENGTH, CallFailed, Client, Model, Reply, check
from archloom.agents.language_model.exchange import MAX_ANSWER
from archloom.agents.language_model.plain_forms import PLAINER
from archloom.agents.proposer import ProposerFailed
from archloom.errors import ConfigError
from archloom.scripted_server import Scripted, ScriptedServer

KEY = "sk-a-key-nobody-else-has"
BODY = {
    "model": "tiny",
    "messages": [{"role": "user", "content": "write a mixer"}],
    "seed": 7,
    "max_completion_tokens": 100,
    "response_format": {"type": "json_object"},
    "chat_template_kwargs": {"thinking": False},  # a server's own field, unknown to the SDK
}
GOOD = Scripted(text="good")
HANGS = Scripted(hang=True)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="module", autouse=True)
def _imported() -> Iterator[None]:
    import openai  # noqa: F401 - its second must not count as a call's

    gc.collect()
    gc.freeze()  # what is there already need not be looked through after each test
    yield
    gc.unfreeze()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """No thread of a call outlives it; an open socket is a ResourceWarning, and so an error, when it is collected."""
    before = threading.active_count()
    yield
    gc.collect()
    assert threading.active_count() == before


class Waits:
    """Takes the place of `time.sleep`: keeps what was asked for and returns at once."""

    def __init__(self) -> None:
        self.seconds: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.seconds.append(seconds)


def model(url: str, *, key: str = KEY, deadline: float = 20.0, retries: int = 4, concurrency: int = 4) -> Model:
    return Model(
        name="tiny",
        base_url=url,
        key=key,
        prompt_price=1.0,
        completion_price=2.0,
        deadline=deadline,
        retries=retries,
        concurrency=concurrency,
    )


def in_turn(*answers: Scripted) -> Callable[[Mapping[str, Any]], Scripted]:
    """The first answers one after the other, and the last for ever."""
    left = list(answers)
    return lambda _: left.pop(0) if len(left) > 1 else left[0]


def complete(url: str, *, waits: Waits | None = None, jitter: float = 1.0, **limits: Any) -> Reply:
    client = Client(model(url, **limits), sleep=waits or Waits(), jitter=lambda: jitter)
    try:
        return client.complete(BODY)
    finally:
        client.close()


def failure(url: str, *, waits: Waits | None = None, **limits: Any) -> CallFailed:
    with pytest.raises(CallFailed) as found:
        complete(url, waits=waits, **limits)
    shown = "".join(traceback.format_exception(found.value)) + repr(found.value) + str(found.value)
    assert KEY not in shown
    assert str(found.value).isprintable()
    assert len(str(found.value)) <= MAX_ERROR_LENGTH
    assert str(found.value).startswith(f"tiny at {url}: ")
    return found.value


def content(reply: Reply) -> str:
    text = json.loads(reply.text)["choices"][0]["message"]["content"]
    assert isinstance(text, str)
    return text


def say(connection: socket.socket, answer: bytes) -> bytes:
    """Answers whatever comes and hears it out; one that closed with the request half read would cut its own answer."""
    connection.sendall(answer)
    connection.shutdown(socket.SHUT_WR)
    heard = b""
    while more := connection.recv(100_000):
        heard += more
    return heard


def error(status: int, message: str, *headers: tuple[str, str]) -> Scripted:
    return Scripted(status=status, body=json.dumps({"error": {"message": message}}).encode(), headers=headers)


def test_a_good_answer_comes_back_as_it_was_sent() -> None:
    body = b'{"choices": [{"message": {"content": "\\u00e4 \xf0\x9f\x8c\xb3"}}]}\n'
    with ScriptedServer(lambda _: Scripted(body=body, delay=0.05)) as server:
        reply = complete(server.url)
        assert server.requests == (BODY,)
        assert server.headers[0]["authorization"] == f"Bearer {KEY}"
        assert server.headers[0]["connection"] == "close"
    assert reply.text == body.decode()
    assert 0.05 <= reply.seconds < 20
    assert reply.lost == 0


def test_a_storm_is_waited_out_as_the_server_asks() -> None:
    waits = Waits()
    storm = [error(429, "slow down", ("Retry-After", str(seconds))) for seconds in (3, 0, 5)]
    with ScriptedServer(in_turn(*storm, GOOD)) as server:
        reply = complete(server.url, waits=waits, jitter=0.5)
    assert content(reply) == "good"
    # The server's seconds, and half of a limit that starts at 0.5 s and doubles.
    assert waits.seconds == pytest.approx([3 + 0.25, 0 + 0.5, 5 + 1.0])


def test_a_second_that_the_server_asks_for_is_really_waited() -> None:
    with ScriptedServer(in_turn(error(503, "busy", ("Retry-After", "1")), GOOD)) as server:
        client = Client(model(server.url), jitter=lambda: 0.0)
        assert client.complete(BODY).seconds >= 1.0
        client.close()


def test_a_date_to_come_back_at_is_kept() -> None:
    waits = Waits()
    date = format_datetime(datetime.now(UTC) + timedelta(seconds=10), usegmt=True)
    with ScriptedServer(in_turn(error(429, "slow down", ("Retry-After", date)), GOOD)) as server:
        complete(server.url, waits=waits, jitter=0.0)
    # The header has whole seconds, and the request takes a moment.
    assert 5 < waits.seconds[0] <= 10


def test_a_wait_that_lies_behind_the_deadline_is_told_at_once() -> None:
    waits = Waits()
    with ScriptedServer(lambda _: error(429, "slow down", ("Retry-After", "3600"))) as server:
        found = failure(server.url, waits=waits)
        assert len(server.requests) == 1
    assert "asks to wait 3.6e+03 s" in str(found)
    assert (found.status, found.billed, waits.seconds) == (429, False, [])


def test_errors_of_the_server_are_tried_again() -> None:
    waits = Waits()
    with ScriptedServer(in_turn(error(500, "a"), error(502, "b"), error(503, "c"), GOOD)) as server:
        assert content(complete(server.url, waits=waits)) == "good"
    assert waits.seconds == [0.5, 1.0, 2.0]


def test_errors_without_end_are_told_with_the_number_of_tries() -> None:
    with ScriptedServer(lambda _: error(500, "out of memory\x00\x1b[31m")) as server:
        found = failure(server.url, retries=3)
        assert len(server.requests) == 4
    assert "no answer (tries: 4)" in str(found)
    assert "out of memory [31m" in str(found)
    assert (found.status, found.billed) == (500, False)


def test_a_gateway_that_gave_up_may_have_cost() -> None:
    with ScriptedServer(in_turn(error(504, "upstream"), error(524, "upstream"), GOOD)) as server:
        assert complete(server.url).lost == 2


@pytest.mark.parametrize(
    ("scripted", "sent"),
    [
        (HANGS, False),
        (Scripted(text="x" * 100, pace=0.1), True),
        (Scripted(status=500, body=b"x" * 100, pace=0.1), True),
    ],
    ids=["hangs", "trickles", "trickles an error"],
)
def test_a_slow_server_is_left_at_the_deadline(scripted: Scripted, sent: bool) -> None:
    with ScriptedServer(lambda _: scripted) as server:
        started = time.monotonic()
        found = failure(server.url, deadline=0.5, retries=0)
        seconds = time.monotonic() - started
        assert len(server.requests) == 1
    # Half a second of the call; the rest is for a busy machine, and far from the ten of a trickle.
    assert 0.5 <= seconds < 3
    assert "no answer within 0.5 s (tries: 1)" in str(found)
    assert "the deadline came" in str(found) or scripted.status == 500
    assert found.billed is (scripted.status == 200)
    assert (found.status is not None) is sent


def test_the_headers_of_an_answer_cannot_outlast_the_deadline() -> None:
    """Every line of them comes well within a time limit between two bytes."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def trickle() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(100_000)
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                for index in range(100):
                    try:
                        connection.sendall(f"X-{index}: 1\r\n".encode())
                    except ConnectionError:
                        return
                    time.sleep(0.1)

        thread = threading.Thread(target=trickle)
        thread.start()
        started = time.monotonic()
        found = failure(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", deadline=0.5)
        assert 0.5 <= time.monotonic() - started < 3
        assert found.billed
        thread.join()


def test_time_between_tries_counts() -> None:
    """Tries and real waits together end at the deadline, and no wait is begun that would end behind it."""
    with ScriptedServer(lambda _: error(500, "no", ("Retry-After", "0"))) as server:
        client = Client(model(server.url, deadline=1.4, retries=100), jitter=lambda: 1.0)
        started = time.monotonic()
        with pytest.raises(CallFailed, match=r"no answer within 1.4 s \(tries: 2\)"):
            client.complete(BODY)  # waits 0.5 s, and would wait 1 s
        client.close()
    assert 0.5 <= time.monotonic() - started < 1.4


def test_half_an_answer_is_asked_for_again() -> None:
    with ScriptedServer(in_turn(Scripted(text="good" * 1000, cut=True), GOOD)) as server:
        reply = complete(server.url)
    assert (content(reply), reply.lost) == ("good", 1)


def test_halves_without_end_may_cost() -> None:
    with ScriptedServer(lambda _: Scripted(text="good", cut=True)) as server:
        found = failure(server.url, retries=2)
        assert len(server.requests) == 3
    assert (found.billed, found.lost, found.status) == (True, 3, 200)
    assert "half an answer" in str(found)


def test_another_try_after_one_that_may_cost_is_asked_for() -> None:
    asked: list[int] = []

    def again() -> bool:
        asked.append(len(server.requests))
        return len(asked) < 3

    half = Scripted(text="good", cut=True)
    with ScriptedServer(in_turn(half, error(500, "free"), half, half, GOOD)) as server:
        client = Client(model(server.url, retries=9), sleep=Waits())
        with pytest.raises(CallFailed, match="the budget has no room for another try") as found:
            client.complete(BODY, again=again)
        client.close()
        assert len(server.requests) == 4
    # After the first, third and fourth request; the second cost nothing.
    assert asked == [1, 3, 4]
    assert found.value.lost == 3


def test_the_last_try_asks_for_no_other() -> None:
    with ScriptedServer(lambda _: Scripted(text="good", cut=True)) as server:
        client = Client(model(server.url, retries=0), sleep=Waits())
        with pytest.raises(CallFailed, match="half an answer"):
            client.complete(BODY, again=lambda: pytest.fail("there is no other try"))
        client.close()


@pytest.mark.parametrize("status", [200, 500])
def test_an_answer_without_measure_is_not_read_to_its_end(status: int) -> None:
    size = 200_000_000  # far more than the buffers of the system between server and client
    with ScriptedServer(lambda _: Scripted(status=status, body=b"{", padding=size)) as server:
        tracemalloc.start()
        try:
            found = failure(server.url, retries=0)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        while not server.sent:
            time.sleep(0.01)
        assert server.sent[0] < size / 2
    assert found.billed is (status == 200)
    # The answer up to the limit, as it grows; the server's own pieces; and the SDK's objects.
    assert peak < 8 * MAX_ANSWER


def test_ten_megabytes_are_refused_and_billed() -> None:
    with ScriptedServer(lambda _: Scripted(body=b"{", padding=10_000_000)) as server:
        found = failure(server.url)
        assert len(server.requests) == 1
    assert f"more than {MAX_ANSWER} bytes" in str(found)
    assert (found.billed, found.lost, found.status) == (True, 1, 200)


def test_the_largest_answer_is_read() -> None:
    with ScriptedServer(lambda _: Scripted(body=b"{}", padding=MAX_ANSWER - 2)) as server:
        assert len(complete(server.url).text) == MAX_ANSWER


def test_an_answer_that_would_unpack_is_refused() -> None:
    scripted = Scripted(body=b"\x1f\x8b", headers=(("Content-Encoding", "gzip"),))
    with ScriptedServer(lambda _: scripted) as server:
        found = failure(server.url)
        assert server.headers[0]["accept-encoding"] == "identity"
    assert "gzip" in str(found)
    assert found.billed


@pytest.mark.parametrize(
    ("scripted", "told"),
    [
        (error(401, f"bad key {KEY}"), "environment variable that `key_variable` names: bad key ***"),
        (error(403, "not for you"), "refuses the key (403)"),
        (error(404, "no model tiny"), "check `model` and `base_url`: no model tiny"),
        (error(418, "a teapot"), "fails with status 418: a teapot"),
        (Scripted(status=402, body=b"[" * 9_000), "fails with status 402: [[[["),
        (Scripted(status=402, body=f"{'-' * 380}{KEY}".encode()), "-***"),
        (Scripted(status=402, body=b'{"error": "\\ud800 pay"}'), "402: pay"),
        (Scripted(status=402, body=b'{"detail": "pay"}'), "402: pay"),
        (Scripted(status=402), "402: it does not say why"),
        (Scripted(status=429, body=b'{"error": {"message": "pay", "code": "insufficient_quota"}}'), "429: pay"),
    ],
)
def test_what_another_try_cannot_mend_is_told_at_once(scripted: Scripted, told: str) -> None:
    with ScriptedServer(lambda _: scripted) as server:
        found = failure(server.url)
        assert len(server.requests) == 1
    assert told in str(found)
    assert (found.status, found.billed) == (scripted.status, False)


@pytest.mark.parametrize("text", ["\ud800", float("nan")])
def test_a_body_that_is_no_json_is_not_sent(text: object) -> None:
    with ScriptedServer(lambda _: GOOD) as server:
        client = Client(model(server.url))
        with pytest.raises(ValueError, match=r"surrogates|JSON"):
            client.complete({"model": "tiny", "messages": [{"role": "user", "content": text}]})
        client.close()
        assert server.requests == ()


def test_a_failure_is_one_of_a_proposer() -> None:
    assert issubclass(CallFailed, ProposerFailed)


class Old:
    """A server that refuses requests with fields it does not know; `names` them or not."""

    def __init__(self, *unknown: str, names: bool) -> None:
        self.unknown = unknown
        self.names = names

    def __call__(self, request: Mapping[str, Any]) -> Scripted:
        found = next((field for field in self.unknown if field in request), None)
        if found is None:
            return GOOD
        return error(400, f"unknown field {found}" if self.names else "bad request")


@pytest.mark.parametrize("names", [True, False])
@pytest.mark.parametrize(
    "unknown", [("response_format",), ("max_completion_tokens",), ("seed",), tuple(PLAINER)], ids=lambda each: each[-1]
)
def test_an_older_server_is_asked_in_its_own_words(unknown: tuple[str, ...], names: bool) -> None:
    with ScriptedServer(Old(*unknown, names=names)) as server:
        waits = Waits()
        client = Client(model(server.url), sleep=waits)
        assert content(client.complete(BODY)) == "good"
        first = len(server.requests)
        assert first == 1 + len(unknown) if names else first <= 4
        client.complete(BODY)  # what worked is remembered
        assert len(server.requests) == first + 1
        client.close()
        asked = dict(server.requests[-1])
    assert waits.seconds == []
    kept = set(BODY) - (set(unknown) if names else set(PLAINER))
    assert all(asked[field] == BODY[field] for field in kept)
    if "max_completion_tokens" in unknown:
        assert asked["max_tokens"] == 100
    assert not set(unknown) & set(asked)


def test_a_request_that_is_refused_in_every_form_is_told() -> None:
    with ScriptedServer(lambda _: error(422, "the prompt is too long")) as server:
        found = failure(server.url)
        assert len(server.requests) == 1 + len(PLAINER)
        assert server.requests[0] == BODY
    assert "refuses the request (422): the prompt is too long" in str(found)
    assert (found.status, found.billed) == (422, False)


def test_a_form_that_did_not_help_is_not_remembered() -> None:
    with ScriptedServer(in_turn(*[error(400, "no")] * 4, GOOD)) as server:
        client = Client(model(server.url), sleep=Waits())
        with pytest.raises(CallFailed):
            client.complete(BODY)
        client.complete(BODY)
        client.close()
        assert server.requests[-1] == BODY


def test_no_more_calls_than_allowed_run_at_once() -> None:
    lock, here, most = threading.Lock(), 0, 0

    def answer(_: Mapping[str, Any]) -> Scripted:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        time.sleep(0.05)
        with lock:
            here -= 1
        return GOOD

    with ScriptedServer(answer) as server, ThreadPoolExecutor(8) as threads:
        client = Client(model(server.url, concurrency=3))
        replies = list(threads.map(lambda _: client.complete(BODY), range(24)))
        client.close()
    assert [content(reply) for reply in replies] == ["good"] * 24
    assert most == 3


def test_threads_get_their_own_answers() -> None:
    with (
        ScriptedServer(lambda request: Scripted(text=request["model"], delay=0.01)) as server,
        ThreadPoolExecutor(8) as threads,
    ):
        client = Client(model(server.url, concurrency=8))
        names = [f"model {index}" for index in range(40)]
        replies = list(threads.map(lambda name: client.complete({**BODY, "model": name}), names))
        client.close()
    assert [content(reply) for reply in replies] == names


def test_waiting_for_a_place_counts_against_the_deadline() -> None:
    with ScriptedServer(lambda _: HANGS) as server, ThreadPoolExecutor(2) as threads:
        client = Client(model(server.url, concurrency=1, deadline=0.5, retries=0))
        started = time.monotonic()
        calls = [threads.submit(client.complete, BODY) for _ in range(2)]
        found = [call.exception() for call in calls]
        assert time.monotonic() - started < 3
        client.close()
        assert all(isinstance(each, CallFailed) for each in found)
        assert sorted(each.billed for each in found if isinstance(each, CallFailed)) == [False, True]
        assert len(server.requests) == 1


def test_a_place_that_does_not_come_free_is_waited_for_until_the_deadline() -> None:
    asleep, awake = threading.Event(), threading.Event()

    def sleep(_: float) -> None:
        asleep.set()
        awake.wait()

    with ScriptedServer(in_turn(error(500, "no"), GOOD)) as server, ThreadPoolExecutor(1) as threads:
        client = Client(model(server.url, concurrency=1, deadline=0.5), sleep=sleep, jitter=lambda: 0.0)
        holder = threads.submit(client.complete, BODY)
        asleep.wait()
        with pytest.raises(CallFailed, match="1 calls at once are allowed") as found:
            client.complete(BODY)
        awake.set()
        assert isinstance(holder.exception(), CallFailed)  # it overslept
        client.close()
        assert len(server.requests) == 1
    assert not found.value.billed


def test_a_connection_that_is_refused_costs_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    waits = Waits()
    started = time.monotonic()
    found = failure(f"http://127.0.0.1:{port}/v1", waits=waits)
    assert time.monotonic() - started < 5
    assert "refused" in str(found)
    assert (found.status, found.billed, len(waits.seconds)) == (None, False, 4)


BYTES = (
    *(b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 500 No\r\n", b"HTTP/1.1 100 Go on\r\n\r\n"),
    *(b"Content-Length: 9\r\n", b"Content-Length: -1\r\n", b"Transfer-Encoding: chunked\r\n", b": x\r\n"),
    *(b"\r\n", b"5\r\n", b"{}", b"\x00\xff"),
)


def test_bytes_that_are_no_http_are_an_answer_or_a_failure() -> None:
    rng = Random(0)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        over = threading.Event()

        def babble() -> None:
            while not over.is_set():
                with suppress(TimeoutError, ConnectionError):
                    connection, _ = listening.accept()
                    with connection:
                        say(connection, b"".join(rng.choices(BYTES, k=rng.randint(0, 8))))

        thread = threading.Thread(target=babble)
        thread.start()
        client = Client(model(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", retries=0), sleep=Waits())
        ends: list[type] = []
        for _ in range(200):
            try:
                ends.append(type(client.complete({"model": "tiny", "messages": []})))
            except CallFailed:
                ends.append(CallFailed)
        client.close()
        over.set()
        thread.join()
    assert set(ends) == {Reply, CallFailed}


def test_a_connection_that_breaks_after_the_request_may_cost() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def hang_up() -> None:
            connection, _ = listening.accept()
            connection.recv(100_000)
            connection.close()

        thread = threading.Thread(target=hang_up)
        thread.start()
        found = failure(f"http://127.0.0.1:{listening.getsockname()[1]}/v1", retries=0)
        thread.join()
    assert (found.status, found.billed) == (None, True)


def test_a_key_does_not_follow_a_redirect() -> None:
    with ScriptedServer(lambda _: GOOD) as other:
        target = ("Location", f"{other.url.replace('127.0.0.1', 'localhost')}/chat/completions")
        for status in (301, 302, 307, 308):
            with ScriptedServer(lambda _, status=status: Scripted(status=status, headers=(target,))) as server:
                found = failure(server.url)
            assert f"redirects ({status})" in str(found)
            assert f"localhost:{urlsplit(other.url).port}" in str(found)
        assert other.requests == ()


def test_a_proxy_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        lines: list[bytes] = []

        def proxy() -> None:
            connection, _ = listening.accept()
            with connection:
                heard = say(connection, b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")
                lines.append(heard.splitlines()[0])

        thread = threading.Thread(target=proxy)
        thread.start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{listening.getsockname()[1]}")
        assert complete("http://model.example/v1").text == "{}"
        thread.join()
    assert lines == [b"POST http://model.example/v1/chat/completions HTTP/1.1"]


def test_the_key_is_in_no_repr() -> None:
    described = model("http://127.0.0.1:9/v1")
    assert KEY not in repr(described)
    assert KEY not in repr(Client(described))


@pytest.mark.parametrize(
    "address",
    [
        "localhost:8000/v1",
        "http://",
        "http://[::1/v1",
        "http://host:port/v1",
        "ftp://h",
        "http://name:word@host/v1",
        "http://host/v1?key=1",
        "http://host/v1#here",
        "http://ho st/v1",
        "http://host/v1\n",
        "http://h\u00f6st/v1",
    ],
)
def test_an_address_that_is_none_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        Client(model(address))


@pytest.mark.parametrize("key", ["schlüssel", f"{KEY}\n", f" {KEY}", "a b", "\x00"])
def test_a_key_that_cannot_be_sent_is_a_configuration_error(key: str) -> None:
    with pytest.raises(ConfigError, match="copy it again") as found:
        check(model("http://host/v1", key=key))
    assert KEY not in str(found.value)


@pytest.mark.parametrize(
    "limits", [{"deadline": 0.0}, {"deadline": float("nan")}, {"deadline": 1e9}, {"retries": -1}, {"concurrency": 0}]
)
def test_limits_that_allow_no_call_are_a_configuration_error(limits: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="deadline"):
        Client(model("http://host/v1", **limits))


@pytest.mark.parametrize("address", ["https://api.example.com/v1", "http://localhost:8000", "http://[::1]:11434/v1/"])
def test_usual_addresses_and_no_key_are_taken(address: str) -> None:
    check(model(address, key=""))


def test_a_tls_failure_is_told_and_costs_nothing() -> None:
    """A server that speaks no TLS is what a wrong `https` in the address meets."""
    with ScriptedServer(lambda _: GOOD) as server:
        found = failure(server.url.replace("http://", "https://"), retries=0)
        assert not found.billed
    assert "SSL" in str(found)
