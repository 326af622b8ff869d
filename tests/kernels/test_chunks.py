"""The pass over chunks and the form for any decay beside it: each against the recurrence, in values and gradients."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels import linear_attention as linear
from archloom.kernels import resolvent as resolving
from archloom.kernels.chunks import SHORTEST, WIDEST, fitting, one_pass
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.resolvent import delta_rule, resolvent

LENGTHS = (1, 5, 33, 70)
DECAYS = ("none", "head", "channel")
EXACT = 1e-10  # relative to the largest entry: float64 sums over at most 70 steps


def make(
    steps: int, decay: str, *, batch: int = 2, heads: int = 2, dtype: torch.dtype = torch.float64
) -> dict[str, Tensor]:
    """Inputs by name, differentiable; log decays of -0.5 a step on the mean."""
    size = (batch, steps, heads)
    made = {
        "q": torch.randn(*size, 5, dtype=dtype),
        "k": normalize(torch.randn(*size, 5, dtype=dtype), dim=-1),
        "x": torch.randn(*size, 3, dtype=dtype),
        "state": torch.randn(batch, heads, 5, 3, dtype=dtype),
    }
    made["b"] = 2 * torch.rand(*size, 1, dtype=dtype) * made["k"]
    if decay != "none":
        made["g"] = -torch.rand(size if decay == "head" else (*size, 5), dtype=dtype)
    return {name: each.requires_grad_() for name, each in made.items()}


def pick(made: dict[str, Tensor], which: str, backend: str, chunk: int | None) -> Callable[[], tuple[Tensor, Tensor]]:
    """The primitive on those inputs."""
    q, b, k, x, state, g = (made.get(name) for name in ("q", "b", "k", "x", "state", "g"))
    shared = {"log_decay": g, "initial_state": state, "return_state": True, "chunk": chunk, "backend": backend}
    primitives = {
        "linear": lambda: linear_attention(q, k, x, **shared),
        "resolvent": lambda: resolvent(b, k, x, **shared),
        "delta": lambda: delta_rule(q, b, k, x, **shared),
    }
    return primitives[which]


UNUSED = {"linear": "b", "resolvent": "q", "delta": ""}


@pytest.mark.parametrize("which", UNUSED)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("steps", LENGTHS)
@pytest.mark.parametrize("chunk", [4, 16, None])
@pytest.mark.parametrize("any_decay", [False, True])
def test_both_forms_equal_the_recurrence(
    assert_equal_backends: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    which: str,
    decay: str,
    steps: int,
    chunk: int | None,
    any_decay: bool,
) -> None:
    if any_decay:
        for module in (linear.chunked, resolving.chunked):
            monkeypatch.setattr(module, "fitting", lambda log_decay, length: None)
    made = make(steps, decay)
    inputs = [each for name, each in made.items() if name != UNUSED[which]]
    assert_equal_backends(lambda backend: pick(made, which, backend, chunk)(), inputs, EXACT)


@pytest.mark.parametrize("which", UNUSED)
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize(("batch", "heads"), [(1, 1), (1, 3), (3, 1)])
@pytest.mark.parametrize("steps", [32, 40])
def test_one_sequence_or_one_head_is_no_exception(
    assert_equal_backends: Callable[..., None], which: str, decay: str, batch: int, heads: int, steps: int
) -> None:
    """Axes of length one let a change of layout be a view: nothing may be written into what was given."""
    made = make(steps, decay, batch=batch, heads=heads)
    inputs = [each for name, each in made.items() if name != UNUSED[which]]
    assert_equal_backends(lambda backend: pick(made, which, backend, 16)(), inputs, EXACT)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("which", ["linear", "resolvent", "delta"])
def test_gradients_are_those_of_finite_differences(which: str, decay: str) -> None:
    made = make(7, decay)
    q, b, k, x, state, g = (made.get(name) for name in ("q", "b", "k", "x", "state", "g"))
    q, b = (q if which != "resolvent" else None), (b if which != "linear" else None)

    def run(q: Tensor, b: Tensor, k: Tensor, x: Tensor, g: Tensor, state: Tensor) -> tuple[Tensor, Tensor | None]:
        return one_pass(q, b, k, x, g, state, True, 4)

    assert torch.autograd.gradcheck(run, (q, b, k, x, g, state))


def test_a_chunk_is_halved_until_its_decay_fits() -> None:
    widest = WIDEST[torch.float32]
    for width in ((), (3,)):
        decay = torch.zeros(1, 128, 2, *width)
        assert fitting(decay, 128) == 128
        decay[:, ::SHORTEST] = -widest / 4  # 8 of them in 128 steps
        assert fitting(decay, 128) == 64
        decay[:, 5] = -widest
        assert fitting(decay, 128) is None
        assert fitting(decay.double(), 128) == 128
    assert fitting(None, 50) == 50
    assert fitting(torch.full((1, 3, 1), -widest), 3) is None


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("which", ["linear", "resolvent", "delta"])
def test_the_widest_decay_that_fits_is_exact_too(which: str, decay: str) -> None:
    """All of it in one step, or spread over the chunk: float32 stays within the rounding of exponents of 40."""
    for spread in (1, 16):
        made = {name: each.detach() for name, each in make(70, decay, dtype=torch.float32).items()}
        made["g"].mul_(0.01)
        made["g"][:, 8 : 8 + spread] = -0.98 * WIDEST[torch.float32] / spread
        assert fitting(made["g"], 64) == 64
        out, state = pick(made, which, "chunked", 64)()
        double = {name: each.double() for name, each in made.items()}
        exact, last = pick(double, which, "reference", None)()
        for found, wanted in ((out, exact), (state, last)):
            assert (found - wanted).abs().max() < 1e-4 * wanted.abs().max()


def test_bfloat16_inputs_get_bfloat16_gradients() -> None:
    made = {name: each.detach().bfloat16().requires_grad_() for name, each in make(20, "channel").items()}
    out = delta_rule(made["q"], made["b"], made["k"], made["x"], log_decay=made["g"])
    assert isinstance(out, Tensor)
    gradients = torch.autograd.grad(out.float().sum(), [made[name] for name in "qbkxg"])
    assert {each.dtype for each in (out, *gradients)} == {torch.bfloat16}
    assert all(each.isfinite().all() for each in gradients)
