"""The commands that explain terms and the space: `show`, `zoo` and `zoo coverage`."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

import archloom
from archloom.commands import options
from archloom.commands.space import COVERAGE
from archloom.main import app
from archloom.search_space import catalogue, complexity, zoo
from archloom.search_space.explain import explain
from archloom.search_space.text import parse

SOURCES = Path(archloom.__file__).parents[1]
TERM = "mix(apply(rownorm(masked(exp(dot(project(x), project(x))), visible)), value(x)), heads=2)"


def invoke(*arguments: str, stdin: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), input=stdin)


def answer(*arguments: str) -> Any:
    """The JSON that a command prints."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


# show


def test_show_explains_a_term() -> None:
    first = explain(parse(TERM)).nearest[0]
    shown = invoke("show", "--term", TERM)
    assert shown.exit_code == 0, shown.output
    for expected in (
        "scaled inner products of queries and keys",
        "mix heads=2",
        "A1_ts = exp(K^{-1/2} ⟨q_t, k_s⟩) [s ≤ t]",
        r"o_t = \sum_{s \le t} A_{2,ts} \, v_s",
        "O(T²) in the length",
        "O(T) per token",
        "grows, O(T): 2,097,152 bytes at 4,096 tokens",
        f"{first.name}, distance {first.distance:g}",
        first.changes[0].line,
    ):
        assert expected in shown.stdout


def test_show_takes_a_file_stdin_and_a_system(tmp_path: Path) -> None:
    path = tmp_path / "term.txt"
    path.write_text(f"# a note\n{TERM}\n")
    wanted = answer("show", "--term", TERM)
    assert answer("show", "--term", str(path)) == wanted
    assert json.loads(invoke("show", "--term", "-", "--json", stdin=TERM).stdout) == wanted
    assert answer("show", "--zoo", "kda")["same_as"] == "kda"
    assert "this is kda of the zoo" in invoke("show", "--zoo", "kda").stdout


def test_a_file_is_meant_even_without_a_suffix(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine").write_text(TERM)
    assert answer("show", "--term", "mine") == answer("show", "--term", TERM)
    assert answer("show", "--term", "mlp")["type"] == "channel mixer"


def test_json_holds_the_explanation_whole() -> None:
    found = answer("show", "--term", TERM, "--context", "512")
    assert set(found) == {
        "id", "type", "term", "text", "same_as", "operations", "equations", "complexity", "nearest"
    }  # fmt: skip
    assert found["complexity"]["context"] == 512
    assert found["complexity"]["state_bytes"] == 2_097_152 // 8
    change = found["nearest"][0]["changes"][0]
    assert set(change) == {"kind", "before", "after", "where", "operations"}
    assert change["kind"] in ("removed", "added", "replaced", "changed", "moved")
    assert found["equations"][0]["latex"] == "q_t = W_q x_t"


def test_the_context_is_the_same_everywhere() -> None:
    assert options.CONTEXT == complexity.CONTEXT


def test_diff_says_how_much_is_told_of_the_neighbours() -> None:
    first = explain(parse(TERM)).nearest[0]
    full = invoke("show", "--term", TERM, "--diff", "full").stdout
    assert f"--- zoo/{first.name}" in full
    assert "+++ this" in full
    none = invoke("show", "--term", TERM, "--diff", "none").stdout
    assert f"{first.name}, distance {first.distance:g}" in none
    assert first.changes[0].line not in none
    assert invoke("show", "--term", TERM, "--diff", "some").exit_code == 2


def test_what_is_cut_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("archloom.space_display.MOST_CHANGES", 0)
    more = len(explain(parse(TERM)).nearest[0].changes)
    assert f"and {more} more: --diff full shows all" in invoke("show", "--term", TERM).stdout


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (("--zoo", "kdaa"), 3, "did you mean kda"),
        (("--zoo", "zzzzzz"), 3, f"it has {zoo.names()[0]}, {zoo.names()[1]}"),
        (("--term", "mix(aply(x))"), 2, "line 1, column 5: `aply` is neither"),
        (("--term", "no/such/file.txt"), 2, "neither a term nor a file that can be read: No such file"),
        (("--term", TERM, "--zoo", "kda"), 2, "one of them"),
        ((), 2, "show takes an ID, --term or --zoo"),
        (("--term", TERM, "--context", "0"), 2, "--context"),
        (("--term", ""), 2, "line 1, column 1"),
        (("--term", "q" * 5000), 2, "neither an operation"),
    ],
)
def test_mistakes_are_told(arguments: tuple[str, ...], code: int, words: str) -> None:
    result = invoke("show", *arguments)
    assert result.exit_code == code, result.output
    assert words in result.output
    assert "Traceback" not in result.output


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    path = tmp_path / "term.bin"
    path.write_bytes(b"mix\xff")
    result = invoke("show", "--term", str(path))
    assert result.exit_code == 2
    assert "not UTF-8 at byte 3" in result.output


def test_control_characters_of_a_file_do_not_reach_the_terminal() -> None:
    result = invoke("show", "--term", "-", stdin="mix(\x1b[31m)")
    assert result.exit_code == 2
    assert "\x1b" not in result.output


# zoo


def test_zoo_lists_row_pattern_classes_and_state() -> None:
    lines = {line.split()[0]: line for line in invoke("zoo").stdout.splitlines() if line.split()}
    assert set(zoo.names()) <= set(lines)
    for expected in ("Kimi delta attention", " 3 ", "causal", "O(T)", "O(1)", "constant", "6,400"):
        assert expected in lines["kda"]
    for expected in ("O(T²)", "O(T)", "grows", "2,097,152"):
        assert expected in lines["mha"]


def test_zoo_speaks_json() -> None:
    listed = {each["name"]: each for each in answer("zoo", "--context", "128")}
    assert tuple(listed) == zoo.names()
    about = explain(zoo.load("hyena"), context=128).complexity
    assert about is not None
    assert listed["hyena"]["complexity"]["training"] == about.training == "O(T log T)"
    assert listed["hyena"]["complexity"]["state_bytes"] == about.state_bytes
    (one,) = answer("zoo", "kda")
    assert (one["name"], one["pattern"]) == ("kda", "causal")


def test_zoo_of_an_unknown_name_says_what_is_near() -> None:
    result = invoke("zoo", "gatd_deltanet")
    assert result.exit_code == 3
    assert "did you mean gated_deltanet" in result.stderr
    assert "coverage" in invoke("zoo", "coverag").stderr


def test_no_system_is_called_coverage() -> None:
    assert COVERAGE not in zoo.names()


def test_coverage_lists_the_mixers_and_blocks_and_a_total() -> None:
    shown = invoke("zoo", "coverage").stdout
    lines = {line.split()[0]: line for line in shown.splitlines() if line.split()}
    assert "zoo:based" in lines["41"]
    assert "yes" in lines["41"]
    found = [catalogue.expressed(row).state for row in catalogue.of_kinds(("M", "B"))]
    assert f"{found.count(catalogue.State.EXPRESSED)} of {len(found)} rows of kinds M, B are expressed" in shown
    assert "73" not in lines


def test_coverage_of_every_kind_in_json() -> None:
    rows = {each["row"]["number"]: each for each in answer("zoo", "coverage", "--all")}
    assert set(rows) == {row.number for row in catalogue.of_kinds(("M", "B", "S", "V"))}
    assert rows[41]["state"] == "yes"
    assert rows[73] == {"row": rows[73]["row"], "state": "not a term", "found": [], "missing": []}
    assert "are no matter of terms" in invoke("zoo", "coverage", "--all").stdout


def test_all_belongs_to_coverage() -> None:
    result = invoke("zoo", "--all")
    assert result.exit_code == 2
    assert "zoo coverage --all" in result.stderr


@pytest.mark.parametrize("arguments", ["show --zoo kda", "zoo", "zoo coverage"])
def test_explaining_imports_no_torch(arguments: str) -> None:
    code = (
        "import sys\nfrom archloom.main import main\n"
        f"sys.argv = ['archloom', *{arguments.split()!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    code = end.code\n"
        "sys.exit(code or ('torch' in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
