"""Local linear attention as Triton kernels against the dense definition in float64, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from archloom.kernels.attention import attention
from archloom.kernels.local_linear import local_linear

pytest.importorskip("triton")

# relative to the largest entry: a system of condition up to |k|^2 / ridge, about 100 here, is solved in float32
SINGLE = 5e-5
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is not initialised holds NaN, so that reading it shows."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    yield
    monkeypatch.undo()


def make_inputs(
    steps: int,
    sources: int | None = None,
    *,
    batch: int = 1,
    heads: int = 1,
    width: int = 4,
    value: int = 3,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    """q, k, v and a ridge of each head, which is float32."""
    sources = steps if sources is None else sources
    shapes = ((batch, steps, heads, width), (batch, sources, heads, width), (batch, sources, heads, value))
    made = [torch.randn(*shape, device=device).to(dtype) for shape in shapes]
    return [tensor.requires_grad_() for tensor in (*made, 0.5 + torch.rand(heads, device=device))]


def run_with(inputs: list[Tensor], **options) -> Callable[[str], Tensor]:
    """A call by backend; the reference in float64, since its own rounding in float32 is larger than that of kernels."""

    def run(backend: str) -> Tensor:
        q, k, v, ridge = (x.double() for x in inputs) if backend == "reference" else inputs
        return local_linear(q, k, v, ridge=ridge, **options, backend=backend).to(inputs[0].dtype)

    return run


@interpreted
@pytest.mark.parametrize(
    ("steps", "past", "window"),
    [(1, 0, None), (9, 0, None), (17, 16, None), (3, 64, None), (7, 0, 1), (4, 60, 37)],
)
def test_equals_the_dense_definition(assert_equal_backends, steps, past, window):
    inputs = make_inputs(steps, steps + past)
    assert_equal_backends(run_with(inputs, window=window, scale=0.7), inputs, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(("width", "value"), [(1, 1), (16, 17), (18, 2)])
def test_widths_that_are_not_those_of_tiles(assert_equal_backends, width, value):
    inputs = make_inputs(3, 24, width=width, value=value)
    assert_equal_backends(run_with(inputs), inputs, SINGLE, "triton")


@interpreted
def test_heads_and_batches(assert_equal_backends):
    inputs = make_inputs(2, 4, batch=2, heads=3)
    assert_equal_backends(run_with(inputs), inputs, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(("steps", "sources"), [(4, 40), (17, 3)])
def test_any_mask(assert_equal_backends, steps, sources):
    """Queries that see nothing, and more queries than keys, are part of it."""
    inputs = make_inputs(steps, sources)
    mask = (torch.rand(sources, steps) < 0.4).mT  # not contiguous
    mask[1] = False
    mask[2] = torch.arange(sources) == sources - 1
    run = run_with(inputs, mask=mask)
    assert_equal_backends(run, inputs, SINGLE, "triton")
    assert run("triton")[:, 1].count_nonzero() == 0


@interpreted
def test_inputs_that_need_no_gradient(assert_equal_backends):
    inputs = [x.detach() for x in make_inputs(5)]
    inputs[1].requires_grad_()
    assert_equal_backends(run_with(inputs), [inputs[1]], SINGLE, "triton")


@interpreted
def test_views_of_one_projection(assert_equal_backends):
    whole = torch.randn(1, 6, 2, 12, requires_grad=True)
    ridge = torch.tensor([0.5, 1.0], requires_grad=True)
    inputs = [*whole.split([4, 4, 4], -1), ridge]
    assert_equal_backends(run_with(inputs), [whole, ridge], SINGLE, "triton")


@interpreted
def test_decoding_step_by_step_equals_one_call():
    q, k, v, ridge = (x.detach() for x in make_inputs(6))
    whole = local_linear(q, k, v, ridge=ridge, backend="triton")
    steps = [
        local_linear(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], ridge=ridge, backend="triton") for t in range(6)
    ]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-5, atol=1e-5)


@interpreted
def test_very_large_scores(assert_equal_backends):
    """Logits of up to thousands: each query sees little but one key."""
    inputs = [x.detach().mul(30).round().requires_grad_() for x in make_inputs(8)[:2]]
    inputs += [make_inputs(8)[2], torch.tensor([900.0], requires_grad=True)]  # a ridge is in units of |k|^2
    # counted in powers of two a logit of thousands is rounded to within 1e-4
    assert_equal_backends(run_with(inputs, scale=1.0), inputs, 2e-4, "triton")


@interpreted
def test_a_large_offset_common_to_all_keys(assert_equal_backends):
    inputs = make_inputs(6)
    offset = 100 * torch.randn(4)
    moved = [(x + offset).detach().requires_grad_() for x in inputs[:2]] + inputs[2:]
    assert_equal_backends(run_with(moved, scale=0.1), moved, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("size", [1e-4, 30.0])
def test_equal_keys_are_softmax_attention(size):
    """There is no slope to find, and nothing but the ridge in the system."""
    q, k, v, _ = make_inputs(5, 9, width=8)
    same = (size * k[:, :1].detach()).expand_as(k).clone().requires_grad_()
    out = local_linear(size * q, same, v, ridge=1e-7 * size**2, backend="triton")
    torch.testing.assert_close(out, attention(size * q, same, v), rtol=1e-4, atol=1e-4)
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), [q, same, v]))


@interpreted
@pytest.mark.parametrize("window", [None, 3])
def test_two_clusters_of_keys_stay_finite(window):
    q, k, v, _ = make_inputs(6, 40, width=8)
    keys = torch.cat([k[:, :1].expand(-1, 37, -1, -1), 30 * k[:, 1:2].expand(-1, 3, -1, -1)], 1).detach()
    keys.requires_grad_()
    out = local_linear(q, keys, v, ridge=1e-6, window=window, backend="triton")
    assert all(x.isfinite().all() for x in (out, *torch.autograd.grad(out.sum(), [q, keys, v])))
    assert out.abs().max() < 1e3  # extrapolated over distances of 30, but never divided by rounding


def relative_errors(inputs: list[Tensor], **options) -> list[float]:
    """RMS of the error over RMS of the definition in float64, of the output and all gradients."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = [tensor.detach().to(dtype).requires_grad_() for tensor in inputs]
        out = local_linear(*leaves[:3], ridge=leaves[3], **options, backend=backend)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        gradients = torch.autograd.grad((out.double() * weight.to(out.device)).sum(), leaves)
        results.append([out, *gradients])
    actual, expected = results
    assert all(tensor.isfinite().all() for tensor in actual)
    return [((got.double() - x).norm() / x.norm()).item() for got, x in zip(actual, expected, strict=True)]


@interpreted
def test_half_precision_rounds_only_what_comes_and_goes():
    inputs = make_inputs(8, 20, dtype=torch.float16)
    errors = relative_errors(inputs)
    assert max(errors) < 1e-3, errors  # two roundings of 2^-11: the output's gradient and a result


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"local_linear: .* CUDA device, given cpu; .*chunked"):
        run_with(make_inputs(3))("triton")


@interpreted
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"width": 65}, "K = 65, V = 3; the Triton kernels take up to 64 and 128, and backend=\"chunked\" any"),
        ({"value": 129}, "K = 4, V = 129; the Triton kernels take up to 64 and 128"),
        ({"dtype": torch.float64}, "q has dtype torch.float64, .* backend=\"chunked\" does"),
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_serve(sizes, message):
    q, k, v, _ = make_inputs(2, **sizes)
    with pytest.raises(ValueError, match=message):
        local_linear(q, k, v, ridge=1.0, backend="triton")


def test_an_unknown_backend_is_told_of_triton():
    with pytest.raises(ValueError, match=r"backend is 'cuda'; expected \"chunked\", \"reference\" or \"triton\""):
        run_with(make_inputs(2))("cuda")


GPU_CASES = [
    (300, 0, {"width": 64, "value": 64, "heads": 4}, {}),
    (300, 37, {"width": 64, "value": 128, "heads": 2}, {"window": 100}),
    (133, 20, {"width": 33, "value": 20, "heads": 2, "batch": 2}, {}),
    (1, 500, {"width": 16, "value": 5, "heads": 2}, {}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "past", "sizes", "options"), GPU_CASES)
def test_bfloat16_on_a_gpu(steps, past, sizes, options):
    inputs = make_inputs(steps, steps + past, device="cuda", dtype=torch.bfloat16, **sizes)
    with torch.no_grad():
        inputs[3] += 2  # a system of condition about 30, which raises the rounding of TF32
    errors = relative_errors(inputs, **options)
    assert max(errors) < 0.01, errors


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "past", "sizes", "options"), GPU_CASES)
def test_float32_on_a_gpu(steps, past, sizes, options):
    inputs = make_inputs(steps, steps + past, device="cuda", **sizes)
    errors = relative_errors(inputs, **options)
    assert max(errors) < 2e-4, errors


@pytest.mark.gpu
def test_any_mask_on_a_gpu():
    inputs = make_inputs(200, 150, device="cuda", width=32, value=32, heads=2)
    mask = torch.rand(200, 150, device="cuda") < 0.3
    mask[1] = False
    errors = relative_errors(inputs, mask=mask)
    assert max(errors) < 2e-4, errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    inputs = make_inputs(500, batch=2, device="cuda", dtype=torch.bfloat16, heads=8, width=64, value=64)
    twice = []
    for _ in range(2):
        out = run_with(inputs)("triton")
        twice.append([out, *torch.autograd.grad(out.float().sum(), inputs)])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
