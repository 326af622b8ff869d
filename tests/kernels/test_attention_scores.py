"""Attention's masks by position, modifications of scores and normalisers: the dense form against loops over pairs, and
the form in blocks of queries against the dense one."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from archloom.kernels.attention import PositionalMask, attention, chunked
from archloom.kernels.attention.positions import shown, spans

DOUBLE = 1e-10  # relative to the largest entry
STEPS, SOURCES, HEADS, GROUPS = 7, 9, 2, 1
NORMALISERS = ("softmax", "softmax_plus_one", "sigmoid", "relu", "relu2", "sparsemax")
MASKS = {
    "all": PositionalMask(),
    "window": PositionalMask(window=3),
    "dilated": PositionalMask(window=6, dilation=2),
    "chunk": PositionalMask(chunk=4),
    "window in a chunk": PositionalMask(window=2, chunk=4),
    "first": PositionalMask(first=2),
    "sinks and window": PositionalMask(first=2, window=3),
    "strided": PositionalMask(stride=3),
    "strided and chunk": PositionalMask(stride=3, chunk=3),
}


def make_inputs(steps: int, sources: int, *, batch: int = 1, heads: int = HEADS, groups: int = GROUPS) -> list[Tensor]:
    shapes = ((batch, steps, heads, 5), (batch, sources, groups, 5), (batch, sources, groups, 3))
    return [torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in shapes]


def sees(mask: PositionalMask, causal: bool, t: int, s: int) -> bool:
    """The definition, pair by pair."""
    if causal and s > t:
        return False
    factors = []
    if mask.window is not None:
        factors.append(abs(t - s) < mask.window)
    if mask.dilation is not None:
        factors.append((t - s) % mask.dilation == 0)
    if mask.chunk is not None:
        factors.append(t // mask.chunk == s // mask.chunk)
    columns = [mask.first is not None and s < mask.first, mask.stride is not None and (s + 1) % mask.stride == 0]
    if factors or (mask.first is None and mask.stride is None):
        return all(factors) or any(columns)
    return t == s or any(columns)


def simplex_threshold(logits: list[float]) -> float:
    """c with sum (z - c)_+ = 1, by bisection."""
    low, high = max(logits) - 1, max(logits)
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if sum(max(z - middle, 0) for z in logits) > 1 else (low, middle)
    return low


def row_weights(scores: list[float], lags: list[float], normaliser: str) -> list[float]:
    """The weights of the keys that are seen."""
    match normaliser:
        case "softmax" | "softmax_plus_one":
            raw = [math.exp(x + d) for x, d in zip(scores, lags, strict=True)]
            return [each / (sum(raw) + (normaliser == "softmax_plus_one")) for each in raw]
        case "sparsemax":
            logits = [x + d for x, d in zip(scores, lags, strict=True)]
            threshold = simplex_threshold(logits)
            return [max(z - threshold, 0) for z in logits]
        case "sigmoid":
            return [math.exp(d) / (1 + math.exp(-x)) for x, d in zip(scores, lags, strict=True)]
        case "relu":
            return [math.exp(d) * max(x, 0) for x, d in zip(scores, lags, strict=True)]
        case _:
            return [math.exp(d) * max(x, 0) ** 2 for x, d in zip(scores, lags, strict=True)]


def literal(
    inputs: list[Tensor],
    seen,
    *,
    normaliser: str = "softmax",
    log_decay: Tensor | None = None,
    table: Tensor | None = None,
    zero: int = 0,
    cap: float | None = None,
    top_k: int | None = None,
) -> Tensor:
    q, k, v = (x.detach() for x in inputs)
    (batch, steps, heads, width), (sources, groups) = q.shape, k.shape[1:3]
    out = torch.zeros(batch, steps, heads, v.shape[3], dtype=q.dtype)
    for b, i, h in itertools.product(range(batch), range(steps), range(heads)):
        g, t = h // (heads // groups), i + sources - steps
        keys = [s for s in range(sources) if seen(t, s)]
        scores, lags = [], []
        for s in keys:
            x = float(q[b, i, h] @ k[b, s, g]) / math.sqrt(width)
            x = x if cap is None else cap * math.tanh(x / cap)
            if table is not None:
                x += float(table[h, min(max(t - s + zero, 0), table.shape[1] - 1)])
            scores.append(x)
            between = range(min(s, t) + 1, max(s, t) + 1)
            lags.append(0.0 if log_decay is None else sum(float(log_decay[b, u, h]) for u in between))
        if top_k is not None:
            raw = [x + d for x, d in zip(scores, lags, strict=True)]
            if normaliser in ("sigmoid", "relu", "relu2"):
                raw = row_weights(scores, lags, normaliser)
            order = sorted(range(len(keys)), key=raw.__getitem__, reverse=True)[:top_k]
            keys, scores, lags = ([each[j] for j in order] for each in (keys, scores, lags))
        for s, weight in zip(keys, row_weights(scores, lags, normaliser) if keys else [], strict=True):
            out[b, i, h] += weight * v[b, s, g]
    return out


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("top_k", [None, 2])
def test_normalisers_are_their_definitions(normaliser, top_k):
    inputs = make_inputs(STEPS, SOURCES)
    g, table = -torch.rand(1, SOURCES, HEADS, dtype=torch.float64), torch.randn(HEADS, 4, dtype=torch.float64)
    out = attention(*inputs, log_decay=g, lag_bias=table, soft_cap=1.5, normaliser=normaliser, top_k=top_k,
                    backend="reference")  # fmt: skip
    want = literal(inputs, lambda t, s: s <= t, normaliser=normaliser, log_decay=g, table=table, cap=1.5, top_k=top_k)
    torch.testing.assert_close(out, want, rtol=DOUBLE, atol=DOUBLE)


@pytest.mark.parametrize("name", MASKS)
@pytest.mark.parametrize("causal", [True, False])
def test_positional_masks_are_their_definitions(name, causal):
    inputs, table = make_inputs(STEPS, SOURCES), torch.randn(HEADS, 5, dtype=torch.float64)
    g = -torch.rand(1, SOURCES, HEADS, dtype=torch.float64)
    out = attention(*inputs, mask=MASKS[name], causal=causal, log_decay=g, lag_bias=table, backend="reference")
    want = literal(inputs, lambda t, s: sees(MASKS[name], causal, t, s), log_decay=g, table=table,
                   zero=0 if causal else 2)  # fmt: skip
    torch.testing.assert_close(out, want, rtol=DOUBLE, atol=DOUBLE)


masks = st.builds(
    PositionalMask,
    window=st.none() | st.integers(1, 40),
    dilation=st.none() | st.integers(1, 5),
    chunk=st.none() | st.integers(1, 20),
    first=st.none() | st.integers(1, 30),
    stride=st.none() | st.integers(1, 9),
)


@settings(max_examples=150, deadline=None)
@given(mask=masks, causal=st.booleans(), start=st.integers(0, 50), count=st.integers(1, 20), rest=st.integers(0, 20))
def test_spans_hold_all_that_is_seen(mask, causal, start, count, rest):
    sources = start + count + rest
    found = spans(mask, causal, start, start + count, sources)
    assert 1 <= len(found) <= 2
    assert all(0 <= low < high <= sources for low, high in found)
    assert all(before[1] < after[0] for before, after in itertools.pairwise(found))
    inside = torch.zeros(sources, dtype=torch.bool)
    for low, high in found:
        inside[low:high] = True
    seen = shown(mask, causal, torch.arange(start, start + count), torch.arange(sources))
    assert not (seen & ~inside).any()
    assert seen.any(1).all(), "every query sees itself"


def test_spans_are_no_longer_than_they_must():
    assert spans(PositionalMask(window=8), True, 100, 110, 200) == [(93, 110)]
    assert spans(PositionalMask(window=8), False, 100, 110, 200) == [(93, 117)]
    assert spans(PositionalMask(window=8, first=4), True, 100, 110, 200) == [(0, 4), (93, 110)]
    assert spans(PositionalMask(chunk=32), True, 100, 110, 200) == [(96, 110)]
    assert spans(PositionalMask(first=4), False, 100, 110, 200) == [(0, 4), (100, 110)]


FORMS = {
    "cap": {"soft_cap": 1.5},
    "table": {"lag_bias": 6},
    "long table": {"lag_bias": 300},
    "one entry": {"lag_bias": 1},
    "bias": {"bias": True},
    "all keys, table": {"causal": False, "lag_bias": 31},
    "mask": {"mask": True, "lag_bias": 9},
    "everything": {"soft_cap": 2.0, "lag_bias": 20, "bias": True, "mask": PositionalMask(window=30, first=3)},
    **{f"mask: {name}": {"mask": mask} for name, mask in MASKS.items()},
    **{f"all keys, mask: {name}": {"mask": mask, "causal": False, "lag_bias": 7} for name, mask in MASKS.items()},
    **{name: {"normaliser": name} for name in NORMALISERS},
    **{f"{name}, windowed": {"normaliser": name, "window": 20, "lag_bias": 9} for name in NORMALISERS},
    **{f"{name}, capped": {"normaliser": name, "soft_cap": 1.0, "bias": True} for name in NORMALISERS},
    "top 3": {"top_k": 3},
    "top 3 of sparsemax": {"top_k": 3, "normaliser": "sparsemax", "causal": False},
    "top 3 of relu": {"top_k": 3, "normaliser": "relu"},
}


def make_form(form: str, steps: int, sources: int, dtype=torch.float64) -> tuple[dict, list[Tensor]]:
    """Arguments of attention, and those of them to differentiate by. One query of a mask tensor sees nothing."""
    arguments, leaves = dict(FORMS[form]), []
    if arguments.get("mask") is True:
        arguments["mask"] = torch.rand(steps, sources) < 0.3
        arguments["mask"][steps // 2] = False
    for name, shape in (("bias", (HEADS, steps, sources)), ("lag_bias", (HEADS, arguments.get("lag_bias")))):
        if name in arguments:
            arguments[name] = torch.randn(*shape, dtype=dtype, requires_grad=True)
            leaves.append(arguments[name])
    return arguments, leaves


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("block", [16, 256])
@pytest.mark.parametrize("with_decay", [False, True])
def test_blocks_of_queries_equal_the_dense_form(assert_equal_backends, monkeypatch, form, block, with_decay):
    monkeypatch.setattr(chunked, "QUERY_BLOCK", block)
    inputs = make_inputs(45, 61, batch=2, groups=GROUPS)
    arguments, leaves = make_form(form, 45, 61)
    if with_decay:
        arguments["log_decay"] = (-torch.rand(2, 61, HEADS, dtype=torch.float64)).requires_grad_()
        leaves.append(arguments["log_decay"])
    assert_equal_backends(lambda backend: attention(*inputs, **arguments, backend=backend), [*inputs, *leaves], DOUBLE)


@pytest.mark.parametrize("block", [16, 256])
@pytest.mark.parametrize("normaliser", NORMALISERS)
def test_other_lengths_without_the_causal_rule(assert_equal_backends, monkeypatch, block, normaliser):
    monkeypatch.setattr(chunked, "QUERY_BLOCK", block)
    q, _, _ = make_inputs(50, 50, heads=6, groups=2)
    _, k, v = make_inputs(20, 20, heads=6, groups=2)
    mask = torch.rand(50, 20) < 0.4
    for seen in (None, mask):
        assert_equal_backends(
            lambda backend, seen=seen: attention(q, k, v, causal=False, mask=seen, normaliser=normaliser,
                                                 backend=backend), [q, k, v], DOUBLE
        )  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_bfloat16(form):
    inputs = [x.detach().bfloat16() for x in make_inputs(40, 44)]
    arguments, _ = make_form(form, 40, 44, torch.float32)
    double = {name: x.double() if name in ("bias", "lag_bias") else x for name, x in arguments.items()}
    out = attention(*inputs, **arguments)
    exact = attention(*(x.double() for x in inputs), **double, backend="reference")
    assert out.dtype == torch.bfloat16
    if "top_k" not in arguments:  # a choice may fall differently: entries are taken as equal within half of the digits
        # the fused kernel rounds weights to bfloat16, of which rows of the entrywise normalisers hold some 40 near 1
        torch.testing.assert_close(out.double(), exact, rtol=1e-2, atol=2e-2)


@pytest.mark.parametrize("normaliser", ["softmax", "softmax_plus_one", "sigmoid", "sparsemax"])
@pytest.mark.parametrize("sign", [1, -1])
def test_large_scores_stay_finite(normaliser, sign):
    q, k, v = (torch.full((1, 40, 1, 4), 100.0) for _ in range(3))
    q = (q * sign).requires_grad_()
    for backend in ("chunked", "reference"):
        out = attention(q, k, v, scale=100.0, normaliser=normaliser, lag_bias=torch.zeros(1, 1), backend=backend)
        assert out.isfinite().all()
        assert torch.autograd.grad(out.sum(), q)[0].isfinite().all()


def test_equal_scores_are_chosen_together():
    k = torch.tensor([1.0, 1.0, 1.0, 0.0]).view(1, 4, 1, 1)
    v = torch.arange(4.0).view(1, 4, 1, 1)
    for backend in ("chunked", "reference"):
        out = attention(torch.ones(1, 1, 1, 1), k, v, top_k=2, backend=backend)
        assert out.item() == pytest.approx(1.0)


class _Largest(TorchDispatchMode):
    """The most numbers of a tensor that is made."""

    numbers = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else (out,):
            if isinstance(each, Tensor):
                self.numbers = max(self.numbers, each.numel())
        return out


@pytest.mark.parametrize("normaliser", ["softmax", "sigmoid", "sparsemax"])
def test_memory_is_that_of_one_block_of_scores(monkeypatch, normaliser):
    """Of every tensor that forward and backward make the largest is the scores of a block; dense it is 16 of them."""
    monkeypatch.setattr(chunked, "QUERY_BLOCK", 32)
    inputs = make_inputs(512, 512)
    with _Largest() as seen:
        out = attention(*inputs, normaliser=normaliser, soft_cap=5.0)
        torch.autograd.grad(out.sum(), inputs)
    assert seen.numbers == HEADS * 32 * 512


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"soft_cap": 0.0}, "soft_cap is 0.0"),
        ({"soft_cap": math.nan}, "soft_cap is nan"),
        ({"top_k": 0}, "top_k is 0"),
        ({"normaliser": "softmin"}, r"normaliser is 'softmin'; expected one of softmax, .*, sparsemax"),
        ({"lag_bias": torch.zeros(3, 4)}, r"lag_bias has shape \(3, 4\); expected \[H, L\] = \(4, L\)"),
        ({"lag_bias": torch.zeros(4, 4), "causal": False}, "lag_bias has L = 4 entries; expected an odd number"),
        ({"lag_bias": torch.zeros(4, 3), "q": torch.zeros(2, 6, 4, 3), "causal": False}, "lag_bias is given for S = 5"),
        ({"mask": PositionalMask(window=2), "window": 2}, "window is 2 beside a positional mask"),
        (
            {"mask": PositionalMask(chunk=2), "q": torch.zeros(2, 6, 4, 3), "causal": False},
            "a positional mask is given",
        ),
        ({"backend": "cuda"}, '"chunked", "reference" or "triton"'),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"q": torch.zeros(2, 5, 4, 3), "k": torch.zeros(2, 5, 2, 3), "v": torch.zeros(2, 5, 2, 4)} | change
    with pytest.raises(ValueError, match=message):
        attention(**arguments)


@pytest.mark.parametrize("name", ["window", "dilation", "chunk", "first", "stride"])
def test_a_positional_mask_has_positive_numbers(name):
    with pytest.raises(ValueError, match=f"{name} of a positional mask is 0"):
        PositionalMask(**{name: 0})
