"""Local linear attention: the corrected softmax against the dense definition, in values and gradients."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archloom.kernels.attention import attention
from archloom.kernels.local_linear import chunked, local_linear

LENGTHS = (1, 2, 31, 65, 130)
DOUBLE, SINGLE = 1e-9, 1e-3  # relative to the largest entry; a linear system of condition up to |k|^2 / ridge is solved


def make_inputs(
    steps: int, past: int = 0, *, batch: int = 2, heads: int = 2, width: int = 5, value: int = 3, dtype=torch.float64
) -> tuple[list[Tensor], Tensor]:
    sources = steps + past
    q = torch.randn(batch, steps, heads, width, dtype=dtype, requires_grad=True)
    k = torch.randn(batch, sources, heads, width, dtype=dtype, requires_grad=True)
    v = torch.randn(batch, sources, heads, value, dtype=dtype, requires_grad=True)
    return [q, k, v], (0.2 + torch.rand(heads, dtype=dtype)).requires_grad_()


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("past", [0, 20])
@pytest.mark.parametrize("window", [None, 1, 7])
def test_equals_the_dense_definition(assert_equal_backends, steps, past, window):
    inputs, ridge = make_inputs(steps, past)
    assert_equal_backends(
        lambda backend: local_linear(*inputs, ridge=ridge, window=window, backend=backend), [*inputs, ridge], DOUBLE
    )


@pytest.mark.parametrize("window", [None, 7])
def test_single_precision(assert_equal_backends, window):
    inputs, ridge = make_inputs(70, dtype=torch.float32)
    assert_equal_backends(
        lambda backend: local_linear(*inputs, ridge=ridge, window=window, scale=0.7, backend=backend),
        [*inputs, ridge],
        SINGLE,
    )


@pytest.mark.parametrize(("steps", "sources"), [(5, 9), (9, 5), (130, 70)])
def test_any_mask(assert_equal_backends, steps, sources):
    """Queries that see nothing, and more queries than keys, are part of it."""
    (q, *_), ridge = make_inputs(steps)
    (_, k, v), _ = make_inputs(sources)
    mask = torch.rand(steps, sources) < 0.3
    mask[1] = False
    run = lambda backend: local_linear(q, k, v, ridge=ridge, mask=mask, backend=backend)  # noqa: E731
    assert_equal_backends(run, [q, k, v, ridge], DOUBLE)
    assert torch.equal(run("chunked")[:, 1], torch.zeros(2, 2, 3, dtype=torch.float64))


def test_a_causal_mask_is_the_default():
    inputs, ridge = make_inputs(20, 4)
    lag = torch.arange(4, 24)[:, None] - torch.arange(24)
    out = local_linear(*inputs, ridge=ridge, mask=(lag >= 0) & (lag < 7))
    torch.testing.assert_close(out, local_linear(*inputs, ridge=ridge, window=7), rtol=1e-12, atol=1e-12)


@settings(max_examples=15, deadline=None)
@given(
    steps=st.integers(1, 40),
    past=st.integers(0, 9),
    heads=st.integers(1, 3),
    width=st.integers(1, 6),
    value=st.integers(1, 6),
    window=st.none() | st.integers(1, 50),
)
def test_any_shape(steps, past, heads, width, value, window):
    inputs, ridge = make_inputs(steps, past, batch=1, heads=heads, width=width, value=value)
    fast, slow = (
        local_linear(*inputs, ridge=ridge, window=window, backend=backend) for backend in ("chunked", "reference")
    )
    torch.testing.assert_close(fast, slow, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("window", [None, 2])
def test_gradients_by_finite_differences(window):
    inputs, ridge = make_inputs(4, 1, batch=1, width=2, value=2)
    assert torch.autograd.gradcheck(
        lambda q, k, v, ridge: local_linear(q, k, v, ridge=ridge, window=window), (*inputs, ridge)
    )


@pytest.mark.parametrize("window", [None, 9])
def test_an_infinite_ridge_is_softmax_attention(window):
    inputs, _ = make_inputs(70, 5)
    out = local_linear(*inputs, ridge=1e12, window=window)
    torch.testing.assert_close(out, attention(*inputs, window=window), rtol=1e-9, atol=1e-9)


def test_values_linear_in_the_keys_are_read_exactly():
    """A regression with a slope finds v = M k + c at the query, where softmax attention is biased to the mean key."""
    (q, k, _), _ = make_inputs(40, width=3)
    matrix, constant = torch.randn(3, 4, dtype=torch.float64), torch.randn(4, dtype=torch.float64)
    out = local_linear(q, k, k @ matrix + constant, ridge=1e-9)
    torch.testing.assert_close(out[:, 10:], (q @ matrix + constant)[:, 10:], rtol=1e-4, atol=1e-4)


def test_the_first_token_reads_its_own_value():
    (q, k, v), _ = make_inputs(3)
    torch.testing.assert_close(local_linear(q, k, v, ridge=0.5)[:, 0], v[:, 0], rtol=1e-12, atol=1e-12)


def test_decoding_step_by_step_equals_one_call():
    (q, k, v), ridge = make_inputs(20)
    whole = local_linear(q, k, v, ridge=ridge)
    steps = [local_linear(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], ridge=ridge) for t in range(20)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-10, atol=1e-10)


def test_batches_too_large_for_their_products_are_split(monkeypatch):
    inputs, ridge = make_inputs(33, batch=3)
    whole = local_linear(*inputs, ridge=ridge)
    monkeypatch.setattr(chunked, "PRODUCTS", 2 * 33 * 25)
    torch.testing.assert_close(local_linear(*inputs, ridge=ridge), whole, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-4, 1.0, 30.0])
@pytest.mark.parametrize("window", [None, 9])
def test_equal_keys_are_softmax_attention(size, window):
    """There is no slope to find, and the covariance is rounding alone, of either sign; logits reach 2,000."""
    (q, k, v), _ = make_inputs(70, width=8, dtype=torch.float32)
    same = (size * k[:, :1].detach()).expand_as(k).clone().requires_grad_()
    out = local_linear(size * q, same, v, ridge=1e-7 * size**2, window=window)
    torch.testing.assert_close(out, attention(size * q, same, v, window=window), rtol=1e-4, atol=1e-4)
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.sum(), [q, same, v]))


@pytest.mark.parametrize("window", [None, 3])
def test_two_clusters_of_keys_stay_finite(window):
    """Late windows see equal keys far from the first key, where the difference of large numbers is all there is."""
    (q, k, v), _ = make_inputs(70, width=8, dtype=torch.float32)
    keys = torch.cat([k[:, :1].expand(-1, 30, -1, -1), 30 * k[:, 1:2].expand(-1, 40, -1, -1)], 1).detach()
    keys.requires_grad_()
    out = local_linear(q, keys, v, ridge=1e-6, window=window)
    assert all(x.isfinite().all() for x in (out, *torch.autograd.grad(out.sum(), [q, keys, v])))
    assert out.abs().max() < 1e3  # extrapolated over distances of 30, but never divided by rounding


def test_bfloat16_sums_in_float32():
    inputs, _ = make_inputs(50, dtype=torch.float32)
    low = [x.detach().bfloat16() for x in inputs]
    out = local_linear(*low, ridge=torch.tensor([0.5, 1.0]))
    exact = local_linear(*(x.double() for x in low), ridge=torch.tensor([0.5, 1.0]).double(), backend="reference")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 2, 4)}, r"k has shape \(2, 5, 2, 4\); expected \[B, S, H, K\] = \(2, S, 2, 3\)"),
        ({"v": torch.zeros(2, 4, 2, 4)}, r"v has shape \(2, 4, 2, 4\); expected \[B, S, H, V\] = \(2, 5, 2, V\)"),
        ({"q": torch.zeros(2, 6, 2, 3)}, "k has S = 5 positions, q has T = 6"),
        ({"v": torch.zeros(2, 5, 2, 4).half()}, "v has dtype torch.float16"),
        ({"ridge": 0.0}, "ridge is 0.0; expected a positive number"),
        ({"ridge": math.inf}, "ridge is inf"),
        ({"ridge": torch.ones(3)}, r"ridge has shape \(3,\); expected \[H\] = \(2\)"),
        ({"ridge": torch.tensor([1.0, -1.0]), "backend": "reference"}, "smallest value is -1.0"),
        ({"window": 0}, "window is 0; expected at least 1"),
        ({"mask": torch.zeros(4, 5, dtype=torch.bool)}, r"mask has shape \(4, 5\); expected \[T, S\] = \(5, 5\)"),
        ({"mask": torch.zeros(5, 5)}, "mask has dtype torch.float32"),
        ({"mask": torch.ones(5, 5, dtype=torch.bool), "window": 2}, "window is 2 without the causal rule"),
        ({"backend": "flash"}, "backend is 'flash'"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"q": torch.zeros(2, 5, 2, 3), "k": torch.zeros(2, 5, 2, 3), "v": torch.zeros(2, 5, 2, 4), "ridge": 1.0}
    with pytest.raises(ValueError, match=message):
        local_linear(**(arguments | change))
