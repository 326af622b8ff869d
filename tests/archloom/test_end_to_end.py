"""The user's story through real processes: run, ask, replay; and bad input that leaves nothing half-written."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "NO_COLOR": "1"}


def archloom(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "archloom", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def finished(campaign_file: Callable[[Path], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished campaign, run by worker processes."""
    folder = tmp_path_factory.mktemp("story")
    run = archloom(folder, "run", str(campaign_file(folder)), "--executor", "process")
    assert run.returncode == 0, run.stderr
    assert "linear_attention" in run.stdout
    assert "control, random" in run.stdout
    assert run.stderr.count("→ archloom") == 3
    return folder


def test_the_ledger_answers(finished: Path) -> None:
    status = json.loads(archloom(finished, "status", "--json").stdout)
    assert "finished" in json.dumps(status)
    board = archloom(finished, "top", "--pareto", "score,state_bytes", "--json")
    assert board.returncode == 0, board.stderr
    rows = json.loads(board.stdout)
    chosen = rows[0]["candidate"]["id"]
    shown = archloom(finished, "show", chosen[:10])
    assert "repeat(" in shown.stdout
    replayed = archloom(finished, "replay", chosen[:10], "--exact")
    assert replayed.returncode == 0, replayed.stdout + replayed.stderr
    page = finished / "report.html"
    assert archloom(finished, "report", str(page)).returncode == 0
    assert "<svg" in page.read_text()


def test_the_zoo_and_samples_need_no_store(tmp_path: Path) -> None:
    assert "gated_deltanet" in archloom(tmp_path, "zoo").stdout
    drawn = archloom(tmp_path, "sample", "-n", "5", "--json")
    assert len(json.loads(drawn.stdout)) == 5
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "code", "words"),
    [
        ("budget.candidates=0", 2, "zero"),
        ("protocol.widht=3", 2, "width"),
        ("protocol.reference=mhaa", 2, "mhaa"),
        ('search.baselines=["mhaa"]', 2, "mha"),
        (
            'protocol.tasks=[{name="text",source="/no/such/folder"},{name="mqar",vocabulary=16,length=12,batch=8,pairs=3}]',
            7,
            "/no/such/folder",
        ),
    ],
)
def test_bad_input_is_one_error_and_writes_nothing(
    campaign_file: Callable[[Path], Path], tmp_path: Path, change: str, code: int, words: str
) -> None:
    run = archloom(tmp_path, "run", str(campaign_file(tmp_path)), "--set", change)
    assert run.returncode == code, run.stderr
    assert words in run.stderr
    assert run.stderr.count("error:") == 1
    assert "Traceback" not in run.stderr
    assert not (tmp_path / "small.db").exists()


def test_a_taken_name_and_an_unreadable_store_are_refused(
    campaign_file: Callable[[Path], Path], tmp_path: Path, finished: Path
) -> None:
    again = archloom(finished, "run", str(finished / "small.toml"))
    assert again.returncode == 2
    assert "archloom resume small" in again.stderr
    campaign_file(tmp_path)
    (tmp_path / "small.db").write_text("not a database")
    broken = archloom(tmp_path, "run", "small.toml")
    assert broken.returncode == 7, broken.stderr
    assert (tmp_path / "small.db").read_text() == "not a database"


def test_an_ill_typed_term_shows_where(tmp_path: Path) -> None:
    shown = archloom(tmp_path, "show", "--term", "mix(apply(masked(dot(project(x), value(x)), visible), value(x)))")
    assert shown.returncode == 2
    assert "^" in shown.stderr
    assert "argument 2 of `dot`" in shown.stderr


def test_ctrl_c_drains_and_resume_completes(campaign_file: Callable[[Path], Path], tmp_path: Path) -> None:
    more = ("--set", "budget.candidates=16")
    command = [sys.executable, "-m", "archloom", "run", str(campaign_file(tmp_path)), "--executor", "process", *more]
    running = subprocess.Popen(
        command, cwd=tmp_path, env=ENVIRONMENT, start_new_session=True, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not _begun(tmp_path / "small.db"):
        time.sleep(0.05)
    os.killpg(running.pid, signal.SIGINT)  # a terminal sends it to the whole group
    _, said = running.communicate(timeout=60)
    assert running.returncode == 130, said
    assert "archloom resume small" in said
    assert "Traceback" not in said
    assert "stopped" in archloom(tmp_path, "status").stdout
    resumed = archloom(tmp_path, "resume")
    assert resumed.returncode == 0, resumed.stderr
    assert "finished" in archloom(tmp_path, "status").stdout


def _begun(location: Path) -> bool:
    """Whether a few evaluations are finished."""
    if not location.exists():
        return False
    with contextlib.closing(sqlite3.connect(location)) as database:
        try:
            (count,) = database.execute("select count(*) from evaluations where state = 'done'").fetchone()
        except sqlite3.OperationalError:  # being created
            return False
    return bool(count >= 3)
