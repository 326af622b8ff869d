"""Comparison of a backend with its reference, in values and in the gradients of every input."""

from collections.abc import Callable, Iterator, Sequence

import pytest
import torch
from torch import Tensor

Run = Callable[[str], Tensor | tuple[Tensor, ...]]


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_num_threads(threads)


def _results(run: Run, backend: str, inputs: Sequence[Tensor]) -> list[Tensor]:
    outputs = run(backend)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    # random weights: a plain sum would hide errors that cancel
    generator = torch.Generator().manual_seed(1)
    loss = torch.zeros((), dtype=torch.float64)
    for out in outputs:
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64)
        loss = loss + (out.double() * weight).sum()
    return [*outputs, *torch.autograd.grad(loss, inputs)]


def compare(run: Run, inputs: Sequence[Tensor], tolerance: float, backend: str = "chunked") -> None:
    """Assert that run(backend) equals run("reference"), relative to the largest entry of each (at least 1)."""
    actual, expected = (_results(run, name, inputs) for name in (backend, "reference"))
    for index, (got, want) in enumerate(zip(actual, expected, strict=True)):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        assert got.isfinite().all(), f"result {index} is not finite"
        error = (got - want).abs().max() / want.abs().max().clamp(min=1)
        assert error < tolerance, f"result {index} of shape {tuple(got.shape)} is off by {error:.1e}"


@pytest.fixture
def assert_equal_backends() -> Callable[..., None]:
    return compare
