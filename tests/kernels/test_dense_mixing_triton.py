"""Dense mixing as Triton kernels against the whole product, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the whole product in float64.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from archloom.kernels.dense_mixing import dense_mixing

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 150 positions, ordered in two ways
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
    """Rows, columns and terms differ, so that one taken for another shows."""
    from archloom.kernels.dense_mixing import triton

    monkeypatch.setattr(triton, "TILES", {4: triton._Tiles(32, 64, 16, 4, 1)})


def make_inputs(
    sources: int,
    *,
    batch: int = 1,
    heads: int = 2,
    value: int = 3,
    spare: int = 0,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> list[Tensor]:
    """v and a matrix of `spare` more positions, both leaves."""
    v = torch.randn(batch, sources, heads, value, device=device, dtype=dtype)
    matrix = torch.randn(heads, sources + spare, sources + spare, device=device, dtype=dtype)
    return [v.requires_grad_(), matrix.requires_grad_()]


@interpreted
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sources", [1, 17, 64, 65, 150])
def test_equals_the_whole_product(assert_equal_backends, sources, causal):
    v, matrix = make_inputs(sources, batch=2 if sources < 100 else 1)
    assert_equal_backends(
        lambda backend: dense_mixing(v, matrix=matrix, causal=causal, backend=backend), [v, matrix], SINGLE, "triton"
    )


@interpreted
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize(("sources", "queries"), [(70, 1), (70, 31), (70, 64), (33, 32), (129, 100)])
def test_fewer_queries_than_positions(assert_equal_backends, small_tiles, sources, queries, causal):
    v, matrix = make_inputs(sources, heads=1, spare=3)
    assert_equal_backends(
        lambda backend: dense_mixing(v, matrix=matrix, queries=queries, causal=causal, backend=backend), [v, matrix],
        SINGLE, "triton",
    )  # fmt: skip


@interpreted
@pytest.mark.parametrize(("batch", "heads", "value"), [(1, 1, 1), (3, 2, 1), (2, 1, 40), (5, 3, 15), (1, 1, 130)])
def test_columns_that_are_not_those_of_tiles(assert_equal_backends, small_tiles, batch, heads, value):
    v, matrix = make_inputs(35, batch=batch, heads=heads, value=value)
    assert_equal_backends(
        lambda backend: dense_mixing(v, matrix=matrix, queries=34, backend=backend), [v, matrix], SINGLE, "triton"
    )


@interpreted
def test_what_lies_above_the_diagonal_is_not_read(small_tiles):
    v, matrix = (x.detach() for x in make_inputs(70))
    hidden = torch.ones(70, 70, dtype=torch.bool).triu(1)
    poisoned, v = matrix.masked_fill(hidden, torch.nan).requires_grad_(), v.requires_grad_()
    out = dense_mixing(v, matrix=poisoned, backend="triton")
    for_v, for_matrix = torch.autograd.grad(out.sum(), [v, poisoned])
    assert out.isfinite().all()
    assert for_v.isfinite().all()
    assert for_matrix[:, hidden].count_nonzero() == 0


@interpreted
def test_segments_equal_one_call():
    v, matrix = (x.detach() for x in make_inputs(40))
    first = dense_mixing(v[:, :23], matrix=matrix, backend="triton")
    second = dense_mixing(v, matrix=matrix, queries=17, backend="triton")
    whole = dense_mixing(v, matrix=matrix, backend="triton")
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-5, atol=1e-5)


@interpreted
def test_inputs_need_not_be_contiguous(assert_equal_backends):
    packed = torch.randn(1, 20, 2, 24, requires_grad=True)
    turned = torch.randn(20, 20, 2, requires_grad=True)
    assert_equal_backends(
        lambda backend: dense_mixing(packed[..., 5:16], matrix=turned.permute(2, 1, 0), backend=backend),
        [packed, turned], SINGLE, "triton",
    )  # fmt: skip


@interpreted
@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_alone(assert_equal_backends, wanted):
    inputs = make_inputs(20)
    inputs[1 - wanted].requires_grad_(False)
    assert_equal_backends(
        lambda backend: dense_mixing(inputs[0], matrix=inputs[1], backend=backend), [inputs[wanted]], SINGLE, "triton"
    )


def relative_errors(v: Tensor, matrix: Tensor, **options) -> list[float]:
    """RMS of the error over RMS of the whole product in float64: of the output, and the gradients of both."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = [x.detach().to(dtype).requires_grad_() for x in (v, matrix)]
        out = dense_mixing(leaves[0], matrix=leaves[1], **options, backend=backend)
        generator = torch.Generator().manual_seed(1)
        weight = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.device)
        results.append([out, *torch.autograd.grad((out.double() * weight).sum(), leaves)])
    assert all(x.isfinite().all() for x in results[0])
    return [((got.double() - x).norm() / x.norm()).item() for got, x in zip(*results, strict=True)]


@interpreted
@pytest.mark.parametrize("single", [False, True])
def test_half_precision_rounds_only_operands(single):
    """With a matrix of float32 too, whose gradient is then not rounded."""
    v, matrix = make_inputs(66, dtype=torch.float16)
    matrix = matrix.detach().float() if single else matrix
    errors = relative_errors(v, matrix, queries=60)
    assert max(errors) < 1e-3, errors  # a few roundings of 2^-11 each
    assert dense_mixing(v, matrix=matrix, backend="triton").dtype == torch.float16


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    v, matrix = make_inputs(3)
    with pytest.raises(ValueError, match=r"dense_mixing: .* CUDA device, given cpu; .*chunked"):
        dense_mixing(v, matrix=matrix, backend="triton")


@interpreted
def test_refuses_float64():
    v, matrix = make_inputs(3, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"v has dtype torch.float64, .* backend=\"chunked\" does"):
        dense_mixing(v, matrix=matrix, backend="triton")


# -- on a GPU ---------------------------------------------------------------------------------------------------------

GPU_CASES = [
    (1000, {"batch": 4, "heads": 4, "value": 64}, {}),
    (1000, {"batch": 4, "heads": 4, "value": 64}, {"causal": False}),
    (1024, {"batch": 2, "heads": 8, "value": 128, "spare": 1024}, {}),
    (777, {"batch": 3, "heads": 2, "value": 40, "spare": 9}, {"queries": 300}),
    (777, {"batch": 3, "heads": 2, "value": 40, "spare": 9}, {"queries": 1}),
    (1, {"batch": 1, "heads": 1, "value": 1}, {}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("sources", "sizes", "options"), GPU_CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.005), (torch.float32, 1e-5)])
def test_realistic_sizes_on_a_gpu(sources, sizes, options, dtype, bound):
    """bfloat16 is rounded by up to 2^-9 = 0.002."""
    errors = relative_errors(*make_inputs(sources, **sizes, dtype=dtype, device="cuda"), **options)
    assert max(errors) < bound, errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    v, matrix = make_inputs(2000, batch=4, heads=4, value=64, dtype=torch.bfloat16, device="cuda")
    twice = []
    for _ in range(2):
        out = dense_mixing(v, matrix=matrix, backend="triton")
        twice.append([out, *torch.autograd.grad(out.float().sum(), [v, matrix])])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))


@pytest.mark.gpu
@pytest.mark.slow
def test_tensors_of_more_than_2_to_the_31_on_a_gpu():
    if torch.cuda.get_device_properties(0).total_memory < 60e9:
        pytest.skip("needs 60 GB")
    heads, length, last = 2, 33_000, 128
    v = torch.randn(1, length, heads, 16, device="cuda", dtype=torch.bfloat16)
    matrix = torch.randn(heads, length, length, device="cuda", dtype=torch.bfloat16).requires_grad_()
    out = dense_mixing(v, matrix=matrix, backend="triton")[:, -last:]
    slopes = torch.autograd.grad(out.float().sum(), matrix)[0]
    assert slopes[:, :-last].count_nonzero() == 0
    seen = torch.ones(last, length, device="cuda").tril(length - last)
    rows = matrix[:, -last:].double() * seen
    exact = torch.einsum("hts,bshv->bthv", rows, v.double())
    assert (out.double() - exact).norm() < 0.005 * exact.norm()
    exact = v.double().sum(-1)[0].T[:, None] * seen
    assert (slopes[:, -last:].double() - exact).norm() < 0.005 * exact.norm()
