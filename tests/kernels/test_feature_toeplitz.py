"""Kernelised attention with Toeplitz weights: scores and transforms against the dense definition."""

import pytest
import torch
from torch import Tensor

from archloom.kernels.feature_toeplitz import chunked, feature_toeplitz
from archloom.kernels.linear_attention import linear_attention

LENGTHS = (1, 2, 31, 65, 130)
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry: rounding of sums over at most 130 steps


@pytest.fixture(params=["scores", "transforms"])
def form(request, monkeypatch) -> str:
    """Force one of the two fast forms, the transforms with few channels at a time."""
    monkeypatch.setattr(chunked, "STEPS_PER_PRODUCT", 10**9 if request.param == "scores" else 0)
    monkeypatch.setattr(chunked, "CHANNELS", 200)
    return request.param


def make_inputs(
    steps: int, past: int = 0, *, batch: int = 2, heads: int = 2, width: int = 5, value: int = 3, dtype=torch.float64
) -> list[Tensor]:
    sources = steps + past
    shapes = (batch, steps, heads, width), (batch, sources, heads, width), (batch, sources, heads, value)
    return [torch.randn(*shape, dtype=dtype, requires_grad=True) for shape in (*shapes, (heads, sources))]


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("past", [0, 20])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_equals_the_dense_definition(assert_equal_backends, form, steps, past, dtype, tolerance):
    q, k, v, taps = make_inputs(steps, past, dtype=dtype)
    assert_equal_backends(
        lambda backend: feature_toeplitz(q, k, v, taps=taps, backend=backend), [q, k, v, taps], tolerance
    )


@pytest.mark.parametrize("length", [1, 9, 60])
def test_fewer_and_more_taps_than_steps(assert_equal_backends, form, length):
    q, k, v, _ = make_inputs(33)
    taps = torch.randn(2, length, dtype=torch.float64, requires_grad=True)
    assert_equal_backends(
        lambda backend: feature_toeplitz(q, k, v, taps=taps, backend=backend), [q, k, v, taps], DOUBLE
    )


def test_normalised_equals_the_dense_definition(assert_equal_backends, form):
    q, k, v, taps = (x.detach().exp().requires_grad_() for x in make_inputs(40, 7))
    assert_equal_backends(
        lambda backend: feature_toeplitz(q, k, v, taps=taps, normalise=True, backend=backend), [q, k, v, taps], DOUBLE
    )
    ones = feature_toeplitz(q, k, torch.ones_like(v), taps=taps, normalise=True)
    torch.testing.assert_close(ones, torch.ones_like(ones), rtol=1e-10, atol=0)


def test_geometric_taps_are_a_decay_by_head(form):
    q, k, v, _ = make_inputs(70)
    rate = -torch.rand(2, dtype=torch.float64)
    taps = (rate[:, None] * torch.arange(70)).exp()
    decayed = linear_attention(q, k, v, log_decay=rate.expand(2, 70, 2), backend="reference")
    torch.testing.assert_close(feature_toeplitz(q, k, v, taps=taps), decayed, rtol=1e-10, atol=1e-10)


def test_gradients_by_finite_differences(form):
    inputs = make_inputs(4, 1, batch=1, width=2, value=2)
    assert torch.autograd.gradcheck(lambda q, k, v, taps: feature_toeplitz(q, k, v, taps=taps), inputs)


def test_decoding_step_by_step_equals_one_call(form):
    q, k, v, taps = make_inputs(20)
    whole = feature_toeplitz(q, k, v, taps=taps)
    steps = [feature_toeplitz(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], taps=taps) for t in range(20)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-10, atol=1e-10)


def test_the_form_is_chosen_by_length(monkeypatch):
    """Transforms from 8 K V steps on: with K = V = 2 from 32."""
    chosen = []
    for name in ("by_scores", "by_transforms"):
        original = getattr(chunked, name)
        monkeypatch.setattr(chunked, name, lambda *x, f=original, name=name: chosen.append(name) or f(*x))
    for steps in (31, 32):
        q, k, v, taps = make_inputs(steps, width=2, value=2)
        feature_toeplitz(q, k, v, taps=taps)
    assert chosen == ["by_scores", "by_transforms"]


def test_bfloat16_sums_in_float32(form):
    low = [x.detach().bfloat16() for x in make_inputs(50, dtype=torch.float32)]
    out = feature_toeplitz(*low[:3], taps=low[3].float())
    exact = feature_toeplitz(*(x.double() for x in low[:3]), taps=low[3].double(), backend="reference")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 2, 4)}, r"k has shape \(2, 5, 2, 4\); expected \[B, S, H, K\] = \(2, S, 2, 3\)"),
        ({"v": torch.zeros(2, 4, 2, 4)}, r"v has shape \(2, 4, 2, 4\); expected \[B, S, H, V\] = \(2, 5, 2, V\)"),
        ({"q": torch.zeros(2, 6, 2, 3)}, "k has S = 5 positions, q has T = 6"),
        ({"taps": torch.zeros(3, 5)}, r"taps has shape \(3, 5\); expected \[H, L\] = \(2, L\)"),
        ({"taps": torch.zeros(2, 5).half()}, "taps has dtype torch.float16"),
        ({"backend": "fft"}, "backend is 'fft'"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {
        "q": torch.zeros(2, 5, 2, 3),
        "k": torch.zeros(2, 5, 2, 3),
        "v": torch.zeros(2, 5, 2, 4),
        "taps": torch.zeros(2, 5),
    }
    with pytest.raises(ValueError, match=message):
        feature_toeplitz(**(arguments | change))
