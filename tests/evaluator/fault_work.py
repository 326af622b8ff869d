"""Faults for the executors' tests: workers import it by name, so its folder goes on their path. It loads no torch, so
that a worker starts in a moment.
"""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

from archloom.db.records import Measurement, Series, TrialSpec
from archloom.errors import EnvironmentProblem


def prepare() -> None:
    """Nothing."""


def never_ready() -> None:
    time.sleep(600)


def suffer(spec: TrialSpec) -> Measurement:
    """Do what the term of the trial says. Measurements hold the numbers of the worker's process and its children."""
    order, _, argument = spec.term.partition(" ")
    metrics = {"pid": float(os.getpid())}
    series: tuple[Series, ...] = ()
    match order:
        case "echo":
            pass
        case "raise":
            raise ValueError(argument)
        case "miss":
            raise EnvironmentProblem(argument)
        case "signal":
            os.kill(os.getpid(), int(argument))
        case "exit":
            os._exit(int(argument))
        case "sleep":
            time.sleep(600)
        case "hold":
            ctypes.PyDLL(None).sleep(600)  # a call that keeps Python's lock
        case "deaf":
            _spin_and_ignore()
        case "allocate":
            _touch(int(argument))
        case "children":
            metrics |= {"executed": float(_execute()), "forked": float(_fork())}
        case "orphan":
            _fork()
            os.kill(os.getpid(), signal.SIGKILL)
        case "double":
            os.fork()
        case "print":
            print("\x00garbage\x1b[2J" * 1000, file=sys.stdout, flush=True)
            os.write(2, b"garbage" * 1000)
        case "garble":
            _write_to_sockets(b"garbage" * 100)
        case "announce":
            _write_to_sockets(b"\xa7arc\x00\x00\x10\x00\x00\x00\x00\x00and no more")
            time.sleep(600)
        case "shut":
            _write_to_sockets(b"")
            time.sleep(600)
        case "swell":
            series = (Series(name="loss", steps=tuple(range(3_000_000)), values=tuple(map(float, range(3_000_000)))),)
        case "unsendable":
            return _measurement(spec, {"loss": lambda: 0.0})  # type: ignore[dict-item]
        case _:
            raise AssertionError(f"no such order: {spec.term!r}")
    return _measurement(spec, metrics, series)


def _measurement(spec: TrialSpec, metrics: dict[str, float], series: tuple[Series, ...] = ()) -> Measurement:
    return Measurement(key=spec.key, score=1.0, metrics=metrics, series=series, environment={}, seconds=0.0)


def _spin_and_ignore() -> None:
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        with contextlib.suppress(ValueError):  # actors of Ray do not run in the main thread
            signal.signal(number, signal.SIG_IGN)
    while True:
        pass


def _touch(gib: int) -> None:
    """Ask for memory in pieces and write to each, so that it is really used."""
    held = []
    for _ in range(gib * 16):
        held.append(bytearray(64 << 20))
        held[-1][::4096] = b"x" * len(held[-1][::4096])


def _execute() -> int:
    return subprocess.Popen(["sleep", "600"]).pid


def _fork() -> int:
    """A copy of the worker that sleeps and holds open whatever the worker has open."""
    pid = os.fork()
    if pid == 0:
        time.sleep(600)
        os._exit(0)
    return pid


def _write_to_sockets(garbage: bytes) -> None:
    """Write to every socket of this process, or close them all if there is nothing to write."""
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):
                _ = os.write(int(name), garbage) if garbage else os.close(int(name))
