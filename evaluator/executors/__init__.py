"""Where trials run: in this process, in worker processes of this machine, or in actors of a Ray session."""

import os
from functools import partial
from typing import Literal, assert_never

from archloom.errors import ConfigError
from archloom.evaluator.executors.interface import Completion, Executor
from archloom.evaluator.trial import Kernels, Work, measure

__all__ = ["Completion", "Executor", "ExecutorKind", "make_executor"]

ExecutorKind = Literal["ray", "process", "inline"]


def make_executor(
    kind: ExecutorKind,
    *,
    workers: int = 0,
    ray_address: str | None = None,
    gpus_per_worker: float = 0.0,
    kernels: Kernels = "chunked",
    work: Work | None = None,
) -> Executor:
    """An executor of `workers` workers; 0 is one for every CPU of the machine, or of the cluster at `ray_address`.

    Workers train on the CPU unless `gpus_per_worker`, which may be a fraction, is more than 0; only Ray counts GPUs out
    to workers, processes share the first. `kernels` is the backend that trials prefer, "triton" on GPUs only. `work` is
    what is done with a trial, by default `trial.measure`. Raises `ConfigError` for arguments that do not go together,
    `EnvironmentProblem` if Ray cannot be started or reached.
    """
    if workers < 0 or gpus_per_worker < 0:
        raise ConfigError(f"workers ({workers}) and GPUs per worker ({gpus_per_worker}) cannot be less than 0")
    if ray_address is not None and kind != "ray":
        raise ConfigError(
            f"a Ray address ({ray_address}) needs the executor 'ray', not {kind!r}; remove one of the two"
        )
    if kernels == "triton" and not gpus_per_worker:
        raise ConfigError('Triton kernels need a GPU for each worker; set gpus_per_worker, or kernels to "chunked"')
    work = work or partial(measure, device="cuda" if gpus_per_worker else "cpu", kernels=kernels)
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
