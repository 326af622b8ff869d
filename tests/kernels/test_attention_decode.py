"""Decoding with split keys: every form against the dense one."""

import pytest
import torch
from torch import Tensor

from archloom.kernels.attention import attention, attention_decode, decode

SINGLE = 2e-5
DOUBLE = 1e-10
SHAPES = ((1, 1, 2, 1), (1, 100, 4, 2), (3, 150, 6, 2), (5, 64, 1, 1))  # T, S, H, G
FORMS = {
    "plain": {},
    "window": {"window": 20},
    "cap": {"soft_cap": 1.5},
    "plus one": {"normaliser": "softmax_plus_one"},
    "everything": {"window": 70, "soft_cap": 2.0, "normaliser": "softmax_plus_one", "scale": 1.0},
}


def make_inputs(
    steps: int, sources: int, heads: int, groups: int, dtype=torch.float64, *, device: str = "cpu"
) -> tuple[list[Tensor], Tensor]:
    shapes = ((2, steps, heads, 20), (2, sources, groups, 20), (2, sources, groups, 9))
    tensors = [torch.randn(*shape, dtype=dtype, device=device) for shape in shapes]
    return tensors, -0.1 * torch.rand(2, sources, heads, dtype=torch.float64, device=device)


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("splits", [None, 1, 4])
@pytest.mark.parametrize("with_decay", [False, True])
def test_splits_equal_the_dense_form(assert_equal_backends, sizes, form, splits, with_decay):
    inputs, g = make_inputs(*sizes)
    for x in (*inputs, g):
        x.requires_grad_()
    assert_equal_backends(
        lambda backend: attention_decode(*inputs, log_decay=g if with_decay else None, splits=splits, **FORMS[form],
                                         backend=backend), [*inputs, *([g] if with_decay else [])], DOUBLE
    )  # fmt: skip


def test_a_long_cache_is_split(monkeypatch):
    (q, k, v), _ = make_inputs(2, 300, 4, 2)
    whole = attention(q, k, v)
    monkeypatch.setattr(decode, "SPLIT", 64)
    torch.testing.assert_close(attention_decode(q, k, v), whole, rtol=DOUBLE, atol=DOUBLE)


@pytest.mark.parametrize("sizes", SHAPES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("with_decay", [False, True])
def test_triton_equals_the_dense_form(monkeypatch, sizes, form, with_decay):
    pytest.importorskip("triton")
    empty = torch.empty
    monkeypatch.setattr(torch, "empty", lambda *given, **options: empty(*given, **options).fill_(torch.nan))
    inputs, g = make_inputs(*sizes, torch.float32)
    decay = g.float() if with_decay else None
    for splits in (None, 5):
        out = attention_decode(*inputs, log_decay=decay, splits=splits, **FORMS[form], backend="triton")
        want = attention_decode(*inputs, log_decay=decay, **FORMS[form], backend="reference")
        torch.testing.assert_close(out, want, rtol=SINGLE, atol=SINGLE)


def test_a_cache_may_be_the_front_of_a_buffer():
    pytest.importorskip("triton")
    (q, k, v), _ = make_inputs(1, 100, 4, 2, torch.float32)
    out, want = (attention_decode(q, k[:, :60], v[:, :60], backend=backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(out, want, rtol=SINGLE, atol=SINGLE)


def test_many_rows_are_cut_into_tiles():
    pytest.importorskip("triton")
    (q, k, v), _ = make_inputs(12, 70, 16, 2, torch.float32)
    out, want = (attention_decode(q, k, v, backend=backend) for backend in ("triton", "reference"))
    torch.testing.assert_close(out, want, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize("normaliser", ["softmax", "softmax_plus_one"])
def test_queries_that_do_not_see_the_first_splits_or_the_last(monkeypatch, normaliser):
    pytest.importorskip("triton")
    from archloom.kernels.attention import triton_decode

    monkeypatch.setattr(triton_decode, "SPLIT_BLOCK", 2)
    (q, k, v), _ = make_inputs(70, 90, 1, 1, torch.float32)
    out, want = (
        attention_decode(q, k, v, window=4, splits=9, normaliser=normaliser, backend=backend)
        for backend in ("triton", "reference")
    )
    torch.testing.assert_close(out, want, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize("backend", ["chunked", "triton"])
def test_keys_before_the_window_are_not_read(backend):
    if backend == "triton":
        pytest.importorskip("triton")
    (q, k, v), _ = make_inputs(2, 200, 2, 1, torch.float32)
    k[:, :181], v[:, :181] = torch.nan, torch.nan
    assert attention_decode(q, k, v, window=18, backend=backend).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normaliser": "relu"}, "normaliser is 'relu'; attention_decode takes softmax or softmax_plus_one"),
        ({"splits": 0}, "splits is 0"),
        ({"window": 0}, "window is 0"),
        ({"soft_cap": -1.0}, "soft_cap is -1.0"),
        ({"q": torch.zeros(1, 6, 2, 4)}, "k has S = 5 positions, q has T = 6"),
        ({"backend": "cuda"}, "backend is 'cuda'"),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"q": torch.zeros(1, 1, 2, 4), "k": torch.zeros(1, 5, 1, 4), "v": torch.zeros(1, 5, 1, 4)} | change
    with pytest.raises(ValueError, match=message):
        attention_decode(**arguments)


def test_triton_has_no_gradient():
    pytest.importorskip("triton")
    q = torch.zeros(1, 1, 1, 4, requires_grad=True)
    with pytest.raises(ValueError, match="decodes without a gradient"):
        attention_decode(q, q, q, backend="triton")
    with torch.no_grad():
        assert attention_decode(q, q, q, backend="triton").shape == q.shape


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("steps", [1, 4])
def test_long_caches(dtype, steps):
    (_, k, v), g = make_inputs(1, 65_537, 16, 2, torch.float32, device="cuda")
    (q, _, _), _ = make_inputs(steps, 1, 16, 2, torch.float32, device="cuda")
    q, k, v = (x.to(dtype) for x in (q, k, v))
    decay = 0.001 * g.float()
    out = attention_decode(q, k, v, log_decay=decay, backend="triton")
    want = attention_decode(*(x.double() for x in (q, k, v)), log_decay=decay.double(), backend="reference")
    ratio = (out.double() - want).square().mean().sqrt() / want.square().mean().sqrt()
    assert ratio < (5e-3 if dtype == torch.bfloat16 else 1e-4)
