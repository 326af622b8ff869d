"""Linear attention as Triton kernels against the recurrence, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the recurrence in float64.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from archloom.kernels.linear_attention import linear_attention

pytest.importorskip("triton")

DECAYS = ("none", "head", "channel")
SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 130 steps, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


def make_inputs(
    steps: int,
    decay: str,
    *,
    batch: int = 1,
    heads: int = 2,
    width: int = 20,
    value: int = 7,
    strength: float = 1.0,
    bonus: bool = False,
    state: bool = True,
    positive: bool = False,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments by name, float32 where the kernels take it beside bfloat16; with `positive`, as for normalising."""
    q, k = (torch.randn(batch, steps, heads, width, device=device) for _ in range(2))
    v = torch.randn(batch, steps, heads, value, device=device)
    made = {"q": q.exp() if positive else q, "k": k.exp() if positive else k, "v": v}
    made = {name: tensor.to(dtype) for name, tensor in made.items()}
    shapes = {"head": (batch, steps, heads), "channel": (batch, steps, heads, width)}
    if decay != "none":
        made["log_decay"] = -strength * torch.rand(shapes[decay], device=device)
    if bonus:
        made["bonus"] = torch.randn(heads, width, device=device)
    if state:
        made["initial_state"] = torch.randn(batch, heads, width, value + positive, device=device)
    return {name: tensor.requires_grad_() for name, tensor in made.items()}


def run_with(inputs: dict[str, Tensor], **options) -> Callable[[str], tuple[Tensor, Tensor]]:
    return lambda backend: linear_attention(**inputs, **options, return_state=True, backend=backend)


@interpreted
@pytest.mark.parametrize("steps", [1, 17, 64, 65, 130])
@pytest.mark.parametrize("decay", DECAYS)
def test_equals_the_recurrence(assert_equal_backends, steps, decay):
    inputs = make_inputs(steps, decay, heads=1 if steps > 100 else 2)
    assert_equal_backends(run_with(inputs, scale=0.3), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("with_bonus", [False, True])
@pytest.mark.parametrize("steps", [1, 67])
def test_exclusive_equals_the_recurrence(assert_equal_backends, steps, decay, with_bonus):
    inputs = make_inputs(steps, decay, bonus=with_bonus)
    assert_equal_backends(run_with(inputs, exclusive=True, scale=0.3), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("exclusive", [False, True])
def test_normalised_equals_the_recurrence(assert_equal_backends, decay, exclusive):
    inputs = make_inputs(65, decay, heads=1, positive=True, value=16, bonus=exclusive)
    if exclusive:
        inputs["bonus"] = inputs["bonus"].detach().abs().requires_grad_()
    run = run_with(inputs, normalise=True, exclusive=exclusive)
    assert_equal_backends(run, list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize(("width", "value"), [(16, 70), (70, 16), (3, 1)])
def test_widths_that_are_not_those_of_tiles(assert_equal_backends, decay, width, value):
    inputs = make_inputs(66, decay, heads=1, width=width, value=value)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", DECAYS)
def test_without_states_given_or_asked_for(assert_equal_backends, decay):
    inputs = make_inputs(70, decay, batch=2, heads=1, state=False)
    assert_equal_backends(
        lambda backend: linear_attention(**inputs, backend=backend), list(inputs.values()), SINGLE, "triton"
    )


@interpreted
def test_gradients_of_the_state_alone(assert_equal_backends):
    inputs = make_inputs(66, "channel", heads=1)
    taken = [inputs[name] for name in ("k", "v", "log_decay", "initial_state")]
    assert_equal_backends(lambda backend: run_with(inputs)(backend)[1], taken, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("exclusive", [False, True])
def test_decays_of_any_strength(assert_equal_backends, decay, exclusive):
    inputs = make_inputs(66, decay, heads=1, width=16)
    mixed = inputs["log_decay"].detach() * 1e-4  # hardly any, but e^-50 now and then, and e^-50 at every step
    mixed[:, 10:40] = torch.where(torch.rand_like(mixed[:, 10:40]) < 0.3, -50.0, mixed[:, 10:40])
    mixed[:, 40:60] = -50.0
    inputs["log_decay"] = mixed.requires_grad_()
    # G reaches -1500 in a chunk, whose rounding by 1e-4 is the relative error of the decays after it
    assert_equal_backends(run_with(inputs, exclusive=exclusive), list(inputs.values()), 2e-4, "triton")


@interpreted
@pytest.mark.parametrize("decay", DECAYS)
def test_hardly_any_decay(assert_equal_backends, decay):
    inputs = make_inputs(129, decay, heads=1, width=8, strength=1e-5)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", [1, 64, 69])
def test_state_hands_over(decay, cut):
    inputs = {name: tensor.detach() for name, tensor in make_inputs(70, decay, heads=1).items()}
    state = inputs.pop("initial_state")
    whole, last = run_with(inputs | {"initial_state": state})("triton")
    outs = []
    for part in (slice(0, cut), slice(cut, None)):
        now = {name: tensor[:, part] for name, tensor in inputs.items()}
        out, state = run_with(now | {"initial_state": state})("triton")
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(state, last, rtol=1e-4, atol=1e-4)


@interpreted
@pytest.mark.parametrize("exclusive", [False, True])
@pytest.mark.parametrize("decay", DECAYS)
def test_every_output_is_written(assert_equal_backends, monkeypatch, decay, exclusive):
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    inputs = make_inputs(67, decay, heads=1, width=17, value=17, bonus=exclusive)
    assert_equal_backends(run_with(inputs, exclusive=exclusive), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("decay", DECAYS)
def test_smaller_tiles_where_processors_would_idle(assert_equal_backends, monkeypatch, decay):
    from archloom.kernels.linear_attention import triton

    monkeypatch.setattr(triton, "_device", lambda index: (90, 132))
    inputs = make_inputs(66, decay, heads=1, width=40)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
def test_views_of_one_projection(assert_equal_backends):
    whole = torch.randn(1, 30, 2, 48, requires_grad=True)
    q, k, v = whole.split(16, -1)
    assert_equal_backends(lambda backend: linear_attention(q, k, v, backend=backend), [whole], SINGLE, "triton")


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
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("options", [{}, {"exclusive": True}, {"normalise": True}], ids=["plain", "bonus", "normalise"])
def test_half_precision_rounds_only_operands(decay, options):
    inputs = make_inputs(
        66, decay, heads=1, width=40, value=16, strength=0.3, dtype=torch.float16,
        bonus="exclusive" in options, positive="normalise" in options,
    )  # fmt: skip
    errors = relative_errors(inputs, **options)
    assert max(errors.values()) < 2e-3, errors  # a few roundings of 2^-11 each


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    inputs = make_inputs(3, "none")
    with pytest.raises(ValueError, match=r"linear_attention: .* CUDA device, given cpu; .*chunked"):
        run_with(inputs)("triton")


@interpreted
def test_refuses_float64():
    inputs = make_inputs(3, "none", state=False, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"q has dtype torch.float64, .* backend=\"chunked\" does"):
        run_with(inputs)("triton")


def test_an_unknown_backend_is_told_of_triton():
    inputs = make_inputs(3, "none")
    with pytest.raises(ValueError, match=r"backend is 'cuda'; expected \"chunked\", \"reference\" or \"triton\""):
        run_with(inputs)("cuda")


GPU_CASES = [
    *[(decay, 1000, {"width": width, "value": width}, {}) for decay in DECAYS for width in (64, 128)],
    ("channel", 1000, {"width": 64, "value": 64, "bonus": True}, {"exclusive": True}),
    ("head", 1000, {"width": 64, "value": 64, "positive": True}, {"normalise": True}),
    ("channel", 333, {"width": 100, "value": 65}, {}),
    ("head", 333, {"width": 256, "value": 256}, {}),
    ("channel", 333, {"width": 256, "value": 256}, {}),
    ("channel", 5001, {"width": 64, "value": 64, "heads": 1, "strength": 0.01}, {}),
    ("head", 1, {"width": 16, "value": 5}, {}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("decay", "steps", "sizes", "options"), GPU_CASES)
def test_bfloat16_on_a_gpu(decay, steps, sizes, options):
    inputs = make_inputs(steps, decay, device="cuda", dtype=torch.bfloat16, **{"heads": 4, "strength": 0.1} | sizes)
    errors = relative_errors(inputs, scale=0.1, **options)
    gate = errors.pop("log_decay", 0.0)  # a sum of differences of products of what is rounded: twice the bound
    assert max(errors.values()) < 0.005, errors
    assert gate < 0.01


@pytest.mark.gpu
@pytest.mark.parametrize(("decay", "steps", "sizes", "options"), GPU_CASES)
def test_float32_on_a_gpu(decay, steps, sizes, options):
    inputs = make_inputs(steps, decay, device="cuda", **{"heads": 4, "strength": 0.1} | sizes)
    errors = relative_errors(inputs, scale=0.1, **options)
    assert max(errors.values()) < 1e-4, errors


@pytest.mark.gpu
@pytest.mark.parametrize("decay", ["head", "channel"])
def test_strong_decay_on_a_gpu(decay):
    inputs = make_inputs(500, decay, device="cuda", dtype=torch.bfloat16, width=64, value=64, strength=50.0)
    errors = relative_errors(inputs)
    errors.pop("log_decay")  # as good as zero
    assert max(errors.values()) < 0.005, errors


@pytest.mark.gpu
@pytest.mark.parametrize("decay", DECAYS)
def test_same_bits_every_time_on_a_gpu(decay):
    inputs = make_inputs(2000, decay, batch=4, device="cuda", dtype=torch.bfloat16, heads=16, width=64, value=64)
    twice = []
    for _ in range(2):
        out, state = run_with(inputs)("triton")
        twice.append([out, state, *torch.autograd.grad(out.float().sum() + state.sum(), list(inputs.values()))])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))


@pytest.mark.gpu
@pytest.mark.slow
def test_tensors_of_more_than_2_to_the_31_on_a_gpu():
    if torch.cuda.get_device_properties(0).total_memory < 60e9:
        pytest.skip("needs 60 GB")
    steps, last = (1 << 21) + 64, 128  # H * K = 1024
    q, k, v = (torch.randn(1, steps, 16, 64, device="cuda", dtype=torch.bfloat16) for _ in range(3))
    decay = torch.full((1, steps, 16), -0.01, device="cuda")
    whole = linear_attention(q, k, v, log_decay=decay, scale=0.1, backend="triton")
    tail = [x[:, -last:].double() for x in (q, k, v, decay)]
    # what lies further back than 2,000 steps is worth e^-20
    near = [x[:, -2000 - last : -last].double() for x in (q, k, v, decay)]
    _, state = linear_attention(*near[:3], log_decay=near[3], return_state=True)
    exact = linear_attention(*tail[:3], log_decay=tail[3], scale=0.1, initial_state=state)
    assert (whole[:, -last:].double() - exact).norm() < 0.005 * exact.norm()
