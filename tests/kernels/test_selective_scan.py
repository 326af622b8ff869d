"""Selective scan: the chunked form and its own backward against the recurrence, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.selective_scan.chunked import CHUNK

LENGTHS = (1, 2, 31, 33, 77, 130)
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry: rounding of sums over at most 130 steps


def make_inputs(
    steps: int, *, batch: int = 2, heads: int = 2, width: int = 5, value: int = 3, dtype=torch.float64
) -> dict[str, Tensor]:
    inputs = {
        "q": torch.randn(batch, steps, heads, width, dtype=dtype),
        "k": torch.randn(batch, steps, heads, width, dtype=dtype),
        "v": torch.randn(batch, steps, heads, value, dtype=dtype),
        "step": torch.rand(batch, steps, heads, value, dtype=dtype),
        "rate": -torch.rand(heads, width, value, dtype=dtype),
        "initial_state": torch.randn(batch, heads, width, value, dtype=dtype),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, DOUBLE), (torch.float32, SINGLE)])
def test_equals_the_recurrence(assert_equal_backends, steps, dtype, tolerance):
    inputs = make_inputs(steps, dtype=dtype)
    assert_equal_backends(
        lambda backend: selective_scan(**inputs, return_state=True, backend=backend), list(inputs.values()), tolerance
    )


@pytest.mark.parametrize("steps", [1, 70])
def test_equals_the_recurrence_without_states(assert_equal_backends, steps):
    inputs = make_inputs(steps)
    del inputs["initial_state"]
    assert_equal_backends(lambda backend: selective_scan(**inputs, backend=backend), list(inputs.values()), DOUBLE)


@settings(max_examples=15, deadline=None)
@given(
    steps=st.integers(1, 70),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    width=st.integers(1, 6),
    value=st.integers(1, 6),
)
def test_any_shape(steps, batch, heads, width, value):
    inputs = make_inputs(steps, batch=batch, heads=heads, width=width, value=value)
    fast, slow = (selective_scan(**inputs, backend=backend) for backend in ("chunked", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-10, atol=1e-10)


def test_gradients_by_finite_differences():
    inputs = make_inputs(4, batch=1, heads=1, width=2, value=2)

    def run(*values: Tensor) -> tuple[Tensor, ...]:
        return selective_scan(**dict(zip(inputs, values, strict=True)), return_state=True)

    assert torch.autograd.gradcheck(run, tuple(inputs.values()))


@pytest.mark.parametrize("cut", [1, CHUNK, 50, 76])
def test_state_hands_over(cut):
    inputs = make_inputs(77)
    whole, last = selective_scan(**inputs, return_state=True)
    parts, state = [], inputs["initial_state"]
    for part in (slice(None, cut), slice(cut, None)):
        sequences = {name: inputs[name][:, part] for name in ("q", "k", "v", "step")}
        out, state = selective_scan(**sequences, rate=inputs["rate"], initial_state=state, return_state=True)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_equal_rates_are_linear_attention_with_a_decay_by_head():
    """One step and one rate for a whole head: the state space dual of Mamba-2."""
    inputs = make_inputs(50)
    step, rate = inputs["step"][..., :1].expand_as(inputs["step"]), inputs["rate"][:, :1, :1].expand(2, 5, 3)
    out = selective_scan(inputs["q"], inputs["k"], inputs["v"], step=step, rate=rate)
    dual = linear_attention(
        inputs["q"], inputs["k"], step * inputs["v"], log_decay=step[..., 0] * rate[:, 0, 0], backend="reference"
    )
    torch.testing.assert_close(out, dual, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strength", [0.0, 1e4])
def test_extreme_decays(assert_equal_backends, strength):
    inputs = make_inputs(70, dtype=torch.float32)
    inputs["rate"] = torch.full_like(inputs["rate"], -strength).requires_grad_()
    assert_equal_backends(
        lambda backend: selective_scan(**inputs, return_state=True, backend=backend), list(inputs.values()), SINGLE
    )


def test_bfloat16_accumulates_in_float32():
    inputs = {name: x.detach() for name, x in make_inputs(77, dtype=torch.float32).items()}
    low = inputs | {name: inputs[name].bfloat16() for name in ("q", "k", "v")}
    out, state = selective_scan(**low, return_state=True)
    exact, exact_state = selective_scan(
        **{name: x.double() for name, x in low.items()}, return_state=True, backend="reference"
    )
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output
    torch.testing.assert_close(state.double(), exact_state, rtol=SINGLE, atol=SINGLE)


def test_keeps_one_state_a_chunk_for_the_backward():
    steps, size = 16 * CHUNK, (1, 1, 8, 16)
    inputs = make_inputs(steps, batch=1, heads=1, width=8, value=16, dtype=torch.float32)
    kept: dict[int, int] = {}

    def pack(x: Tensor) -> Tensor:
        kept[x.data_ptr()] = x.numel()
        return x

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        selective_scan(**inputs)
    state = torch.Size(size).numel()
    # 16 states and sequences of K or V entries a step, where every state would be 512 of them
    assert sum(kept.values()) < 16 * state + steps * 5 * 16 + 4 * state


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 2, 4)}, r"k has shape \(2, 5, 2, 4\); expected \[B, T, H, K\] = \(2, 5, 2, 3\)"),
        ({"v": torch.zeros(2, 4, 2, 4)}, r"v has shape \(2, 4, 2, 4\); expected \[B, T, H, V\] = \(2, 5, 2, V\)"),
        ({"q": torch.zeros(2, 0, 2, 3)}, r"q has shape \(2, 0, 2, 3\)"),
        ({"step": torch.ones(2, 5, 2, 3)}, r"step has shape \(2, 5, 2, 3\); expected \[B, T, H, V\] = \(2, 5, 2, 4\)"),
        ({"rate": torch.zeros(2, 4, 3)}, r"rate has shape \(2, 4, 3\); expected \[H, K, V\] = \(2, 3, 4\)"),
        ({"v": torch.zeros(2, 5, 2, 4).half()}, "v has dtype torch.float16"),
        ({"initial_state": torch.zeros(2, 2, 4, 3)}, r"expected \[B, H, K, V\] = \(2, 2, 3, 4\)"),
        ({"backend": "fast"}, "backend is 'fast'"),
        ({"rate": torch.ones(2, 3, 4), "backend": "reference"}, "rate must be <= 0 everywhere, .* value is 1.0"),
        ({"step": -torch.ones(2, 5, 2, 4), "backend": "reference"}, "step must be >= 0 everywhere, .* value is -1.0"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {
        "q": torch.zeros(2, 5, 2, 3),
        "k": torch.zeros(2, 5, 2, 3),
        "v": torch.zeros(2, 5, 2, 4),
        "step": torch.ones(2, 5, 2, 4),
        "rate": -torch.ones(2, 3, 4),
    } | change
    with pytest.raises(ValueError, match=message):
        selective_scan(**arguments)
