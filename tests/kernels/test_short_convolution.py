"""Short convolution: shifted multiply-adds against one step at a time, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.kernels.short_convolution import short_convolution

LENGTHS = (1, 2, 31, 33, 77, 130)
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry


def leaf(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, requires_grad=True)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("width", [1, 3, 4])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_equals_one_step_at_a_time(assert_equal_backends, steps, width, dtype, tolerance):
    x, taps, bias = leaf(2, steps, 3, dtype=dtype), leaf(3, width, dtype=dtype), leaf(3, dtype=dtype)
    state = leaf(2, width - 1, 3, dtype=dtype)

    def run(backend: str) -> tuple[torch.Tensor, ...]:
        out, last = short_convolution(x, taps, bias=bias, initial_state=state, return_state=True, backend=backend)
        assert last.shape == state.shape
        return (out, last) if width > 1 else (out,)

    assert_equal_backends(run, [x, taps, bias, state] if width > 1 else [x, taps, bias], tolerance)


@settings(max_examples=20, deadline=None)
@given(steps=st.integers(1, 20), width=st.integers(1, 6), batch=st.integers(1, 3), channels=st.integers(1, 4))
def test_any_shape(steps, width, batch, channels):
    x, taps = leaf(batch, steps, channels), leaf(channels, width)
    fast, slow = (short_convolution(x, taps, backend=backend) for backend in ("chunked", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("cut", [1, 2, 5, 19])
def test_state_hands_over(cut):
    x, taps = leaf(2, 20, 3), leaf(3, 4)
    whole, last = short_convolution(x, taps, return_state=True)
    first, state = short_convolution(x[:, :cut], taps, return_state=True)
    second, state = short_convolution(x[:, cut:], taps, initial_state=state, return_state=True)
    torch.testing.assert_close(torch.cat([first, second], 1), whole, rtol=1e-12, atol=1e-12)
    assert torch.equal(state, last)


def test_first_tap_multiplies_the_current_step():
    x = torch.arange(1.0, 6.0).view(1, 5, 1)
    out = short_convolution(x, torch.tensor([[1.0, 10.0]]))
    assert out.flatten().tolist() == [1, 12, 23, 34, 45]


def test_bfloat16_accumulates_in_float32():
    x, taps = torch.randn(2, 50, 3).bfloat16(), torch.randn(3, 4).bfloat16()
    out, state = short_convolution(x, taps, return_state=True)
    exact = short_convolution(x.double(), taps.double(), backend="reference")
    assert out.dtype == state.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-8, atol=1e-5)  # one rounding of the output


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"taps": torch.zeros(4, 4)}, r"taps has shape \(4, 4\); expected \[C, W\] = \(3, W\)"),
        ({"x": torch.zeros(2, 3)}, r"x has shape \(2, 3\); expected \[B, T, C\]"),
        ({"bias": torch.zeros(4)}, r"bias has shape \(4,\); expected \[C\] = \(3\)"),
        ({"initial_state": torch.zeros(2, 4, 3)}, r"initial_state has shape \(2, 4, 3\)"),
        ({"taps": torch.zeros(3, 4).half()}, "taps has dtype torch.float16"),
        ({"backend": "conv1d"}, "backend is 'conv1d'"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    with pytest.raises(ValueError, match=message):
        short_convolution(**({"x": torch.zeros(2, 5, 3), "taps": torch.zeros(3, 4)} | change))
