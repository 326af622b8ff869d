"""Softmax attention: the fused and blocked forms against the dense definition, in values and gradients."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from archloom.kernels.attention import attention

LENGTHS = (1, 2, 31, 33, 77, 130, 203)
DOUBLE, SINGLE = 1e-10, 1e-4  # relative to the largest entry


def make_inputs(
    steps: int,
    cached: int,
    *,
    with_decay: bool = False,
    batch: int = 2,
    heads: int = 4,
    groups: int = 4,
    width: int = 6,
    value: int = 6,
    dtype=torch.float64,
) -> tuple[list[Tensor], Tensor | None]:
    sources = steps + cached
    q = torch.randn(batch, steps, heads, width, dtype=dtype, requires_grad=True)
    k = torch.randn(batch, sources, groups, width, dtype=dtype, requires_grad=True)
    v = torch.randn(batch, sources, groups, value, dtype=dtype, requires_grad=True)
    g = (-torch.rand(batch, sources, heads, dtype=dtype)).requires_grad_() if with_decay else None
    return [q, k, v], g


@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("cached", [0, 40])
@pytest.mark.parametrize("window", [None, 1, 7, 50])
@pytest.mark.parametrize("with_decay", [False, True])
@pytest.mark.parametrize("groups", [4, 2])
def test_equals_the_dense_definition(assert_equal_backends, steps, cached, window, with_decay, groups):
    inputs, g = make_inputs(steps, cached, with_decay=with_decay, groups=groups)
    # with window 1 the weights are all 1 and the gradients of q, k and the decay are zero on both sides
    assert_equal_backends(
        lambda backend: attention(*inputs, log_decay=g, window=window, backend=backend),
        inputs if g is None else [*inputs, g],
        DOUBLE,
    )


@pytest.mark.parametrize(("width", "value"), [(6, 3), (3, 6), (8, 1)])
@pytest.mark.parametrize("window", [None, 9])
def test_unequal_widths(assert_equal_backends, width, value, window):
    inputs, g = make_inputs(150, 5, with_decay=True, width=width, value=value, dtype=torch.float32)
    for decay in (None, g):
        assert_equal_backends(
            lambda backend, decay=decay: attention(*inputs, log_decay=decay, window=window, scale=0.7, backend=backend),
            inputs if decay is None else [*inputs, decay],
            SINGLE,
        )


@settings(max_examples=20, deadline=None)
@given(
    steps=st.integers(1, 80) | st.integers(129, 200),
    cached=st.integers(0, 50),
    groups=st.integers(1, 2),
    repeats=st.integers(1, 3),
    window=st.none() | st.integers(1, 90),
    with_decay=st.booleans(),
)
def test_any_shape(steps, cached, groups, repeats, window, with_decay):
    inputs, g = make_inputs(steps, cached, with_decay=with_decay, batch=1, heads=groups * repeats, groups=groups)
    fast, slow = (
        attention(*inputs, log_decay=g, window=window, backend=backend) for backend in ("chunked", "reference")
    )
    torch.testing.assert_close(fast, slow, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("with_decay", [False, True])
def test_decoding_step_by_step_equals_one_call(window, with_decay):
    (q, k, v), g = make_inputs(40, 0, with_decay=with_decay, groups=2)
    whole = attention(q, k, v, log_decay=g, window=window)
    steps = [
        attention(q[:, t : t + 1], k[:, : t + 1], v[:, : t + 1], log_decay=None if g is None else g[:, : t + 1],
                  window=window)
        for t in range(40)
    ]  # fmt: skip
    torch.testing.assert_close(torch.cat(steps, 1), whole, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("strength", [0.0, -50.0])
@pytest.mark.parametrize("window", [None, 20])
def test_extreme_decays(assert_equal_backends, strength, window):
    inputs, g = make_inputs(140, 20, with_decay=True, dtype=torch.float32)
    g = torch.full_like(g, strength).requires_grad_()
    assert_equal_backends(
        lambda backend: attention(*inputs, log_decay=g, window=window, backend=backend), [*inputs, g], SINGLE
    )


def test_decay_keeps_its_precision_far_from_the_start():
    """After 1,500 steps of -50 the cumulative decay is -75,000, whose float32 spacing is 0.008."""
    inputs, _ = make_inputs(1600, 0, batch=1, heads=1, groups=1, dtype=torch.float32)
    g = torch.full((1, 1600, 1), -50.0)
    g[:, 1500:] = -0.001 * torch.rand(1, 100, 1)
    out = attention(*inputs, log_decay=g)
    exact = attention(*(x.double() for x in inputs), log_decay=g.double(), backend="reference")
    # the 476 steps from the block's reference to step 1,500 weigh 24,000, spacing 0.002
    assert (out - exact).abs().max() < 5e-3
    late = attention(*(x[:, 1450:] for x in inputs), log_decay=g[:, 1450:])
    torch.testing.assert_close(late[:, 60:].double(), exact[:, 1510:], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("window", [None, 20])
@pytest.mark.parametrize("with_decay", [False, True])
def test_bfloat16(window, with_decay):
    inputs, g = make_inputs(150, 10, with_decay=with_decay, dtype=torch.float32)
    low = [x.detach().bfloat16() for x in inputs]
    out = attention(*low, log_decay=g, window=window)
    exact = attention(*(x.double() for x in low), log_decay=None if g is None else g.double(), window=window,
                      backend="reference")  # fmt: skip
    assert out.dtype == torch.bfloat16
    torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-2)  # the fused kernel rounds weights to bfloat16


FORMS = {
    "mask": {"mask": True},
    "all keys": {"causal": False},
    "causal plus one": {"normaliser": "softmax_plus_one"},
    "window plus one": {"window": 7, "normaliser": "softmax_plus_one"},
    "mask plus one": {"mask": True, "normaliser": "softmax_plus_one"},
    "all keys plus one": {"causal": False, "normaliser": "softmax_plus_one"},
    "causal bias": {"bias": True},
    "window bias": {"window": 7, "bias": True},
    "all keys bias": {"causal": False, "bias": True},
    "everything": {"mask": True, "bias": True, "normaliser": "softmax_plus_one"},
}


def make_form(name: str, steps: int, sources: int, dtype=torch.float64) -> tuple[dict, list[Tensor]]:
    """Arguments of attention, and those of them to differentiate by. One query of a mask sees nothing."""
    arguments = dict(FORMS[name])
    if "mask" in arguments:
        arguments["mask"] = torch.rand(steps, sources) < 0.4
        arguments["mask"][steps // 2] = False
    if "bias" in arguments:
        arguments["bias"] = torch.randn(4, steps, sources, dtype=dtype, requires_grad=True)
    return arguments, [arguments["bias"]] if "bias" in arguments else []


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("steps", "cached"), [(1, 0), (33, 0), (33, 20)])
@pytest.mark.parametrize("with_decay", [False, True])
@pytest.mark.parametrize("groups", [4, 2])
def test_masks_bias_and_normaliser(assert_equal_backends, form, steps, cached, with_decay, groups):
    inputs, g = make_inputs(steps, cached, with_decay=with_decay, groups=groups, value=3)
    arguments, extra = make_form(form, steps, steps + cached)
    assert_equal_backends(
        lambda backend: attention(*inputs, log_decay=g, **arguments, backend=backend),
        [*inputs, *extra, *([] if g is None else [g])],
        DOUBLE,
    )


@pytest.mark.parametrize("form", ["mask", "mask plus one", "all keys", "all keys bias"])
def test_more_queries_than_keys_without_the_causal_rule(assert_equal_backends, form):
    (q, _, _), _ = make_inputs(40, 0)
    (_, k, v), _ = make_inputs(9, 0)
    arguments, extra = make_form(form, 40, 9)
    assert_equal_backends(lambda backend: attention(q, k, v, **arguments, backend=backend), [q, k, v, *extra], DOUBLE)


@pytest.mark.parametrize("form", FORMS)
def test_masks_in_single_precision(assert_equal_backends, form):
    inputs, g = make_inputs(40, 5, with_decay=True, dtype=torch.float32)
    arguments, extra = make_form(form, 40, 45, dtype=torch.float32)
    assert_equal_backends(
        lambda backend: attention(*inputs, log_decay=g, **arguments, backend=backend), [*inputs, *extra, g], SINGLE
    )


@pytest.mark.parametrize("with_decay", [False, True])
@pytest.mark.parametrize("window", [None, 7])
def test_the_causal_mask_is_the_default(with_decay, window):
    inputs, g = make_inputs(40, 5, with_decay=with_decay)
    lag = torch.arange(5, 45)[:, None] - torch.arange(45)
    mask = (lag >= 0) & (lag < (window or 45))
    out = attention(*inputs, log_decay=g, mask=mask)
    torch.testing.assert_close(out, attention(*inputs, log_decay=g, window=window), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("normaliser", ["softmax", "softmax_plus_one"])
def test_a_query_that_sees_nothing_gives_zeros(normaliser):
    inputs, _ = make_inputs(6, 0)
    mask = torch.ones(6, 6, dtype=torch.bool).tril(-1)
    out = attention(*inputs, mask=mask, normaliser=normaliser)
    assert torch.equal(out[:, 0], torch.zeros_like(out[:, 0]))
    slopes = torch.autograd.grad(out.sum(), inputs)
    assert all(x.isfinite().all() for x in slopes)
    assert torch.equal(slopes[0][:, 0], torch.zeros_like(out[:, 0]))


def test_plus_one_is_one_more_in_the_denominator():
    q, k = torch.zeros(1, 3, 1, 2), torch.zeros(1, 3, 1, 2)
    out = attention(q, k, torch.ones(1, 3, 1, 1), normaliser="softmax_plus_one")
    torch.testing.assert_close(out.flatten(), torch.tensor([1 / 2, 2 / 3, 3 / 4]))


@pytest.mark.parametrize("form", FORMS)
def test_masks_in_bfloat16(form):
    inputs, g = make_inputs(40, 5, with_decay=True, dtype=torch.float32)
    arguments, _ = make_form(form, 40, 45, dtype=torch.float32)
    low = [x.detach().bfloat16() for x in inputs]
    double = {name: x.double() if name == "bias" else x for name, x in arguments.items()}
    for decay in (None, g):
        out = attention(*low, log_decay=decay, **arguments)
        exact = attention(*(x.double() for x in low), log_decay=None if decay is None else g.double(), **double,
                          backend="reference")  # fmt: skip
        assert out.dtype == torch.bfloat16
        torch.testing.assert_close(out.double(), exact, rtol=0, atol=2e-2)


def test_a_window_costs_linear_time():
    """Counted, not timed: twice the steps are twice the floating-point operations, where the dense form has four times.

    The counter does not know the fused kernel of the CPU, so the products are counted in its unfused form.
    """
    counts = []
    for steps in (512, 1024):
        inputs, _ = make_inputs(steps, 0, batch=1, heads=1, groups=1, width=8, value=8, dtype=torch.float32)
        with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
            attention(*(x.detach() for x in inputs), window=32)
        counts.append(counter.get_total_flops())
    assert counts[1] == 2 * counts[0] > 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(2, 5, 2, 4)}, r"k has shape \(2, 5, 2, 4\); expected \[B, S, G, K\] = \(2, S, G, 3\)"),
        ({"v": torch.zeros(2, 4, 2, 4)}, r"v has shape \(2, 4, 2, 4\); expected \[B, S, G, V\] = \(2, 5, 2, V\)"),
        ({"q": torch.zeros(2, 6, 4, 3)}, "k has S = 5 positions, q has T = 6"),
        ({"q": torch.zeros(2, 5, 3, 3)}, "q has H = 3 heads, k has G = 2"),
        ({"v": torch.zeros(2, 5, 2, 4).half()}, "v has dtype torch.float16"),
        ({"q": torch.zeros(2, 5, 4, 3, dtype=torch.int64)}, "q has dtype torch.int64"),
        ({"log_decay": torch.zeros(2, 5, 2)}, r"expected \[B, S, H\] = \(2, 5, 4\)"),
        ({"window": 0}, "window is 0"),
        ({"mask": torch.zeros(4, 5, dtype=torch.bool)}, r"mask has shape \(4, 5\); expected \[T, S\] = \(5, 5\)"),
        ({"mask": torch.zeros(5, 5)}, "mask has dtype torch.float32"),
        ({"mask": torch.ones(5, 5, dtype=torch.bool), "window": 2}, "window is 2 without the causal rule"),
        ({"causal": False, "window": 2}, "window is 2 without the causal rule"),
        ({"bias": torch.zeros(2, 5, 5)}, r"bias has shape \(2, 5, 5\); expected \[H, T, S\] = \(4, 5, 5\)"),
        ({"normaliser": "softmin"}, "normaliser is 'softmin'"),
        (
            {"q": torch.zeros(2, 6, 4, 3), "causal": False, "log_decay": torch.zeros(2, 5, 4)},
            "log_decay is given for S",
        ),
        ({"backend": "flash"}, "backend is 'flash'"),
        ({"log_decay": torch.ones(2, 5, 4), "backend": "reference"}, "largest value is 1.0"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"q": torch.zeros(2, 5, 4, 3), "k": torch.zeros(2, 5, 2, 3), "v": torch.zeros(2, 5, 2, 4)} | change
    with pytest.raises(ValueError, match=message):
        attention(**arguments)


@pytest.mark.slow
def test_long_windowed_sequence():
    inputs, g = make_inputs(8192, 0, with_decay=True, batch=1, heads=1, groups=1, dtype=torch.float32)
    out = attention(*inputs, log_decay=g, window=64)
    tail = attention(*(x[:, -200:].double() for x in inputs), log_decay=g[:, -200:].double(), window=64,
                     backend="reference")  # fmt: skip
    torch.testing.assert_close(out[:, -100:].double(), tail[:, -100:], rtol=SINGLE, atol=SINGLE)
    assert all(x.isfinite().all() for x in torch.autograd.grad(out.square().sum(), [*inputs, g]))
