"""Long convolution: FFT and single steps against the literal sum over lags, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.kernels.long_convolution import long_convolution

LENGTHS = (1, 2, 31, 33, 77, 130)
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry


def leaf(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("length", [1, 5, 64, 200])
@pytest.mark.parametrize("earlier", [None, 3, 90])
def test_equals_the_sum_over_lags(assert_equal_backends, steps, length, earlier):
    x, taps = leaf(2, steps, 3), leaf(3, length)
    history = None if earlier is None else leaf(2, earlier, 3)
    # one tap reads no history: its gradient does not exist on the fast side
    inputs = [x, taps] if history is None or length == 1 else [x, taps, history]
    assert_equal_backends(lambda backend: long_convolution(x, taps, history=history, backend=backend), inputs, DOUBLE)


@pytest.mark.parametrize("steps", [1, 5, 130])
def test_float32(assert_equal_backends, steps):
    x, taps, history = (leaf(*shape, dtype=torch.float32) for shape in ((2, steps, 3), (3, 130), (2, 40, 3)))
    assert_equal_backends(
        lambda backend: long_convolution(x, taps, history=history, backend=backend), [x, taps, history], SINGLE
    )


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 60),
    length=st.integers(1, 90),
    earlier=st.integers(0, 60),
    batch=st.integers(1, 3),
    channels=st.integers(1, 4),
)
def test_any_shape(steps, length, earlier, batch, channels):
    x, taps, history = leaf(batch, steps, channels), leaf(channels, length), leaf(batch, earlier, channels)
    fast, slow = (long_convolution(x, taps, history=history, backend=backend) for backend in ("chunked", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("cut", [1, 15, 16, 40, 76])
def test_segments_with_history_equal_one_call(cut):
    x, taps = leaf(2, 77, 3), leaf(3, 77)
    second = long_convolution(x[:, cut:], taps, history=x[:, :cut])
    parts = torch.cat([long_convolution(x[:, :cut], taps), second], 1)
    torch.testing.assert_close(parts, long_convolution(x, taps), rtol=1e-10, atol=1e-10)


def test_a_unit_tap_delays_exactly():
    x, taps = torch.randn(1, 50, 2), torch.zeros(2, 10)
    taps[:, 7] = 1
    expected = torch.cat([torch.zeros(1, 7, 2), x[:, :-7]], 1)
    torch.testing.assert_close(long_convolution(x, taps), expected, rtol=0, atol=1e-5)


def test_bfloat16():
    x, taps = torch.randn(2, 50, 3).bfloat16(), torch.randn(3, 50).bfloat16()
    out = long_convolution(x, taps)
    exact = long_convolution(x.double(), taps.double(), backend="reference")
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output


def test_maps_over_replicates():
    x, taps = torch.randn(3, 2, 40, 4), torch.randn(3, 4, 40)
    mapped = torch.func.vmap(long_convolution)(x, taps)
    each = torch.stack([long_convolution(a, b) for a, b in zip(x, taps, strict=True)])
    torch.testing.assert_close(mapped, each)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"filter": torch.zeros(4, 5)}, r"filter has shape \(4, 5\); expected \[C, L\] = \(3, L\)"),
        ({"x": torch.zeros(2, 0, 3)}, r"x has shape \(2, 0, 3\)"),
        ({"history": torch.zeros(1, 4, 3)}, r"history has shape \(1, 4, 3\); expected \[B, P, C\] = \(2, P, 3\)"),
        ({"filter": torch.zeros(3, 5).double()}, "filter has dtype torch.float64"),
        ({"backend": "fft"}, "backend is 'fft'"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        long_convolution(**({"x": torch.zeros(2, 5, 3), "filter": torch.zeros(3, 5)} | change))
