"""The language-model arm against a real server on loopback that says what each test lets it say."""

import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import reduce
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from threading import Thread
from typing import Any

import pytest

from archloom.agents.language_model import proposer as language_model
from archloom.agents.language_model.instructions import experience, instructions
from archloom.agents.language_model.proposer import LanguageModelProposer, make_client
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import (
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    LanguageModelCall,
    Origin,
    Result,
    Trial,
)
from archloom.errors import ConfigError
from archloom.search_space import zoo
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.variation import in_budget

SAMPLER = Sampler.default(depth=2)
GOOD = "mix(apply(masked(dot(elu1(project(x)), elu1(project(x))), visible), value(x)), heads=2)"
WRONG = "mix(apply(dot(project(x), project(x)), value(x)), heads=2)"
KEY = "sk-a-key-nobody-else-has"


@dataclass
class Server:
    """Answers each request with the next of `answers` (status, body) and keeps what was asked."""

    url: str
    answers: list[tuple[int, bytes]] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)

    def says(self, *texts: str | None) -> None:
        """The model's next answers."""
        for text in texts:
            message = {"role": "assistant", "content": text}
            body = {
                "id": "one",
                "object": "chat.completion",
                "created": 0,
                "model": "tiny",
                "choices": [{"index": 0, "finish_reason": "stop", "message": message}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 7, "total_tokens": 18},
            }
            self.answers.append((200, json.dumps(body).encode()))

    def proposes(self, *terms: str, rationale: str = "because") -> None:
        self.says(*(json.dumps({"term": term, "rationale": rationale}) for term in terms))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            assert self.path == "/v1/chat/completions"
            state.requests.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            state.authorizations.append(self.headers["Authorization"])
            status, body = state.answers.pop(0)
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        state = Server(url=f"http://127.0.0.1:{http.server_port}/v1")
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield state
        http.shutdown()
        thread.join()


def arm(
    server: Server, calls: list[LanguageModelCall], *, repairs: int = 3, replay: tuple[LanguageModelCall, ...] = ()
) -> LanguageModelProposer:
    client = make_client(base_url=server.url, model="tiny", key=KEY, timeout=5.0, retries=0)
    return LanguageModelProposer(client=client, sampler=SAMPLER, record=calls.append, repairs=repairs, replay=replay)


def trial(
    term: str, index: int, *, score: float | None, reason: str = "", origin: Origin = Origin.LANGUAGE_MODEL
) -> Trial:
    identity = term_id(parse(term))
    failure = None if score is not None else Failure(kind=FailureKind.DIVERGED, reason=reason)
    key = EvaluationKey(candidate=identity, task="mqar", rung=0, seed=0)
    result = Result(key=key, score=score, metrics={}, failure=failure, seconds=1.0)
    return Trial(candidate=Candidate(id=identity, term=term, origin=origin, index=index), results=(result,))


def architecture_of(mixer: str) -> str:
    return canonical(zoo.as_architecture(parse(mixer), depth=2)).text


def test_a_good_answer_is_a_canonical_architecture_in_budget(server: Server) -> None:
    calls: list[LanguageModelCall] = []
    server.proposes(GOOD, rationale="positive\x00 features\u202e\x1b[31m\nand\ta sum")
    (proposal,) = arm(server, calls).ask([], 1, Random(0))
    assert proposal.term.text == architecture_of(GOOD)
    assert in_budget(proposal.term, SAMPLER)
    assert (proposal.origin, proposal.operator) == (Origin.LANGUAGE_MODEL, "write")
    assert proposal.rationale == "positive features [31m and a sum"


def test_the_request_asks_for_the_schema_and_carries_the_key(server: Server) -> None:
    server.proposes(GOOD)
    arm(server, []).ask([], 1, Random(0))
    (request,) = server.requests
    schema = request["response_format"]["json_schema"]
    assert (request["model"], schema["strict"]) == ("tiny", True)
    assert set(schema["schema"]["required"]) == {"term", "rationale"}
    assert server.authorizations == [f"Bearer {KEY}"]


def test_every_call_is_recorded_without_the_key(server: Server) -> None:
    calls: list[LanguageModelCall] = []
    server.proposes(WRONG, GOOD)
    arm(server, calls).ask([], 1, Random(0))
    assert [json.loads(call.request) for call in calls] == server.requests
    assert [(call.model, call.prompt_tokens, call.completion_tokens) for call in calls] == [("tiny", 11, 7)] * 2
    assert all(json.loads(call.response)["choices"] and call.seconds > 0 for call in calls)
    assert KEY not in repr(calls)


def test_a_wrong_term_is_repaired_after_its_error(server: Server) -> None:
    server.proposes(WRONG, GOOD)
    (proposal,) = arm(server, []).ask([], 1, Random(0))
    assert (proposal.term.text, proposal.operator) == (architecture_of(GOOD), "repair")
    *_, said, told = server.requests[1]["messages"]
    assert (said["role"], json.loads(said["content"])["term"]) == ("assistant", WRONG)
    assert told["role"] == "user"
    assert "argument 1 of `apply` must be kernel" in told["content"]
    assert "masked" in told["content"]  # what would fit


def attention(value: str, *, lets: str = "") -> str:
    return f"mix({lets}apply(masked(dot(project(x), project(x)), visible), {value}), heads=2)"


def doubled(times: int) -> str:
    """A short text whose `let`s, written in place, make 2 ** times projections."""
    lets = "".join(f"let v{i + 1} = add(v{i}, v{i}) in " for i in range(times))
    return attention(f"v{times}", lets=f"let v0 = value(x) in {lets}")


def alike(count: int) -> str:
    """`let`s that only their order tells apart."""
    lets = "".join(f"let v{i} = value(x) in " for i in range(count))
    names = [f"v{i}" for i in range(count)] * 2
    return attention(reduce(lambda sum_, name: f"add({sum_}, {name})", names), lets=lets)


def balanced(leaves: int) -> str:
    """A sum nested nine deep that becomes, with its operands in order, one nested as deep as it has leaves."""
    return "value(x)" if leaves == 1 else f"add({balanced(leaves // 2)}, {balanced(leaves // 2)})"


@pytest.mark.parametrize(
    ("term", "told"),
    [
        ("(" * 5000, "expected an operation"),
        ("__import__('os').system('true')", "unexpected character"),
        (GOOD + "\n#" + "a" * 10_000, "at most 10000"),
        ("project(x)", "the term is a feature"),
        (f"together({GOOD}, together({GOOD}, together({GOOD}, together({GOOD}, {GOOD}))))", "too large"),
        (doubled(40), "written out"),
        (doubled(9), "more than 8 `let`s"),
        (alike(11), "more than 8 `let`s"),
        (attention(balanced(512)), "too large"),
    ],
)
def test_a_term_that_cannot_be_used_is_refused_with_the_reason(server: Server, term: str, told: str) -> None:
    server.proposes(term, GOOD)
    (proposal,) = arm(server, []).ask([], 1, Random(0))
    assert proposal.term.text == architecture_of(GOOD)
    assert told in server.requests[1]["messages"][-1]["content"]
    assert len(server.requests[1]["messages"][-2]["content"]) <= 12_000


@pytest.mark.parametrize("text", ["", "here is one: mix(...)", "[1, 2]", '{"term": 3}', "[" * 100_000, '"\\ud800"'])
def test_an_answer_of_another_form_is_refused(server: Server, text: str) -> None:
    server.says(text)
    server.proposes(GOOD)
    arm(server, []).ask([], 1, Random(0))
    assert "one JSON object" in server.requests[1]["messages"][-1]["content"]


def test_surrogates_in_an_answer_do_not_break_the_next_request(server: Server) -> None:
    server.says("\ud800 \udfff")
    server.proposes(GOOD)
    (proposal,) = arm(server, []).ask([], 1, Random(0))
    assert proposal.operator == "repair"


def test_repairs_end(server: Server) -> None:
    calls: list[LanguageModelCall] = []
    server.proposes(*[WRONG] * 4)
    with pytest.raises(ProposerFailed, match="no valid term in 3 answers; the last: line 1"):
        arm(server, calls, repairs=2).ask([], 1, Random(0))
    assert len(calls) == len(server.requests) == 3


def test_what_was_tried_is_asked_again(server: Server) -> None:
    other = GOOD.replace("elu1", "relu")
    server.proposes(GOOD, other)
    (proposal,) = arm(server, []).ask([trial(architecture_of(GOOD), 0, score=0.5)], 1, Random(0))
    assert proposal.term.text == architecture_of(other)
    assert "tried already" in server.requests[1]["messages"][-1]["content"]


@pytest.mark.parametrize(
    ("status", "body", "told"),
    [
        (500, b'{"error": {"message": "out of memory"}}', "out of memory"),
        (401, json.dumps({"error": {"message": f"bad key {KEY}"}}).encode(), r"bad key \*\*\*"),
        (200, b"<html>busy</html>", "no chat completion"),
        (200, b"[]", "no chat completion"),
        (200, b"[" * 100_000, "no chat completion"),
        (200, b'{"choices": []}', "no chat completion"),
        (200, b'{"choices": [{"message": {"content": null, "refusal": "I will not"}}]}', "I will not"),
    ],
)
def test_a_server_that_fails_is_recorded_and_fails_the_arm(server: Server, status: int, body: bytes, told: str) -> None:
    calls: list[LanguageModelCall] = []
    server.answers.append((status, body))
    with pytest.raises(ProposerFailed, match=told):
        arm(server, calls).ask([], 1, Random(0))
    (call,) = calls
    assert (call.prompt_tokens, call.completion_tokens) == (0, 0)
    assert KEY not in call.response


def test_a_refused_connection_fails_the_arm_at_once() -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    calls: list[LanguageModelCall] = []
    started = time.monotonic()
    with pytest.raises(ProposerFailed, match=f"127.0.0.1:{port}.*refused"):
        arm(Server(url=f"http://127.0.0.1:{port}/v1"), calls).ask([], 1, Random(0))
    assert time.monotonic() - started < 10
    assert len(calls) == 1


def test_a_silent_server_times_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/v1"
        client = make_client(base_url=url, model="tiny", key="", timeout=0.2, retries=0)
        with pytest.raises(ProposerFailed, match="time"):
            LanguageModelProposer(client=client, sampler=SAMPLER, record=[].append).ask([], 1, Random(0))


def test_what_was_recorded_is_answered_without_the_server(server: Server) -> None:
    calls: list[LanguageModelCall] = []
    server.proposes(WRONG, GOOD)
    history = [trial(architecture_of(GOOD.replace("elu1", "relu")), 0, score=0.25)]
    first = arm(server, calls).ask(history, 1, Random(3))
    fresh: list[LanguageModelCall] = []
    assert arm(Server(url="http://127.0.0.1:9/v1"), fresh, replay=tuple(calls)).ask(history, 1, Random(3)) == first
    assert fresh == []
    with pytest.raises(ProposerFailed):  # another seed is another request
        arm(Server(url="http://127.0.0.1:9/v1"), fresh, replay=tuple(calls)).ask(history, 1, Random(4))


def test_a_recorded_failure_fails_again_without_the_server(server: Server) -> None:
    calls: list[LanguageModelCall] = []
    server.answers.append((500, b'{"error": {"message": "out of memory"}}'))
    with pytest.raises(ProposerFailed) as first:
        arm(server, calls).ask([], 1, Random(0))
    with pytest.raises(ProposerFailed) as again:
        arm(server, [], replay=tuple(calls)).ask([], 1, Random(0))
    assert str(again.value) == str(first.value)
    assert len(server.requests) == 1


def test_several_proposals_are_separate_requests(server: Server) -> None:
    server.proposes(GOOD, GOOD.replace("elu1", "relu"))
    assert len(arm(server, []).ask([], 2, Random(0))) == 2
    assert server.requests[0]["seed"] != server.requests[1]["seed"]


def test_a_rationale_is_cut_to_length(server: Server) -> None:
    server.proposes(GOOD, rationale="why " * 5000)
    (proposal,) = arm(server, []).ask([], 1, Random(0))
    assert proposal.rationale is not None
    assert len(proposal.rationale) == language_model.MAX_RATIONALE


def test_the_instructions_name_every_operation_and_system() -> None:
    told = instructions(SAMPLER, lets=8)
    usable = [each for each in OPERATIONS.values() if CAUSAL in each.patterns]
    assert all(f"  {each.name}(" in told or f"  {each.name} ->" in told for each in usable)
    assert all(each.summary in told for each in usable)
    assert all(zoo.entry(name).text.strip() in told for name in zoo.STANDARD)


def test_experience_shows_the_best_first_and_why_others_failed() -> None:
    names = ("mha", "gla", "kda", "hyena")
    trials = [
        trial(zoo.load(name).text, i, score=score)
        for i, (name, score) in enumerate(zip(names, (0.25, 0.75, 0.5, None), strict=True))
    ]
    told = experience(trials, elites=2)
    shown = [trials[i].candidate.short in told for i in range(4)]
    assert shown == [False, True, True, True]
    assert told.index("score 0.750") < told.index("score 0.500") < told.index("diverged")
    assert "the loss is NaN" in experience([trial(GOOD, 0, score=None, reason="the loss\nis NaN")], elites=2)
    assert experience([], elites=2).count("none yet") == 2


@pytest.mark.parametrize(
    "address", ["localhost:8000/v1", "http://", "http://[::1/v1", "http://host:port/v1", "ftp://h"]
)
def test_an_address_that_is_none_is_a_configuration_error(address: str) -> None:
    with pytest.raises(ConfigError, match="no address"):
        make_client(base_url=address, model="tiny", key=KEY)
