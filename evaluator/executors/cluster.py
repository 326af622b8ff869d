"""Trials in long-lived actors of Ray Core (Moritz et al. 2018, arXiv:1712.05889): this machine or a cluster of many.

The one file that imports Ray, and only when an executor is made. Ray retries nothing by itself: a dead actor is
reported and replaced, and who submitted the trial counts the attempts. Without an address a session of this machine is
started, bound to the loopback interface and silent; a session that the process already has is used and left as it is.
"""

import contextlib
import logging
import math
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from archloom.db.records import FailureKind, Measurement, TrialSpec
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.executors.guard import Guard
from archloom.evaluator.executors.pool import Died, Message, Ready
from archloom.evaluator.trial import Work, measure, run_trial, warm_up

OBJECT_STORE_BYTES = 80_000_000
"""Next to nothing passes through the object store; Ray asks for at least 75 MB."""

ANSWER_SECONDS = 60.0
"""An answer that Ray says is there and that does not come so long is lost with the node that holds it."""

QUIET = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0"}
LOOPBACK = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0"}

Ray = Any
"""The module `ray`, which has no types of use to us."""


class TrialActor:
    """The worker's side: made once, it answers trials one at a time.

    Ray ends what a worker has started with `exec`. A copy that it forked would live on and hold the connections by
    which Ray notices the worker's death: a guard of its own kills it.
    """

    def __init__(self, work: Work, prepare: Callable[[], None]) -> None:
        self._work = work
        if os.getpgrp() != os.getpid():
            os.setpgid(0, 0)
        self._guard = Guard()
        self._guard.watch(os.getpid())
        prepare()

    def ready(self) -> Ready:
        return Ready()

    def run(self, spec: TrialSpec) -> Measurement:
        return run_trial(spec, work=self._work)


class RayWorker:
    """The driver's side of an actor and of the one answer that is awaited from it, if any."""

    def __init__(self, ray: Ray, *, work: Work, prepare: Callable[[], None], gpus: float) -> None:
        options = {"num_cpus": 1, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        self._ray = ray
        self._actor = ray.remote(**options)(TrialActor).remote(work, prepare)
        self.answer: Any = self._actor.ready.remote()

    def begin(self, spec: TrialSpec) -> None:
        self.answer = self._actor.run.remote(spec)

    def receive(self) -> Message:
        """The answer, which is there, or the actor's death."""
        answer, self.answer = self.answer, None
        try:
            message: Ready | Measurement = self._ray.get(answer, timeout=ANSWER_SECONDS)
        except self._ray.exceptions.OutOfMemoryError as error:
            return Died(f"Ray killed the worker for want of memory: {_summary(error)}", FailureKind.OUT_OF_MEMORY)
        except self._ray.exceptions.RayError as error:
            return Died(f"Ray lost the worker: {_summary(error)}")
        return message

    def kill(self) -> None:
        self._ray.kill(self._actor, no_restart=True)


class RaySite:
    """The actors of a Ray session, on this machine or on the cluster at `address`.

    `capacity` is how many workers the session's CPUs, or GPUs where `gpus` (per worker) is not 0, can hold. A worker
    that no node has room for starts when one has: after the loss of a node the others go on. `prepare` is what a worker
    does before it is ready.
    """

    start_seconds = math.inf

    def __init__(
        self,
        *,
        workers: int = 0,
        address: str | None = None,
        gpus: float = 0.0,
        work: Work = measure,
        prepare: Callable[[], None] = warm_up,
    ) -> None:
        self._ray = _import_ray(local=address is None)
        self._work = work
        self._prepare = prepare
        self._gpus = gpus
        self._owned = not self._ray.is_initialized()
        if self._owned:
            _connect(self._ray, workers=workers, address=address, gpus=gpus)
        resources = self._ray.cluster_resources()
        by_gpu = resources.get("GPU", 0.0) / gpus if gpus else float("inf")
        self.capacity = int(min(resources.get("CPU", 0.0), by_gpu))
        if self.capacity < 1:
            self.close()
            raise ConfigError(
                f"no worker fits the Ray session: it has {resources.get('CPU', 0):g} CPUs and "
                f"{resources.get('GPU', 0):g} GPUs, and a worker takes 1 CPU and {gpus:g} GPUs. Ask for fewer GPUs."
            )

    def start(self) -> RayWorker:
        try:
            return RayWorker(self._ray, work=self._work, prepare=self._prepare, gpus=self._gpus)
        except self._ray.exceptions.RayError as error:
            raise EnvironmentProblem(f"Ray starts no worker: {_summary(error)}. See that its session lives") from error

    def wait(self, workers: Sequence[RayWorker], *, timeout: float) -> list[tuple[RayWorker, Message]]:
        awaited = {worker.answer: worker for worker in workers if worker.answer is not None}
        self._ray.wait(list(awaited), num_returns=1, timeout=timeout)
        done, _ = self._ray.wait(list(awaited), num_returns=len(awaited), timeout=0)
        return [(awaited[answer], awaited[answer].receive()) for answer in done]

    def close(self) -> None:
        """Shut down a local session, or disconnect from a cluster, if this site connected to it."""
        if self._owned:
            self._ray.shutdown()
            _print_messages(self._ray, True)


def _import_ray(*, local: bool) -> Ray:
    for name, value in {**QUIET, **(LOOPBACK if local else {})}.items():
        os.environ.setdefault(name, value)
    try:
        import ray
    except ImportError as error:
        raise EnvironmentProblem(f"Ray cannot be imported: {error}. Run with `--executor process`.") from error
    return ray


def _connect(ray: Ray, *, workers: int, address: str | None, gpus: float) -> None:
    where: dict[str, Any] = {"address": address}
    if address is None:
        where = {
            "address": "local",
            "num_cpus": workers or None,
            "num_gpus": None if gpus else 0,
            "object_store_memory": OBJECT_STORE_BYTES,
            "include_dashboard": False,
        }
        remedy = "Run with `--executor process`."
    else:
        remedy = (
            "Check that the cluster runs and, if it asks for tokens, that this process has RAY_AUTH_MODE=token and the "
            "cluster's token; or run with `--executor process`."
        )
    try:
        with _own_signals():
            _print_messages(ray, False)
            ray.init(**where, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, OSError, RuntimeError, TimeoutError, ValueError, ray.exceptions.RayError) as error:
        _print_messages(ray, True)
        raise EnvironmentProblem(
            f"Ray cannot be {'reached at ' + address if address else 'started here'}: {error}. {remedy}"
        ) from error


def _print_messages(ray: Ray, wanted: bool) -> None:
    """Whether Ray prints its messages. It says "A worker died" on stdout whatever `log_to_driver` is, and has no public
    switch for that; its debugger uses this one.
    """
    ray._private.worker._worker_logs_enabled = wanted


def _summary(error: Exception) -> str:
    """The first line of Ray's report of a death, and the last, without its advice."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return " ".join(dict.fromkeys((lines[0], lines[-1]))).partition(" Some common causes")[0]


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Put back the handler of SIGTERM, which Ray replaces when it starts."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
