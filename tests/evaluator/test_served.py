"""The backend that is preferred reaches the primitives: mixers on Triton kernels are the mixers they are elsewhere."""

import pytest
import torch

from archloom.evaluator.modules import Context
from archloom.evaluator.modules.mixers import make_mixer
from archloom.evaluator.modules.served import attention_resolvent, served
from archloom.kernels.backends import Backend, interprets, preferred, preferring
from archloom.search_space import zoo
from archloom.search_space.costs import Widths
from archloom.search_space.terms import walk
from archloom.search_space.text import parse

STEPS = 21
SINGLE = 1e-4  # float32, relative to the largest entry: sums in another order, and normalised rows
TERMS = {
    **{name: name for name in ("mha", "sliding_window", "forgetting_attention", "gla", "kda", "gated_deltanet", "sse")},
    "convolutions": "mix(mul(apply(implicit, silu(conv(value(x)))), value(x)), heads=2)",
    "scan": "mix(scan(project(x), project(conv(x)), step_channels(x), value(x)), heads=2)",
}


def test_a_preference_is_put_back_and_yields_to_a_named_backend() -> None:
    calls = []

    def primitive(x: int, *, backend: Backend = "chunked") -> int:
        calls.append(backend)
        return x

    call = served(primitive)
    assert call(1) == 1
    with preferring("triton"):
        call(2)
        call(3, backend="reference")
        assert preferred() == "triton"
    assert preferred() == "chunked"
    assert calls == ["chunked", "triton", "reference"]


def test_what_has_no_such_backend_is_served_by_chunked() -> None:
    q, gate = torch.randn(1, 3, 1, 2), torch.rand(1, 3, 1)
    with preferring("triton"):
        assert attention_resolvent(q, q, q, gate=gate).shape == q.shape


@pytest.mark.skipif(not interprets(), reason="runs in Triton's interpreter where there is no GPU")
@pytest.mark.parametrize("name", TERMS)
def test_mixers_on_triton_kernels_equal_their_operators(name: str) -> None:
    pytest.importorskip("triton")
    text = TERMS[name]
    term = parse(text) if text.startswith("mix") else next(n for n in walk(zoo.load(text)) if n.operation.name == "mix")
    torch.manual_seed(0)
    mixer = make_mixer(term, widths=Widths(model=8, key=8, value=8, hidden=1), length=STEPS)
    x = torch.randn(1, STEPS, 8, requires_grad=True)
    tensors = [x, *mixer.parameters()]

    def results(context: Context) -> list[torch.Tensor]:
        out = mixer(x, context)
        return [out, *torch.autograd.grad(out.square().sum(), tensors, materialize_grads=True)]

    expected = results(Context(dense=True))
    with preferring("triton"):
        found = results(Context())
    for got, want in zip(found, expected, strict=True):
        assert (got - want).abs().max() <= SINGLE * want.abs().max().clamp(min=1)
