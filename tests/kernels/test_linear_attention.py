"""Linear attention: the chunked form against the recurrence, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archloom.kernels.decay import PAIRWISE, chunk_length, lower_scores
from archloom.kernels.linear_attention import linear_attention

LENGTHS = (1, 2, 31, 33, 77, 130)
DECAYS = ("none", "head", "channel")
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry: rounding of sums over at most 130 steps


def make_inputs(
    steps: int, decay: str, *, batch: int = 2, heads: int = 2, width: int = 5, value: int = 3, dtype=torch.float64
) -> tuple[list[Tensor], Tensor | None]:
    q, k = (torch.randn(batch, steps, heads, width, dtype=dtype, requires_grad=True) for _ in range(2))
    v = torch.randn(batch, steps, heads, value, dtype=dtype, requires_grad=True)
    shape = {"head": (batch, steps, heads), "channel": (batch, steps, heads, width)}
    log_decay = None if decay == "none" else (-torch.rand(shape[decay], dtype=dtype)).requires_grad_()
    return [q, k, v], log_decay


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("chunk", [None, 16])
def test_equals_the_recurrence(assert_equal_backends, steps, decay, chunk):
    (q, k, v), g = make_inputs(steps, decay)
    s = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True)
    assert_equal_backends(
        lambda backend: linear_attention(
            q, k, v, log_decay=g, scale=0.3, initial_state=s, return_state=True, chunk=chunk, backend=backend
        ),
        [x for x in (q, k, v, g, s) if x is not None],
        DOUBLE,
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("steps", [1, 33, 130])
def test_equals_the_recurrence_without_states(assert_equal_backends, steps, decay):
    inputs, g = make_inputs(steps, decay, dtype=torch.float32)
    assert_equal_backends(
        lambda backend: linear_attention(*inputs, log_decay=g, backend=backend),
        inputs if g is None else [*inputs, g],
        SINGLE,
    )


@pytest.mark.parametrize("decay", DECAYS)
def test_normalised_equals_the_recurrence(assert_equal_backends, decay):
    (q, k, v), g = make_inputs(33, decay)
    positive = [q.detach().exp().requires_grad_(), k.detach().exp().requires_grad_(), v]
    assert_equal_backends(
        lambda backend: linear_attention(*positive, log_decay=g, normalise=True, return_state=True, backend=backend),
        positive if g is None else [*positive, g],
        DOUBLE,
    )


def test_normalised_output_of_constant_values_is_constant():
    (q, k, _), g = make_inputs(40, "channel")
    v = torch.full((2, 40, 2, 3), 1.7, dtype=torch.float64)
    out = linear_attention(q.exp(), k.exp(), v, log_decay=g, normalise=True, scale=9.0)
    torch.testing.assert_close(out, v, rtol=1e-12, atol=0)


def test_denominator_stays_away_from_zero():
    zeros = torch.zeros(1, 5, 1, 2)
    assert torch.equal(linear_attention(zeros, zeros, zeros + 1, normalise=True), zeros)


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("with_bonus", [False, True])
@pytest.mark.parametrize("with_state", [False, True])
def test_exclusive_equals_the_recurrence(assert_equal_backends, steps, decay, with_bonus, with_state):
    (q, k, v), g = make_inputs(steps, decay)
    bonus = torch.randn(2, 5, dtype=torch.float64, requires_grad=True) if with_bonus else None
    s = torch.randn(2, 2, 5, 3, dtype=torch.float64, requires_grad=True) if with_state else None
    assert_equal_backends(
        lambda backend: linear_attention(
            q, k, v, log_decay=g, exclusive=True, bonus=bonus, scale=0.3, initial_state=s, return_state=True,
            backend=backend,
        ),
        [x for x in (q, k, v, g, bonus, s) if x is not None],
        DOUBLE,
    )  # fmt: skip


@pytest.mark.parametrize("decay", DECAYS)
def test_exclusive_normalised_equals_the_recurrence(assert_equal_backends, decay):
    (q, k, v), g = make_inputs(33, decay)
    positive = [q.detach().exp().requires_grad_(), k.detach().exp().requires_grad_(), v]
    bonus = torch.rand(2, 5, dtype=torch.float64, requires_grad=True)
    assert_equal_backends(
        lambda backend: linear_attention(
            *positive, log_decay=g, normalise=True, exclusive=True, bonus=bonus, backend=backend
        ),
        [*positive, bonus] if g is None else [*positive, bonus, g],
        DOUBLE,
    )


def test_a_bonus_of_one_without_decay_is_inclusive():
    (q, k, v), _ = make_inputs(77, "none")
    bonus = torch.ones(2, 5, dtype=torch.float64)
    out = linear_attention(q, k, v, exclusive=True, bonus=bonus)
    torch.testing.assert_close(out, linear_attention(q, k, v), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", [1, 32, 76])
def test_exclusive_state_hands_over(decay, cut):
    (q, k, v), g = make_inputs(77, decay)
    bonus = torch.randn(2, 5, dtype=torch.float64)
    whole, last = linear_attention(q, k, v, log_decay=g, exclusive=True, bonus=bonus, return_state=True)
    parts, state = [], None
    for part in (slice(None, cut), slice(cut, None)):
        decays = None if g is None else g[:, part]
        out, state = linear_attention(
            q[:, part], k[:, part], v[:, part], log_decay=decays, exclusive=True, bonus=bonus, initial_state=state,
            return_state=True,
        )  # fmt: skip
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_exclusive_gradients_by_finite_differences():
    inputs, g = make_inputs(4, "channel", batch=1, width=2, value=2)
    bonus = torch.randn(2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda q, k, v, g, bonus: linear_attention(q, k, v, log_decay=g, exclusive=True, bonus=bonus),
        (*inputs, g, bonus),
    )


def test_exclusive_in_bfloat16():
    (q, k, v), g = make_inputs(40, "channel", dtype=torch.float32)
    low, bonus = [x.detach().bfloat16() for x in (q, k, v)], torch.randn(2, 5)
    out = linear_attention(*low, log_decay=g, exclusive=True, bonus=bonus)
    exact = linear_attention(*(x.double() for x in low), log_decay=g.double(), exclusive=True, bonus=bonus.double(),
                             backend="reference")  # fmt: skip
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output


@settings(max_examples=15, deadline=None)
@given(
    steps=st.integers(1, 70),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    width=st.integers(1, 6),
    value=st.integers(1, 6),
    chunk=st.integers(1, 40),
    decay=st.sampled_from(DECAYS),
)
def test_any_shape_and_chunk(steps, batch, heads, width, value, chunk, decay):
    (q, k, v), g = make_inputs(steps, decay, batch=batch, heads=heads, width=width, value=value)
    fast, slow = (
        linear_attention(q, k, v, log_decay=g, chunk=chunk, backend=backend) for backend in ("chunked", "reference")
    )
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", [1, 32, 50, 76])
@pytest.mark.parametrize("normalise", [False, True])
def test_state_hands_over(decay, cut, normalise):
    (q, k, v), g = make_inputs(77, decay)
    q, k = q.exp(), k.exp()
    whole, last = linear_attention(q, k, v, log_decay=g, normalise=normalise, return_state=True)
    parts, state = [], None
    for part in (slice(None, cut), slice(cut, None)):
        out, state = linear_attention(
            q[:, part],
            k[:, part],
            v[:, part],
            log_decay=None if g is None else g[:, part],
            normalise=normalise,
            initial_state=state,
            return_state=True,
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
        lambda backend: linear_attention(*inputs, log_decay=g, return_state=True, backend=backend), [*inputs, g], SINGLE
    )


def test_a_reset_in_the_middle_of_slow_decay(assert_equal_backends):
    """One step of -50 inside a slow channel decay must not blur the small differences after it."""
    inputs, g = make_inputs(200, "channel", dtype=torch.float32)
    g = g.detach() * 0.01
    g[:, 40::64] = -50
    g.requires_grad_()
    assert_equal_backends(
        lambda backend: linear_attention(*inputs, log_decay=g, return_state=True, backend=backend), [*inputs, g], SINGLE
    )


@pytest.mark.parametrize("decay", DECAYS)
def test_bfloat16_accumulates_in_float32(decay):
    (q, k, v), g = make_inputs(77, decay, dtype=torch.float32)
    low = [x.detach().bfloat16() for x in (q, k, v)]
    out, state = linear_attention(*low, log_decay=g, return_state=True)
    exact, exact_state = linear_attention(*(x.double() for x in low), log_decay=None if g is None else g.double(),
                                          return_state=True, backend="reference")  # fmt: skip
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output
    torch.testing.assert_close(state.double(), exact_state, rtol=SINGLE, atol=SINGLE)


def test_channel_scores_never_overflow_at_any_length():
    """Decay of -50 a step: only the diagonal is left, and every intermediate exponent was <= 0."""
    length = 16 * PAIRWISE
    q, k = torch.rand(2, 1, 1, 1, length, 3)
    total = torch.full_like(q, -50).cumsum(3)
    (scores,) = lower_scores((q,), k, total)
    torch.testing.assert_close(scores, torch.diag_embed((q * k).sum(-1)))


def test_chunks_are_short_for_short_sequences():
    assert [chunk_length(steps, None, by_channel=False) for steps in (1, 33, 128, 129)] == [1, 33, 128, 64]
    assert [chunk_length(steps, None, by_channel=True) for steps in (1, 3, 5, 33, 129)] == [1, 3, 8, 64, 64]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 2, 4)}, r"k has shape \(2, 5, 2, 4\); expected \[B, T, H, K\] = \(2, 5, 2, 3\)"),
        ({"v": torch.zeros(2, 4, 2, 4)}, r"v has shape \(2, 4, 2, 4\); expected \[B, T, H, V\] = \(2, 5, 2, V\)"),
        ({"q": torch.zeros(2, 0, 2, 3)}, r"q has shape \(2, 0, 2, 3\)"),
        ({"k": torch.zeros(2, 5, 2, 3, dtype=torch.float64)}, "k has dtype torch.float64"),
        ({"k": torch.zeros(2, 5, 2, 3, device="meta")}, "k is on meta but q is on cpu"),
        ({"log_decay": torch.zeros(2, 5)}, r"log_decay has shape \(2, 5\)"),
        ({"initial_state": torch.zeros(2, 2, 3, 5)}, r"expected \[B, H, K, V\] = \(2, 2, 3, 4\)"),
        ({"chunk": 0}, "chunk is 0"),
        ({"bonus": torch.zeros(2, 4), "exclusive": True}, r"bonus has shape \(2, 4\); expected \[H, K\] = \(2, 3\)"),
        ({"bonus": torch.zeros(2, 3)}, "bonus is given without exclusive=True"),
        ({"backend": "fast"}, "backend is 'fast'"),
        ({"log_decay": torch.ones(2, 5, 2), "backend": "reference"}, "largest value is 1.0"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"q": torch.zeros(2, 5, 2, 3), "k": torch.zeros(2, 5, 2, 3), "v": torch.zeros(2, 5, 2, 4)} | change
    with pytest.raises(ValueError, match=message):
        linear_attention(**arguments)


@pytest.mark.slow
@pytest.mark.parametrize("decay", DECAYS)
def test_long_sequences(decay):
    (q, k, v), g = make_inputs(8192, decay, dtype=torch.float32, batch=1)
    out = linear_attention(q, k, v, log_decay=g)
    exact = linear_attention(*(x.double() for x in (q, k, v)), log_decay=None if g is None else g.double(),
                             backend="reference")  # fmt: skip
    assert (out - exact).abs().max() / exact.abs().max() < SINGLE
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.square().sum(), [q, k, v]))
