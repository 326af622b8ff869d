"""Linear attention with a state in slots: the chunked form against the recurrence, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.sparse_state import sparse_state

LENGTHS = (1, 2, 31, 33, 77, 130)
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry: rounding of sums over at most 130 steps
ROUTES = ("shared", "by head")


def make_route(*sizes: int, top: int, dtype: torch.dtype) -> Tensor:
    """Softmax over the `top` largest of the last axis, zeros elsewhere."""
    scores = torch.randn(*sizes, dtype=dtype)
    kept = scores >= scores.topk(min(top, sizes[-1]), -1).values[..., -1:]
    return scores.masked_fill(~kept, -torch.inf).softmax(-1)


def make_inputs(
    steps: int,
    routes: str = "shared",
    *,
    decay: bool = True,
    state: bool = True,
    batch: int = 2,
    heads: int = 2,
    slots: int = 4,
    width: int = 5,
    value: int = 3,
    top: int = 2,
    strength: float = 1.0,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Arguments by name."""
    q, k = (torch.randn(batch, steps, heads, width, dtype=dtype) for _ in range(2))
    made = {"q": q, "k": k, "v": torch.randn(batch, steps, heads, value, dtype=dtype)}
    sizes = (batch, steps, slots) if routes == "shared" else (batch, steps, heads, slots)
    made |= {name: make_route(*sizes, top=top, dtype=dtype) for name in ("read", "write")}
    if decay:
        made["log_decay"] = -strength * torch.rand(batch, steps, heads, dtype=dtype)
    if state:
        made["initial_state"] = torch.randn(batch, heads, slots, width, value, dtype=dtype)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def steps_of(inputs: dict[str, Tensor], part: slice) -> dict[str, Tensor]:
    return {name: tensor[:, part] for name, tensor in inputs.items()}


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("routes", ROUTES)
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("chunk", [None, 16])
def test_equals_the_recurrence(assert_equal_backends, steps, routes, decay, chunk):
    inputs = make_inputs(steps, routes, decay=decay)
    assert_equal_backends(
        lambda backend: sparse_state(**inputs, scale=0.3, return_state=True, chunk=chunk, backend=backend),
        list(inputs.values()),
        DOUBLE,
    )


@pytest.mark.parametrize("steps", [1, 33, 130])
@pytest.mark.parametrize("decay", [False, True])
def test_equals_the_recurrence_without_states(assert_equal_backends, steps, decay):
    inputs = make_inputs(steps, decay=decay, state=False, dtype=torch.float32)
    assert_equal_backends(lambda backend: sparse_state(**inputs, backend=backend), list(inputs.values()), SINGLE)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
@pytest.mark.parametrize("routes", ROUTES)
def test_is_linear_attention_over_slots_and_channels(backend, routes):
    """With N K channels, of which those of a slot decay together, and only in steps that write to it."""
    inputs = {name: x.detach() for name, x in make_inputs(40, routes).items()}
    read, write = (inputs[name] if routes == "by head" else inputs[name].unsqueeze(2) for name in ("read", "write"))
    q, k = (
        (route.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2)
        for route, x in ((read, inputs["q"]), (write, inputs["k"]))
    )  # fmt: skip
    decay = (inputs["log_decay"].unsqueeze(-1) * (write > 0)).repeat_interleave(5, -1)
    state = inputs["initial_state"].flatten(2, 3)
    want, last = linear_attention(
        q, k, inputs["v"], log_decay=decay, initial_state=state, return_state=True, scale=0.7, backend="reference"
    )
    out, got = sparse_state(**inputs, scale=0.7, return_state=True, backend=backend)
    torch.testing.assert_close(out, want, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(got.flatten(2, 3), last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_one_slot_that_all_use_is_linear_attention(backend):
    inputs = make_inputs(70, slots=1, state=False)
    taken = {name: inputs[name] for name in ("q", "k", "v", "log_decay")}
    ones = torch.ones(2, 70, 1, dtype=torch.float64)
    out = sparse_state(**taken, read=ones, write=ones, backend=backend)
    torch.testing.assert_close(out, linear_attention(**taken, backend="reference"), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("backend", ["chunked", "reference"])
def test_a_slot_keeps_what_nobody_writes_over(backend):
    """What is written to slot 0 at first is read from it at last, whatever is forgotten elsewhere in between."""
    inputs = {name: x.detach() for name, x in make_inputs(90, state=False, slots=2).items()}
    inputs["log_decay"] = torch.full_like(inputs["log_decay"], -5.0)
    read, write = (torch.zeros(2, 90, 2, dtype=torch.float64) for _ in range(2))
    write[:, 0, 0] = write[:, 1:, 1] = read[:, :, 0] = 1
    out = sparse_state(**(inputs | {"read": read, "write": write}), backend=backend)
    first = (inputs["q"] * inputs["k"][:, :1]).sum(-1, keepdim=True) * inputs["v"][:, :1]
    torch.testing.assert_close(out, first, rtol=1e-10, atol=1e-10)


def test_negative_weights_write_without_forgetting(assert_equal_backends):
    inputs = make_inputs(70)
    inputs["write"] = torch.randn(2, 70, 4, dtype=torch.float64, requires_grad=True)
    inputs["read"] = torch.randn(2, 70, 4, dtype=torch.float64, requires_grad=True)
    run = lambda backend: sparse_state(**inputs, return_state=True, backend=backend)  # noqa: E731
    assert_equal_backends(run, list(inputs.values()), DOUBLE)


@pytest.mark.parametrize("reader", ROUTES)
def test_one_route_by_head_and_one_for_all(assert_equal_backends, reader):
    inputs = make_inputs(70, reader)
    inputs["write"] = make_inputs(70, ROUTES[reader == "shared"])["write"]
    run = lambda backend: sparse_state(**inputs, return_state=True, backend=backend)  # noqa: E731
    assert_equal_backends(run, list(inputs.values()), DOUBLE)


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 70),
    batch=st.integers(1, 3),
    heads=st.integers(1, 3),
    slots=st.integers(1, 6),
    width=st.integers(1, 5),
    value=st.integers(1, 5),
    top=st.integers(1, 3),
    chunk=st.integers(1, 40),
    routes=st.sampled_from(ROUTES),
    decay=st.booleans(),
)
def test_any_shape_and_chunk(steps, batch, heads, slots, width, value, top, chunk, routes, decay):
    inputs = make_inputs(
        steps, routes, decay=decay, batch=batch, heads=heads, slots=slots, width=width, value=value, top=top
    )
    fast, slow = (sparse_state(**inputs, chunk=chunk, backend=backend) for backend in ("chunked", "reference"))
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize("cut", [1, 32, 50, 76])
def test_state_hands_over(decay, cut):
    inputs = make_inputs(77, decay=decay, state=False)
    whole, last = sparse_state(**inputs, return_state=True)
    parts, state = [], None
    for part in (slice(None, cut), slice(cut, None)):
        out, state = sparse_state(**steps_of(inputs, part), initial_state=state, return_state=True)
        parts.append(out)
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


def test_step_by_step_equals_one_call():
    inputs = make_inputs(20, "by head", state=False)
    whole, last = sparse_state(**inputs, return_state=True)
    outs, state = [], None
    for t in range(20):
        out, state = sparse_state(**steps_of(inputs, slice(t, t + 1)), initial_state=state, return_state=True)
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(state, last, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("chunk", [None, 4])
def test_gradients_by_finite_differences(chunk):
    inputs = make_inputs(6, batch=1, width=2, value=2, slots=3)
    positive = torch.rand(1, 6, 3, dtype=torch.float64) + 0.1  # a step to either side must not change who forgets
    positive[:, ::2, 1] *= -1
    inputs["write"] = positive.requires_grad_()
    names = list(inputs)
    assert torch.autograd.gradcheck(
        lambda *tensors: sparse_state(**dict(zip(names, tensors, strict=True)), chunk=chunk, return_state=True),
        tuple(inputs.values()),
    )


@pytest.mark.parametrize("strength", [0.0, -30.0])
def test_extreme_decays(assert_equal_backends, strength):
    inputs = make_inputs(130, dtype=torch.float32)
    inputs["log_decay"] = torch.full((2, 130, 2), strength).requires_grad_()
    assert_equal_backends(
        lambda backend: sparse_state(**inputs, return_state=True, backend=backend), list(inputs.values()), SINGLE
    )


def test_a_reset_in_the_middle_of_slow_decay(assert_equal_backends):
    """A step of -30 now and then must not blur the small differences after it."""
    inputs = make_inputs(200, strength=0.01, dtype=torch.float32)
    decay = inputs["log_decay"].detach().clone()
    decay[:, 40::64] = -30
    inputs["log_decay"] = decay.requires_grad_()
    assert_equal_backends(
        lambda backend: sparse_state(**inputs, return_state=True, backend=backend), list(inputs.values()), SINGLE
    )


@pytest.mark.parametrize("wide", [False, True])
def test_bfloat16_accumulates_in_float32(wide):
    """The routes and the decay beside bfloat16 inputs may be of either type."""
    inputs = {name: x.detach() for name, x in make_inputs(150, state=False, dtype=torch.float32).items()}
    low = {name: x if wide and name not in "qkv" else x.bfloat16() for name, x in inputs.items()}
    out, state = sparse_state(**low, return_state=True)
    exact, exact_state = sparse_state(**{n: x.double() for n, x in low.items()}, return_state=True, backend="reference")
    assert out.dtype == torch.bfloat16
    assert state.dtype == torch.float32
    torch.testing.assert_close(out.double(), exact, rtol=2**-7, atol=1e-3)  # one rounding of the output
    torch.testing.assert_close(state.double(), exact_state, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 2, 4)}, r"k has shape \(2, 5, 2, 4\); expected \[B, T, H, K\] = \(2, 5, 2, 3\)"),
        ({"v": torch.zeros(2, 4, 2, 4)}, r"v has shape \(2, 4, 2, 4\); expected \[B, T, H, V\] = \(2, 5, 2, V\)"),
        ({"q": torch.zeros(2, 0, 2, 3)}, r"q has shape \(2, 0, 2, 3\)"),
        ({"read": torch.zeros(2, 5)}, r"read has shape \(2, 5\); expected \[B, T, N\] = \(2, 5, N\)"),
        ({"read": torch.zeros(2, 5, 1, 6)}, r"read has shape .*; expected \[B, T, H, N\] = \(2, 5, 2, N\)"),
        ({"write": torch.zeros(2, 5, 7)}, r"write has shape \(2, 5, 7\); expected \[B, T, N\] = \(2, 5, 6\)"),
        ({"write": torch.zeros(2, 5, 2, 7)}, r"write has shape .*; expected \[B, T, H, N\] = \(2, 5, 2, 6\)"),
        ({"write": torch.zeros(2, 5, 6, dtype=torch.float64)}, "write has dtype torch.float64"),
        ({"log_decay": torch.zeros(2, 5)}, r"log_decay has shape \(2, 5\)"),
        ({"log_decay": torch.zeros(2, 5, 2, 3)}, r"log_decay has shape .*; expected \[B, T, H\] = \(2, 5, 2\)"),
        ({"initial_state": torch.zeros(2, 2, 3, 4)}, r"expected \[B, H, N, K, V\] = \(2, 2, 6, 3, 4\)"),
        ({"chunk": 0}, "chunk is 0"),
        ({"backend": "fast"}, r"backend is 'fast'; expected \"chunked\", \"reference\" or \"triton\""),
        ({"log_decay": torch.ones(2, 5, 2), "backend": "reference"}, "largest value is 1.0"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"q": torch.zeros(2, 5, 2, 3), "k": torch.zeros(2, 5, 2, 3), "v": torch.zeros(2, 5, 2, 4)}
    arguments |= {"read": torch.zeros(2, 5, 6), "write": torch.zeros(2, 5, 6)}
    with pytest.raises(ValueError, match=message):
        sparse_state(**(arguments | change))


def test_long_sequences():
    inputs = make_inputs(4096, dtype=torch.float32, batch=1, strength=0.1, state=False)
    out = sparse_state(**inputs)
    exact = sparse_state(**{name: x.detach().double() for name, x in inputs.items()}, backend="reference")
    assert (out - exact).abs().max() / exact.abs().max() < SINGLE
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.square().sum(), list(inputs.values())))
