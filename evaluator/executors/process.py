"""Trials in long-lived worker processes of this machine, one thread each.

Workers are spawned, never forked, and see `OMP_NUM_THREADS=1` before they import torch. Each leads a session of its
own: Ctrl-C does not reach it, and it is killed together with every process it has started that did not leave its group.
That a worker is dead is told by the kernel and not by the end of its stream, which a process that it forked may hold
open. When the pool's own process dies, by `kill -9` too, a guard kills the workers.
"""

import contextlib
import multiprocessing
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.connection import wait
from multiprocessing.context import SpawnProcess
from typing import Any, cast

from archloom.db.records import FailureKind, TrialSpec
from archloom.errors import EnvironmentProblem
from archloom.evaluator.executors.guard import Guard, kill_group
from archloom.evaluator.executors.messages import LARGEST, Garbled, Inbox, pack
from archloom.evaluator.executors.pool import Died, Message, Ready
from archloom.evaluator.memory import oom_kills
from archloom.evaluator.trial import Work, measure, run_trial, warm_up

ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Orders = tuple[Work, Callable[[], None]]
"""What a worker does with a trial, and before it is ready. Its first message; the others are trials."""

PIECE = 1 << 20
"""Bytes that are read from a stream at once."""

CLOSING_SECONDS = 1.0
"""The stream of a process that ends is closed a moment before its end is known."""


class ProcessWorker:
    """The pool's end of a worker process."""

    def __init__(self, orders: Orders, *, guard: Guard) -> None:
        context = multiprocessing.get_context("spawn")
        self._stream, theirs = socket.socketpair()
        self._inbox = Inbox()
        self._guard = guard
        self._oom_kills = oom_kills()
        self._process: SpawnProcess = context.Process(target=_serve, args=(theirs,), daemon=True)
        with _environment(ONE_THREAD):
            self._process.start()
        theirs.close()
        self.pid = self._process.pid or 0
        self._death = os.pidfd_open(self.pid) if hasattr(os, "pidfd_open") else self._process.sentinel
        guard.watch(self.pid)
        self._send(orders)

    @property
    def signs(self) -> tuple[int, int]:
        """What becomes readable when there is something to receive: its stream, and its death."""
        return self._stream.fileno(), self._death

    def begin(self, spec: TrialSpec) -> None:
        self._oom_kills = oom_kills()
        self._send(spec)

    def receive(self) -> list[Message]:
        """The messages that are complete, and its death as the last one."""
        dead = bool(wait([self._death], 0))
        try:
            messages: list[Message] = self._inbox.feed(self._read())
        except EOFError:
            if wait([self._death], CLOSING_SECONDS):
                return [self._died()]
            return [Died(f"worker process {self.pid} closed its stream and went on")]
        except Garbled as error:
            return [Died(f"worker process {self.pid} was killed: {error}")]
        if dead and not messages:
            messages.append(self._died())
        return messages

    def kill(self) -> None:
        """The group first: until it is buried, the worker's number cannot come to mean another group."""
        if self._stream.fileno() < 0:
            return
        kill_group(self.pid)
        self._process.kill()  # a worker that has only just started leads no group yet
        self._process.join()
        self._guard.forget(self.pid)
        if self._death != self._process.sentinel:
            os.close(self._death)
        self._process.close()
        self._stream.close()

    def _send(self, message: object) -> None:
        with contextlib.suppress(OSError):  # it is dead, and whoever waits is told
            self._stream.sendall(pack(message))

    def _read(self) -> bytes:
        """What is in the stream. Raises `EOFError` at its end."""
        found = bytearray()
        while len(found) <= LARGEST:
            try:
                piece = self._stream.recv(PIECE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                break
            except ConnectionError:
                piece = b""
            if not piece and not found:
                raise EOFError
            if not piece:
                break
            found += piece
        return bytes(found)

    def _died(self) -> Died:
        self._process.join()
        code = self._process.exitcode
        if code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            reason = f"worker process {self.pid} was killed by the kernel, which was out of memory"
            return Died(reason, FailureKind.OUT_OF_MEMORY)
        return Died(f"worker process {self.pid} {_ending(code)}")


class ProcessSite:
    """Worker processes of this machine. On a machine with a GPU they share it.

    `prepare` is what a worker does before it is ready.
    """

    start_seconds = 300.0

    def __init__(self, *, work: Work = measure, prepare: Callable[[], None] = warm_up) -> None:
        self._orders = (work, prepare)
        self._guard = Guard()

    def start(self) -> ProcessWorker:
        try:
            return ProcessWorker(self._orders, guard=self._guard)
        except OSError as error:
            raise EnvironmentProblem(
                f"no worker process can be started: {error}. Free memory or processes, or ask for fewer workers with "
                "`--set executor.workers=1`"
            ) from error

    def wait(self, workers: Sequence[ProcessWorker], *, timeout: float) -> list[tuple[ProcessWorker, Message]]:
        ready = set(wait([sign for worker in workers for sign in worker.signs], timeout))
        heard = [worker for worker in workers if not ready.isdisjoint(worker.signs)]
        return [(worker, message) for worker in heard for message in worker.receive()]

    def close(self) -> None:
        self._guard.close()


def _serve(stream: socket.socket) -> None:
    """The life of a worker: take the orders, prepare, then answer trials until the stream ends.

    What a trial prints goes nowhere: the driver's output is data, and its messages are a panel.
    """
    os.setsid()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    messages = _messages(stream)
    work, prepare = cast(Orders, next(messages))
    prepare()
    _be_silent()
    stream.sendall(pack(Ready()))
    for spec in messages:
        stream.sendall(pack(run_trial(spec, work=work)))


def _messages(stream: socket.socket) -> Iterator[Any]:
    inbox = Inbox()
    while piece := stream.recv(PIECE):
        yield from inbox.feed(piece)


def _be_silent() -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
    os.close(nowhere)


def _ending(exitcode: int | None) -> str:
    if exitcode is None or exitcode >= 0:
        return f"ended with exit code {exitcode}"
    try:
        return f"was killed by {signal.Signals(-exitcode).name}"
    except ValueError:
        return f"was killed by signal {-exitcode}"


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
