"""Errors against float64 over lengths up to 65536 and decays from none to -20 a step: finite, and within stated bounds.

The grid, what an error is relative to, and the bounds are those of `tests/benchmarks/kernel_numerics.py`, which
`tests/benchmarks/bench_numerics.py` prints whole.
"""

from functools import partial

import pytest
import torch
from tests.benchmarks.kernel_numerics import PRIMITIVES, Case, cases, errors

from archloom.kernels.table import backends_of

TYPES = (torch.float32, torch.bfloat16)
EXACT = 1e-9
"""Two forms of one sum in float64: a few thousand roundings of 1e-16, and exponents of a hundred and more."""
DENSE = (
    *("attention", "attention_resolvent", "long_convolution", "feature_toeplitz", "local_linear"),
    *("windowed_linear_attention", "windowed_resolvent"),
)
"""Primitives whose reference would take tens of gigabytes at 8192 steps."""
QUADRATIC = ("attention", "attention_resolvent", "local_linear")
"""Those that would take minutes at 65536 steps without a window."""
HARD = (
    *("none", "weak", "weak head", "strong", "strong head", "mixed", "mixed head", "mixed channel"),
    *(
        "beta 1.99, parallel",
        "mixed, window 100",
        "window 100",
        "ridge 0.1, window None",
        "ridge 0.1, window 100",
        "W 4",
        "W 32",
    ),
)
"""What the long and the costly rounds take of the grid."""


def hold(case: Case, dtype: torch.dtype, *, backends: tuple[str, ...] = ("chunked",), device: str = "cpu") -> None:
    most_rms, most_largest = case.bound(dtype)
    for backend, found in errors(case, dtype, backends=backends, device=device).items():
        where = f"{case.primitive}, {case.variant}, T {case.steps}, {dtype}, {backend}"
        assert all(each.finite for each in found), f"{where}: not finite: {found}"
        beyond = [each for each in found if not (each.rms <= most_rms and each.largest <= most_largest)]
        assert not beyond, f"{where}: beyond ({most_rms:.0e}, {most_largest:.0e}): {beyond}"


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_errors_are_bounded(primitive: str, dtype: torch.dtype) -> None:
    for case in cases(64, primitive):
        hold(case, dtype)


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_errors_are_bounded_where_it_is_hard(primitive: str) -> None:
    for case in cases(300, primitive):
        if case.variant in HARD:
            hold(case, torch.float32)


@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_chunked_in_float64_is_the_reference(primitive: str) -> None:
    for case in cases(200, primitive):
        found = errors(case, torch.float64, oracle="reference")["chunked"]
        assert max(each.largest for each in found) < EXACT, f"{case.primitive}, {case.variant}: {found}"


@pytest.mark.long
@pytest.mark.parametrize(
    ("primitive", "steps"),
    [
        *((primitive, 1024) for primitive in PRIMITIVES),
        *((primitive, 8192) for primitive in PRIMITIVES if primitive not in DENSE),
    ],
)
def test_chunked_in_float64_is_the_reference_of_long_sequences(primitive: str, steps: int) -> None:
    """What `kernel_numerics` takes for the truth beyond the lengths at which the reference can be afforded."""
    for case in cases(steps, primitive):
        if steps == 1024 or case.variant in HARD:
            found = errors(case, torch.float64, oracle="reference")["chunked"]
            assert max(each.largest for each in found) < EXACT, f"{case.primitive}, {case.variant}: {found}"


@pytest.mark.long
@pytest.mark.parametrize("steps", [1024, 8192, 65536])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_errors_do_not_grow_with_length(primitive: str, steps: int) -> None:
    for case in cases(steps, primitive):
        if steps == 1024:
            hold(case, torch.float32)
            hold(case, torch.bfloat16)
        elif case.variant in HARD and (steps == 8192 or primitive not in QUADRATIC or "window 100" in case.variant):
            hold(case, torch.float32)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("steps", [64, 1024])
@pytest.mark.parametrize("primitive", PRIMITIVES)
def test_errors_are_bounded_on_a_gpu(primitive: str, steps: int, dtype: torch.dtype) -> None:
    for case in cases(steps, primitive):
        function = case.call.func if isinstance(case.call, partial) else case.call
        backends = tuple(each for each in ("chunked", "triton") if each in backends_of(function))
        hold(case, dtype, backends=backends, device="cuda")
