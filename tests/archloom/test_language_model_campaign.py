"""Campaigns whose candidates a language model writes, against a real server on loopback that does what servers do."""

import hashlib
import itertools
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from random import Random
from typing import Any

import pytest
from typer.testing import CliRunner

from archloom import campaign, claims
from archloom.agents.knowledge.entries import entries
from archloom.arms import recorded_arms
from archloom.config import Config
from archloom.db.records import CampaignState, LanguageModelCall, Measurement, Origin, Role, TrialSpec
from archloom.db.store import Store
from archloom.doctor import check_models
from archloom.errors import EnvironmentProblem
from archloom.evaluator.executors.inline import InlineExecutor
from archloom.main import app
from archloom.rehearsal import repeat
from archloom.scripted_server import Scripted, ScriptedServer
from archloom.search_space import zoo
from archloom.search_space.sampling import Sampler

KEY = "sk-nobody-elses"
Answer = Callable[[Mapping[str, Any]], Scripted]
Write = Callable[..., Path]


def pretend(spec: TrialSpec) -> Measurement:
    """A score that depends on the evaluation alone, for what is not about training."""
    score = int(hashlib.sha256(f"{spec.key}".encode()).hexdigest()[:8], 16) / 2**32
    return Measurement(key=spec.key, score=score, metrics={}, environment={}, seconds=0.0)


@pytest.fixture
def pretending(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is trained in this process."""
    monkeypatch.setattr(campaign, "make_executor", lambda *_, **__: InlineExecutor(work=pretend))


@pytest.fixture
def write(campaign_file: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes the small campaign with a language-model arm whose server is at an address; returns its file."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SCRIPTED_KEY", KEY)
    monkeypatch.chdir(tmp_path)

    def write(url: str, *, more: str = "", candidates: int = 4, of_model: str = "") -> Path:
        path = campaign_file(tmp_path)
        text = path.read_text().replace("candidates = 6", f"candidates = {candidates}")
        text += f"""
[search.arms]
language_model = 1
[language_model]
{more}
[[language_model.models]]
base_url = "{url}"
model = "scripted"
key_variable = "SCRIPTED_KEY"
prompt_price = 1.0
completion_price = 2.0
deadline_seconds = 20
{of_model}
"""
        path.write_text(text)
        return path

    return write


def says(**fields: Any) -> Scripted:
    return Scripted(text=json.dumps(fields))


def role(request: Mapping[str, Any]) -> str:
    return str(request["response_format"]["json_schema"]["name"])


def writes(request: Mapping[str, Any]) -> Scripted:
    """A model that knows the grammar: it draws a small architecture by the request's seed and its turn."""
    match role(request):
        case "critic":
            return says(novel=True, reason="it is")
        case "analyst":
            return says(lesson=f"what {request['seed']} taught")
        case _:
            rng = Random(f"{request['seed']} {len(request['messages'])}")
            term = Sampler.default(depth=1, max_size=16, width=16, length=12).architecture(rng)
            predictions = [{"task": "mqar", "change": 0.1}]
            return says(hypothesis="a guess", term=term.text, parent="", edits=[], predictions=predictions, cites=[])


def load(path: Path, *changes: str) -> Config:
    return Config.load(str(path), changes).config


def go(config: Config, *, resume: bool = False, stopping: Callable[[], int] = lambda: 0) -> campaign.Outcome:
    with Store.open(config.campaign.store, create=True) as store:
        return campaign.run(config, store=store, resume=resume, progress=lambda progress: None, stopping=stopping)


def calls(config: Config) -> tuple[LanguageModelCall, ...]:
    with Store.open(config.campaign.store) as store:
        return store.calls("small")


def origins(config: Config) -> Counter[Origin]:
    with Store.open(config.campaign.store) as store:
        return Counter(each.origin for each in store.candidates("small") if each.origin is not Origin.ZOO)


def is_repeated(config: Config) -> bool:
    """Whether the record alone proposes every candidate again."""
    with Store.open(config.campaign.store) as store:
        protocol = store.protocol(store.campaign("small").protocol)
        stored = [each for each in store.candidates("small") if each.origin is not Origin.ZOO]
        repeated = list(repeat(store, "small", recorded_arms(config, store, protocol=protocol)))
    return len(repeated) == len(stored) and all(each.equal for each in repeated)


def account_is_exact(config: Config, server: ScriptedServer) -> bool:
    """Whether every request that reached the server is on the ledger, and costs what its tokens cost."""
    recorded = calls(config)
    priced = all(
        call.cost == 1000 * call.prompt_tokens + 2000 * call.completion_tokens for call in recorded if call.response
    )
    return priced and len(server.requests) == len(recorded)


def test_a_model_writes_a_campaign_and_the_record_writes_it_again(write: Write) -> None:
    with ScriptedServer(writes) as server:
        config = load(write(server.url), "search.lookahead=1")
        assert go(config).state is CampaignState.FINISHED
        assert account_is_exact(config, server)
        assert all(headers["authorization"] == f"Bearer {KEY}" for headers in server.headers)
    assert origins(config) == {Origin.LANGUAGE_MODEL: 4}
    assert is_repeated(config)  # the server is gone
    with Store.open(config.campaign.store) as store:
        written = [each for each in store.candidates("small") if each.origin is Origin.LANGUAGE_MODEL]
        lessons = store.lessons("small")
    assert all((each.author, each.predictions) == ("scripted", (("mqar", 0.1),)) for each in written)
    assert {call.role for call in calls(config)} >= {Role.RESEARCHER, Role.ANALYST}
    assert lessons
    assert all(key.candidate == lesson.candidate for lesson in lessons for key in lesson.evidence)
    assert KEY not in repr(calls(config))


@pytest.mark.usefixtures("pretending")
def test_knowledge_is_found_by_meaning_where_a_server_gives_vectors(write: Write) -> None:
    def answer(request: Mapping[str, Any]) -> Scripted:
        if "input" not in request:
            return writes(request)
        rows = [
            {"index": place, "embedding": [math.sin(len(text) * (k + 1)) for k in range(16)]}
            for place, text in enumerate(request["input"])
        ]
        body = {"object": "list", "data": rows, "usage": {"prompt_tokens": 10, "total_tokens": 10}}
        return Scripted(body=json.dumps(body).encode())

    with ScriptedServer(answer) as server:
        section = f'[language_model.embeddings]\nbase_url = "{server.url}"\nmodel = "vectors"\nprice = 1.0\n'
        config = load(write(server.url, of_model=f'{section}key_variable = ""'))
        assert go(config).state is CampaignState.FINISHED
    embedded = [call for call in calls(config) if call.role is Role.EMBEDDER]
    assert len(embedded) >= math.ceil(len(entries()) / 16) + 1
    assert {(call.prompt_tokens, call.completion_tokens, call.cost) for call in embedded} == {(10, 0, 10_000)}
    assert {json.loads(call.request)["encoding_format"] for call in embedded} == {"float"}
    assert is_repeated(config)


@pytest.mark.usefixtures("pretending")
def test_a_claim_about_what_a_model_wrote_needs_no_model(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    with ScriptedServer(writes) as server:
        config = load(write(server.url, candidates=3))
        go(config)
    monkeypatch.delenv("SCRIPTED_KEY")
    with Store.open(config.campaign.store) as store:
        best = next(each for each in store.candidates("small") if each.origin is Origin.LANGUAGE_MODEL)
        verdict = claims.put(
            store,
            "small",
            candidates=[best.id],
            seeds=2,
            executor=None,
            progress=lambda progress: None,
            stopping=lambda: 0,
        )
        entrants = [each for each in store.candidates(verdict.campaign) if each.origin is not Origin.ZOO]
    assert verdict.outcome.state is CampaignState.FINISHED
    assert [(each.id, each.author) for each in entrants] == [(best.id, "scripted")]


@pytest.mark.usefixtures("pretending")
def test_the_command_replays_proposals_and_says_what_differs(write: Write) -> None:
    with ScriptedServer(writes) as server:
        config = load(write(server.url, candidates=2))
        go(config)
    told = CliRunner().invoke(app, ["replay", "--campaign", "small"])
    assert told.exit_code == 0, told.output
    with Store.open(config.campaign.store) as store:
        written = next(each for each in store.candidates("small") if each.author)
    shown = CliRunner().invoke(app, ["show", written.short])
    assert all(words in shown.stdout for words in ("scripted", "a guess", "mqar +0.100"))
    assert "2 of 2 candidates are proposed again" in told.output
    with Store.open(config.campaign.store) as store, store._engine.begin() as connection:
        connection.exec_driver_sql("UPDATE language_model_calls SET response = replace(response, 'a guess', 'a lie')")
    told = CliRunner().invoke(app, ["replay", "--campaign", "small", "--json"])
    assert told.exit_code == 6
    assert json.loads(told.stdout)["equal"] == 0


@pytest.mark.usefixtures("pretending")
@pytest.mark.parametrize(
    ("trouble", "recovers"),
    [
        (Scripted(status=429, body=b"{}", headers=(("Retry-After", "0.05"),)), True),
        (Scripted(status=500, body=b'{"error": {"message": "out of memory"}}'), True),
        (Scripted(text='{"term": "mix("', cut=True), True),
        (Scripted(text="x", padding=10_000_000), True),
        (Scripted(text="I would rather not."), True),
        (Scripted(text='{"term": "conjure(x)"}'), True),
        (Scripted(text=json.dumps({"term": zoo.load("mha", depth=1).text})), True),
        (Scripted(text='{"term": "mix(apply(dot(project(x), project(x)), value(x)), heads=2)"}'), True),
        (Scripted(status=404, body=b'{"error": {"message": "no such model"}}'), False),
        (Scripted(status=401, body=b'{"error": {"message": "key revoked"}}'), False),
    ],
    ids=["storm", "broken", "cut", "giant", "prose", "unknown", "duplicate", "ill-typed", "model", "key"],
)
def test_whatever_a_server_does_the_campaign_comes_to_its_end(write: Write, trouble: Scripted, recovers: bool) -> None:
    """Every second request is in trouble. What can be tried again or repaired is; else another arm proposes."""
    number = itertools.count()

    def answer(request: Mapping[str, Any]) -> Scripted:
        return trouble if next(number) % 2 else writes(request)

    with ScriptedServer(answer) as server:
        config = load(write(server.url, more="analyst = false\ncritic = false", candidates=3))
        assert go(config).state is CampaignState.FINISHED
        sent = len(server.requests)
    assert sum(origins(config).values()) == 3
    if recovers:
        assert origins(config)[Origin.LANGUAGE_MODEL] >= 2
    else:
        assert origins(config) == {Origin.LANGUAGE_MODEL: 1, Origin.EVOLUTION: 2}
        assert sent == 2  # what no later call will change is asked once
        with Store.open(config.campaign.store) as store:
            told = [event.text for event in store.events("small") if event.kind == "proposer"]
        assert len(told) == 2
        assert "scripted at" in told[0]
    assert is_repeated(config)


@pytest.mark.usefixtures("pretending")
def test_a_server_that_hangs_is_left_at_the_deadline(write: Write) -> None:
    with ScriptedServer(lambda request: Scripted(hang=True)) as server:
        path = write(server.url, candidates=1, of_model="retries = 0")
        config = load(path, "language_model.models.0.deadline_seconds=0.3")
        started = time.monotonic()
        assert go(config).state is CampaignState.FINISHED
        assert time.monotonic() - started < 30
    assert origins(config) == {Origin.EVOLUTION: 1}
    (call,) = calls(config)
    assert call.cost > 0  # the server may have charged for it


def test_workers_go_on_while_the_model_thinks(write: Write) -> None:
    """Baselines are measured while the first answer is awaited."""
    finished: list[int] = []

    def answer(request: Mapping[str, Any]) -> Scripted:
        time.sleep(2.0)
        with Store.open(config.campaign.store) as store:
            finished.append(sum(len(trial.results) for trial in store.history("small")))
        return writes(request)

    with ScriptedServer(answer) as server:
        config = load(write(server.url, more="analyst = false", candidates=2), "search.lookahead=4")
        go(config)
    assert origins(config)[Origin.LANGUAGE_MODEL] == 2
    assert finished[0] > 0  # the first proposal is asked for before anything is measured


@pytest.mark.usefixtures("pretending")
def test_budgets_of_tokens_and_money_hold_and_the_campaign_goes_on(write: Write) -> None:
    for number, budget in enumerate(("budget.tokens=40000", "budget.money=0.04")):
        with ScriptedServer(writes) as server:
            path = write(server.url, more="analyst = false\ncritic = false", candidates=4)
            store = f"campaign.store={path.parent / f'{number}.db'}"
            config = load(path, budget, store, "language_model.models.0.max_tokens=1000")
            assert go(config).state is CampaignState.FINISHED
        made = origins(config)
        assert 0 < made[Origin.LANGUAGE_MODEL] < 4
        assert made.total() == 4
        tokens = sum(call.prompt_tokens + call.completion_tokens for call in calls(config))
        assert tokens <= 40_000
        assert sum(call.cost for call in calls(config)) <= 40_000_000
        assert is_repeated(config)


@pytest.mark.usefixtures("pretending")
def test_the_first_ctrl_c_waits_for_the_answer_and_the_second_does_not(write: Write) -> None:
    with ScriptedServer(lambda request: Scripted(hang=True)) as server:
        path = write(server.url, candidates=1)
        config = load(path)
        polls = itertools.count()
        started = time.monotonic()
        outcome = go(config, stopping=lambda: 0 if not server.requests else 1 if next(polls) < 3 else 2)
        assert outcome.state is CampaignState.STOPPED
        assert time.monotonic() - started < 20
    (lost,) = calls(config)
    assert lost.response is None
    with ScriptedServer(lambda request: Scripted(text=writes(request).text, delay=0.5)) as server:
        moved = load(path, f'language_model.models.0.base_url="{server.url}"')
        outcome = go(moved, resume=True, stopping=lambda: int(bool(server.requests)))
        assert outcome.state is CampaignState.STOPPED
        assert [call.response is None for call in calls(moved)] == [True, False]
        assert go(moved, resume=True).state is CampaignState.FINISHED
        asked = [json.dumps(request, sort_keys=True) for request in server.requests if role(request) == "researcher"]
    assert len(asked) == len(set(asked)) == 1
    assert origins(moved) == {Origin.LANGUAGE_MODEL: 1}


@pytest.mark.slow
def test_killed_between_request_and_response_a_campaign_pays_for_no_recorded_answer_again(write: Write) -> None:
    """`kill -9` while each of the first requests is in flight; the same server goes on answering."""
    hanging = {0, 2, 4}
    number = itertools.count()

    def answer(request: Mapping[str, Any]) -> Scripted:
        return Scripted(hang=True) if next(number) in hanging else writes(request)

    with ScriptedServer(answer) as server:
        path = write(server.url, candidates=4)
        config = load(path)
        command = [sys.executable, "-m", "archloom", "run", str(path)]
        for ordinal in sorted(hanging):
            victim = subprocess.Popen(command, start_new_session=True, env=_environment(), stderr=subprocess.DEVNULL)
            deadline = time.monotonic() + 120
            while len(server.requests) <= ordinal and time.monotonic() < deadline and victim.poll() is None:
                time.sleep(0.05)
            assert victim.poll() is None
            time.sleep(0.2)
            os.killpg(victim.pid, signal.SIGKILL)
            victim.wait()
            command = [sys.executable, "-m", "archloom", "resume", "small", "--store", config.campaign.store]
        assert go(config, resume=True).state is CampaignState.FINISHED
        asked = Counter(json.dumps(request, sort_keys=True) for request in server.requests)
    recorded = calls(config)
    assert sum(call.response is None for call in recorded) == 3
    assert sorted(asked.values(), reverse=True)[:4] == [2, 2, 2, 1]  # what was lost is asked again, and nothing else
    assert len(recorded) == sum(asked.values())
    assert is_repeated(config)


def _environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}


# -- without a key, without a network, by hand


def test_without_a_key_run_and_doctor_say_what_to_set(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write("http://127.0.0.1:9/v1")
    monkeypatch.delenv("SCRIPTED_KEY")
    told = CliRunner().invoke(app, ["run", str(path)])
    assert told.exit_code == 7
    assert "SCRIPTED_KEY is not set" in told.stderr
    assert "export SCRIPTED_KEY=" in told.stderr
    assert not Path("small.db").exists()
    with pytest.raises(EnvironmentProblem, match="SCRIPTED_KEY"):
        go(load(path))
    checked = CliRunner().invoke(app, ["doctor", str(path), "--json"])
    (found,) = [check for check in json.loads(checked.stdout) if check["name"] == "language model scripted"]
    assert (checked.exit_code, found["verdict"]) == (7, "fail")
    assert "SCRIPTED_KEY is not set" in found["finding"]


def test_doctor_asks_whether_the_server_has_the_model(write: Write) -> None:
    def verdict(path: Path) -> tuple[str, str]:
        (found,) = check_models(load(path))
        return found.verdict, found.finding

    with ScriptedServer(writes) as server:
        assert verdict(write(server.url)) == ("ok", f"{server.url} has it")
    assert verdict(write(server.url))[0] == "fail"
    with ScriptedServer(writes, models=("another",)) as server:
        assert verdict(write(server.url)) == ("warn", f"{server.url} does not list it")
        assert server.requests == ()
    assert verdict(write(server.url, more="by_hand = true")) == ("ok", "its answers are given by hand")


@pytest.mark.usefixtures("pretending")
def test_a_person_plays_the_model(write: Write, monkeypatch: pytest.MonkeyPatch) -> None:
    """The campaign stops at every question; prompts are printed, answers read from files, and no server is needed."""
    path = write("http://127.0.0.1:9/v1", more="by_hand = true\ncritic = false", candidates=2)
    monkeypatch.delenv("SCRIPTED_KEY")
    runner = CliRunner()
    first = runner.invoke(app, ["propose", str(path), "--dry-run"])
    assert first.exit_code == 0, first.output
    assert "You are the researcher" in first.stdout
    assert not Path("small.db").exists()
    config = load(path)
    outcome = go(config)
    asked = 0
    while outcome.state is CampaignState.STOPPED:
        assert "archloom propose --dry-run" in outcome.message
        told = json.loads(runner.invoke(app, ["propose", "--dry-run", "--json"]).stdout)
        answer = writes(told["request"]).text
        assert answer is not None
        Path("answer.txt").write_text(f"Here it is:\n```json\n{answer}\n```")
        given = runner.invoke(app, ["propose", "--from-file", "answer.txt"])
        assert given.exit_code == 0, given.output
        asked += 1
        outcome = go(config, resume=True)
    assert outcome.state is CampaignState.FINISHED
    assert origins(config) == {Origin.LANGUAGE_MODEL: 2}
    assert [call.cost for call in calls(config)] == [0] * asked
    assert is_repeated(config)


def test_an_answer_by_hand_is_checked_and_refused_with_the_reason(write: Write) -> None:
    path = write("http://127.0.0.1:9/v1", more="repairs = 0")
    Path("wrong.txt").write_text('{"term": "mix(conjure(x))"}')
    runner = CliRunner()
    told = runner.invoke(app, ["propose", str(path), "--from-file", "wrong.txt"])
    assert told.exit_code == 1
    assert "conjure" in told.stderr
    for arguments, code, words in (
        (["propose", str(path)], 2, "--dry-run, or --from-file"),
        (["propose", str(path), "--from-file", "nowhere.txt"], 2, "cannot be read"),
        (["propose", str(path), "--dry-run", "--campaign", "small"], 2, "leave one of them out"),
        (["propose", str(path), "--dry-run", "--set", "search.arms={random=1.0}"], 2, "no language-model arm"),
    ):
        refused = runner.invoke(app, arguments)
        assert (refused.exit_code, words in refused.stderr) == (code, True), refused.output


@pytest.mark.usefixtures("pretending")
def test_an_answer_is_taken_only_where_one_is_awaited(write: Write) -> None:
    with ScriptedServer(writes) as server:
        config = load(write(server.url, candidates=1))
        go(config)
    Path("answer.txt").write_text("{}")
    late = CliRunner().invoke(app, ["propose", "--from-file", "answer.txt"])
    assert late.exit_code == 2
    assert "no arm's turn" in late.stderr
