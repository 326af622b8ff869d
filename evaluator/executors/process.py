"""Trials in long-lived worker processes of this machine, one thread each.

Workers are spawned, never forked, and see `OMP_NUM_THREADS=1` before they import torch. A worker that dies closes its
pipe, which is noticed at once. A worker whose parent dies, by `kill -9` too, ends itself: a thread of it waits for
nothing else. Ctrl-C is the parent's to handle; workers ignore it.
"""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from multiprocessing.context import SpawnProcess
from typing import Any

from archloom.db.records import Measurement, TrialSpec
from archloom.evaluator.executors.pool import Died, Message, Ready
from archloom.evaluator.trial import Work, measure, run_trial, warm_up

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class ProcessWorker:
    """The parent's end of a worker process."""

    def __init__(self, *, work: Work) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _environment(ONE_THREAD):
            self.process.start()
        theirs.close()
        with contextlib.suppress(OSError):
            self.connection.send(work)

    def begin(self, spec: TrialSpec) -> None:
        with contextlib.suppress(OSError):  # it is dead, and its pipe says so to whoever waits
            self.connection.send(spec)

    def receive(self) -> Message:
        """The message that the worker has sent, or its death."""
        try:
            message: Ready | Measurement = self.connection.recv()
        except (EOFError, OSError):
            self.process.join(timeout=5)
            return Died(f"worker process {self.process.pid} {_ending(self.process.exitcode)}")
        return message

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.process.close()
        self.connection.close()


class ProcessSite:
    """Worker processes of this machine. On a machine with a GPU they share it."""

    def __init__(self, *, work: Work = measure) -> None:
        self._work = work

    def start(self) -> ProcessWorker:
        return ProcessWorker(work=self._work)

    def wait(self, workers: Sequence[ProcessWorker], *, timeout: float) -> list[tuple[ProcessWorker, Message]]:
        ready = wait([worker.connection for worker in workers], timeout)
        return [(worker, worker.receive()) for worker in workers if worker.connection in ready]

    def close(self) -> None:
        """Nothing is held beside the workers."""


def _serve(connection: "Connection[Any, Any]") -> None:
    """The life of a worker: take the work, warm up, then answer trials until the pipe closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    work: Work = connection.recv()
    warm_up()
    connection.send(Ready())
    with contextlib.suppress(EOFError):
        while True:
            connection.send(run_trial(connection.recv(), work=work))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker was started by a process"
    wait([parent.sentinel])
    os._exit(1)


def _ending(exitcode: int | None) -> str:
    if exitcode is None:
        return "closed its pipe and did not end"
    if exitcode >= 0:
        return f"ended with exit code {exitcode}"
    name = signal.Signals(-exitcode).name
    return f"was killed by {name}" + (" (perhaps for want of memory)" if name == "SIGKILL" else "")


@contextlib.contextmanager
def _environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the processes that are started inside."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
