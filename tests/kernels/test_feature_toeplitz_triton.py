"""Kernelised attention with Toeplitz weights as Triton kernels against the dense definition, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the dense definition in float64.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from archloom.kernels.feature_toeplitz import feature_toeplitz

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 100 steps, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is not initialised holds NaN, so that reading it shows."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    yield
    monkeypatch.undo()


@pytest.fixture(params=[(16, 32, 16), (32, 16, 16)], ids=["wide tiles", "tall tiles"])
def small_tiles(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    from archloom.kernels.feature_toeplitz import triton

    rows, inner, lags = request.param
    monkeypatch.setattr(triton, "TILES", {(4, 64): triton._Tiles(rows, inner, 4, 1)})
    monkeypatch.setattr(triton, "LAGS", {(4, 64): lags})


def make_inputs(
    steps: int,
    past: int = 0,
    length: int | None = None,
    *,
    batch: int = 1,
    heads: int = 2,
    width: int = 5,
    value: int = 3,
    positive: bool = False,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Tensor]:
    """q, k, v and float32 taps, all leaves; with `positive`, as for normalising."""
    sources = steps + past
    shapes = (batch, steps, heads, width), (batch, sources, heads, width), (batch, sources, heads, value)
    made = [torch.randn(*shape, device=device) for shape in (*shapes, (heads, length or sources))]
    if positive:
        made = [x if i == 2 else x.exp() for i, x in enumerate(made)]
    return [x.to(torch.float32 if i == 3 else dtype).requires_grad_() for i, x in enumerate(made)]


def run(inputs: list[Tensor], backend: str, **options) -> Tensor:
    q, k, v, taps = inputs
    out = feature_toeplitz(q, k, v, taps=taps, **options, backend=backend)
    assert isinstance(out, Tensor)
    return out


@interpreted
@pytest.mark.parametrize("steps", [1, 2, 17, 32, 33, 70])
@pytest.mark.parametrize("past", [0, 30])
@pytest.mark.parametrize("normalise", [False, True])
def test_equals_the_dense_definition(assert_equal_backends, steps, past, normalise):
    inputs = make_inputs(steps, past, positive=normalise, heads=1 if steps > 17 else 2)
    assert_equal_backends(lambda backend: run(inputs, backend, normalise=normalise), inputs, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(
    ("steps", "past", "length"), [(50, 0, 1), (50, 0, 20), (50, 20, 17), (50, 20, 90), (20, 50, 5), (1, 60, 30)]
)
def test_fewer_and_more_taps_than_positions(assert_equal_backends, small_tiles, steps, past, length):
    inputs = make_inputs(steps, past, length, heads=1)
    assert_equal_backends(lambda backend: run(inputs, backend), inputs, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("normalise", [False, True])
def test_many_tiles(assert_equal_backends, small_tiles, normalise):
    inputs = make_inputs(50, 21, heads=1, positive=normalise)
    assert_equal_backends(lambda backend: run(inputs, backend, normalise=normalise), inputs, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(
    ("batch", "heads", "width", "value"), [(1, 1, 1, 1), (2, 1, 16, 70), (1, 1, 70, 16), (1, 3, 20, 33)]
)
def test_widths_that_are_not_those_of_tiles(assert_equal_backends, batch, heads, width, value):
    inputs = make_inputs(25, 8, batch=batch, heads=heads, width=width, value=value)
    assert_equal_backends(lambda backend: run(inputs, backend), inputs, SINGLE, "triton")


@interpreted
def test_steps_beyond_the_taps_are_not_read():
    """A NaN that is read stays one, even with a weight of zero."""
    inputs = make_inputs(1, 129, 20, heads=1)
    with torch.no_grad():
        for x in inputs[1:3]:
            x[:, :64] = torch.nan
    out = run(inputs, "triton")
    assert out.isfinite().all()
    assert torch.autograd.grad(out.sum(), inputs[0])[0].isfinite().all()


@interpreted
def test_decoding_equals_one_call():
    inputs = [x.detach() for x in make_inputs(40)]
    q, k, v, taps = inputs
    first = feature_toeplitz(q[:, :33], k[:, :33], v[:, :33], taps=taps, backend="triton")
    parts = [run([q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], taps], "triton") for t in (33, 39)]
    whole = run(inputs, "triton")
    torch.testing.assert_close(torch.cat([first, *parts], 1), whole[:, [*range(34), 39]], rtol=1e-5, atol=1e-5)


@interpreted
def test_inputs_need_not_be_contiguous(assert_equal_backends):
    packed, turned = torch.randn(1, 20, 2, 24, requires_grad=True), torch.randn(20, 2, requires_grad=True)
    q, k, v = packed.split(8, -1)
    assert_equal_backends(lambda backend: run([q, k, v, turned.T], backend), [packed, turned], SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("wanted", range(4))
def test_one_gradient_alone(assert_equal_backends, wanted):
    inputs = [x.detach().requires_grad_(i == wanted) for i, x in enumerate(make_inputs(20, 5))]
    assert_equal_backends(lambda backend: run(inputs, backend), [inputs[wanted]], SINGLE, "triton")


@interpreted
def test_taps_that_fade_at_once(assert_equal_backends):
    inputs = make_inputs(70, heads=1, positive=True)
    inputs[3] = (-50.0 * torch.arange(70.0)).exp().unsqueeze(0).requires_grad_()
    assert_equal_backends(lambda backend: run(inputs, backend, normalise=True), inputs[:3], SINGLE, "triton")


def relative_errors(inputs: list[Tensor], **options) -> list[float]:
    """RMS of the error over RMS of the dense definition in float64: of the output, and of all gradients."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in inputs]
        out = run(leaves, backend, **options)
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
        results.append([out, *torch.autograd.grad((out.double() * weight).sum(), leaves)])
    assert all(x.isfinite().all() for x in results[0])
    assert all(x.dtype == given.dtype for x, given in zip(results[0][1:], inputs, strict=True))
    return [((got.double() - x).norm() / x.norm()).item() for got, x in zip(*results, strict=True)]


@interpreted
@pytest.mark.parametrize("normalise", [False, True])
def test_half_precision_rounds_only_operands(normalise):
    inputs = make_inputs(66, 10, width=20, value=16, positive=normalise, dtype=torch.float16)
    errors = relative_errors(inputs, normalise=normalise)
    assert max(errors) < 2e-3, errors  # a few roundings of 2^-11 each


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"feature_toeplitz: .* CUDA device, given cpu; .*chunked"):
        run(make_inputs(3), "triton")


@interpreted
def test_refuses_what_it_does_not_serve():
    with pytest.raises(ValueError, match=r"q has dtype torch.float64, .* backend=\"chunked\" does"):
        run([x.double() for x in make_inputs(3)], "triton")
    with pytest.raises(ValueError, match=r"K = 257, V = 3; .* up to 256, backend=\"chunked\" any"):
        run(make_inputs(3, width=257), "triton")


def test_an_unknown_backend_is_told_of_triton():
    with pytest.raises(ValueError, match=r"backend is 'fft'; expected \"chunked\", \"reference\" or \"triton\""):
        run(make_inputs(3), "fft")


# -- on a GPU ---------------------------------------------------------------------------------------------------------

GPU_CASES = [
    (1000, 0, None, {"width": 64, "value": 64}),
    (1000, 37, 200, {"width": 128, "value": 128}),
    (333, 100, None, {"width": 256, "value": 256}),
    (333, 100, None, {"width": 80, "value": 40}),
    (1, 500, 300, {"width": 64, "value": 64}),
    (1, 0, None, {"width": 3, "value": 5}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "past", "length", "sizes"), GPU_CASES)
@pytest.mark.parametrize("normalise", [False, True])
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.005), (torch.float32, 1e-5)])
def test_realistic_sizes_on_a_gpu(steps, past, length, sizes, normalise, dtype, bound):
    """bfloat16 is rounded by up to 2^-9 = 0.002; quotients have gradients that are differences."""
    if normalise and steps + past == 1:
        pytest.skip("the quotient is v: gradients of all else are zero, and have no relative error")
    inputs = make_inputs(steps, past, length, batch=2, heads=4, **sizes, positive=normalise, dtype=dtype, device="cuda")
    errors = relative_errors(inputs, normalise=normalise)
    assert max(errors) < (3 * bound if normalise else bound), errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    inputs = make_inputs(2000, batch=4, heads=8, width=64, value=64, dtype=torch.bfloat16, device="cuda")
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
    steps, last = (1 << 21) + 64, 128  # H K = 1024
    q, k, v = (torch.randn(1, steps, 16, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    taps = torch.randn(16, 100, device="cuda")
    out = feature_toeplitz(q, k, v, taps=taps, backend="triton")[:, -last:]
    near = [x[:, -last:].double() if x is q else x[:, -last - 100 :].double() for x in (q, k, v)]
    exact = feature_toeplitz(*near, taps=taps.double(), backend="reference")
    assert (out.double() - exact).norm() < 0.005 * exact.norm()
