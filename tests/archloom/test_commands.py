"""The command line as a person meets it: data on stdout, messages on stderr, exit codes, and errors that help."""

import dataclasses
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner, Result

import archloom
from archloom import campaign, interrupts
from archloom import replay as again
from archloom.commands.options import find_store
from archloom.config import Config
from archloom.db.records import (
    GATES,
    Campaign,
    CampaignState,
    Candidate,
    EvaluationKey,
    Failure,
    FailureKind,
    LanguageModelCall,
    Measurement,
    Origin,
    Protocol,
    Role,
    Rung,
    Stage,
    TrialSpec,
)
from archloom.db.store import Store
from archloom.errors import NotFoundError
from archloom.main import app
from archloom.progress import Outcome
from archloom.protocol import to_protocol
from archloom.replay import ReplayReport, ReplayRow
from archloom.search_space import zoo
from archloom.search_space.identity import term_id

SOURCES = Path(archloom.__file__).parents[1]
FILE = """
[campaign]
name = "small"
store = "small.db"
[budget]
candidates = 3
[protocol]
[[protocol.tasks]]
name = "mqar"
[[protocol.rungs]]
stages = [{ task = "mqar", steps = 2 }]
[search]
baselines = ["mha"]
[executor]
kind = "inline"
"""


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


def answer(*arguments: str) -> Any:
    """The JSON that a command prints."""
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What the tests' ledger holds of one candidate: scores by rung, or why it failed."""

    system: str
    origin: Origin
    scores: tuple[float, ...] = ()
    failure: FailureKind | None = None
    parents: tuple[int, ...] = ()
    state_bytes: float = 1024.0


SCORES = (
    Score(system="mha", origin=Origin.ZOO, scores=(0.9, 0.8), state_bytes=4096.0),
    Score(system="gla", origin=Origin.RANDOM, scores=(0.2,)),
    Score(system="kda", origin=Origin.EVOLUTION, scores=(0.95, 0.97), parents=(1,)),
    Score(system="hyena", origin=Origin.EVOLUTION, failure=FailureKind.CAUSALITY, parents=(1, 2)),
    Score(system="retnet", origin=Origin.EVOLUTION, parents=(2,)),
)


def candidate(index: int) -> Candidate:
    made = SCORES[index]
    term = zoo.load(made.system)
    return Candidate(
        id=term_id(term),
        term=term.text,
        origin=made.origin,
        index=index,
        name=made.system if made.origin is Origin.ZOO else None,
        operator="point" if made.parents else None,
        parents=tuple(candidate(parent).id for parent in made.parents),
        rationale="\x1b[31mred[/red] [bold]" if made.origin is Origin.RANDOM else None,
    )


def record(store: Store, campaign: str, protocol: Protocol, *, index: int, rung: int, task: str) -> None:
    """Plan, claim and finish one evaluation, as the campaign loop does."""
    made, known = SCORES[index], candidate(index)
    key = EvaluationKey(candidate=known.id, task=task, rung=rung, seed=0)
    store.plan(campaign, [TrialSpec(key=key, term=known.term, protocol=protocol, steps=0 if task == GATES else 2)])
    attempt = store.claim(campaign, key, worker="w", lease_seconds=60)
    assert attempt is not None
    failure = Failure(kind=made.failure, reason="position 3 sees position 7") if made.failure else None
    measurement = Measurement(
        key=key,
        score=None if failure or task == GATES else made.scores[rung],
        metrics={}
        if failure
        else {"loss": 1.5, "accuracy": 0.5, "parameters": 9000.0, "state_bytes": made.state_bytes},
        environment={"torch": "2"},
        seconds=1.25,
        failure=failure,
    )
    assert store.finish(campaign, attempt, measurement)


RUNGS = (Rung(stages=(Stage(task="mqar", steps=1),)),) * 2


def fill(path: Path, *, name: str = "small") -> None:
    """A store with one stopped campaign of five candidates: a baseline, three with results, one waiting."""
    config = Config.model_validate({"campaign": {"name": name, "store": path.name}})
    protocol = Protocol(version=1, grammar=1, reference="mha", width=32, depth=2, tasks=(), rungs=RUNGS)
    campaign = Campaign(
        name=name,
        config=config.to_json(),
        config_hash=config.hash,
        protocol=protocol.id,
        seed=0,
        state=CampaignState.STOPPED,
        created=datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        wall_seconds=75.0,
    )
    with Store.open(path, create=True) as store:
        store.create_campaign(campaign, protocol=protocol)
        for index, made in enumerate(SCORES):
            store.add_candidate(name, candidate(index))
            if made.failure:
                record(store, name, protocol, index=index, rung=0, task=GATES)
            for rung in range(len(made.scores)):
                record(store, name, protocol, index=index, rung=rung, task="mqar")
        store.add_event(name, kind="stopped", text="by Ctrl-C")
        store.add_note(name, candidate(2).id, "worth a second look")
        call = LanguageModelCall(
            key=f"a call of {name}",
            role=Role.RESEARCHER,
            prompt="researcher/1",
            endpoint="http://host/v1",
            ask=0,
            cost=3,
            at=datetime(2026, 1, 2, tzinfo=UTC),
            model="some-model",
            request="{}",
            response="{}",
            prompt_tokens=10,
            completion_tokens=5,
            seconds=0.5,
        )
        store.reserve_call(name, call)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("ARCHLOOM_STORE", raising=False)


@pytest.fixture
def ledger(tmp_path: Path) -> Path:
    path = tmp_path / "small.db"
    fill(path)
    return path


# Starting up


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(SOURCES)}


def test_help_imports_nothing_heavy() -> None:
    command = [sys.executable, "-X", "importtime", "-m", "archloom", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 0
    assert "Commands:" in done.stdout
    imported = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "typer" in imported
    heavy = {"torch", "ray", "sqlalchemy", "pydantic", "numpy", "optuna", "networkx", "rich", "openai", "alembic"}
    assert not imported & heavy


def test_help_answers_in_a_blink() -> None:
    """The promise is 0.3 s; the best of five runs is taken, since the machine may be busy."""
    command = [sys.executable, "-m", "archloom", "--help"]
    taken = []
    for _ in range(5):
        start = time.perf_counter()
        subprocess.run(command, stdout=subprocess.DEVNULL, check=True, env=environment())
        taken.append(time.perf_counter() - start)
    assert min(taken) < 0.3


def every_command(group: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from every_command(command, (*prefix, name))
        else:
            yield (*prefix, name)


COMMANDS = tuple(every_command(get_command(app)))


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_explains_itself_and_speaks_json(command: tuple[str, ...]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert "--json" in result.output
    assert "--debug" in result.output


def test_the_version_is_the_package_version() -> None:
    assert invoke("--version").stdout == f"archloom {archloom.__version__}\n"


def test_an_unknown_command_is_a_usage_error() -> None:
    result = invoke("shwo")
    assert result.exit_code == 2
    assert "shwo" in result.stderr
    assert result.stdout == ""


# Errors


def test_an_error_is_one_message_without_a_traceback(tmp_path: Path) -> None:
    result = invoke("config", "check", "none.toml")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: none.toml: cannot be read: No such file or directory\n"


def test_debug_shows_the_traceback_and_the_same_message() -> None:
    result = invoke("config", "check", "none.toml", "--debug")
    assert result.exit_code == 2
    assert "Traceback" in result.stderr
    assert result.stderr.endswith("error: none.toml: cannot be read: No such file or directory\n")


def test_an_unforeseen_exception_is_brief_unless_debugged() -> None:
    code = "import archloom.main as m, archloom.doctor as d\nd.examine = lambda store: 1 / 0\nm.main()"
    for flags, expected in (([], 0), (["--debug"], 1)):
        command = [sys.executable, "-c", code, "doctor", *flags]
        done = subprocess.run(command, capture_output=True, text=True, env=environment())
        assert done.returncode == 1
        assert done.stderr.count("Traceback") == expected
        assert "ZeroDivisionError: division by zero" in done.stderr


def test_an_ill_typed_term_is_shown_with_a_caret() -> None:
    result = invoke("show", "--term", "mix(value(x), heads=2)")
    assert result.exit_code == 2
    assert re.search(r"error: line 1, column 5: .*\n *mix\(value\(x\), heads=2\)\n *\^", result.stderr)


def test_show_takes_an_id_or_a_term() -> None:
    assert invoke("show").exit_code == 2
    assert invoke("show", "abc", "--term", "mlp").exit_code == 2


# Finding the store


def test_the_only_store_in_the_folder_is_meant(ledger: Path) -> None:
    (ledger.parent / "noise.db").write_bytes(b"not a database")
    with closing(sqlite3.connect(ledger.parent / "other.db")) as connection:
        connection.execute("CREATE TABLE campaigns (name TEXT)")
    assert find_store() == "small.db"


def test_no_store_and_several_stores_are_errors_with_a_remedy(ledger: Path) -> None:
    fill(ledger.parent / "second.db")
    result = invoke("status")
    assert result.exit_code == 3
    assert "second.db, small.db\n  → add --store second.db" in result.stderr
    for path in ledger.parent.glob("*.db"):
        path.unlink()
    with pytest.raises(NotFoundError, match="no store in"):
        find_store()


def test_store_is_found_by_option_and_by_environment(ledger: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(ledger.parent / "second.db", name="second")
    assert [each["campaign"] for each in answer("status", "--store", "second.db")] == ["second"]
    monkeypatch.setenv("ARCHLOOM_STORE", "small.db")
    assert [each["campaign"] for each in answer("status")] == ["small"]


# Reading the store


def test_status_counts_what_there_is(ledger: Path) -> None:
    (status,) = answer("status")
    assert (status["state"], status["baselines"], status["candidates"], status["failed"]) == ("stopped", 1, 4, 1)
    assert (status["best"]["id"], status["best_score"]) == (candidate(2).id, 0.97)
    assert (status["best_baseline"]["name"], status["best_baseline_score"]) == ("mha", 0.8)
    result = invoke("status")
    assert "1m15s" in result.stdout
    assert invoke("status", "--campaign", "none").exit_code == 3


def test_top_ranks_by_rung_and_score(ledger: Path) -> None:
    assert [row["candidate"]["index"] for row in answer("top")] == [2, 0, 1]
    assert [row["score"] for row in answer("top", "--rung", "0")] == [0.95, 0.9, 0.2]
    assert len(answer("top", "-n", "1")) == 1
    lines = invoke("top").stdout.splitlines()
    assert next(line for line in lines if "mha" in line).split()[:6] == ["2", "mha", "zoo", "1", "0.000", "0.800"]
    assert lines[-1].startswith("rank correlation of rung 0 and rung 1, 2 candidates on both: ")


def test_top_compares_campaigns_of_other_sizes(ledger: Path) -> None:
    fill(ledger, name="other")
    (found,) = answer("top", "--campaign", "small", "--beside", "other")["sizes"][:1]
    assert (found["lower"], found["n"]) == ("rung 0 at width 32", 3)
    assert "rung 0 at width 32 and at width 32" in invoke("top", "--campaign", "small", "--beside", "other").stdout
    assert invoke("top", "--beside", "nobody").exit_code == 3


def test_top_writes_not_measured_as_null(ledger: Path) -> None:
    assert answer("top")[0]["flops"] is None


def test_pareto_keeps_what_nothing_beats(ledger: Path) -> None:
    assert [row["candidate"]["index"] for row in answer("top", "--pareto", "score,state_bytes")] == [2]
    assert invoke("top", "--pareto", "beauty").exit_code == 2


def test_failures_are_counted_with_their_reason(ledger: Path) -> None:
    (failed,) = answer("failures")
    assert (failed["kind"], failed["count"]) == ("causality", 1)
    assert "position 3 sees position 7" in invoke("failures").stdout


def test_show_prints_term_results_and_notes(ledger: Path) -> None:
    shown = invoke("show", candidate(2).id[:6]).stdout
    for expected in (
        candidate(2).id,
        "evolution",
        candidate(1).short,
        "resolve(",
        "L_ts = S2_ts [s ≤ t]",
        "deltanet, distance",
        "0.970",
        "note: worth a second look",
    ):
        assert expected in shown
    as_json = answer("show", candidate(2).id)
    assert as_json["candidate"]["term"] == candidate(2).term
    assert (as_json["explanation"]["id"], as_json["explanation"]["same_as"]) == (candidate(2).id, "kda")
    assert [result["score"] for result in as_json["results"]] == [0.95, 0.97]
    assert answer("show", "mha")["candidate"]["id"] == candidate(0).id


def test_what_a_model_wrote_cannot_steer_the_terminal(ledger: Path) -> None:
    shown = invoke("show", candidate(1).id).stdout
    assert "\x1b" not in shown
    assert "[31mred[/red] [bold]" in shown


def test_an_unknown_id_is_not_found(ledger: Path) -> None:
    for command in ("show", "lineage"):
        result = invoke(command, "zzzz")
        assert result.exit_code == 3
        assert "'zzzz'" in result.stderr


def test_show_draws_the_graph_of_a_candidate_and_of_a_term(ledger: Path) -> None:
    drawn = invoke("show", candidate(2).id[:6], "--dot")
    assert drawn.exit_code == 0, drawn.output
    assert drawn.stdout.startswith("digraph")
    assert "resolve" in drawn.stdout
    assert invoke("show", "--term", zoo.load("kda").text, "--dot").stdout == drawn.stdout


def test_show_of_a_term_gives_the_id_of_its_canonical_form() -> None:
    assert answer("show", "--term", zoo.load("kda").text)["id"] == candidate(2).id


def test_lineage_is_oldest_first(ledger: Path) -> None:
    assert [each["index"] for each in answer("lineage", candidate(3).id)] == [1, 2, 3]
    shown = invoke("lineage", candidate(3).id).stdout
    assert shown.index(candidate(1).short) < shown.index(candidate(3).short)


def test_logs_hold_events_and_calls(ledger: Path) -> None:
    assert answer("logs")[-1]["text"] == "by Ctrl-C"
    assert answer("logs", "--calls")[0]["model"] == "some-model"
    assert "by Ctrl-C" in invoke("logs").stdout
    assert "some-model" in invoke("logs", "--calls").stdout


def test_sql_reads_and_never_writes(ledger: Path) -> None:
    assert answer("sql", "SELECT count(*) AS n FROM candidates") == [{"n": len(SCORES)}]
    assert "5" in invoke("sql", "SELECT count(*) AS n FROM candidates").stdout
    assert invoke("sql", "DELETE FROM candidates").exit_code == 2
    assert answer("sql", "SELECT count(*) AS n FROM candidates") == [{"n": len(SCORES)}]


def test_export_writes_a_study_that_optuna_reads(ledger: Path) -> None:
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend
    from optuna.trial import TrialState

    assert answer("export", "optuna", "study.log") == {"path": "study.log", "study": "small", "trials": 4}
    storage = JournalStorage(JournalFileBackend("study.log"))
    study = optuna.load_study(study_name="small", storage=storage, sampler=optuna.samplers.RandomSampler())
    states = [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE, TrialState.FAIL]
    assert [trial.state for trial in study.trials] == states
    assert study.best_value == 0.97
    assert study.best_trial.user_attrs["id"] == candidate(2).id
    assert study.best_trial.user_attrs["term"] == candidate(2).term
    assert study.best_trial.user_attrs["parameters"] == 9000.0
    assert study.best_trial.intermediate_values == {0: 0.95, 1: 0.97}
    assert study.trials[3].user_attrs["failure"] == "causality: position 3 sees position 7"
    assert invoke("export", "optuna", "study.log").exit_code == 2
    assert invoke("export", "optuna", "none/study.log").exit_code == 7


# The space


def test_zoo_lists_prints_and_refuses() -> None:
    assert [entry["name"] for entry in answer("zoo")] == list(zoo.names())
    assert invoke("zoo", "kda").stdout.strip() == zoo.entry("kda").text.strip()
    assert invoke("zoo", "none").exit_code == 3
    assert "token shift" in invoke("zoo", "--operations").stdout


@pytest.mark.parametrize("flags", [(), ("--mixer",)])
def test_sample_repeats_with_its_seed(flags: tuple[str, ...]) -> None:
    from archloom.search_space.text import parse

    first = answer("sample", "-n", "3", "--seed", "4", *flags)
    assert [term_id(parse(draw["term"])) for draw in first] == [draw["id"] for draw in first]
    assert answer("sample", "-n", "3", "--seed", "4", *flags) == first
    assert answer("sample", "-n", "3", "--seed", "5", *flags) != first
    assert first[0]["id"][:8] in invoke("sample", "-n", "1", "--seed", "4", *flags).stdout


# Campaign files


def test_config_show_prints_every_key_and_its_origin(tmp_path: Path) -> None:
    Path("small.toml").write_text(FILE)
    shown = invoke("config", "show", "small.toml", "--origin", "--set", "budget.candidates=9")
    rows = {line.split()[0]: line.split(maxsplit=2)[1:] for line in shown.stdout.splitlines() if "." in line}
    assert rows["budget.candidates"][0] == "9"
    assert rows["budget.candidates"][1].strip() == "--set budget.candidates=9"
    assert rows["campaign.name"][1].strip() == "small.toml:3"
    assert rows["protocol.width"][1].strip() == "default"
    config = Config.load("small.toml").config
    assert answer("config", "show", "small.toml") == json.loads(config.to_json())
    assert config.hash in invoke("config", "show", "small.toml").stderr
    assert answer("config", "show", "small.toml", "--origin")[0]["origin"] == "small.toml:3"


def test_config_check_names_the_protocol() -> None:
    Path("small.toml").write_text(FILE)
    checked = answer("config", "check", "small.toml")
    assert checked["protocol"] == to_protocol(Config.load("small.toml").config).id
    assert checked["baselines"] == ["mha"]
    assert invoke("config", "check", "small.toml").exit_code == 0


# Running: the loop itself has tests of its own; here it is a stand-in that fills the ledger


def ended(state: CampaignState) -> Outcome:
    return Outcome(
        state=state, candidates=3, evaluations=9, wall_seconds=75.0, overhead=0.01, gates=0.03, message="3 candidates"
    )


Loop = Callable[..., Outcome]


@pytest.fixture
def loop(monkeypatch: pytest.MonkeyPatch) -> Callable[[Loop], None]:
    def install(run: Loop) -> None:
        monkeypatch.setattr(campaign, "run", run)

    return install


@pytest.mark.parametrize(
    ("state", "code", "advice"),
    [
        (CampaignState.FINISHED, 0, "archloom show "),
        (CampaignState.EXHAUSTED, 5, "archloom resume small"),
        (CampaignState.STOPPED, 130, "archloom resume small"),
    ],
)
def test_a_run_ends_with_its_board_its_control_and_what_to_do(
    loop: Callable[[Loop], None], state: CampaignState, code: int, advice: str
) -> None:
    def run(config: Config, *, store: Store, resume: bool, progress: object, stopping: Callable[[], int]) -> Outcome:
        assert not resume
        assert stopping() == 0
        fill(Path(config.campaign.store), name=config.campaign.name)
        return ended(state)

    loop(run)
    Path("small.toml").write_text(FILE)
    result = invoke("run", "small.toml")
    assert result.exit_code == code, result.output
    assert "mha" in result.stdout
    assert "evolution cannot be told from its control, random" in result.stdout
    assert "3 candidates: 9 evaluations in 1m15s" in result.stderr
    assert "3.0% into gates and 1.0% into nothing" in result.stderr
    assert advice in result.stderr
    assert result.stderr.count("  → archloom ") == 3


def test_a_name_that_is_taken_is_refused_unless_a_fresh_one_is_asked_for(
    ledger: Path, loop: Callable[[Loop], None]
) -> None:
    names: list[str] = []

    def run(config: Config, **rest: Any) -> Outcome:
        names.append(config.campaign.name)
        fill(Path("small.db"), name=config.campaign.name)
        return ended(CampaignState.FINISHED)

    loop(run)
    Path("small.toml").write_text(FILE)
    refused = invoke("run", "small.toml")
    assert refused.exit_code == 2
    assert "→ archloom resume small, or the same with --fresh-name" in refused.stderr
    for _ in range(2):
        assert invoke("run", "small.toml", "--fresh-name", "--json").exit_code == 0
    assert names == ["small-2", "small-3"]


def test_nothing_is_written_if_the_text_is_missing(loop: Callable[[Loop], None]) -> None:
    loop(lambda *args, **rest: pytest.fail("the loop must not start"))
    Path("small.toml").write_text(FILE.replace('name = "mqar"', 'name = "mqar"\n[[protocol.tasks]]\nname = "text"'))
    result = invoke("run", "small.toml", "--set", "protocol.tasks.1.source=none.txt")
    assert result.exit_code == 7, result.output
    assert "none.txt" in result.stderr
    assert not Path("small.db").exists()


def test_options_of_run_reach_the_configuration(loop: Callable[[Loop], None]) -> None:
    seen: list[Config] = []

    def run(config: Config, **rest: Any) -> Outcome:
        seen.append(config)
        fill(Path(config.campaign.store))
        return ended(CampaignState.FINISHED)

    loop(run)
    Path("small.toml").write_text(FILE)
    result = invoke("run", "small.toml", "--executor", "process", "--store", "else.db", "--set", "campaign.seed=3")
    assert result.exit_code == 0, result.output
    assert (seen[0].executor.kind, seen[0].campaign.store, seen[0].campaign.seed) == ("process", "else.db", 3)
    assert invoke("run", "small.toml", "--executor", "slurm").exit_code == 2


def test_resume_goes_on_with_the_stored_configuration(ledger: Path, loop: Callable[[Loop], None]) -> None:
    seen: list[tuple[Config, bool]] = []

    def run(config: Config, *, resume: bool, **rest: Any) -> Outcome:
        seen.append((config, resume))
        return ended(CampaignState.FINISHED)

    loop(run)
    assert invoke("resume").exit_code == 0
    assert invoke("resume", "small", "--set", "budget.wall_seconds=9", "--executor", "inline").exit_code == 0
    (plain, _), (changed, resumed) = seen
    assert (plain.campaign.name, plain.budget.wall_seconds, resumed) == ("small", None, True)
    assert (changed.budget.wall_seconds, changed.executor.kind) == (9, "inline")
    refused = invoke("resume", "--set", "protocol.width=64")
    assert refused.exit_code == 2
    assert "can change only budget., executor., ray." in refused.stderr
    assert invoke("resume", "none").exit_code == 3


def test_ctrl_c_is_counted_to_two_and_then_given_back() -> None:
    told: list[str] = []
    before = signal.getsignal(signal.SIGINT)
    with interrupts.counted(told.append) as stopping:
        counts = [stopping()]
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGINT):
            os.kill(os.getpid(), number)
            counts.append(stopping())
    assert counts == [0, 1, 2, 2]
    assert told[0].startswith("stopping: ")
    assert signal.getsignal(signal.SIGINT) is before


# Replaying


@pytest.mark.parametrize(("replayed", "code"), [(0.97, 0), (0.9700000001, 6)])
def test_replay_ends_with_6_if_a_score_differs(
    ledger: Path, monkeypatch: pytest.MonkeyPatch, replayed: float, code: int
) -> None:
    def replay(store: Store, campaign: str, candidate_id: str, *, exact: bool) -> ReplayReport:
        assert (campaign, exact) == ("small", True)
        key = EvaluationKey(candidate=candidate_id, task="mqar", rung=1, seed=0)
        difference = "" if replayed == 0.97 else "score"
        row = ReplayRow(evaluation=key, recorded=0.97, replayed=replayed, equal=not difference, difference=difference)
        return ReplayReport(rows=(row,))

    monkeypatch.setattr(again, "replay", replay)
    result = invoke("replay", candidate(2).id[:8], "--exact")
    assert result.exit_code == code, result.output
    assert repr(replayed) in result.stdout
    assert ("DIFFERENT" in result.stdout) is (code == 6)
    assert invoke("replay", candidate(4).id[:8]).exit_code == 3, "it has no results yet"
