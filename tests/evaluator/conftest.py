"""The executors that tests share, each started once. Ray's one session has a CPU to spare for a test's own pool.

Workers import what they do from `executor_work.py` and `fault_work.py`, whose folder is put on their path.
"""

import importlib
import os
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from archloom.evaluator.executors import Executor, make_executor
from archloom.evaluator.executors.pool import Pool
from archloom.evaluator.trial import Work

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def on_path() -> Iterator[None]:
    """Makes the tests' work importable here, in spawned processes and in Ray's workers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        patch.setenv("PYTHONPATH", str(HERE), prepend=os.pathsep)
        patch.chdir(HERE.parent.parent)  # bare `kernels` and `agents` folders come first on the path of Ray's workers
        yield


@pytest.fixture(scope="session")
def obey(on_path: None) -> Work:
    work: Work = importlib.import_module("executor_work").obey
    return work


@pytest.fixture(scope="session")
def faults(on_path: None) -> ModuleType:
    return importlib.import_module("fault_work")


@pytest.fixture(scope="session")
def ray(obey: Work) -> Iterator[Executor]:
    pytest.importorskip("ray")
    from archloom.evaluator.executors.cluster import RaySite

    with Pool(RaySite(workers=3, work=obey), workers=2) as executor:
        yield executor


@pytest.fixture(scope="session")
def process(obey: Work) -> Iterator[Executor]:
    with make_executor("process", workers=2, work=obey) as executor:
        yield executor


@pytest.fixture(scope="session")
def inline(obey: Work) -> Iterator[Executor]:
    with make_executor("inline", work=obey) as executor:
        yield executor


@pytest.fixture(params=["inline", "process", "ray"])
def executor(request: pytest.FixtureRequest) -> Executor:
    """Each of the three."""
    chosen: Executor = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture(params=["process", "ray"])
def remote(request: pytest.FixtureRequest) -> Executor:
    """Each of those whose workers are other processes."""
    chosen: Executor = request.getfixturevalue(request.param)
    return chosen
