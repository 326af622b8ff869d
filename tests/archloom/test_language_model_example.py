"""`examples/language_model.toml` and what docs/language_model.md does with it, against a scripted server."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

from archloom import scripted_model
from archloom.agents.language_model.lengths import MAX_PROMPT_TOKENS
from archloom.config import Config, LanguageModel, ModelSection
from archloom.main import app
from archloom.protocol import to_protocol
from archloom.scripted_server import ScriptedServer
from archloom.search_space.text import parse
from archloom.search_space.types import Type

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "language_model.toml"
GUIDE = (ROOT / "docs" / "language_model.md").read_text()
SHORT = (
    "budget.candidates=3",
    "search.baselines=['mha_conv']",
    "search.lookahead=1",
    "search.arms={language_model=1.0}",
    "protocol.rungs=[{stages=[{task='mqar', steps=4, seeds=[0, 1]}]}]",
    "executor.kind='inline'",
)
"""The example in seconds: few candidates, hardly trained."""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def blocks(language: str) -> str:
    """The guide's blocks of one language."""
    return "\n".join(re.findall(rf"```{language}\n(.*?)```", GUIDE, re.DOTALL))


def commands() -> list[list[str]]:
    """The guide's command lines of archloom, without the names of commands before them."""
    lines = [line.partition("#")[0] for line in blocks("sh").replace("\\\n", " ").splitlines()]
    return [shlex.split(line)[1:] for line in lines if line.startswith("archloom ")]


def test_the_example_is_sound_and_names_a_free_server_on_this_machine() -> None:
    config = Config.load(str(EXAMPLE)).config
    to_protocol(config)
    assert config.language_model is not None
    (model,) = config.language_model.models
    assert (model.key_variable, model.prompt_price, model.completion_price) == ("", 0.0, 0.0)
    assert "127.0.0.1" in model.base_url
    assert dict(config.search.shares) == {"language_model": 0.5, "random": 0.5}


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The example's campaign after its end, when its server is gone."""
    location = str(tmp_path_factory.mktemp("example") / "language_model.db")
    with ScriptedServer(scripted_model.reply, models=("local",)) as server:
        address = f"language_model.models.0.base_url='{server.url}'"
        changes = [part for change in (*SHORT, address) for part in ("--set", change)]
        done = invoke("run", str(EXAMPLE), "--store", location, *changes)
        assert done.exit_code == 0, done.output
        assert len(server.requests) >= 3
    return location


def test_it_runs_and_every_call_is_on_record(store: str) -> None:
    calls = json.loads(invoke("logs", "--calls", "--store", store, "--json").stdout)
    assert {call["role"] for call in calls} >= {"researcher", "analyst"}
    assert {(call["model"], call["cost"]) for call in calls} == {("local", 0)}
    assert all(call["response"] for call in calls)
    proposed = json.loads(
        invoke("sql", "select origin from candidates where origin != 'zoo'", "--store", store, "--json").stdout
    )
    assert [row["origin"] for row in proposed] == ["language_model"] * 3


def test_its_proposals_are_made_again_without_the_server(store: str) -> None:
    done = invoke("replay", "--store", store)
    assert done.exit_code == 0, done.output
    assert "3 of 3 candidates are proposed again" in done.stdout


def test_the_guides_queries_answer(store: str) -> None:
    queries = [command[1] for command in commands() if command[0] == "sql"]
    assert queries
    for query in queries:
        done = invoke("sql", query, "--store", store, "--json")
        assert done.exit_code == 0, done.output
        assert json.loads(done.stdout), query


def test_its_prompt_is_printed_and_an_answer_of_ones_own_is_read(tmp_path: Path) -> None:
    done = invoke("propose", str(EXAMPLE), "--dry-run")
    assert done.exit_code == 0, done.output
    assert "Find token mixers that recall better" in done.stdout
    answers = re.findall(r"```json\n(.*?)```", GUIDE, re.DOTALL)
    assert answers
    for place, text in enumerate(answers):
        file = tmp_path / f"answer-{place}.json"
        file.write_text(text)
        done = invoke("propose", str(EXAMPLE), "--from-file", str(file), "--set", "language_model.critic=false")
        assert done.exit_code == 0, done.output
        assert parse(done.stdout).type is Type.STACK


def test_every_command_and_option_of_the_guide_is_there() -> None:
    assert len(commands()) >= 10
    for words in commands():
        command: Any = get_command(app)
        while hasattr(command, "commands"):
            name, *words = words
            assert name in command.commands, name
            command = command.commands[name]
        known = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("-") and word != "-"} <= known, (command.name, words)


def test_the_guide_tells_every_key_of_the_section_and_the_length_of_a_prompt() -> None:
    for name in LanguageModel.model_fields:
        assert f"`{name}`" in GUIDE or f"[[language_model.{name}]]" in GUIDE, name
    for name in ModelSection.model_fields:
        assert f"`{name}`" in GUIDE, name
    assert f"{MAX_PROMPT_TOKENS:,} tokens" in GUIDE
