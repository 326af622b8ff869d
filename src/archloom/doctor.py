"""Whether this machine can run a campaign: each check says what it found and, if that is not enough, what to do.

Packages are imported in a process of their own, so that one which crashes on import is a finding and not the end.
"""

import http.client
import os
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archloom.config import Config, EndpointSection

GIB = 1 << 30
IMPORT_SECONDS = 120
MODEL_SECONDS = 5.0


class Verdict(StrEnum):
    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What one check found. `remedy` is empty when there is nothing to mend."""

    name: str
    verdict: Verdict
    finding: str
    remedy: str = ""


def examine(store: str | None = None) -> tuple[Check, ...]:
    """Run every check. `store` is the path or URL to be written; without it, the working directory is meant."""
    return (
        check_python(sys.version_info[:3]),
        check_torch(),
        check_triton(),
        check_ray(),
        check_store(store or os.environ.get("ARCHLOOM_STORE") or "archloom.db"),
        check_disk(shutil.disk_usage(Path.cwd()).free),
        check_memory(available_memory()),
        check_loopback(),
    )


def check_python(version: tuple[int, int, int]) -> Check:
    finding = ".".join(map(str, version))
    if version < (3, 11):
        return Check(name="python", verdict=Verdict.FAIL, finding=finding, remedy="install Python 3.11 or later")
    return Check(name="python", verdict=Verdict.OK, finding=finding)


def check_torch() -> Check:
    code = """
import torch
build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())] or ["no GPU"]
capability = torch.backends.cpu.get_cpu_capability()
print(f"{torch.__version__}, {build}, {', '.join(devices)}, {torch.get_num_threads()} threads, {capability}")
"""
    works, finding = _in_process(code)
    if not works:
        remedy = f"{Path(sys.executable).name} -m pip install 'torch>=2.6'"
        return Check(name="torch", verdict=Verdict.FAIL, finding=finding, remedy=remedy)
    return Check(name="torch", verdict=Verdict.OK, finding=finding)


def check_triton() -> Check:
    """Without Triton, kernels run in plain PyTorch: slower on a GPU, the same on a CPU."""
    works, finding = _in_process("import triton; print(triton.__version__)")
    if not works:
        remedy = "only for a GPU: pip install 'archloom[gpu]'"
        return Check(name="triton", verdict=Verdict.WARN, finding=finding, remedy=remedy)
    return Check(name="triton", verdict=Verdict.OK, finding=finding)


def check_ray() -> Check:
    works, finding = _in_process("import ray; print(ray.__version__)", environment={"RAY_USAGE_STATS_ENABLED": "0"})
    if not works:
        remedy = "pip install 'ray>=2.40', or run with --executor process"
        return Check(name="ray", verdict=Verdict.WARN, finding=finding, remedy=remedy)
    return Check(name="ray", verdict=Verdict.OK, finding=finding)


def check_store(location: str) -> Check:
    """Write and sync a scratch database with a write-ahead log beside the store (network disks often cannot)."""
    if "://" in location and not location.startswith("sqlite"):
        return _check_server(location)
    path = Path(location.removeprefix("sqlite:///"))
    try:
        with tempfile.TemporaryDirectory(prefix=".archloom-", dir=path.absolute().parent) as folder:
            mode = _write_scratch(Path(folder) / "scratch.db")
    except (OSError, sqlite3.Error) as error:
        remedy = "choose another place with --store PATH"
        return Check(name="store", verdict=Verdict.FAIL, finding=f"{path}: {error}", remedy=remedy)
    if path.exists() and not os.access(path, os.R_OK | os.W_OK):
        remedy = f"chmod u+rw {path}"
        return Check(name="store", verdict=Verdict.FAIL, finding=f"{path} is not writable", remedy=remedy)
    if mode != "wal":
        finding = f"{path}: this disk allows no write-ahead log (journal mode {mode})"
        remedy = "keep the store on a local disk"
        return Check(name="store", verdict=Verdict.WARN, finding=finding, remedy=remedy)
    return Check(name="store", verdict=Verdict.OK, finding=f"{path} can be written")


def _write_scratch(path: Path) -> str:
    with closing(sqlite3.connect(path)) as connection:
        mode = str(connection.execute("PRAGMA journal_mode=WAL").fetchone()[0])
        connection.execute("CREATE TABLE scratch (value INTEGER)")
        connection.execute("INSERT INTO scratch VALUES (1)")
        connection.commit()
    return mode


def _check_server(url: str) -> Check:
    from archloom.db.engine import connect, explained, parse_location, shown
    from archloom.errors import ArchloomError

    try:
        location = parse_location(url)
        with explained(location), closing(connect(location).connect()):
            pass
    except ArchloomError as error:
        remedy = "check the URL and that the server runs"
        return Check(name="store", verdict=Verdict.FAIL, finding=str(error), remedy=remedy)
    return Check(name="store", verdict=Verdict.OK, finding=f"{shown(location)} answers")


def check_disk(free: int) -> Check:
    """`free` in bytes. A campaign of a hundred candidates writes a few megabytes; Ray's logs and spills more."""
    remedy = "free some space, or choose another working directory"
    verdict = Verdict.FAIL if free < GIB // 10 else Verdict.WARN if free < 2 * GIB else Verdict.OK
    finding = f"{free / GIB:.1f} GiB free"
    return Check(name="disk", verdict=verdict, finding=finding, remedy="" if verdict is Verdict.OK else remedy)


def check_memory(available: int | None) -> Check:
    """`available` in bytes. Ray idles at 0.4 GiB; a worker with PyTorch takes about 0.5 GiB."""
    if available is None:
        return Check(name="memory", verdict=Verdict.WARN, finding="unknown", remedy="see that 2 GiB are free")
    remedy = "fewer workers (--set executor.workers=1), or --executor inline"
    verdict = Verdict.FAIL if available < GIB // 2 else Verdict.WARN if available < 2 * GIB else Verdict.OK
    finding = f"{available / GIB:.1f} GiB available"
    return Check(name="memory", verdict=verdict, finding=finding, remedy="" if verdict is Verdict.OK else remedy)


def available_memory() -> int | None:
    """Bytes that can still be taken, by the kernel's account and the container's limit; None where neither is told."""
    found = []
    try:
        fields = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
        found.append(int(fields["MemAvailable"].split()[0]) * 1024)
        limit = Path("/sys/fs/cgroup/memory.max").read_text().strip()
        if limit != "max":
            found.append(int(limit) - int(Path("/sys/fs/cgroup/memory.current").read_text()))
    except (OSError, KeyError):
        pass
    return min(found, default=None)


def check_loopback() -> Check:
    """Ray's processes and the dashboard speak over loopback."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=2) as client,
        ):
            accepted, _ = server.accept()
            with accepted:
                client.sendall(b"x")
                accepted.settimeout(2)
                accepted.recv(1)
    except OSError as error:
        remedy = "allow connections to 127.0.0.1, or run with --executor inline"
        return Check(name="loopback", verdict=Verdict.FAIL, finding=str(error), remedy=remedy)
    return Check(name="loopback", verdict=Verdict.OK, finding="127.0.0.1 answers")


def _in_process(code: str, *, environment: Mapping[str, str] | None = None) -> tuple[bool, str]:
    """Run Python code in a process of its own: whether it worked, and the last line of what it printed."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            text=True,
            timeout=IMPORT_SECONDS,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired:
        return False, f"did not import in {IMPORT_SECONDS} s"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return done.returncode == 0, lines[-1] if lines else f"ended with status {done.returncode}"


def check_models(config: "Config") -> tuple[Check, ...]:
    """The keys of a campaign's language models, and whether their servers answer. Nothing is asked of a model."""
    from archloom.arms import takes_part

    if config.language_model is None or not takes_part(config):
        finding = "the campaign has no language-model arm"
        return (Check(name="language model", verdict=Verdict.OK, finding=finding),)
    if config.language_model.by_hand:
        return (Check(name="language model", verdict=Verdict.OK, finding="its answers are given by hand"),)
    embeddings = config.language_model.embeddings
    asked: list[EndpointSection] = [
        *config.language_model.models,
        *([embeddings] if embeddings else []),
    ]
    return tuple(_check_model(model) for model in asked)


def _check_model(model: "EndpointSection") -> Check:
    from archloom.arms import key_of, missing_key

    name = f"language model {model.model}"
    if missing_key(model):
        remedy = f'export {model.key_variable}=..., or key_variable = "" for a server that needs no key'
        return Check(name=name, verdict=Verdict.FAIL, finding=f"{model.key_variable} is not set", remedy=remedy)
    request = urllib.request.Request(f"{model.base_url.rstrip('/')}/models")
    if key := key_of(model):
        request.add_unredirected_header("Authorization", f"Bearer {key}")
    try:
        with urllib.request.urlopen(request, timeout=MODEL_SECONDS) as answer:
            listed = answer.read(1 << 20).decode("utf-8", "replace")
    except urllib.error.HTTPError as problem:
        with problem:
            if problem.code in (401, 403):
                remedy = f"export {model.key_variable or 'the key that key_variable names'}=..., a key of this server"
                finding = f"{model.base_url} refuses the key ({problem.code})"
                return Check(name=name, verdict=Verdict.FAIL, finding=finding, remedy=remedy)
            finding = f"{model.base_url} answers, and lists no models ({problem.code})"
        return Check(name=name, verdict=Verdict.OK, finding=finding)
    except (OSError, ValueError, http.client.HTTPException) as problem:
        finding = f"{model.base_url}: {problem}"
        return Check(name=name, verdict=Verdict.FAIL, finding=finding, remedy="start the server, or mend base_url")
    if f'"{model.model}"' not in listed:
        remedy = "without it every call fails; mend model, or load it there"
        return Check(name=name, verdict=Verdict.WARN, finding=f"{model.base_url} does not list it", remedy=remedy)
    return Check(name=name, verdict=Verdict.OK, finding=f"{model.base_url} has it")
