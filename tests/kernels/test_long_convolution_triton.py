"""Long convolution as Triton kernels against the literal sum over lags, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the sum over lags in float64.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from archloom.kernels.long_convolution import long_convolution

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 150 steps, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is not initialised holds NaN, so that reading it shows."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    yield
    monkeypatch.undo()


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many blocks, and several tiles of columns."""
    from archloom.kernels.long_convolution import triton

    monkeypatch.setattr(triton, "TILES", {4: triton._Tiles(16, 16, 4, 1)})


def make_inputs(
    steps: int,
    length: int,
    past: int | None = None,
    *,
    batch: int = 2,
    channels: int = 3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Tensor]:
    """x, the filter and, where there is a past, the history, all leaves."""
    shapes = [(batch, steps, channels), (channels, length)]
    if past is not None:
        shapes.append((batch, past, channels))
    return [torch.randn(*shape, dtype=dtype, device=device).requires_grad_() for shape in shapes]


def run(inputs: list[Tensor], backend: str) -> Tensor:
    return long_convolution(*inputs[:2], history=inputs[2] if len(inputs) > 2 else None, backend=backend)


@interpreted
@pytest.mark.parametrize("steps", [1, 16, 17, 33, 100])
@pytest.mark.parametrize("length", [1, 5, 64, 150])
@pytest.mark.parametrize("past", [None, 3, 50])
def test_equals_the_sum_over_lags(assert_equal_backends, steps, length, past):
    inputs = make_inputs(steps, length, past, channels=2)
    # one tap reads no history, whose gradient then does not exist
    wanted = inputs[:2] if length == 1 else inputs
    assert_equal_backends(lambda backend: run(inputs, backend), wanted, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(
    ("steps", "length", "past"),
    [(70, 70, None), (70, 20, None), (70, 33, 40), (70, 200, 40), (17, 60, 90), (17, 16, 15), (40, 1, 20), (90, 2, 1)],
)
def test_many_blocks(assert_equal_backends, small_tiles, steps, length, past):
    inputs = make_inputs(steps, length, past, channels=1)
    wanted = inputs[:2] if length == 1 else inputs
    assert_equal_backends(lambda backend: run(inputs, backend), wanted, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(("batch", "channels"), [(1, 1), (1, 4), (17, 1), (5, 2)])
def test_batches_that_are_not_those_of_tiles(assert_equal_backends, small_tiles, batch, channels):
    inputs = make_inputs(40, 40, 9, batch=batch, channels=channels)
    assert_equal_backends(lambda backend: run(inputs, backend), inputs, SINGLE, "triton")


@interpreted
def test_a_unit_tap_delays_exactly(small_tiles):
    x, taps = torch.randn(1, 50, 2), torch.zeros(2, 40)
    taps[:, 37] = 1
    expected = torch.cat([torch.zeros(1, 37, 2), x[:, :-37]], 1)
    torch.testing.assert_close(long_convolution(x, taps, backend="triton"), expected, rtol=0, atol=0)


@interpreted
@pytest.mark.parametrize("cut", [1, 16, 33])
def test_segments_with_history_equal_one_call(cut):
    x, taps = (x.detach() for x in make_inputs(50, 50))
    first = long_convolution(x[:, :cut], taps, backend="triton")
    second = long_convolution(x[:, cut:], taps, history=x[:, :cut], backend="triton")
    whole = long_convolution(x, taps, backend="triton")
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-5)


@interpreted
def test_inputs_need_not_be_contiguous(assert_equal_backends):
    packed, turned = torch.randn(2, 3, 60, requires_grad=True), torch.randn(30, 3, requires_grad=True)
    x, history = packed.transpose(1, 2)[:, 20:], packed.transpose(1, 2)[:, 3:20]
    assert_equal_backends(
        lambda backend: long_convolution(x, turned.T, history=history, backend=backend), [packed, turned], SINGLE,
        "triton",
    )  # fmt: skip


@interpreted
@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_one_gradient_alone(assert_equal_backends, wanted):
    inputs = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(make_inputs(20, 20, 5))]
    assert_equal_backends(lambda backend: run(inputs, backend), [inputs[wanted]], SINGLE, "triton")


@interpreted
def test_an_empty_history(assert_equal_backends):
    inputs = make_inputs(20, 20, 0)
    assert_equal_backends(lambda backend: run(inputs, backend), inputs[:2], SINGLE, "triton")


def relative_errors(inputs: list[Tensor]) -> list[float]:
    """RMS of the error over RMS of the sum over lags in float64: of the output, and of all gradients."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = run(leaves, backend)
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
        results.append([out, *torch.autograd.grad((out.double() * weight).sum(), leaves)])
    assert all(x.isfinite().all() for x in results[0])
    assert all(x.dtype == inputs[0].dtype for x in results[0])
    return [((got.double() - x).norm() / x.norm()).item() for got, x in zip(*results, strict=True)]


@interpreted
def test_half_precision_rounds_only_operands():
    errors = relative_errors(make_inputs(70, 80, 20, dtype=torch.float16))
    assert max(errors) < 1e-3, errors  # a few roundings of 2^-11 each


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"long_convolution: .* CUDA device, given cpu; .*chunked"):
        run(make_inputs(3, 3), "triton")


@interpreted
def test_refuses_float64():
    with pytest.raises(ValueError, match=r"x has dtype torch.float64, .* backend=\"chunked\" does"):
        run(make_inputs(3, 3, dtype=torch.float64), "triton")


@interpreted
def test_refuses_channels_of_more_than_2_to_the_31():
    x = torch.zeros(1, 1, 1).expand(1 << 20, 1 << 11, 1)
    with pytest.raises(ValueError, match=r"B = 1048576 rows of 2048 steps; .* backend=\"chunked\" any"):
        long_convolution(x, torch.zeros(1, 1), backend="triton")


def test_an_unknown_backend_is_told_of_triton():
    with pytest.raises(ValueError, match=r"backend is 'fft'; expected \"chunked\", \"reference\" or \"triton\""):
        run(make_inputs(3, 3), "fft")


# -- on a GPU ---------------------------------------------------------------------------------------------------------

GPU_CASES = [
    (1024, 1024, None, {"batch": 4, "channels": 64}),
    (1000, 1000, None, {"batch": 3, "channels": 33}),
    (2048, 100, None, {"batch": 1, "channels": 32}),
    (300, 2000, 1000, {"batch": 5, "channels": 16}),
    (1, 1000, 999, {"batch": 5, "channels": 16}),
    (1, 1, None, {"batch": 1, "channels": 1}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "length", "past", "sizes"), GPU_CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.005), (torch.float32, 1e-5)])
def test_realistic_sizes_on_a_gpu(steps, length, past, sizes, dtype, bound):
    """bfloat16 is rounded by up to 2^-9 = 0.002."""
    errors = relative_errors(make_inputs(steps, length, past, **sizes, dtype=dtype, device="cuda"))
    assert max(errors) < bound, errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    inputs = make_inputs(2000, 2000, batch=4, channels=64, dtype=torch.bfloat16, device="cuda")
    twice = []
    for _ in range(2):
        out = run(inputs, "triton")
        twice.append([out, *torch.autograd.grad(out.float().sum(), inputs)])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))


@pytest.mark.gpu
@pytest.mark.slow
def test_tensors_of_more_than_2_to_the_31_on_a_gpu():
    if torch.cuda.get_device_properties(0).total_memory < 60e9:
        pytest.skip("needs 60 GB")
    steps, channels, last = (1 << 15) + 5, 1 << 16, 64
    x = torch.randn(1, steps, channels, device="cuda", dtype=torch.bfloat16)
    taps = torch.randn(channels, 100, device="cuda", dtype=torch.bfloat16)
    out = long_convolution(x, taps, backend="triton")[:, -last:, -last:]
    near = x[:, -last - 100 :, -last:].double()
    exact = long_convolution(near, taps[-last:].double(), backend="reference")[:, -last:]
    assert (out.double() - exact).norm() < 0.005 * exact.norm()
