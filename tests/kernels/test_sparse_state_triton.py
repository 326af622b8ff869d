"""Linear attention with a state in slots as Triton kernels against the recurrence, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the recurrence in float64.
"""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor

from archloom.kernels.sparse_state import sparse_state

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 130 steps, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is not initialised holds NaN, so that reading it shows."""
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    yield
    monkeypatch.undo()


def make_route(*sizes: int, top: int, device: str) -> Tensor:
    """Softmax over the `top` largest of the last axis, zeros elsewhere."""
    scores = torch.randn(*sizes, device=device)
    kept = scores >= scores.topk(min(top, sizes[-1]), -1).values[..., -1:]
    return scores.masked_fill(~kept, -torch.inf).softmax(-1)


def make_inputs(
    steps: int,
    *,
    decay: bool = True,
    state: bool = True,
    by_head: bool = False,
    batch: int = 1,
    heads: int = 1,
    slots: int = 3,
    width: int = 20,
    value: int = 7,
    top: int = 2,
    strength: float = 1.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments by name, float32 where the kernels take it beside bfloat16."""
    q, k = (torch.randn(batch, steps, heads, width, device=device) for _ in range(2))
    made = {"q": q, "k": k, "v": torch.randn(batch, steps, heads, value, device=device)}
    made = {name: tensor.to(dtype) for name, tensor in made.items()}
    sizes = (batch, steps, heads, slots) if by_head else (batch, steps, slots)
    made |= {name: make_route(*sizes, top=top, device=device) for name in ("read", "write")}
    if decay:
        made["log_decay"] = -strength * torch.rand(batch, steps, heads, device=device)
    if state:
        made["initial_state"] = torch.randn(batch, heads, slots, width, value, device=device)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def run_with(inputs: dict[str, Tensor], **options) -> Callable[[str], tuple[Tensor, Tensor]]:
    return lambda backend: sparse_state(**inputs, **options, return_state=True, backend=backend)


@interpreted
@pytest.mark.parametrize("decay", [False, True])
@pytest.mark.parametrize(("steps", "by_head", "heads"), [(1, False, 1), (17, True, 2), (17, False, 2), (67, False, 1)])
def test_equals_the_recurrence(assert_equal_backends, steps, decay, by_head, heads):
    inputs = make_inputs(steps, decay=decay, by_head=by_head, heads=heads)
    assert_equal_backends(run_with(inputs, scale=0.3), list(inputs.values()), SINGLE, "triton")


@interpreted
def test_several_chunks(assert_equal_backends):
    inputs = make_inputs(130, slots=2, top=1)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(
    ("steps", "width", "value", "slots", "decay"),
    [(66, 16, 40, 2, True), (64, 40, 16, 1, True), (9, 3, 1, 17, True), (9, 3, 1, 17, False)],
)
def test_widths_that_are_not_those_of_tiles(assert_equal_backends, steps, width, value, slots, decay):
    inputs = make_inputs(steps, width=width, value=value, slots=slots, decay=decay)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", [False, True])
def test_without_states_given_or_asked_for(assert_equal_backends, decay):
    inputs = make_inputs(65, decay=decay, state=False, slots=2)
    run = lambda backend: sparse_state(**inputs, backend=backend)  # noqa: E731
    assert_equal_backends(run, list(inputs.values()), SINGLE, "triton")


@interpreted
def test_gradients_of_the_state_alone(assert_equal_backends):
    inputs = make_inputs(66)
    taken = [inputs[name] for name in ("k", "v", "write", "log_decay", "initial_state")]
    assert_equal_backends(lambda backend: run_with(inputs)(backend)[1], taken, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", [False, True])
def test_routes_that_need_no_gradient(assert_equal_backends, decay):
    """Slots that a chunk does not use are passed over then: here one that is never used, and one in the first chunk."""
    inputs = make_inputs(80, decay=decay, slots=4)
    for name in ("read", "write", "log_decay"):
        inputs |= {name: inputs[name].detach().clone()} if name in inputs else {}
    for name in ("read", "write"):
        inputs[name][:, :, 1] = 0
        inputs[name][:, 64:, 2] = 0
    inputs["read"][:, :, 0] = 0
    taken = [tensor for tensor in inputs.values() if tensor.requires_grad]
    assert_equal_backends(run_with(inputs), taken, SINGLE, "triton")


@interpreted
def test_gradients_of_routes_that_are_zero(assert_equal_backends):
    inputs = make_inputs(20, batch=2)
    zero = inputs["read"].detach().clone()
    zero[:, :, :2] = 0
    inputs |= {"read": zero.requires_grad_(), "write": zero.detach().flip(-1).requires_grad_()}
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
def test_negative_weights_and_routes_of_two_kinds(assert_equal_backends):
    inputs = make_inputs(20, heads=2, slots=2)
    inputs["write"] = torch.randn(1, 20, 2, 2, requires_grad=True)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
def test_decays_of_any_strength(assert_equal_backends):
    inputs = make_inputs(70, slots=2)
    mixed = inputs["log_decay"].detach() * 1e-4  # hardly any, but e^-30 now and then, and e^-30 at every step
    mixed[:, 10:40] = torch.where(torch.rand_like(mixed[:, 10:40]) < 0.3, -30.0, mixed[:, 10:40])
    mixed[:, 40:60] = -30.0
    inputs["log_decay"] = mixed.requires_grad_()
    # G reaches -900 in a chunk, whose rounding by 6e-5 is the relative error of the decays after it
    assert_equal_backends(run_with(inputs), list(inputs.values()), 2e-4, "triton")


@interpreted
@pytest.mark.parametrize(("cut", "decay"), [(1, True), (64, False), (64, True)])
def test_state_hands_over(decay, cut):
    inputs = {name: tensor.detach() for name, tensor in make_inputs(66, decay=decay).items()}
    state = inputs.pop("initial_state")
    whole, last = run_with(inputs | {"initial_state": state})("triton")
    outs = []
    for part in (slice(0, cut), slice(cut, None)):
        now = {name: tensor[:, part] for name, tensor in inputs.items()}
        out, state = run_with(now | {"initial_state": state})("triton")
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(state, last, rtol=1e-5, atol=1e-5)


@interpreted
def test_views_of_one_projection(assert_equal_backends):
    whole = torch.randn(1, 30, 2, 54, requires_grad=True)
    q, k, v, read, write = whole.split([16, 16, 16, 3, 3], -1)
    run = lambda backend: sparse_state(q, k, v, read=read, write=write, backend=backend)  # noqa: E731
    assert_equal_backends(run, [whole], SINGLE, "triton")


def relative_errors(inputs: dict[str, Tensor], **options) -> dict[str, float]:
    """RMS of the error over RMS of the recurrence in float64, of both results and all gradients, by name."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in inputs.items()}
        outputs = run_with(leaves, **options)(backend)
        generator = torch.Generator().manual_seed(1)
        weights = (torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) for x in outputs)
        loss = sum((out.double() * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        results.append(dict(zip(("out", "state", *leaves), (*outputs, *gradients), strict=True)))
    actual, expected = results
    assert all(tensor.isfinite().all() for tensor in actual.values())
    return {name: ((actual[name].double() - x).norm() / x.norm()).item() for name, x in expected.items()}


@interpreted
@pytest.mark.parametrize("decay", [False, True])
def test_half_precision_rounds_only_operands(decay):
    inputs = make_inputs(66, decay=decay, width=40, value=16, strength=0.3, dtype=torch.float16)
    errors = relative_errors(inputs)
    assert max(errors.values()) < 2e-3, errors  # a few roundings of 2^-11 each


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"sparse_state: .* CUDA device, given cpu; .*chunked"):
        run_with(make_inputs(3))("triton")


@interpreted
def test_refuses_float64():
    inputs = {name: tensor.double() for name, tensor in make_inputs(3).items()}
    with pytest.raises(ValueError, match=r"q has dtype torch.float64, .* backend=\"chunked\" does"):
        run_with(inputs)("triton")


GPU_CASES = [
    (1000, {"width": 64, "value": 64, "slots": 8}),
    (1000, {"width": 64, "value": 64, "slots": 8, "decay": False}),
    (1000, {"width": 128, "value": 128, "slots": 20, "by_head": True}),
    (333, {"width": 100, "value": 65, "slots": 5}),
    (333, {"width": 256, "value": 256, "slots": 2, "top": 1}),
    (5001, {"width": 64, "value": 64, "slots": 4, "heads": 1, "strength": 0.01}),
    (1, {"width": 16, "value": 5, "slots": 3}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "sizes"), GPU_CASES)
def test_bfloat16_on_a_gpu(steps, sizes):
    inputs = make_inputs(
        steps, device="cuda", dtype=torch.bfloat16, **{"heads": 4, "batch": 2, "strength": 0.1} | sizes
    )
    errors = relative_errors(inputs, scale=0.1)
    gate = errors.pop("log_decay", 0.0)  # a sum of differences of products of what is rounded: twice the bound
    assert max(errors.values()) < 0.005, errors
    assert gate < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "sizes"), GPU_CASES)
def test_float32_on_a_gpu(steps, sizes):
    inputs = make_inputs(steps, device="cuda", **{"heads": 4, "batch": 2, "strength": 0.1} | sizes)
    errors = relative_errors(inputs, scale=0.1)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.gpu
def test_strong_decay_on_a_gpu():
    inputs = make_inputs(500, device="cuda", dtype=torch.bfloat16, width=64, value=64, strength=30.0)
    errors = relative_errors(inputs)
    errors.pop("log_decay")  # as good as zero
    assert max(errors.values()) < 0.005, errors


@pytest.mark.gpu
@pytest.mark.parametrize("decay", [False, True])
def test_same_bits_every_time_on_a_gpu(decay):
    inputs = make_inputs(
        2000, decay=decay, batch=4, device="cuda", dtype=torch.bfloat16, heads=8, width=64, value=64, slots=8
    )
    twice = []
    for _ in range(2):
        out, state = run_with(inputs)("triton")
        twice.append([out, state, *torch.autograd.grad(out.float().sum() + state.sum(), list(inputs.values()))])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
