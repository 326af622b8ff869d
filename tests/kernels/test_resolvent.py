"""Resolvent and delta rule: the chunked forms against the recurrences, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.resolvent import delta_rule, resolvent

LENGTHS = (1, 2, 31, 33, 77, 130)
DECAYS = ("none", "head", "channel")
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry; the recurrences below do not amplify


def make_inputs(
    steps: int, decay: str, *, batch: int = 2, heads: int = 2, width: int = 5, value: int = 3, dtype=torch.float64
) -> tuple[list[Tensor], Tensor | None]:
    """q, b = beta k with unit k and beta in (0, 2), k, x: all leaves."""
    q, k = (normalize(torch.randn(batch, steps, heads, width, dtype=dtype), dim=-1) for _ in range(2))
    b = k * 2 * torch.rand(batch, steps, heads, 1, dtype=dtype)
    x = torch.randn(batch, steps, heads, value, dtype=dtype)
    shape = {"head": (batch, steps, heads), "channel": (batch, steps, heads, width)}
    log_decay = None if decay == "none" else (-torch.rand(shape[decay], dtype=dtype)).requires_grad_()
    return [tensor.clone().requires_grad_() for tensor in (q, b, k, x)], log_decay


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("chunk", [None, 16])
def test_delta_rule_equals_the_recurrence(assert_equal_backends, steps, decay, chunk):
    inputs, g = make_inputs(steps, decay)
    s = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert_equal_backends(
        lambda backend: delta_rule(
            *inputs, log_decay=g, scale=0.3, initial_state=s, return_state=True, chunk=chunk, backend=backend
        ),
        [x for x in (*inputs, g, s) if x is not None],
        DOUBLE,
    )


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("decay", DECAYS)
def test_resolvent_equals_the_recurrence(assert_equal_backends, steps, decay):
    (_, *inputs), g = make_inputs(steps, decay)
    s = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert_equal_backends(
        lambda backend: resolvent(*inputs, log_decay=g, initial_state=s, return_state=True, backend=backend),
        [x for x in (*inputs, g, s) if x is not None],
        DOUBLE,
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("steps", [1, 33, 130])
@pytest.mark.parametrize("with_last", [False, True])
def test_float32_without_initial_state(assert_equal_backends, steps, decay, with_last):
    inputs, g = make_inputs(steps, decay, dtype=torch.float32)
    # the first step reads no state: for a single step only, b has no influence and its gradient is zero
    assert_equal_backends(
        lambda backend: delta_rule(*inputs, log_decay=g, return_state=with_last, backend=backend),
        inputs if g is None else [*inputs, g],
        SINGLE,
    )


@pytest.mark.parametrize("decay", DECAYS)
def test_delta_rule_is_linear_attention_of_the_resolvent(decay):
    (q, b, k, x), g = make_inputs(77, decay)
    fused, fused_state = delta_rule(q, b, k, x, log_decay=g, scale=0.7, return_state=True)
    z, state = resolvent(b, k, x, log_decay=g, return_state=True)
    out, read_state = linear_attention(q, k, z, log_decay=g, scale=0.7, return_state=True)
    torch.testing.assert_close(fused, out, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fused_state, state, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(fused_state, read_state, rtol=1e-10, atol=1e-10)


def test_resolvent_inverts_its_kernel():
    (_, b, k, x), _ = make_inputs(50, "none")
    z = resolvent(b, k, x)
    kernel = torch.einsum("bthk,bshk->bhts", b, k).tril(-1)
    torch.testing.assert_close(z + torch.einsum("bhts,bshv->bthv", kernel, z), x, rtol=1e-10, atol=1e-10)


@settings(max_examples=15, deadline=None)
@given(
    steps=st.integers(1, 70),
    heads=st.integers(1, 3),
    width=st.integers(1, 6),
    value=st.integers(1, 6),
    chunk=st.integers(1, 40),
    decay=st.sampled_from(DECAYS),
)
def test_any_shape_and_chunk(steps, heads, width, value, chunk, decay):
    inputs, g = make_inputs(steps, decay, batch=1, heads=heads, width=width, value=value)
    fast, slow = (
        delta_rule(*inputs, log_decay=g, chunk=chunk, backend=backend) for backend in ("chunked", "reference")
    )
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", [1, 32, 50, 76])
def test_state_hands_over(decay, cut):
    inputs, g = make_inputs(77, decay)
    for form, arguments in ((delta_rule, inputs), (resolvent, inputs[1:])):
        whole, last = form(*arguments, log_decay=g, return_state=True)
        parts, state = [], None
        for part in (slice(None, cut), slice(cut, None)):
            decays = None if g is None else g[:, part]
            out, state = form(
                *(x[:, part] for x in arguments), log_decay=decays, initial_state=state, return_state=True
            )
            parts.append(out)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("strength", [0.0, -50.0])
def test_extreme_decays(assert_equal_backends, decay, strength):
    inputs, g = make_inputs(130, decay, dtype=torch.float32)
    g = torch.full_like(g, strength).requires_grad_()
    assert_equal_backends(
        lambda backend: delta_rule(*inputs, log_decay=g, return_state=True, backend=backend), [*inputs, g], SINGLE
    )


@pytest.mark.parametrize("chunk", [None, 64])
def test_nearly_parallel_keys_with_beta_two(chunk):
    """Every step reflects almost the same direction; a Neumann series of I + strict(K) would grow as 2^chunk."""
    k = normalize(torch.ones(1, 1, 1, 8) + 1e-4 * torch.randn(1, 256, 2, 8), dim=-1)
    x, q = torch.randn(1, 256, 2, 8), torch.randn(1, 256, 2, 8)
    out = delta_rule(q, 2 * k, k, x, chunk=chunk)
    exact = delta_rule(*(t.double() for t in (q, 2 * k, k, x)), backend="reference")
    assert (out - exact).abs().max() / exact.abs().max() < SINGLE


@pytest.mark.parametrize("decay", DECAYS)
def test_bfloat16_accumulates_in_float32(decay):
    inputs, g = make_inputs(77, decay, dtype=torch.float32)
    low = [x.detach().bfloat16() for x in inputs]
    out, state = delta_rule(*low, log_decay=g, return_state=True)
    exact, exact_state = delta_rule(*(x.double() for x in low), log_decay=None if g is None else g.double(),
                                    return_state=True, backend="reference")  # fmt: skip
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output
    torch.testing.assert_close(state.double(), exact_state, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"b": torch.zeros(2, 5, 2, 4)}, r"b has shape \(2, 5, 2, 4\); expected \[B, T, H, K\] = \(2, 5, 2, 3\)"),
        ({"x": torch.zeros(2, 4, 2, 4)}, r"x has shape \(2, 4, 2, 4\); expected \[B, T, H, V\] = \(2, 5, 2, V\)"),
        ({"x": torch.zeros(2, 5, 2, 4).bfloat16()}, "x has dtype torch.bfloat16"),
        ({"log_decay": torch.zeros(2, 5, 2, 4)}, r"log_decay has shape \(2, 5, 2, 4\)"),
        ({"initial_state": torch.zeros(2, 3, 4)}, r"initial_state has shape \(2, 3, 4\)"),
        ({"chunk": -1}, "chunk is -1"),
        ({"backend": "neumann"}, "backend is 'neumann'"),
        ({"log_decay": torch.ones(2, 5, 2), "backend": "reference"}, "largest value is 1.0"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"b": torch.zeros(2, 5, 2, 3), "k": torch.zeros(2, 5, 2, 3), "x": torch.zeros(2, 5, 2, 4)} | change
    with pytest.raises(ValueError, match=message):
        resolvent(**arguments)
    with pytest.raises(ValueError, match=message):
        delta_rule(torch.zeros(2, 5, 2, 3), **arguments)


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_long_sequences(decay):
    inputs, g = make_inputs(8192, decay, dtype=torch.float32, batch=1)
    out = delta_rule(*inputs, log_decay=g)
    exact = delta_rule(*(x.double() for x in inputs), log_decay=None if g is None else g.double(), backend="reference")
    assert (out - exact).abs().max() / exact.abs().max() < SINGLE
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.square().sum(), inputs))
