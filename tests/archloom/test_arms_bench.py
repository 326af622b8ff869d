"""`archloom bench arms` end to end: campaigns with a real HTTP server and trials that cost nothing."""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from archloom import arms_bench, campaign, scripted_model
from archloom.agents.language_model.answers import researcher
from archloom.agents.language_model.edits import edited
from archloom.config import Config
from archloom.db.records import Measurement, Origin, Role, TrialSpec
from archloom.db.store import Store
from archloom.errors import ConfigError
from archloom.evaluator.executors.inline import InlineExecutor
from archloom.main import app
from archloom.scripted_server import Scripted, ScriptedServer
from archloom.search_space.text import parse

MEASURED = {
    arms_bench.NAME: "tiny",
    arms_bench.PROMPT_PRICE: "0",
    arms_bench.COMPLETION_PRICE: "2.5",
}


def pretend(spec: TrialSpec) -> Measurement:
    """A score that depends on the evaluation alone."""
    number = int.from_bytes(hashlib.sha256(repr(spec.key).encode()).digest()[:4], "big") / 2**32
    return Measurement(key=spec.key, score=number, metrics={}, environment={}, seconds=0.5)


@pytest.fixture(autouse=True, scope="module")
def _no_training() -> Iterator[None]:
    def make_executor(kind: str, **_: object) -> InlineExecutor:
        return InlineExecutor(work=pretend)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("archloom.campaign.make_executor", make_executor)
        for name in (arms_bench.ADDRESS, arms_bench.KEY, *MEASURED):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="module")
def base(campaign_file: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Config:
    tmp_path = tmp_path_factory.mktemp("base")
    return Config.load(str(campaign_file(tmp_path)), ("budget.candidates=3",)).config


def go(base: Config, store: Store, *, stopping: Callable[[], int] = lambda: 0) -> bool:
    return arms_bench.measure(base, replicates=2, store=store, progress=lambda progress: None, stopping=stopping)


def report(base: Config, store: Store) -> arms_bench.Measured:
    return arms_bench.report(base, replicates=2, store=store, device_price=3600.0)


def bench(file: Path, record: Path, *more: str) -> tuple[str, str]:
    arguments = ["bench", "arms", str(file), "--replicates", "2", "--candidates", "3", "--record", str(record), *more]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout, done.stderr


def test_the_command_measures_three_arms_says_that_a_script_answered_and_runs_nothing_twice(
    campaign_file: Callable[[Path], Path], tmp_path: Path
) -> None:
    file, record = campaign_file(tmp_path), tmp_path / "record"
    written, said = bench(file, record, "--json")
    found = json.loads(written)
    assert "says nothing about language models" in found["notice"]
    assert found["notice"] in said
    assert [each["arm"] for each in found["arms"]] == ["random", "evolution", "language_model"]
    by_arm = {each["arm"]: each for each in found["arms"]}
    assert {each["candidates"] for each in by_arm.values()} == {6}
    assert by_arm["random"]["calls"] == by_arm["evolution"]["tokens"] == 0
    assert by_arm["language_model"]["calls"] >= 6
    assert by_arm["language_model"]["fallbacks"] == 0
    with Store.open(record / "arms.db") as store:
        names = [each.name for each in store.campaigns()]
        assert sorted(names) == sorted(f"{arm}-{seed}" for arm in by_arm for seed in (0, 1))
        for arm, told in by_arm.items():
            trials = [trial for seed in (0, 1) for trial in store.history(f"{arm}-{seed}")]
            new = [trial for trial in trials if trial.candidate.origin is not Origin.ZOO]
            assert {trial.candidate.origin for trial in new} == {Origin(arm)}
            assert told["evaluations"] == sum(len(trial.results) for trial in new)
        calls = [call for seed in (0, 1) for call in store.calls(f"language_model-{seed}")]
        events = [store.events(name) for name in names]
        protocols = {each.protocol for each in store.campaigns()}
    assert protocols == {found["protocol"]}, "one protocol for all"
    model = by_arm["language_model"]
    assert model["tokens"] == sum(call.prompt_tokens + call.completion_tokens for call in calls)
    paid = sum(call.cost for call in calls) / 1e9
    assert paid > 0
    assert model["money"] == pytest.approx(paid + model["device_seconds"] / 3600)

    again, _ = bench(file, record, "--json")
    assert json.loads(again) == found
    with Store.open(record / "arms.db") as store:
        assert [store.events(name) for name in names] == events, "no campaign was resumed"
    free, _ = bench(file, record, "--json", "--device-price", "0")
    for run in [each for each in json.loads(free)["runs"] if each["arm"] == "language_model"]:
        spent = [0.0, *(point["money"] for point in run["path"])]
        assert all(before < after for before, after in itertools.pairwise(spent)), "each candidate is charged its calls"
        paid -= spent[-1]
    assert paid == pytest.approx(0.0, abs=1e-12)
    text, _ = bench(file, record)
    assert found["notice"] in text
    assert "Each arm alone in 2 campaigns" in text
    assert text.count("language_model - ") == 6
    assert text.count("evolution - random") == 3


def test_an_interrupted_measurement_goes_on_and_asks_nothing_twice(base: Config, tmp_path: Path) -> None:
    def measured(server: ScriptedServer, location: Path, *limits: int) -> tuple[arms_bench.Measured, list[str]]:
        environment = {**MEASURED, arms_bench.ADDRESS: server.url}
        with arms_bench.answered(base, environment) as config, Store.open(location, create=True) as store:
            for limit in limits:
                assert not go(config, store, stopping=lambda limit=limit: int(len(server.requests) >= limit))
            assert go(config, store)
            found = report(config, store)
            recorded = [call for seed in (0, 1) for call in store.calls(f"language_model-{seed}")]
        assert len(server.requests) == len(recorded)
        assert found.notice == ""
        return found, [json.dumps(each, sort_keys=True) for each in server.requests]

    with ScriptedServer(scripted_model.reply) as server:
        whole, asked = measured(server, tmp_path / "whole.db")
    with ScriptedServer(scripted_model.reply) as server:
        pieces, asked_again = measured(server, tmp_path / "pieces.db", 2, 5)
    assert asked_again == asked
    assert len(set(asked)) == len(asked)
    assert pieces.runs == whole.runs


def test_a_model_that_says_nonsense_is_paid_for_and_gets_no_credit_for_what_replaced_it(
    base: Config, tmp_path: Path
) -> None:
    with ScriptedServer(lambda request: Scripted(text="no idea", prompt_tokens=10, completion_tokens=4)) as server:
        environment = {**MEASURED, arms_bench.ADDRESS: server.url}
        with arms_bench.answered(base, environment) as config, Store.open(tmp_path / "arms.db", create=True) as store:
            assert go(config, store)
            found = {each.arm: each for each in report(config, store).arms}
        asked = len(server.requests)
    model = found["language_model"]
    assert (model.candidates, model.fallbacks, model.refusals) == (6, 6, 6)
    assert model.calls == asked == 6 * 4, "one answer and three repairs each"
    assert model.money == pytest.approx(asked * 4 * 2.5e-6 + model.device_seconds)
    assert {each.mean for each in model.best.values()} == {-5.0}
    assert found["random"].fallbacks == found["evolution"].fallbacks == 0


def test_a_record_of_another_measurement_is_refused(base: Config, tmp_path: Path) -> None:
    other = base.model_copy(update={"budget": base.budget.model_copy(update={"candidates": 5})})
    with Store.open(tmp_path / "arms.db", create=True) as store:
        with arms_bench.answered(base, {}) as config:
            assert not go(config, store, stopping=lambda: 1)
        with arms_bench.answered(base, {}) as config:
            assert not go(config, store, stopping=lambda: 1), "another port of a scripted model is no other measurement"
        with arms_bench.answered(other, {}) as config, pytest.raises(ConfigError, match=r"'random-0'.*\n.*--record"):
            go(config, store)


def test_the_environment_describes_the_model_and_an_unknown_price_is_refused() -> None:
    address = {arms_bench.ADDRESS: "http://127.0.0.1:1/v1"}
    assert arms_bench.models_of({}) == ()
    (model,) = arms_bench.models_of({**address, **MEASURED})
    assert (model.model, model.base_url, model.key_variable) == ("tiny", "http://127.0.0.1:1/v1", "")
    assert (model.prompt_price, model.completion_price) == (0.0, 2.5)
    (model,) = arms_bench.models_of({**address, **MEASURED, arms_bench.KEY: "secret"})
    assert model.key_variable == arms_bench.KEY
    for missing in MEASURED:
        given = {name: value for name, value in MEASURED.items() if name != missing}
        with pytest.raises(ConfigError, match=f"{missing} is not; (.*\n.*)export {missing}="):
            arms_bench.models_of({**address, **given})
    for price in ("cheap", "-1", "nan"):
        with pytest.raises(ConfigError, match=r"price|PRICE"):
            arms_bench.models_of({**address, **MEASURED, arms_bench.PROMPT_PRICE: price})
    with pytest.raises(ConfigError, match="base_url"):
        arms_bench.models_of({**address, **MEASURED, arms_bench.ADDRESS: "localhost"})


def test_the_command_refuses_before_it_writes(
    campaign_file: Callable[[Path], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, record = str(campaign_file(tmp_path)), tmp_path / "record"
    both = CliRunner().invoke(app, ["bench", "arms", file, "--suite", "smoke", "--record", str(record)])
    assert both.exit_code == 2
    assert "leave one of them out" in both.stderr
    monkeypatch.setenv(arms_bench.ADDRESS, "http://127.0.0.1:1/v1")
    monkeypatch.setenv(arms_bench.NAME, "tiny")
    unpriced = CliRunner().invoke(app, ["bench", "arms", file, "--record", str(record)])
    assert unpriced.exit_code == 2
    assert f"export {arms_bench.PROMPT_PRICE}=" in unpriced.stderr
    assert not record.exists()


def test_the_model_is_the_environments_else_the_files_else_a_scripted_one(base: Config) -> None:
    own = arms_bench.models_of({arms_bench.ADDRESS: "http://own.test/v1", **MEASURED})
    environment = {arms_bench.ADDRESS: "http://other.test/v1", **MEASURED}
    with arms_bench.answered(base, {}) as config:
        assert arms_bench.is_scripted(config)
    with arms_bench.answered(base, environment) as filed:
        pass
    filed = filed.model_copy(update={"language_model": filed.language_model.model_copy(update={"models": own})})  # type: ignore[union-attr]
    for given, host in (({}, "own.test"), (environment, "other.test")):
        with arms_bench.answered(filed, given) as config:
            assert config.language_model is not None
            assert host in config.language_model.models[0].base_url
            assert not arms_bench.is_scripted(config)


def test_the_small_campaign_has_the_suite_and_few_baselines() -> None:
    small = arms_bench.small("smoke")
    assert small.protocol.suite == "smoke/1"
    assert small.search.baselines is not None
    assert len(small.search.baselines) == 4
    with pytest.raises(ConfigError, match="archloom tasks"):
        arms_bench.small("smokes")


# -- the scripted model -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def requests(base: Config, tmp_path_factory: pytest.TempPathFactory) -> list[Mapping[str, Any]]:
    """What a campaign asks, with prompts that show parents, and every role."""
    location = tmp_path_factory.mktemp("requests") / "arms.db"
    base = base.model_copy(
        update={
            "budget": base.budget.model_copy(update={"candidates": 10}),
            "search": base.search.model_copy(update={"lookahead": 1}),
        }
    )
    with arms_bench.answered(base, {}) as config, Store.open(location, create=True) as store:
        config = arms_bench.campaign_of(config, arm="language_model", seed=0)
        section = config.language_model.model_copy(update={"novelty": 40})  # type: ignore[union-attr]
        campaign.run(
            config.model_copy(update={"language_model": section}),
            store=store,
            resume=False,
            progress=lambda progress: None,
            stopping=lambda: 0,
        )
        return [json.loads(call.request) for call in store.calls("language_model-0")]


def role(request: Mapping[str, Any]) -> str:
    return str(request["response_format"]["json_schema"]["name"])


def test_the_scripted_model_plays_every_role_and_its_repairs_and_edits_are_terms(
    requests: list[Mapping[str, Any]],
) -> None:
    assert {role(each) for each in requests} == {Role.RESEARCHER, Role.REPAIR, Role.CRITIC, Role.ANALYST}
    last = [each for each in requests if role(each) == Role.RESEARCHER][-1]
    repair = json.loads(json.dumps(last).replace('"name": "researcher"', '"name": "repair"'))
    assert role(repair) == Role.REPAIR
    parents = dict(scripted_model._parents(last["messages"][1]["content"]))
    assert parents
    kinds = set()
    for seed in range(40):
        text = scripted_model.reply({**repair, "seed": seed}).text or ""
        assert text == scripted_model.reply({**repair, "seed": seed}).text, "a function of the request"
        answer = researcher(text, tasks=["mqar"])
        whole = edited(parse(parents[answer.parent]), answer.edits) if answer.edits else answer.term
        assert parse(whole).type.value == "stack"
        assert [task for task, _ in answer.predictions] == ["mqar"]
        kinds.add("edit" if answer.edits else "write")
    assert kinds == {"edit", "write"}


def test_some_first_answers_of_the_scripted_model_are_broken(requests: list[Mapping[str, Any]]) -> None:
    texts = {scripted_model.reply({**requests[0], "seed": seed}).text or "" for seed in range(60)}
    broken = [text for text in texts if "on purpose" in text or not text.startswith("{")]
    assert {"wizardry" in text for text in broken} == {True, False}


def test_a_request_without_a_role_is_refused() -> None:
    assert scripted_model.reply({"messages": [], "seed": 0}).status == 400
    named = {"messages": [], "response_format": {"json_schema": {"name": "poet"}}}
    assert scripted_model.reply(named).status == 400
