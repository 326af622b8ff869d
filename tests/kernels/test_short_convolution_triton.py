"""Short convolution as Triton kernels against one step at a time, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the reference in float64.
"""

import pytest
import torch
from torch import Tensor

from archloom.kernels.short_convolution import short_convolution

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 600 steps, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


def make_inputs(
    steps: int,
    *,
    batch: int = 2,
    channels: int = 3,
    width: int = 4,
    bias: bool = True,
    state: bool = True,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    shapes = {"x": (batch, steps, channels), "taps": (channels, width)}
    shapes |= {"bias": (channels,)} if bias else {}
    shapes |= {"initial_state": (batch, width - 1, channels)} if state and width > 1 else {}
    return {name: torch.randn(*shape, device=device, dtype=dtype).requires_grad_() for name, shape in shapes.items()}


def check(assert_equal_backends, inputs: dict[str, Tensor], *, return_state: bool = True, taken=None) -> None:
    def run(backend: str) -> Tensor | tuple[Tensor, ...]:
        made = short_convolution(**inputs, return_state=return_state, backend=backend)
        return tuple(x for x in made if x.numel()) if return_state else made

    assert_equal_backends(run, list(inputs.values()) if taken is None else taken, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("steps", [1, 2, 31, 33, 70])
@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize("bias", [False, True])
def test_equals_one_step_at_a_time(assert_equal_backends, steps, width, bias):
    check(assert_equal_backends, make_inputs(steps, width=width, bias=bias))


@interpreted
@pytest.mark.parametrize("steps", [1, 3, 40])
@pytest.mark.parametrize(("state", "return_state"), [(False, False), (True, False), (False, True)])
def test_with_and_without_states(assert_equal_backends, steps, state, return_state):
    check(assert_equal_backends, make_inputs(steps, state=state), return_state=return_state)


@interpreted
@pytest.mark.parametrize(("batch", "channels", "width"), [(1, 1, 2), (3, 65, 2), (1, 130, 3), (2, 5, 40)])
def test_sizes_that_are_not_those_of_tiles(assert_equal_backends, batch, channels, width):
    check(assert_equal_backends, make_inputs(34, batch=batch, channels=channels, width=width))


@interpreted
@pytest.mark.parametrize("steps", [256, 257, 300])
def test_partial_sums_of_the_gradient_of_taps(assert_equal_backends, steps):
    check(assert_equal_backends, make_inputs(steps, channels=2, width=2))


@interpreted
@pytest.mark.parametrize("taken", ["x", "taps", "bias", "initial_state"])
def test_inputs_that_need_no_gradient(assert_equal_backends, taken):
    inputs = {name: x if name == taken else x.detach() for name, x in make_inputs(6).items()}
    check(assert_equal_backends, inputs, taken=[inputs[taken]], return_state=False)


@interpreted
@pytest.mark.parametrize("cut", [1, 2, 5, 19])
def test_state_hands_over(cut):
    inputs = {name: x.detach() for name, x in make_inputs(20, bias=False, state=False).items()}
    x, taps = inputs["x"], inputs["taps"]
    whole, last = short_convolution(x, taps, return_state=True, backend="triton")
    first, state = short_convolution(x[:, :cut], taps, return_state=True, backend="triton")
    second, state = short_convolution(x[:, cut:], taps, initial_state=state, return_state=True, backend="triton")
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=SINGLE, atol=SINGLE)
    assert torch.equal(state, last)


@interpreted
def test_every_output_is_written(assert_equal_backends, monkeypatch):
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    check(assert_equal_backends, make_inputs(35, channels=5))


@interpreted
def test_inputs_need_not_be_contiguous(assert_equal_backends):
    both, taps = torch.randn(2, 9, 12, requires_grad=True), torch.randn(3, 6, requires_grad=True)

    def run(backend: str) -> Tensor | tuple[Tensor, Tensor]:
        return short_convolution(both[..., ::2], taps.T, bias=both[0, 0, 1::2], backend=backend)

    assert_equal_backends(run, [both, taps], SINGLE, "triton")


def relative_errors(inputs: dict[str, Tensor]) -> dict[str, float]:
    """RMS of the error over RMS of the reference in float64, of the output and all gradients, by name."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in inputs.items()}
        out = short_convolution(**leaves, backend=backend)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(out.device)
        if inputs["x"].dtype != torch.float32:
            weight = weight.to(inputs["x"].dtype)  # the same slopes for both
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
    with pytest.raises(ValueError, match=r"short_convolution: .* CUDA device, given cpu; .*chunked"):
        short_convolution(**make_inputs(3), backend="triton")


@interpreted
def test_refuses_float64():
    with pytest.raises(ValueError, match=r"x has dtype torch.float64, .* backend=\"chunked\" does"):
        short_convolution(**make_inputs(3, dtype=torch.float64), backend="triton")


def test_an_unknown_backend_is_told_of_triton():
    with pytest.raises(ValueError, match=r"backend is 'cuda'; expected \"chunked\", \"reference\" or \"triton\""):
        short_convolution(**make_inputs(3), backend="cuda")


GPU_CASES = [
    (1, {"batch": 1, "channels": 5}),
    (1000, {"channels": 768}),
    (3001, {"channels": 100, "width": 7}),
    (333, {"channels": 64, "width": 1}),
    (300, {"channels": 48, "width": 4, "bias": False, "state": False}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "sizes"), GPU_CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.005), (torch.float32, 1e-5)])
def test_realistic_sizes_on_a_gpu(steps, sizes, dtype, bound):
    errors = relative_errors(make_inputs(steps, device="cuda", dtype=dtype, **sizes))
    assert max(errors.values()) < bound, errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    inputs, twice = make_inputs(2000, batch=4, channels=512, device="cuda", dtype=torch.bfloat16), []
    for _ in range(2):
        out = short_convolution(**inputs, backend="triton")
        twice.append([out, *torch.autograd.grad(out.float().square().sum(), list(inputs.values()))])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
