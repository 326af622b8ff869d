"""Campaign files: defaults, ranges, origins of values, and errors that name the place."""

import hashlib
import json
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from archloom import positions
from archloom.config import Config
from archloom.db.records import Protocol
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.protocol import baselines, check_version, to_protocol
from archloom.resolve import amend

QUICKSTART = Path(__file__).parents[2] / "examples" / "quickstart.toml"

AWKWARD = '''
top = 1 # a comment with [brackets] and "quotes"
"quoted key" = 'a # b'
dotted.inner = """
several [lines]
\\""" still inside"""
literal = \'\'\'
x = 3 \'\'\'
[table]
list = [
  1, # one
  [2, 3],
  { a = 1, b = [ { c = "}" } ] },
]
when = 1979-05-27 07:32:00
[table."odd.name"]
x = true
[[many]]
y = 1
[[many.inner]]
z = "1,2"
[[many.inner]]
z = 2
[many.plain]
w = inf
[[many]]
y = 2
'''


def write(folder: Path, text: str) -> str:
    path = folder / "campaign.toml"
    path.write_text(text)
    return str(path)


def refusal(path: str, *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        Config.load(path, overrides)
    return str(caught.value)


def paths(value: Any, path: positions.Path = ()) -> set[positions.Path]:
    """Every table, key and element of a parsed document."""
    found = {path} if path else set()
    if isinstance(value, dict):
        return found.union(*(paths(item, (*path, key)) for key, item in value.items()))
    if isinstance(value, list):
        return found.union(*(paths(item, (*path, index)) for index, item in enumerate(value)))
    return found


@pytest.mark.parametrize("text", [AWKWARD, AWKWARD.replace("\n", "\r\n"), QUICKSTART.read_text(), ""])
def test_every_key_of_a_document_has_a_line(text: str) -> None:
    assert set(positions.lines(text)) == paths(tomllib.loads(text))


def test_lines_are_those_where_the_keys_stand() -> None:
    found = positions.lines(AWKWARD)
    rows = AWKWARD.split("\n")
    for path, line in found.items():
        if isinstance(path[-1], str):
            assert path[-1] in rows[line - 1], (path, line)
    assert rows[found["table", "list", 2, "b", 0, "c"] - 1].strip().startswith("{ a = 1")
    assert found["many", 0, "inner", 1, "z"] == found["many", 0, "inner", 0, "z"] + 2


def test_two_lines_make_a_campaign(tmp_path: Path) -> None:
    config = Config.load(write(tmp_path, '[campaign]\nname = "mine"\n')).config
    assert config.budget.candidates == 100
    assert config.budget.wall_seconds is None
    assert config.search.shares == (("evolution", 0.5), ("random", 0.5))
    assert config.executor.kind == "ray"


def test_the_quickstart_is_sound() -> None:
    config = Config.load(str(QUICKSTART)).config
    assert (config.campaign.name, config.budget.candidates, config.budget.wall_seconds) == ("quickstart", 60, 540)
    assert config.campaign.store == "quickstart.db"


def test_every_value_has_its_origin(tmp_path: Path) -> None:
    path = write(tmp_path, '[campaign]\nname = "mine"\n[protocol]\nwidth = 16\n')
    resolved = Config.load(path, ["budget.candidates=7"], {"executor.kind": ("inline", "--executor")})
    assert resolved.origin("campaign.seed") == "default"
    assert resolved.origin("protocol.width") == f"{path}:4"
    assert resolved.origin("budget.candidates") == "--set budget.candidates=7"
    assert resolved.origin("executor.kind") == "--executor"
    shown = {value.key: value.value for value in resolved.values}
    assert (shown["protocol.width"], shown["budget.candidates"], shown["executor.kind"]) == (16, 7, "inline")


def test_set_overrides_the_file_and_options_override_both() -> None:
    options = {"campaign.store": ("c.db", "--store")}
    resolved = Config.load(str(QUICKSTART), ["campaign.store=b.db", "protocol.tasks.0.pairs=4"], options)
    assert resolved.config.campaign.store == "c.db"
    assert resolved.config.protocol.tasks[0].pairs == 4  # type: ignore[union-attr]
    assert resolved.origin("protocol.tasks[0].pairs") == "--set protocol.tasks.0.pairs=4"
    assert resolved.origin("protocol.tasks[0].vocabulary").startswith(f"{QUICKSTART}:")


def test_arms_are_normalised(tmp_path: Path) -> None:
    path = write(tmp_path, '[campaign]\nname = "a"\n[search.arms]\nevolution = 3\nrandom = 1\n')
    assert Config.load(path).config.search.shares == (("evolution", 0.75), ("random", 0.25))


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("[protocol]\nwidht = 3", 4, "protocol.widht: unknown key; did you mean 'width'?"),
        ("[bugdet]\ncandidates = 3", 3, "bugdet: unknown key; did you mean 'budget'?"),
        ("[budget]\nxyz = 3", 4, "known here: candidates, device_seconds, money, tokens, wall_seconds"),
        ("[protocol]\nwidth = '32'", 4, 'protocol.width = "32": should be a valid integer'),
        ("[protocol]\nwidth = true", 4, "protocol.width = true: should be a valid integer"),
        ("[protocol]\nwidth = -1", 4, "protocol.width = -1: should be greater than 0"),
        ("[protocol]\ntolerance = inf", 4, "protocol.tolerance = Infinity: should be a finite number"),
        ("[budget]\ncandidates = 0", 4, "a budget of zero buys nothing"),
        ("[budget]\nwall_seconds = 0.0", 4, "a budget of zero buys nothing"),
        ("[budget]\nwall_seconds = 0", 4, "a budget of zero buys nothing"),
        ("[executor]\nkind = 'slurm'", 4, "should be 'ray', 'process' or 'inline'"),
        (
            "[[protocol.tasks]]\nname = 'mqar'\npears = 3",
            5,
            "protocol.tasks[0].pears: unknown key; did you mean 'pairs'?",
        ),
        ("[[protocol.tasks]]\nname = 'copy'", 3, "should be named after its kind"),
        ("[[protocol.tasks]]\nname = 'text'\n[[protocol.tasks]]\nname = 'text'", 6, "described twice"),
        (
            "[[protocol.rungs]]\nstages = [\n{ task = 'mqar', steps = 1 },\n{ task = 'mqr', steps = 1 }]",
            6,
            "mqar, text",
        ),
        ("[[protocol.rungs]]\nstages = []", 4, "at least 1 item"),
        ("[[protocol.rungs]]\nstages = [{ task = 'mqar' }]", 4, "protocol.rungs[0].stages[0].steps is missing"),
        ("[search.arms]\nrandom = 0", 3, "no arm has a share"),
        ("[search.arms]\nlanguage_model = 1", 4, "needs a [language_model] section"),
        ("[search.evolution]\ntournament = 40", 4, "at most the population, 24"),
    ],
)
def test_an_error_names_the_line_and_what_is_allowed(tmp_path: Path, text: str, line: int, said: str) -> None:
    path = write(tmp_path, f'[campaign]\nname = "mine"\n{text}\n')
    message = refusal(path)
    assert "\n" not in message, "one mistake is one line"
    assert message.startswith(f"{path}:{line}: ")
    assert said in message


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    path = write(tmp_path, '[campaign]\nname = "mine"\nsed = 1\n[protocol]\nwidth = 0\n')
    assert [line.split(": ")[0] for line in refusal(path).splitlines()] == [f"{path}:3", f"{path}:5"]


def test_the_name_is_demanded(tmp_path: Path) -> None:
    path = write(tmp_path, "[campaign]\nseed = 1\n")
    assert refusal(path) == f"{path}:1: campaign.name is missing"


@pytest.mark.parametrize(
    ("text", "place"),
    [("[campaign]\nname = \n", "2:8"), ("[campaign]\nname = 'a'\nseed = [1,\n", "4:1"), ("\n[a", "2:3")],
)
def test_bad_toml_names_line_and_column(tmp_path: Path, text: str, place: str) -> None:
    path = write(tmp_path, text)
    assert re.match(rf"{re.escape(path)}:{place}: not TOML: \w", refusal(path))


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    assert refusal(str(tmp_path / "none.toml")).endswith("none.toml: cannot be read: No such file or directory")
    (tmp_path / "latin.toml").write_bytes(b"# caf\xe9\n")
    assert "not UTF-8 at byte 5" in refusal(str(tmp_path / "latin.toml"))


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budget.candidates", "should be key=value"),
        ("budget..candidates=1", "should be key=value"),
        ("budget.candidate=1", "did you mean 'candidates'?"),
        ("budget.candidates=many", 'budget.candidates = "many": should be a valid integer'),
        ("campaign.name.first=a", "campaign.name is a value, not a section"),
        ("protocol.tasks.9.length=8", "protocol.tasks has no element 9 in the file; it has 2"),
        ("search.0=8", "search has no element 0"),
    ],
)
def test_a_bad_override_is_quoted(override: str, said: str) -> None:
    message = refusal(str(QUICKSTART), override)
    assert message.startswith(f"--set {override}: ")
    assert said in message


def test_overrides_are_toml_values_and_else_strings() -> None:
    overrides = ["search.baselines=['mha']", "executor.kind=inline", "protocol.tolerance=1e-1", "campaign.name='x'"]
    config = Config.load(str(QUICKSTART), overrides).config
    assert (config.search.baselines, config.executor.kind) == (("mha",), "inline")
    assert (config.protocol.tolerance, config.campaign.name) == (0.1, "x")


def test_the_stored_form_is_sorted_hashed_and_read_back() -> None:
    config = Config.load(str(QUICKSTART)).config
    stored = config.to_json()
    assert stored == json.dumps(json.loads(stored), sort_keys=True)
    assert config.hash == hashlib.sha256(stored.encode()).hexdigest()
    assert Config.from_json(stored) == config
    assert Config.load(str(QUICKSTART), ["campaign.seed=1"]).config.hash != config.hash


def test_a_stored_configuration_can_be_amended() -> None:
    config = Config.load(str(QUICKSTART)).config
    amended = amend(config, ["budget.wall_seconds=900"])
    assert amended.budget.wall_seconds == 900
    assert amended.protocol == config.protocol
    with pytest.raises(ConfigError, match=r"budget\.wall_seconds = 0: a budget of zero"):
        amend(config, ["budget.wall_seconds=0"])


def test_the_protocol_holds_canonical_text_and_a_digest() -> None:
    from archloom.search_space import zoo

    config = Config.load(str(QUICKSTART)).config
    protocol = to_protocol(config)
    assert protocol.reference == zoo.load("mha", depth=2).text
    assert dict(protocol.task("mqar").options) == {"evaluation": 512, "pairs": 6, "ramp": 0.4}
    assert re.fullmatch(r"[0-9a-f]{64}", str(protocol.task("text").option("digest")))
    assert [stage.seeds for stage in protocol.rungs[1].stages] == [(1,), (0,)]
    as_term = config.model_copy(
        update={"protocol": config.protocol.model_copy(update={"reference": zoo.load("mha", depth=2).text})}
    )
    assert to_protocol(as_term).id == protocol.id, "a name and its term are one protocol"


def test_other_text_is_another_protocol(tmp_path: Path) -> None:
    ids = set()
    for letter in "ab":
        corpus = tmp_path / f"{letter}.txt"
        corpus.write_text(letter * 200_000)
        config = Config.load(str(QUICKSTART), [f"protocol.tasks.1.source={corpus}"]).config
        ids.add(to_protocol(config).id)
    assert len(ids) == 2


def test_a_text_too_small_for_the_training_asked_for_is_refused(tmp_path: Path) -> None:
    corpus = tmp_path / "short.txt"
    corpus.write_text("a" * 200_000)
    config = Config.load(str(QUICKSTART), [f"protocol.tasks.1.source={corpus}"]).config
    to_protocol(config)
    corpus = tmp_path / "shorter.txt"
    corpus.write_text("a" * 20_000)
    config = Config.load(str(QUICKSTART), [f"protocol.tasks.1.source={corpus}"]).config
    with pytest.raises(ConfigError, match=r"symbols and its text has 19,000: .* at most \d+ steps of 16 times 64"):
        to_protocol(config)


def test_missing_text_is_one_clear_error(tmp_path: Path) -> None:
    config = Config.load(str(QUICKSTART), [f"protocol.tasks.1.source={tmp_path}/none"]).config
    with pytest.raises(EnvironmentProblem, match="none"):
        to_protocol(config)


@pytest.mark.parametrize(
    ("reference", "said"),
    [("mah", "neither a term nor in the zoo: .*mha"), ("masked(dot(project(x), project(x)), visible)", "kernel")],
)
def test_a_bad_reference_is_refused(reference: str, said: str) -> None:
    config = Config.load(str(QUICKSTART), [f"protocol.reference={reference}"]).config
    with pytest.raises(ConfigError, match=said):
        to_protocol(config)


def test_two_tasks_of_one_kind_need_their_kind(tmp_path: Path) -> None:
    text = (
        '[campaign]\nname = "a"\n[[protocol.tasks]]\nname = "mqar"\n[[protocol.tasks]]\nname = "wide"\nkind = "mqar"\n'
    )
    rungs = '[[protocol.rungs]]\nstages = [{ task = "wide", steps = 2 }]\n'
    protocol = to_protocol(Config.load(write(tmp_path, text + rungs)).config)
    assert protocol.task("wide").option("kind") == "mqar"
    assert "kind" not in dict(protocol.task("mqar").options)


def test_baselines_are_the_zoo_or_names_of_it() -> None:
    from archloom.search_space import zoo

    assert baselines(Config.load(str(QUICKSTART)).config) == zoo.STANDARD
    assert baselines(Config.load(str(QUICKSTART), ["search.baselines=['mha']"]).config) == ("mha",)
    with pytest.raises(ConfigError, match="'hyna' is not in the zoo; did you mean 'hyena'"):
        baselines(Config.load(str(QUICKSTART), ["search.baselines=['hyna']"]).config)


def test_a_protocol_is_read_back_as_it_was_and_its_id_is_that_of_its_text() -> None:
    config = Config.load(str(QUICKSTART), ["protocol.training.rates.attention=[0.01,0.003]"]).config
    protocol = to_protocol(config)
    again = Protocol.from_json(protocol.to_json())
    assert again == protocol
    assert again.id == protocol.id
    assert again.training.grid("attention") == (0.01, 0.003)
    assert again.training.grid("recurrence") == (0.01,)


def test_protocols_of_version_1_keep_their_ids_and_are_not_measured_by() -> None:
    text = (
        '{"depth": 1, "grammar": 1, "reference": "r", "rungs": [], "tasks": [], "threads": 1, "tolerance": 0.02, '
        '"training": {"clip": 1.0, "learning_rate": 0.01, "warmup": 10, "weight_decay": 0.01}, "version": 1, '
        '"width": 8}'
    )
    protocol = Protocol.from_json(text)
    assert protocol.to_json() == text
    assert protocol.stopping is None
    with pytest.raises(ConfigError, match="is of version 1 and this archloom measures by version 2"):
        check_version(protocol)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            "protocol.suite=standart",
            "protocol.suite: is 'standart', and there is no such suite; did you mean 'standard'?",
        ),
        ("protocol.suite=standard/9", "this archloom has standard/2"),
        ("protocol.training.rates.atention=[0.1]", "no family atention; did you mean 'attention'?"),
        ("protocol.training.rates.attention=[]", "the grid of attention is empty"),
    ],
)
def test_a_bad_suite_or_grid_is_refused(change: str, said: str) -> None:
    file = str(QUICKSTART)
    with pytest.raises(ConfigError) as refused:
        Config.load(file, [change])
    assert said in str(refused.value)


def test_a_suite_stands_in_for_tasks_and_rungs(tmp_path: Path) -> None:
    path = write(tmp_path, '[campaign]\nname = "a"\n[protocol]\nsuite = "state"\nwidth = 24\n')
    section = Config.load(path).config.protocol
    assert (section.suite, section.width, section.depth) == ("state/1", 24, 2)
    assert [task.name for task in section.tasks] == ["parity", "permutations"]
    with pytest.raises(ConfigError, match="replaced together"):
        Config.load(path, ["protocol.rungs=[{stages=[{task='parity',steps=3}]}]"])
