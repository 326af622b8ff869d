"""The scripted server, read with the standard library's client and with bare sockets."""

import json
import socket
import threading
import time
from http.client import HTTPConnection, IncompleteRead
from urllib.parse import urlsplit

import pytest

from archloom.scripted_server import Scripted, ScriptedServer


def connection(server: ScriptedServer) -> HTTPConnection:
    parts = urlsplit(server.url)
    return HTTPConnection(parts.hostname or "", parts.port, timeout=10)


def post(http: HTTPConnection, body: object) -> tuple[int, bytes]:
    http.request("POST", "/v1/chat/completions", json.dumps(body))
    response = http.getresponse()
    return response.status, response.read()


def ask(server: ScriptedServer, body: object) -> tuple[int, bytes]:
    http = connection(server)
    try:
        return post(http, body)
    finally:
        http.close()


def test_a_text_becomes_a_completion_with_counted_tokens() -> None:
    messages = [{"role": "user", "content": "hello"}]
    with ScriptedServer(lambda request: Scripted(text=request["model"] * 4)) as server:
        status, body = ask(server, {"model": "tiny", "messages": messages})
        assert server.requests == ({"model": "tiny", "messages": messages},)
    answer = json.loads(body)
    assert (status, answer["model"], answer["choices"][0]["message"]["content"]) == (200, "tiny", "tiny" * 4)
    prompt = len(json.dumps(messages)) // 4
    assert answer["usage"] == {"prompt_tokens": prompt, "completion_tokens": 4, "total_tokens": prompt + 4}


def test_tokens_can_be_given() -> None:
    with ScriptedServer(lambda _: Scripted(text="x", prompt_tokens=11, completion_tokens=7)) as server:
        usage = json.loads(ask(server, {})[1])["usage"]
    assert usage == {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18}


def test_a_raw_answer_is_sent_as_it_stands() -> None:
    scripted = Scripted(status=429, body=b"slow down", headers=(("Retry-After", "3"),), padding=2)
    with ScriptedServer(lambda _: scripted) as server:
        http = connection(server)
        http.request("POST", "/v1/chat/completions", "{}", {"Authorization": "Bearer sk"})
        response = http.getresponse()
        assert (response.status, response.headers["Retry-After"], response.read()) == (429, "3", b"slow down  ")
        http.close()
        assert server.headers[0]["authorization"] == "Bearer sk"
    assert server.sent == (11,)


def test_a_connection_serves_several_requests() -> None:
    with ScriptedServer(lambda request: Scripted(text=request["model"])) as server:
        http = connection(server)
        told = [json.loads(post(http, {"model": name})[1])["model"] for name in ("one", "two")]
        http.close()
    assert told == ["one", "two"]


def test_half_an_answer_is_half_of_what_was_promised() -> None:
    with (
        ScriptedServer(lambda _: Scripted(body=b"x" * 1000, cut=True)) as server,
        pytest.raises(IncompleteRead) as found,
    ):
        ask(server, {})
    assert (len(found.value.partial), found.value.expected) == (500, 500)


def test_models_are_listed_and_other_addresses_are_not_there() -> None:
    with ScriptedServer(lambda _: Scripted(text="x"), models=("one", "two")) as server:
        http = connection(server)
        http.request("GET", "/v1/models")
        assert [each["id"] for each in json.loads(http.getresponse().read())["data"]] == ["one", "two"]
        for method, path, body in (("GET", "/", None), ("POST", "/v1/completions", "{}")):
            http.request(method, path, body)
            response = http.getresponse()
            response.read()
            assert response.status == 404
        http.close()
        assert server.requests == ()


@pytest.mark.parametrize("body", [b"[1]", b"", b"{", b"\xff"])
def test_a_body_that_is_no_object_is_refused(body: bytes) -> None:
    with ScriptedServer(lambda _: Scripted(text="x")) as server:
        http = connection(server)
        http.request("POST", "/v1/chat/completions", body)
        assert http.getresponse().status == 400
        http.close()
        assert server.requests == ()


def test_closing_lets_go_of_every_request() -> None:
    """One that hangs, one that waits, one that trickles, one that is not written to its end, and an idle connection."""
    before = threading.active_count()
    scripts = {"hang": Scripted(hang=True), "late": Scripted(text="x", delay=60), "slow": Scripted(text="x", pace=60)}
    with ScriptedServer(lambda request: scripts[request["model"]]) as server:
        clients = []
        for body in [json.dumps({"model": name}) for name in scripts] + ['{"cut', ""]:
            client = socket.create_connection(("127.0.0.1", urlsplit(server.url).port or 0), timeout=10)
            if body:
                length = len(body) + (100 if body == '{"cut' else 0)
                client.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: {length}\r\n\r\n{body}".encode())
            clients.append(client)
        while len(server.requests) < 3 or threading.active_count() < before + 6:
            time.sleep(0.01)
        started = time.monotonic()
    # Nothing but waking up is left to do; the seconds are for a busy machine, and far from the 60 of the scripts.
    assert time.monotonic() - started < 5
    assert threading.active_count() == before
    for client in clients:
        client.close()
