"""Where trials run: in this process, in worker processes of this machine, or in actors of a Ray session.

A trial that was handed to a worker ends in one completion, whatever happens:

    what happens                                            the failure     ends as
    an exception; an answer that cannot be sent             ERROR           measurement
    memory refused (`memory_gib`, or a full GPU)            OUT_OF_MEMORY   measurement, and a fresh worker
    the time limit, noticed by the training loop            TIMEOUT         measurement
    the same, and the worker is killed: it hangs, holds     TIMEOUT         measurement, and a fresh worker
      Python's lock, ignores signals, was stopped
    text or a device that is missing                        WORKER_LOST     measurement, to be tried again
    killed by the kernel, or Ray, for want of memory        OUT_OF_MEMORY   lost, to be tried again
    killed, crashed, left; its node lost; it closed its     WORKER_LOST     lost, to be tried again
      stream, or wrote what is no message to it

The last three say nothing of the candidate for certain: who submitted the trial tries it again, a few times.
"""

import os
from functools import partial
from typing import Literal, assert_never

from archloom.errors import ConfigError
from archloom.evaluator.executors.interface import Completion, Executor
from archloom.evaluator.trial import Kernels, Work, measure, within_memory

__all__ = ["Completion", "Executor", "ExecutorKind", "make_executor"]

ExecutorKind = Literal["ray", "process", "inline"]

LEAST_GIB = 1.0
"""A process that has only loaded PyTorch holds 0.3 GiB, an actor of Ray 0.5."""


def make_executor(
    kind: ExecutorKind,
    *,
    workers: int = 0,
    ray_address: str | None = None,
    gpus_per_worker: float = 0.0,
    kernels: Kernels = "chunked",
    memory_gib: float | None = None,
    work: Work | None = None,
) -> Executor:
    """An executor of `workers` workers; 0 is one for every CPU of the machine, or of the cluster at `ray_address`.

    Workers train on the CPU unless `gpus_per_worker`, which may be a fraction, is more than 0; only Ray counts GPUs out
    to workers, processes share the first. `kernels` is the backend that trials prefer, "triton" on GPUs only.
    `memory_gib` is what the process of a worker on the CPU may hold; a trial that asks for more fails as
    `OUT_OF_MEMORY`. Linux keeps to it. `work` is what is done with a trial, by default `trial.measure`. Raises
    `ConfigError` for arguments that do not go together, `EnvironmentProblem` if Ray cannot be started or reached.
    """
    if workers < 0 or gpus_per_worker < 0:
        raise ConfigError(f"workers ({workers}) and GPUs per worker ({gpus_per_worker}) cannot be less than 0")
    if ray_address is not None and kind != "ray":
        raise ConfigError(
            f"a Ray address ({ray_address}) needs the executor 'ray', not {kind!r}; remove one of the two"
        )
    if kernels == "triton" and not gpus_per_worker:
        raise ConfigError('Triton kernels need a GPU for each worker; set gpus_per_worker, or kernels to "chunked"')
    if memory_gib is not None and memory_gib < LEAST_GIB:
        raise ConfigError(
            f"a worker holds PyTorch and needs {LEAST_GIB:g} GiB or more, got memory_gib = {memory_gib:g}"
        )
    if memory_gib is not None and gpus_per_worker:
        raise ConfigError(
            f"memory_gib ({memory_gib:g}) limits workers on the CPU, and these have {gpus_per_worker:g} GPUs each; "
            "leave one of the two out"
        )
    work = work or partial(measure, device="cuda" if gpus_per_worker else "cpu", kernels=kernels)
    if memory_gib is not None:
        work = partial(within_memory, work=work, gib=memory_gib)
    match kind:
        case "inline":
            from archloom.evaluator.executors.inline import InlineExecutor

            return InlineExecutor(work=work)
        case "process":
            from archloom.evaluator.executors.pool import Pool
            from archloom.evaluator.executors.process import ProcessSite

            return Pool(ProcessSite(work=work), workers=workers or _cpus())
        case "ray":
            from archloom.evaluator.executors.cluster import RaySite
            from archloom.evaluator.executors.pool import Pool

            site = RaySite(workers=workers, address=ray_address, gpus=gpus_per_worker, work=work)
            return Pool(site, workers=workers or site.capacity)
        case _:
            assert_never(kind)


def _cpus() -> int:
    """The CPUs that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
