"""The selective scan as Triton kernels against the recurrence, in values and gradients.

Without a GPU the kernels run in Triton's interpreter, in float32 and float16 (it gets bfloat16 wrong); the tests marked
`gpu` run them compiled, in bfloat16 and float32, against the recurrence in float64.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from archloom.kernels.selective_scan import selective_scan

pytest.importorskip("triton")

SINGLE = 2e-5  # relative to the largest entry: sums of float32 over at most 70 steps, ordered in two ways
interpreted = pytest.mark.skipif(torch.cuda.is_available(), reason="runs in the interpreter where there is no GPU")


def make_inputs(
    steps: int,
    *,
    batch: int = 1,
    heads: int = 1,
    width: int = 3,
    value: int = 2,
    strength: float = 1.0,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> dict[str, Tensor]:
    """Arguments by name, float32 where the kernels take it beside bfloat16."""
    q, k = (torch.randn(batch, steps, heads, width, device=device).to(dtype) for _ in range(2))
    inputs = {
        "q": q,
        "k": k,
        "v": torch.randn(batch, steps, heads, value, device=device).to(dtype),
        "step": torch.rand(batch, steps, heads, value, device=device),
        "rate": -strength * torch.rand(heads, width, value, device=device),
        "initial_state": torch.randn(batch, heads, width, value, device=device),
    }
    return {name: x.requires_grad_() for name, x in inputs.items()}


def run_with(inputs: dict[str, Tensor]) -> Callable[[str], tuple[Tensor, Tensor]]:
    return lambda backend: selective_scan(**inputs, return_state=True, backend=backend)


@interpreted
@pytest.mark.parametrize("steps", [1, 15, 16, 17, 64, 70])
def test_equals_the_recurrence(assert_equal_backends, steps):
    inputs = make_inputs(steps, value=1 if steps > 60 else 2)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(("batch", "heads"), [(1, 3), (3, 1), (2, 2)])
def test_batches_and_heads(assert_equal_backends, batch, heads):
    inputs = make_inputs(5, batch=batch, heads=heads, width=2)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize(("width", "value"), [(1, 1), (1, 5), (5, 1), (7, 3)])
def test_widths_that_are_not_those_of_tiles(assert_equal_backends, monkeypatch, width, value):
    """Parts of several tiles are added: tiles of 4 here, of 16 outside tests."""
    from archloom.kernels.selective_scan import triton

    monkeypatch.setattr(triton, "TILE", 4)
    inputs = make_inputs(4, width=width, value=value)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
def test_without_states_given_or_asked_for(assert_equal_backends):
    inputs = make_inputs(18, batch=2)
    del inputs["initial_state"]
    assert_equal_backends(
        lambda backend: selective_scan(**inputs, backend=backend), list(inputs.values()), SINGLE, "triton"
    )


@interpreted
def test_gradients_of_the_state_alone(assert_equal_backends):
    inputs = make_inputs(18)
    taken = [x for name, x in inputs.items() if name != "q"]
    assert_equal_backends(lambda backend: run_with(inputs)(backend)[1], taken, SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("taken", [("q",), ("rate",), ("v", "step")])
def test_inputs_that_need_no_gradient(assert_equal_backends, taken):
    inputs = {name: x if name in taken else x.detach() for name, x in make_inputs(6).items()}
    assert_equal_backends(run_with(inputs), [inputs[name] for name in taken], SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("strength", [0.0, 30.0, 1e4])
def test_decays_of_any_strength(assert_equal_backends, strength):
    inputs = make_inputs(20, strength=strength)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
@pytest.mark.parametrize("cut", [1, 16, 19])
def test_state_hands_over(cut):
    inputs = {name: x.detach() for name, x in make_inputs(20).items()}
    whole, last = run_with(inputs)("triton")
    outs, state = [], inputs["initial_state"]
    for part in (slice(None, cut), slice(cut, None)):
        now = {name: inputs[name][:, part] for name in ("q", "k", "v", "step")}
        out, state = run_with(now | {"rate": inputs["rate"], "initial_state": state})("triton")
        outs.append(out)
    torch.testing.assert_close(torch.cat(outs, 1), whole, rtol=SINGLE, atol=SINGLE)
    torch.testing.assert_close(state, last, rtol=SINGLE, atol=SINGLE)


@interpreted
@pytest.mark.parametrize("tile", [2, 16])
def test_every_output_is_written(assert_equal_backends, monkeypatch, tile):
    from archloom.kernels.selective_scan import triton

    monkeypatch.setattr(triton, "TILE", tile)
    for name in ("empty", "empty_like"):
        make = getattr(torch, name)
        monkeypatch.setattr(torch, name, lambda *size, make=make, **options: make(*size, **options).fill_(torch.nan))
    inputs = make_inputs(18, width=3, value=3)
    assert_equal_backends(run_with(inputs), list(inputs.values()), SINGLE, "triton")


@interpreted
def test_views_of_one_projection(assert_equal_backends):
    whole = torch.randn(1, 9, 2, 8, requires_grad=True)
    q, k, v, step = whole.split([3, 3, 1, 1], -1)
    rate = -torch.rand(2, 1, 3).transpose(1, 2)

    def run(backend: str) -> Tensor | tuple[Tensor, Tensor]:
        return selective_scan(q, k, v, step=step.abs(), rate=rate, backend=backend)

    assert_equal_backends(run, [whole], SINGLE, "triton")


def relative_errors(inputs: dict[str, Tensor]) -> dict[str, float]:
    """RMS of the error over RMS of the recurrence in float64, of both results and all gradients, by name."""
    results = []
    for backend, dtype in (("triton", None), ("reference", torch.float64)):
        leaves = {name: tensor.detach().to(dtype).requires_grad_() for name, tensor in inputs.items()}
        outputs = run_with(leaves)(backend)
        generator = torch.Generator().manual_seed(1)
        weights = (torch.randn(x.shape, generator=generator, dtype=torch.float64).to(x.device) for x in outputs)
        loss = sum((out.double() * weight).sum() for out, weight in zip(outputs, weights, strict=True))
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        results.append(dict(zip(("out", "state", *leaves), (*outputs, *gradients), strict=True)))
    actual, expected = results
    assert all(tensor.isfinite().all() for tensor in actual.values())
    return {name: ((actual[name].double() - x).norm() / x.norm()).item() for name, x in expected.items()}


@interpreted
@pytest.mark.parametrize("low", [(), ("step", "rate", "initial_state")])
def test_half_precision_rounds_only_results(low):
    inputs = make_inputs(20, dtype=torch.float16)
    errors = relative_errors({name: x.half() if name in low else x for name, x in inputs.items()})
    assert max(errors.values()) < 1e-3, errors  # one rounding of 2^-11
    assert errors["state"] < SINGLE


def test_needs_a_gpu_or_the_interpreter(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "0")
    with pytest.raises(ValueError, match=r"selective_scan: .* CUDA device, given cpu; .*chunked"):
        run_with(make_inputs(3))("triton")


@interpreted
def test_refuses_float64():
    inputs = {name: x.double() for name, x in make_inputs(3).items()}
    with pytest.raises(ValueError, match=r"q has dtype torch.float64, .* backend=\"chunked\" does"):
        run_with(inputs)("triton")


def test_an_unknown_backend_is_told_of_triton():
    with pytest.raises(ValueError, match=r"backend is 'cuda'; expected \"chunked\", \"reference\" or \"triton\""):
        run_with(make_inputs(3))("cuda")


GPU_CASES = [
    (1, {"batch": 3, "width": 16, "value": 5}),
    (1000, {"heads": 4, "width": 16, "value": 64}),
    (1000, {"heads": 4, "width": 64, "value": 64, "strength": 0.1}),
    (333, {"batch": 2, "heads": 3, "width": 100, "value": 17}),
    (500, {"heads": 2, "width": 16, "value": 16, "strength": 1e3}),
]


@pytest.mark.gpu
@pytest.mark.parametrize(("steps", "sizes"), GPU_CASES)
@pytest.mark.parametrize(("dtype", "bound"), [(torch.bfloat16, 0.005), (torch.float32, 1e-4)])
def test_realistic_sizes_on_a_gpu(steps, sizes, dtype, bound):
    errors = relative_errors(make_inputs(steps, device="cuda", dtype=dtype, **sizes))
    assert max(errors.values()) < bound, errors


@pytest.mark.gpu
def test_same_bits_every_time_on_a_gpu():
    inputs = make_inputs(500, batch=4, heads=8, width=32, value=64, device="cuda", dtype=torch.bfloat16)
    twice = []
    for _ in range(2):
        out, state = run_with(inputs)("triton")
        twice.append([out, state, *torch.autograd.grad(out.float().sum() + state.sum(), list(inputs.values()))])
    assert all(torch.equal(*pair) for pair in zip(*twice, strict=True))
