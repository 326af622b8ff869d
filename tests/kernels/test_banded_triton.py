"""Data-dependent taps as Triton kernels against one step at a time, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the reference in float64.
"""

import pytest
import torch
from torch import Tensor

from archloom.kernels.banded import banded

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 40 taps or values, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


def make_inputs(
    steps: int,
    *,
    batch: int = 2,
    heads: int = 2,
    width: int = 4,
    value: int = 3,
    state: bool = True,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    shapes = {"taps": (batch, steps, heads, width), "v": (batch, steps, heads, value)}
    shapes |= {"initial_state": (batch, width - 1, heads, value)} if state and width > 1 else {}
    return {name: torch.randn(*shape, device=device, dtype=dtype).requires_grad_() for name, shape in shapes.items()}


def check(assert_equal_backends, inputs: dict[str, Tensor], *, return_state: bool = True, taken=None) -> None:
    def run(backend: str) -> Tensor | tuple[Tensor, ...]:
        made = banded(**inputs, return_state=return_state, backend=backend)
        return tuple(x for x in made if x.numel()) if return_state else made

    assert_equal_backends(run, list(inputs.values()) if taken is None else taken, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("steps", [1, 2, 31, 64, 65])
@pytest.mark.parametrize("width", [1, 3, 8])
def test_equals_one_step_at_a_time(assert_equal_backends, steps, width):
    check(assert_equal_backends, make_inputs(steps, width=width))


@interpreted
@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize(("state", "return_state"), [(False, False), (True, False), (False, True)])
def test_with_and_without_states(assert_equal_backends, steps, state, return_state):
    check(assert_equal_backends, make_inputs(steps, state=state), return_state=return_state)


@interpreted
@pytest.mark.parametrize(
    ("batch", "heads", "width", "value"), [(1, 1, 2, 1), (1, 3, 5, 33), (3, 1, 2, 70), (1, 1, 40, 5)]
)
def test_sizes_that_are_not_those_of_tiles(assert_equal_backends, batch, heads, width, value):
    check(assert_equal_backends, make_inputs(34, batch=batch, heads=heads, width=width, value=value))


@interpreted
@pytest.mark.parametrize("taken", ["taps", "v", "initial_state"])
def test_inputs_that_need_no_gradient(assert_equal_backends, taken):
    inputs = {name: x if name == taken else x.detach() for name, x in make_inputs(6).items()}
    check(assert_equal_backends, inputs, taken=[inputs[taken]], return_state=False)


@interpreted
@pytest.mark.parametrize("cut", [1, 2, 5, 19])
@pytest.mark.parametrize("width", [4, 11])
def test_state_hands_over(cut, width):
    taps, v = (x.detach() for x in make_inputs(20, width=width, state=False).values())
    whole, last = banded(taps, v, return_state=True, backend="triton")
    first, state = banded(taps[:, :cut], v[:, :cut], return_state=True, backend="triton")
    second, state = banded(taps[:, cut:], v[:, cut:], initial_state=state, return_state=True, backend="triton")
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=SINGLE, atol=SINGLE)
    assert torch.equal(state, last)


@interpreted
def test_every_output_is_written(assert_equal_backends, monkeypatch):
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    check(assert_equal_backends, make_inputs(67, value=5))


@interpreted
def test_views_of_one_projection(assert_equal_backends):
    whole = torch.randn(2, 9, 2, 8, requires_grad=True)
    taps, v = whole.split([3, 5], -1)
    assert_equal_backends(lambda backend: banded(taps, v, backend=backend), [whole], SINGLE, "triton")


def relative_errors(inputs: dict[str, Tensor]) -> dict[str, float]:
    """RMS of the error over RMS of the reference in float64, of the output and all gradients, by name."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in inputs.items()}
        out = banded(**leaves, backend=backend)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device, inputs["v"].dtype)
        gradients = torch.autograd.grad((out.double() * weight).sum(), list(leaves.values()))
        results.append(dict(zip(("out", *leaves), (out, *gradients), strict=True)))
    actual, expected = results
    assert all(tensor.isfinite().all() for tensor in actual.values())
    return {name: ((actual[name].double() - x).norm() / x.norm()).item() for name, x in expected.items()}


@interpreted
def test_half_precision_rounds_only_results():
    errors = relative_errors(make_inputs(50, dtype=torch.float16))
    assert max(errors.values()) < 1e-3, errors  # one rounding of 2^-11


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"banded: .* CUDA device, given cpu; .*chunked"):
        banded(**make_inputs(3), backend="triton")


@interpreted
def test_refuses_float64():
    with pytest.raises(ValueError, match=r"v has dtype torch.float64, .* backend=\"chunked\" does"):
        banded(**make_inputs(3, dtype=torch.float64), backend="triton")


def test_an_unknown_backend_is_told_of_triton():
    with pytest.raises(ValueError, match=r"backend is 'cuda'; expected \"chunked\", \"reference\" or \"triton\""):
        banded(**make_inputs(3), backend="cuda")


GPU_CASES = [
    (1, {"batch": 1, "heads": 1, "value": 5}),
    (1000, {"heads": 8, "value": 64}),
    (1000, {"heads": 4, "value": 128, "width": 32}),
    (333, {"heads": 3, "value": 17, "width": 9}),
    (300, {"value": 48, "width": 1}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "sizes"), GPU_CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.005), (torch.float32, 1e-5)])
def test_realistic_sizes_on_a_gpu(steps, sizes, dtype, bound):
    errors = relative_errors(make_inputs(steps, device="cuda", dtype=dtype, **sizes))
    assert max(errors.values()) < bound, errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    inputs, twice = make_inputs(2000, heads=8, value=64, device="cuda", dtype=torch.bfloat16), []
    for _ in range(2):
        out = banded(**inputs, backend="triton")
        twice.append([out, *torch.autograd.grad(out.float().square().sum(), list(inputs.values()))])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
