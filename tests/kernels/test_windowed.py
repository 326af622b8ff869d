"""Kernels in a window: blocks of the band against the dense matrix and step by step, in values and gradients."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.resolvent import resolvent
from archloom.kernels.windowed import windowed_linear_attention, windowed_resolvent
from archloom.kernels.windowed.chunked import SHORTEST

DOUBLE, SINGLE = 1e-10, 2e-5  # relative to the largest entry
DECAYS = ("none", "head", "channel")
STRONG = 30.0
"""Log decay a step at which no chunk's factors can be scaled about its middle."""


def make(
    steps: int, before: int, decay: str, *, strength: float = 1.0, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Queries, unit keys, values, the decay if there is one, and what was solved before."""
    batch, heads, width, value, sources = 2, 3, 5, 4, steps + before
    shapes = {"head": (batch, sources, heads), "channel": (batch, sources, heads, width)}
    made = {
        "q": normalize(torch.randn(batch, steps, heads, width, dtype=dtype), dim=-1),
        "k": normalize(torch.randn(batch, sources, heads, width, dtype=dtype), dim=-1),
        "v": torch.randn(batch, sources, heads, value, dtype=dtype),
    }
    if decay != "none":
        made["log_decay"] = -strength * torch.rand(shapes[decay], dtype=dtype)
    if before:
        made["earlier"] = torch.randn(batch, before, heads, value, dtype=dtype)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def applied(given: dict[str, Tensor], window: int, backend: str) -> Tensor:
    return windowed_linear_attention(
        given["q"], given["k"], given["v"], log_decay=given.get("log_decay"), window=window, backend=backend
    )


def resolved(given: dict[str, Tensor], window: int, backend: str) -> Tensor:
    steps = given["q"].shape[1]
    return windowed_resolvent(
        given["q"],
        given["k"],
        given["v"][:, -steps:],
        log_decay=given.get("log_decay"),
        earlier=given.get("earlier"),
        window=window,
        backend=backend,
    )


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("steps", "before", "window"), [(1, 0, 1), (1, 7, 8), (33, 0, 2), (70, 3, 16), (71, 40, 41)])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "strength"),
    [(torch.float64, DOUBLE, 1.0), (torch.float64, DOUBLE, STRONG), (torch.float32, SINGLE, 1.0)],
)
def test_equals_the_definition(assert_equal_backends, steps, before, window, decay, strength, dtype, tolerance):
    given = make(steps, before, decay, strength=strength, dtype=dtype)
    read = [tensor for name, tensor in given.items() if name != "earlier"]
    seen = decay == "none" or steps + before > 1
    assert_equal_backends(lambda each: applied(given, window, each), read if seen else read[:3], tolerance)
    for_z = list(given.values()) if min(window, steps + before) > 1 else [given["v"]]
    assert_equal_backends(lambda each: resolved(given, window, each), for_z, tolerance)


@settings(max_examples=25, deadline=None)
@example(steps=1, before=1, window=1, decay="head", strength=3.0)
@given(
    steps=st.integers(1, 80),
    before=st.integers(0, 50),
    window=st.integers(1, 90),
    decay=st.sampled_from(DECAYS),
    strength=st.sampled_from([0.1, 3.0, STRONG]),
)
def test_any_shape(steps, before, window, decay, strength):
    given = make(steps, before, decay, strength=strength)
    for run in (applied, resolved):
        expected = run(given, window, "reference")
        assert (run(given, window, "chunked") - expected).abs().max() <= 1e-12 * expected.abs().max().clamp(min=1)


@pytest.mark.parametrize("decay", DECAYS)
def test_a_window_that_holds_everything_is_no_window(decay):
    given = make(77, 0, decay)
    q, k, v, g = given["q"], given["k"], given["v"], given.get("log_decay")
    whole = linear_attention(q, k, v, log_decay=g, scale=1.0, backend="reference")
    torch.testing.assert_close(applied(given, 77, "chunked"), whole, rtol=1e-11, atol=1e-12)
    whole = resolvent(q, k, v, log_decay=g, backend="reference")
    torch.testing.assert_close(resolved(given, 100, "chunked"), whole, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", [1, 2, 31, 40])
def test_two_calls_over_the_last_keys_are_one(cut, decay):
    given, window = make(41, 0, decay), 8
    q, k, v, g = given["q"], given["k"], given["v"], given.get("log_decay")
    first = max(0, cut - window + 1)
    held = None if g is None else g[:, first:]
    whole = applied(given, window, "chunked")
    later = windowed_linear_attention(q[:, cut:], k[:, first:], v[:, first:], log_decay=held, window=window)
    torch.testing.assert_close(later, whole[:, cut:], rtol=1e-11, atol=1e-12)
    z = resolved(given, window, "chunked")
    later = windowed_resolvent(
        q[:, cut:], k[:, first:], v[:, cut:], log_decay=held, earlier=z[:, first:cut], window=window
    )
    torch.testing.assert_close(later, z[:, cut:], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("decay", DECAYS)
def test_gradients_twice(decay):
    given = make(SHORTEST + 3, 2, decay)
    inputs = list(given.values())
    for run in (applied, resolved):

        def squared(*tensors: Tensor, run=run) -> Tensor:
            return run(dict(zip(given, tensors, strict=True)), 5, "chunked").square().mean()

        assert torch.autograd.gradcheck(squared, inputs, fast_mode=True)
        assert torch.autograd.gradgradcheck(squared, inputs, fast_mode=True)


def test_half_precision_is_summed_in_single():
    given = make(64, 0, "channel", dtype=torch.float32)
    half = {name: tensor.detach().bfloat16() for name, tensor in given.items()}
    half["log_decay"] = given["log_decay"].detach()
    rounded = {name: tensor.double() for name, tensor in half.items()}
    for run in (applied, resolved):
        out = run(half, 16, "chunked")
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), run(rounded, 16, "reference"), rtol=2**-8, atol=2**-9)


def test_what_does_not_fit_is_told():
    given = make(4, 2, "none")
    q, k, v = given["q"], given["k"], given["v"]
    with pytest.raises(ValueError, match="window is 0; expected at least 1"):
        windowed_linear_attention(q, k, v, window=0)
    with pytest.raises(ValueError, match=r"k has S = 3 positions, q has T = 4; expected S >= T"):
        windowed_linear_attention(q, k[:, :3], v[:, :3], window=2)
    with pytest.raises(ValueError, match=r"2 positions before b, whose z is missing; expected earlier \[B, 2, H, V\]"):
        windowed_resolvent(q, k, v[:, 2:], window=2)
    with pytest.raises(ValueError, match="earlier has shape"):
        windowed_resolvent(q, k, v[:, 2:], earlier=v[:, :1], window=2)
    with pytest.raises(ValueError, match="log_decay has shape"):
        windowed_linear_attention(q, k, v, log_decay=-torch.ones(2, 4, 3, dtype=torch.float64), window=2)
    growing = given | {"log_decay": torch.ones(2, 6, 3, dtype=torch.float64)}
    with pytest.raises(ValueError, match="log_decay must be <= 0"):
        applied(growing, 2, "reference")
    with pytest.raises(ValueError, match='backend is \'triton\'; expected "chunked" or "reference"'):
        applied(make(4, 0, "none"), 2, "triton")
