"""Data-dependent taps: multiply-adds and band blocks against one step at a time, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.kernels.banded import banded
from archloom.kernels.banded.chunked import FEW_TAPS
from archloom.kernels.short_convolution import short_convolution

LENGTHS = (1, 2, 31, 33, 77)
WIDTHS = (1, 3, FEW_TAPS, FEW_TAPS + 1, 40)  # both forms, and a band wider than a block
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry


def leaf(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_equals_one_step_at_a_time(assert_equal_backends, steps, width, dtype, tolerance):
    taps, v = leaf(2, steps, 3, width, dtype=dtype), leaf(2, steps, 3, 4, dtype=dtype)
    state = leaf(2, width - 1, 3, 4, dtype=dtype)

    def run(backend: str) -> tuple[torch.Tensor, ...]:
        out, last = banded(taps, v, initial_state=state, return_state=True, backend=backend)
        assert last.shape == state.shape
        return (out, last) if width > 1 else (out,)

    assert_equal_backends(run, [taps, v, state] if width > 1 else [taps, v], tolerance)


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 50),
    width=st.integers(1, 12),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    value=st.integers(1, 4),
)
def test_any_shape(steps, width, batch, heads, value):
    taps, v = leaf(batch, steps, heads, width), leaf(batch, steps, heads, value)
    fast, slow = (banded(taps, v, backend=backend) for backend in ("chunked", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 2, 5, 19])
@pytest.mark.parametrize("width", [4, 11])
def test_state_hands_over(cut, width):
    taps, v = leaf(2, 20, 3, width), leaf(2, 20, 3, 4)
    whole, last = banded(taps, v, return_state=True)
    first, state = banded(taps[:, :cut], v[:, :cut], return_state=True)
    second, state = banded(taps[:, cut:], v[:, cut:], initial_state=state, return_state=True)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, last)


@pytest.mark.parametrize("width", [2, 10])
def test_gradients_by_finite_differences(width):
    assert torch.autograd.gradcheck(banded, (leaf(1, 4, 2, width), leaf(1, 4, 2, 2)))


@pytest.mark.parametrize("width", [4, 11])
def test_constant_taps_are_a_short_convolution(width):
    v, filters = leaf(2, 50, 3, 4), leaf(3, width)
    fixed = short_convolution(v.flatten(2), filters.repeat_interleave(4, 0), backend="reference")
    out = banded(filters.expand(2, 50, 3, width), v)
    torch.testing.assert_close(out.flatten(2), fixed, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("width", [4, 11])
def test_bfloat16_accumulates_in_float32(width):
    taps, v = torch.randn(2, 50, 3, width).bfloat16(), torch.randn(2, 50, 3, 4).bfloat16()
    out, state = banded(taps, v, return_state=True)
    exact = banded(taps.double(), v.double(), backend="reference")
    assert out.dtype == state.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-5)  # one rounding of the output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": torch.zeros(2, 5, 2, 4)}, r"taps has shape \(2, 5, 2, 4\); expected \[B, T, H, W\] = \(2, 5, 3, W\)"),
        ({"v": torch.zeros(2, 5, 3)}, r"v has shape \(2, 5, 3\); expected \[B, T, H, V\]"),
        ({"initial_state": torch.zeros(2, 4, 3, 6)}, r"expected \[B, W, H, V\] = \(2, 3, 3, 6\)"),
        ({"taps": torch.zeros(2, 5, 3, 4).half()}, "taps has dtype torch.float16"),
        ({"backend": "unfold"}, "backend is 'unfold'"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        banded(**({"taps": torch.zeros(2, 5, 3, 4), "v": torch.zeros(2, 5, 3, 6)} | change))
