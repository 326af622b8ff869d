"""`archloom knowledge`: searching, showing, and adding entries of one's own."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import archloom
from archloom.agents.knowledge.entries import entries
from archloom.commands.knowledge import KNOWLEDGE_VARIABLE
from archloom.main import app

SOURCES = Path(archloom.__file__).parents[1]
MINE = """
[[entry]]
name = "Windowed delta"
title = "A delta rule that erases within a window"
year = 2026
kinds = "M"
mechanism = "The resolvent sees zyzzyva tokens of a window only."
operations = ["resolve", "window"]
"""


@pytest.fixture(autouse=True)
def _no_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KNOWLEDGE_VARIABLE, raising=False)


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    path = tmp_path / "mine.toml"
    path.write_text(MINE)
    return path


def invoke(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["knowledge", *map(str, arguments)])


def answer(*arguments: str | Path) -> Any:
    """The JSON that a command prints."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_search_lists_the_most_relevant_first() -> None:
    lines = invoke("search", "delta rule with a decay per channel", "-n", "3").stdout.splitlines()
    rows = [line for line in lines if line.split() and line.split()[0].isdecimal()]
    assert len(rows) == 3
    assert rows[0].split()[:3] == ["3", "Kimi", "Linear"]


def test_search_speaks_json_and_takes_words_apart() -> None:
    found = answer("search", "attention", "sinks")
    assert found == answer("search", "attention sinks")
    assert found[0]["entry"]["row"] == 62
    assert [hit["relevance"] for hit in found] == sorted((hit["relevance"] for hit in found), reverse=True)
    assert len(answer("search", "attention", "--limit", "2")) == 2


def test_search_without_a_hit_is_an_empty_answer() -> None:
    assert answer("search", "zyzzyva") == []
    result = invoke("search", "zyzzyva")
    assert (result.exit_code, result.stdout) == (0, "")
    assert "no entry has a word of `zyzzyva`" in result.stderr


@pytest.mark.parametrize("name", ["3", "kda", "kimi linear", "Kimi Linear"])
def test_show_prints_an_entry(name: str) -> None:
    shown = invoke("show", name).stdout
    entry = entries()[2]
    for expected in (
        entry.title,
        "2025",
        "sequence mixer, block or stack",
        entry.equation,
        "decayed_gram",
        "kimi_linear",
    ):
        assert expected in shown
    for text in (entry.mechanism, entry.strengths, entry.weaknesses, entry.use):
        assert text.split()[-1] in shown
    assert answer("show", name)["mechanism"] == entry.mechanism


def test_an_added_entry_is_searched_and_shown(mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "new" / "folder"
    assert [entry["name"] for entry in answer("add", mine, "--knowledge", folder)] == ["Windowed delta"]
    assert [path.name for path in folder.iterdir()] == ["mine.toml"]
    (hit,) = answer("search", "zyzzyva", "--knowledge", folder)
    assert hit["entry"]["name"] == "Windowed delta"
    assert hit["entry"]["row"] is None
    assert "erases within a window" in invoke("show", "windowed-delta", "--knowledge", folder).stdout
    assert invoke("show", "windowed-delta").exit_code == 3
    monkeypatch.setenv(KNOWLEDGE_VARIABLE, str(folder))
    assert len(answer("search", "zyzzyva")) == 1
    assert "Windowed delta" in invoke("search", "zyzzyva").stdout


def test_a_second_file_stands_beside_the_first(mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert invoke("add", mine, "--knowledge", folder).stdout == f"{folder}: Windowed delta\n"
    other = tmp_path / "other.toml"
    other.write_text(MINE.replace("Windowed", "Strided"))
    assert invoke("add", other, "--knowledge", folder).exit_code == 0
    assert len(answer("search", "zyzzyva", "--knowledge", folder)) == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (MINE.replace("resolve", "resolv"), "did you mean resolve"),
        (MINE.replace("Windowed delta", "kimi LINEAR"), "has a `kimi LINEAR` already"),
        (MINE + MINE, "has a `Windowed delta` already"),
        (MINE + "row = 3", "rows number the catalogue's own entries"),
        ("[[entry]", "not TOML"),
    ],
)
def test_a_wrong_file_is_not_added(text: str, words: str, tmp_path: Path) -> None:
    path, folder = tmp_path / "wrong.toml", tmp_path / "folder"
    path.write_text(text)
    result = invoke("add", path, "--knowledge", folder)
    assert result.exit_code == 2
    assert words in result.stderr
    assert str(path) in result.stderr
    assert not folder.exists()


def test_what_is_there_already_is_not_overwritten(mine: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    assert invoke("add", mine, "--knowledge", folder).exit_code == 0
    mine.write_text(MINE.replace("Windowed", "Strided"))
    result = invoke("add", mine, "--knowledge", folder)
    assert result.exit_code == 2
    assert "is there already" in result.stderr
    assert (folder / "mine.toml").read_text() == MINE


def test_other_mistakes_are_told(mine: Path, tmp_path: Path) -> None:
    (tmp_path / "bytes.toml").write_bytes(b"[[entry]]\nname = '\xff'")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "bad.toml").write_text("[[entry]")
    for arguments, code, words in (
        (("add", mine), 2, KNOWLEDGE_VARIABLE),
        (("add", tmp_path / "none.toml", "--knowledge", tmp_path / "to"), 2, "No such file"),
        (("add", tmp_path / "bytes.toml", "--knowledge", tmp_path / "to"), 2, "not UTF-8 at byte 18"),
        (("add", mine, "--knowledge", mine / "under"), 7, "cannot be written"),
        (("search", "delta", "--knowledge", tmp_path / "nowhere"), 3, "there is no folder"),
        (("search", "delta", "--knowledge", broken), 2, "bad.toml: not TOML"),
        (("search", "of the"), 2, "no word to search for"),
        (("search",), 2, "QUERY"),
        (("show", "kimmi"), 3, "did you mean kimi_linear"),
        (("show", "999"), 3, "rows are 1 to 167"),
    ):
        result = invoke(*arguments)
        assert result.exit_code == code, (arguments, result.output)
        assert words in result.stderr, arguments
        assert "Traceback" not in result.stderr


def test_control_characters_of_an_entry_do_not_reach_the_terminal(mine: Path, tmp_path: Path) -> None:
    mine.write_text(MINE.replace("zyzzyva", "zyzzyva \\u001B[31m"))
    assert invoke("add", mine, "--knowledge", tmp_path / "folder").exit_code == 0
    for arguments in (("search", "zyzzyva"), ("show", "Windowed delta")):
        result = invoke(*arguments, "--knowledge", tmp_path / "folder")
        assert result.exit_code == 0
        assert "\x1b" not in result.output


def test_searching_imports_nothing_heavy() -> None:
    code = (
        "import sys\nfrom archloom.main import main\n"
        "sys.argv = ['archloom', 'knowledge', 'search', 'delta']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "sys.exit(code or bool({'torch', 'openai', 'ray', 'sqlalchemy'} & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
