"""The resolvent of softmax attention: blocks of rows against one row after another, in values and gradients."""

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from archloom.kernels.attention import attention, attention_resolvent, resolvent
from archloom.kernels.attention.resolvent import BLOCK

DOUBLE, SINGLE = 1e-10, 2e-5  # relative to the largest entry


def make(
    steps: int, before: int, decay: float, *, heads: int = 4, groups: int = 2, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    batch, width, value, sources = 2, 5, 3, steps + before
    made = {
        "q": torch.randn(batch, steps, heads, width, dtype=dtype),
        "k": torch.randn(batch, sources, groups, width, dtype=dtype),
        "x": torch.randn(batch, steps, heads, value, dtype=dtype),
        "gate": torch.rand(batch, steps, heads, dtype=dtype),
    }
    if decay:
        made["log_decay"] = -decay * torch.rand(batch, sources, heads, dtype=dtype)
    if before:
        made["earlier"] = torch.randn(batch, before, heads, value, dtype=dtype)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


@pytest.mark.parametrize(("decay", "kept"), [(0.0, True), (1.0, False), (20.0, True)])
@pytest.mark.parametrize("window", [None, 2, 100])
@pytest.mark.parametrize(("steps", "before"), [(2, 0), (1, 3), (BLOCK, 0), (BLOCK + 1, BLOCK + 5)])
def test_equals_substitution(assert_equal_backends, monkeypatch, steps, before, window, decay, kept):
    if not kept:
        monkeypatch.setattr(resolvent, "KEPT_SCORES", 0)
    given = make(steps, before, decay)
    run = lambda each: attention_resolvent(**given, window=window, backend=each)  # noqa: E731
    assert_equal_backends(run, list(given.values()), DOUBLE)


@pytest.mark.parametrize("decay", [0.0, 1.0])
def test_equals_substitution_in_single_precision(assert_equal_backends, decay):
    given = make(2 * BLOCK + 7, 3, decay, dtype=torch.float32)
    run = lambda each: attention_resolvent(**given, backend=each)  # noqa: E731
    assert_equal_backends(run, list(given.values()), SINGLE)


@settings(max_examples=20, deadline=None)
@example(steps=1, before=1, window=1, decay=0.1, groups=1)
@given(
    steps=st.integers(1, BLOCK + 30),
    before=st.integers(0, 40),
    window=st.none() | st.integers(1, 100),
    decay=st.sampled_from([0.0, 0.1, 30.0]),
    groups=st.sampled_from([1, 2, 4]),
)
def test_any_shape(steps, before, window, decay, groups):
    given = make(steps, before, decay, groups=groups)
    found = attention_resolvent(**given, window=window)
    torch.testing.assert_close(found, attention_resolvent(**given, window=window, backend="reference"))


def test_it_inverts_one_plus_damped_attention_to_others():
    given = make(3 * BLOCK + 1, 0, 0.0, groups=4)
    z = attention_resolvent(**given)
    q, k, gate = given["q"], given["k"], given["gate"].unsqueeze(-1)
    seen = attention(q, k, z)
    weight_of_itself = attention(q, k, torch.eye(q.shape[1], dtype=q.dtype)[None, :, None].expand(2, -1, 4, -1))
    own = weight_of_itself.diagonal(dim1=1, dim2=3).transpose(1, 2).unsqueeze(-1) * z
    torch.testing.assert_close(z + gate * (seen - own), given["x"])


@pytest.mark.parametrize("window", [None, 6])
@pytest.mark.parametrize("cut", [1, 40, BLOCK])
def test_two_calls_are_one(cut, window):
    given = make(BLOCK + 9, 0, 0.5)
    whole = attention_resolvent(**given, window=window)
    first = 0 if window is None else max(0, cut - window + 1)
    later = attention_resolvent(
        given["q"][:, cut:],
        given["k"][:, first:],
        given["x"][:, cut:],
        gate=given["gate"][:, cut:],
        log_decay=given["log_decay"][:, first:],
        earlier=whole[:, first:cut],
        window=window,
    )
    torch.testing.assert_close(later, whole[:, cut:])


def test_gradients_by_differences_and_of_what_needs_none():
    given = make(BLOCK + 2, 2, 0.5)
    names = list(given)

    def run(*tensors: Tensor) -> Tensor:
        return attention_resolvent(**dict(zip(names, tensors, strict=True)), window=30)

    assert torch.autograd.gradcheck(run, list(given.values()), fast_mode=True)
    alone = {name: tensor.detach() for name, tensor in given.items()} | {"x": given["x"]}
    (gradient,) = torch.autograd.grad(attention_resolvent(**alone, window=30).sum(), given["x"])
    (expected,) = torch.autograd.grad(attention_resolvent(**given, window=30).sum(), given["x"])
    torch.testing.assert_close(gradient, expected)


def test_half_precision_is_summed_in_single():
    given = {name: tensor.detach().bfloat16() for name, tensor in make(BLOCK + 3, 0, 0.0).items()}
    found = attention_resolvent(**given)
    assert found.dtype == torch.bfloat16
    wide = {name: tensor.double() for name, tensor in given.items()}
    expected = attention_resolvent(**wide, backend="reference")
    torch.testing.assert_close(found.double(), expected, rtol=2**-7, atol=2**-8)


def test_what_does_not_fit_is_told():
    given = make(4, 2, 0.0)
    with pytest.raises(ValueError, match=r"2 positions before q, whose z is missing; expected earlier \[B, 2, H, V\]"):
        attention_resolvent(given["q"], given["k"], given["x"], gate=given["gate"])
    for name, wrong in (
        ("gate", given["gate"][:, :3]),
        ("x", given["x"][:, :3]),
        ("earlier", given["earlier"][:, :1]),
        ("log_decay", -given["gate"]),
    ):
        with pytest.raises(ValueError, match=f"{name} has shape"):
            attention_resolvent(**(given | {name: wrong}))
    with pytest.raises(ValueError, match="window is 0"):
        attention_resolvent(**given, window=0)
    with pytest.raises(ValueError, match="backend is 'triton'"):
        attention_resolvent(**given, backend="triton")
