"""Each check finds what is wrong and says what to do."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pytest

from archloom import doctor
from archloom.doctor import GIB, Verdict


def test_old_python_is_a_failure() -> None:
    assert doctor.check_python((3, 10, 9)).verdict is Verdict.FAIL
    assert doctor.check_python((3, 11, 0)).verdict is Verdict.OK


def test_torch_says_its_build_threads_and_capability() -> None:
    import torch

    check = doctor.check_torch()
    assert check.verdict is Verdict.OK
    assert torch.__version__ in check.finding
    assert torch.backends.cpu.get_cpu_capability() in check.finding
    assert " threads" in check.finding


def break_import(folder: Path, name: str, monkeypatch: pytest.MonkeyPatch, *, code: str) -> None:
    """A package of that name that other processes find first."""
    (folder / f"{name}.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(folder))


@pytest.mark.parametrize("name", ["torch", "triton", "ray"])
def test_a_package_that_does_not_import_is_a_finding(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_import(tmp_path, name, monkeypatch, code="raise ImportError('libexample.so.1: cannot open shared object')")
    check = {"torch": doctor.check_torch, "triton": doctor.check_triton, "ray": doctor.check_ray}[name]()
    assert check.verdict is (Verdict.FAIL if name == "torch" else Verdict.WARN)
    assert "libexample.so.1" in check.finding
    assert check.remedy


def test_a_package_that_kills_its_process_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_import(tmp_path, "torch", monkeypatch, code="import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    check = doctor.check_torch()
    assert (check.verdict, check.finding) == (Verdict.FAIL, "ended with status -11")


def test_a_store_that_can_be_written_is_left_as_it_was(tmp_path: Path) -> None:
    check = doctor.check_store(str(tmp_path / "new.db"))
    assert check.verdict is Verdict.OK
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_there_is_a_failure(tmp_path: Path) -> None:
    check = doctor.check_store(str(tmp_path / "none" / "new.db"))
    assert check.verdict is Verdict.FAIL
    assert "--store" in check.remedy


def test_a_disk_that_cannot_lock_is_a_failure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> str:
        raise sqlite3.OperationalError("disk I/O error")

    monkeypatch.setattr(doctor, "_write_scratch", refuse)
    check = doctor.check_store(str(tmp_path / "new.db"))
    assert check.verdict is Verdict.FAIL
    assert "disk I/O error" in check.finding


def test_a_server_that_does_not_answer_is_a_failure_and_its_password_is_kept() -> None:
    check = doctor.check_store("postgresql+psycopg://someone:secret@127.0.0.1:9/archloom")
    assert check.verdict is Verdict.FAIL
    assert "secret" not in f"{check.finding}{check.remedy}"


@pytest.mark.parametrize(("free", "verdict"), [(GIB // 20, Verdict.FAIL), (GIB, Verdict.WARN), (3 * GIB, Verdict.OK)])
def test_little_disk_and_memory_are_told(free: int, verdict: Verdict) -> None:
    for check in (doctor.check_disk(free), doctor.check_memory(free)):
        assert check.verdict is verdict
        assert bool(check.remedy) is (verdict is not Verdict.OK)


def test_memory_is_that_of_the_machine() -> None:
    available = doctor.available_memory()
    assert available is not None
    assert GIB // 20 < available <= os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert doctor.check_memory(None).verdict is Verdict.WARN


def test_loopback_answers() -> None:
    assert doctor.check_loopback().verdict is Verdict.OK


def run_doctor(folder: Path, *arguments: str, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    sources = Path(doctor.__file__).parents[1]
    found = os.pathsep.join(map(str, filter(None, (path, sources))))
    command = [sys.executable, "-m", "archloom", "doctor", *arguments]
    return subprocess.run(command, cwd=folder, env={**os.environ, "PYTHONPATH": found}, capture_output=True, text=True)


def test_the_command_ends_with_7_if_something_fails(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for name in ("torch", "triton", "ray"):
        (broken / f"{name}.py").write_text("raise ImportError('broken')")
    done = run_doctor(tmp_path, "--json", path=broken)
    assert done.returncode == 7, done.stderr
    verdicts = {check["name"]: check["verdict"] for check in json.loads(done.stdout)}
    assert (verdicts["torch"], verdicts["ray"], verdicts["store"]) == ("fail", "warn", "ok")


@pytest.mark.slow
def test_the_command_ends_with_0_on_this_machine(tmp_path: Path) -> None:
    done = run_doctor(tmp_path)
    assert done.returncode == 0, done.stdout
    assert "→" in done.stdout or "warn" not in done.stdout
