"""Backends: what is asked of the machine, said in one error; and every Triton kernel compiled for a GPU not at hand."""

import os
import subprocess
import sys

import pytest
import torch

from archloom.kernels import backends
from archloom.kernels.backends import require_triton, unknown_backend
from archloom.kernels.table import with_triton


def test_an_unknown_backend_is_told_the_known_ones() -> None:
    assert str(unknown_backend("cuda")) == 'backend is \'cuda\'; expected "chunked" or "reference"'
    assert '"chunked", "reference" or "triton"' in str(unknown_backend("cuda", "chunked", "reference", "triton"))


def test_triton_needs_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs Triton; pip install .*chunked"):
        require_triton("attention", torch.zeros(1))


def test_triton_needs_a_gpu_or_the_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    require_triton("attention", torch.zeros(1))
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"attention: .* CUDA device, given cpu; .*chunked"):
        require_triton("attention", torch.zeros(1))


@pytest.mark.long  # continuous integration runs the command itself
@pytest.mark.parametrize("primitive", [package.rpartition(".")[2] for package in with_triton()])
def test_every_kernel_compiles_for_hopper(primitive: str) -> None:
    pytest.importorskip("triton")
    command = [sys.executable, "-m", "archloom.kernels.compiled", primitive, "--capability", "90"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "TRITON_INTERPRET": "0"})
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) >= 2, "a forward and a backward kernel at least"
    assert all(line.startswith(primitive) for line in lines)
