"""Dense mixing in blocks against the whole product, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archloom.kernels.dense_mixing import chunked, dense_mixing

DOUBLE, SINGLE = 1e-11, 2e-5  # relative to the largest entry: sums over at most 300 positions in two orders


@pytest.fixture
def small_blocks(monkeypatch) -> None:
    monkeypatch.setattr(chunked, "BLOCK", 16)


def make_inputs(
    sources: int, *, batch: int = 2, heads: int = 2, value: int = 3, spare: int = 0, dtype=torch.float64
) -> list[Tensor]:
    """v and a matrix of `spare` more positions, both leaves."""
    v = torch.randn(batch, sources, heads, value, dtype=dtype, requires_grad=True)
    length = sources + spare
    return [v, torch.randn(heads, length, length, dtype=dtype, requires_grad=True)]


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("sources", [1, 2, 31, 65, 130, 300])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_equals_the_whole_product(assert_equal_backends, sources, causal, dtype, tolerance):
    v, matrix = make_inputs(sources, dtype=dtype)
    assert_equal_backends(
        lambda backend: dense_mixing(v, matrix=matrix, causal=causal, backend=backend), [v, matrix], tolerance
    )


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("queries", [1, 15, 16, 17, 40])
@pytest.mark.parametrize("spare", [0, 5])
def test_fewer_queries_than_positions(assert_equal_backends, small_blocks, queries, causal, spare):
    v, matrix = make_inputs(40, spare=spare, heads=1)
    assert_equal_backends(
        lambda backend: dense_mixing(v, matrix=matrix, queries=queries, causal=causal, backend=backend), [v, matrix],
        DOUBLE,
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(
    sources=st.integers(1, 70),
    queries=st.integers(1, 70),
    spare=st.integers(0, 9),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    value=st.integers(1, 5),
    causal=st.booleans(),
    block=st.sampled_from([1, 7, 16, 128]),
)
def test_any_shape(sources, queries, spare, batch, heads, value, causal, block):
    v, matrix = make_inputs(sources, batch=batch, heads=heads, value=value, spare=spare)
    results = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunked, "BLOCK", block)
        for backend in ("chunked", "reference"):
            out = dense_mixing(v, matrix=matrix, queries=min(queries, sources), causal=causal, backend=backend)
            results.append([out, *torch.autograd.grad(out.square().sum(), [v, matrix])])
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_means_what_it_says():
    """Position by position, with loops."""
    v, matrix = make_inputs(6, spare=2)
    out = dense_mixing(v, matrix=matrix, queries=4, backend="reference")
    for t in range(4):
        position = 2 + t
        expected = sum(matrix[:, position, s, None] * v[:, s] for s in range(position + 1))
        torch.testing.assert_close(out[:, t], expected, rtol=1e-12, atol=1e-12)


def test_an_identity_copies_exactly():
    v, _ = make_inputs(150, dtype=torch.float32)
    for causal in (False, True):
        out = dense_mixing(v, matrix=torch.eye(150).expand(2, -1, -1), causal=causal)
        torch.testing.assert_close(out, v, rtol=0, atol=0)


def test_what_lies_above_the_diagonal_is_not_read():
    v, matrix = (x.detach() for x in make_inputs(150))
    hidden = torch.ones(150, 150, dtype=torch.bool).triu(1)
    poisoned = matrix.masked_fill(hidden, torch.nan).requires_grad_()
    v.requires_grad_()
    out = dense_mixing(v, matrix=poisoned)
    for_v, for_matrix = torch.autograd.grad(out.sum(), [v, poisoned])
    assert out.isfinite().all()
    assert for_v.isfinite().all()
    assert for_matrix[:, hidden].count_nonzero() == 0


@pytest.mark.parametrize("causal", [False, True])
def test_gradients_by_finite_differences(monkeypatch, causal):
    monkeypatch.setattr(chunked, "BLOCK", 2)
    inputs = make_inputs(5, batch=1, value=2, spare=1)
    assert torch.autograd.gradcheck(lambda v, matrix: dense_mixing(v, matrix=matrix, queries=4, causal=causal), inputs)


@pytest.mark.parametrize("wanted", [0, 1])
def test_one_gradient_alone(small_blocks, wanted):
    inputs = make_inputs(40)
    inputs[1 - wanted].requires_grad_(False)
    slopes = [
        torch.autograd.grad(dense_mixing(inputs[0], matrix=inputs[1], backend=backend).sin().sum(), inputs[wanted])[0]
        for backend in ("chunked", "reference")
    ]
    torch.testing.assert_close(*slopes, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cut", [1, 16, 33])
def test_segments_equal_one_call(small_blocks, cut):
    v, matrix = make_inputs(40)
    first = dense_mixing(v[:, :cut], matrix=matrix)
    second = dense_mixing(v, matrix=matrix, queries=40 - cut)
    torch.testing.assert_close(torch.cat([first, second], 1), dense_mixing(v, matrix=matrix), rtol=1e-10, atol=1e-10)


def test_bfloat16_sums_in_float32():
    v, matrix = (x.detach().bfloat16() for x in make_inputs(200, dtype=torch.float32))
    out = dense_mixing(v, matrix=matrix.float())
    exact = dense_mixing(v.double(), matrix=matrix.double(), backend="reference")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output


@pytest.mark.parametrize("shared", [False, True])
def test_maps_over_replicates(small_blocks, shared):
    v, matrices = torch.randn(3, 2, 40, 2, 4), torch.randn(3, 2, 40, 40)

    def slopes(v: Tensor, matrix: Tensor) -> tuple[Tensor, Tensor]:
        def loss(v: Tensor, matrix: Tensor) -> Tensor:
            return dense_mixing(v, matrix=matrix).square().sum()

        return torch.func.grad(loss, argnums=(0, 1))(v, matrix)

    mapped = torch.func.vmap(slopes, in_dims=(0, None if shared else 0))(v, matrices[0] if shared else matrices)
    each = [slopes(v[i], matrices[0 if shared else i]) for i in range(3)]
    for got, wanted in zip(mapped, zip(*each, strict=True), strict=True):
        torch.testing.assert_close(got, torch.stack(wanted), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"v": torch.zeros(2, 5, 2)}, r"v has shape \(2, 5, 2\); expected \[B, S, H, V\]"),
        ({"matrix": torch.zeros(3, 6, 6)}, r"matrix has shape \(3, 6, 6\); expected \[H, L, L\] = \(2, L, 6\)"),
        ({"matrix": torch.zeros(2, 6, 5)}, r"matrix has shape \(2, 6, 5\); expected \[H, L, L\] = \(2, L, 6\)"),
        ({"matrix": torch.zeros(2, 6)}, r"matrix has shape \(2, 6\)"),
        ({"matrix": torch.zeros(2, 4, 4)}, "matrix has L = 4 positions, v has S = 5; expected L >= S"),
        ({"matrix": torch.zeros(2, 6, 6).half()}, "matrix has dtype torch.float16"),
        ({"queries": 6}, "queries is 6 beside S = 5"),
        ({"queries": 0}, "queries is 0 beside S = 5"),
        ({"backend": "fft"}, r"backend is 'fft'; expected \"chunked\", \"reference\" or \"triton\""),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"v": torch.zeros(2, 5, 2, 3), "matrix": torch.zeros(2, 6, 6)}
    with pytest.raises(ValueError, match=message):
        dense_mixing(**(arguments | change))
