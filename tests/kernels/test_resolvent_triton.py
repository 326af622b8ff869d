"""The Triton form of the resolvent and the delta rule against the recurrence, in values and all gradients: in the
interpreter on the CPU, where tensors are small and float32, and compiled on a GPU (`-m gpu`)."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

pytest.importorskip("triton")

from archloom.kernels.backends import interprets
from archloom.kernels.resolvent import delta_rule, resolvent

DECAYS = ("none", "head", "channel")
# float32 sums of up to 130 terms in two orders, relative to the largest entry: at most 3e-6 is seen
SINGLE = 2e-5


@pytest.fixture(autouse=True)
def poisoned_memory(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is not initialised holds NaN, so that reading it shows."""
    if request.node.get_closest_marker("gpu") is None and not interprets():
        pytest.skip("a GPU is at hand, where kernels are compiled: -m gpu")
    empty, empty_like = torch.empty, torch.empty_like
    monkeypatch.setattr(torch, "empty", lambda *sizes, **options: empty(*sizes, **options).fill_(torch.nan))
    monkeypatch.setattr(torch, "empty_like", lambda *given, **options: empty_like(*given, **options).fill_(torch.nan))
    yield
    monkeypatch.undo()


def make_inputs(
    steps: int,
    decay: str,
    *,
    batch: int = 1,
    heads: int = 1,
    width: int = 5,
    value: int = 3,
    beta: float = 2.0,
    apart: float = 0.3,
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
) -> tuple[list[Tensor], Tensor | None]:
    """q, b, k, x and the log decay, all leaves: unit k, and b = beta k for some of (0, beta) plus a part of its own."""
    q, k, own = (normalize(torch.randn(batch, steps, heads, width), dim=-1) for _ in range(3))
    b = k * beta * torch.rand(batch, steps, heads, 1) + apart * own
    x = torch.randn(batch, steps, heads, value)
    shape = {"head": (batch, steps, heads), "channel": (batch, steps, heads, width)}
    g = None if decay == "none" else logsigmoid(torch.randn(shape[decay])).to(device).requires_grad_()
    return [each.to(device, dtype).requires_grad_() for each in (q, b, k, x)], g


def make_state(width: int, value: int, *, batch: int = 1, heads: int = 1, device: str = "cpu") -> Tensor:
    return torch.randn(batch, heads, width, value, device=device, requires_grad=True)


def given(*tensors: Tensor | None) -> list[Tensor]:
    return [each for each in tensors if each is not None]


SIZES = {
    1: {"heads": 2, "width": 5, "value": 3},
    17: {"batch": 2, "width": 3, "value": 20},
    64: {"width": 16, "value": 16},
    65: {"width": 40, "value": 35},  # two tiles of keys and three of values
    130: {"heads": 2, "width": 7, "value": 9},
}


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("steps", SIZES)
def test_delta_rule_equals_the_recurrence(assert_equal_backends, steps, decay):
    sizes = SIZES[steps]
    inputs, g = make_inputs(steps, decay, **sizes)
    s = make_state(sizes["width"], sizes["value"], batch=sizes.get("batch", 1), heads=sizes.get("heads", 1))
    assert_equal_backends(
        lambda backend: delta_rule(
            *inputs, log_decay=g, scale=0.3, initial_state=s, return_state=True, backend=backend
        ),
        given(*inputs, g, s), SINGLE, "triton",
    )  # fmt: skip


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("steps", [17, 130])
def test_resolvent_equals_the_recurrence(assert_equal_backends, steps, decay):
    (_, *inputs), g = make_inputs(steps, decay, width=7, value=18)
    s = make_state(7, 18)
    assert_equal_backends(
        lambda backend: resolvent(*inputs, log_decay=g, initial_state=s, return_state=True, backend=backend),
        given(*inputs, g, s), SINGLE, "triton",
    )  # fmt: skip


@pytest.mark.parametrize("decay", DECAYS)
def test_without_states(assert_equal_backends, decay):
    inputs, g = make_inputs(70, decay)
    for form, arguments in ((delta_rule, inputs), (resolvent, inputs[1:])):
        assert_equal_backends(
            lambda backend, form=form, arguments=arguments: form(*arguments, log_decay=g, backend=backend),
            given(*arguments, g), SINGLE, "triton",
        )  # fmt: skip


def test_the_last_state_alone():
    """A loss that reads no output but the state, of one input."""
    inputs, g = make_inputs(70, "head")
    found = []
    for backend in ("triton", "reference"):
        _, last = delta_rule(*inputs, log_decay=g, return_state=True, backend=backend)
        found.append(torch.autograd.grad(last.square().sum(), inputs[2])[0])
    torch.testing.assert_close(*found, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("cut", [1, 64])
def test_state_hands_over(decay, cut):
    inputs, g = make_inputs(70, decay)
    for form, arguments in ((delta_rule, inputs), (resolvent, inputs[1:])):
        whole, last = form(*arguments, log_decay=g, return_state=True, backend="triton")
        parts, state = [], None
        for part in (slice(None, cut), slice(cut, None)):
            out, state = form(
                *(each[:, part] for each in arguments), log_decay=None if g is None else g[:, part],
                initial_state=state, return_state=True, backend="triton",
            )  # fmt: skip
            parts.append(out)
        torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=SINGLE, atol=SINGLE)
        torch.testing.assert_close(state, last, rtol=SINGLE, atol=SINGLE)


@pytest.mark.parametrize("decay", ["none", "head", "channel"])
def test_nearly_parallel_keys_with_beta_two(decay):
    """Every step reflects almost the same direction; a Neumann series of I + strict(K) would grow as 2^chunk."""
    (q, _, _, x), _ = make_inputs(128, decay, width=8, value=8)
    k = normalize(torch.ones(8) + 1e-4 * torch.randn(1, 128, 1, 8), dim=-1)
    g = {"none": None, "head": torch.full((1, 128, 1), -1e-4), "channel": torch.full((1, 128, 1, 8), -1e-4)}[decay]
    found = []
    for backend, dtype in (("triton", torch.float32), ("reference", torch.float64)):
        leaves = [each.detach().to(dtype).requires_grad_() for each in (q, 2 * k, k, x)]
        out = delta_rule(*leaves, log_decay=None if g is None else g.to(dtype), backend=backend)
        found.append([out, *torch.autograd.grad(out.square().sum(), leaves)])
    for got, want in zip(*found, strict=True):
        assert (got - want).abs().max() / want.abs().max() < 1e-4  # 64 reflections, each rounded


@pytest.mark.parametrize("decay", ["head", "channel"])
@pytest.mark.parametrize("strength", [-50.0, -1e-4])
def test_extreme_decays(assert_equal_backends, decay, strength):
    """Of the given strength in places, and up to nothing between them: over 60 steps of -50, e^G is zero in float32."""
    inputs, g = make_inputs(80, decay)
    with torch.no_grad():
        g[:, :4] = g[:, 10:] = strength
        g[:, 30:35] = 0
    assert_equal_backends(
        lambda backend: delta_rule(*inputs, log_decay=g, return_state=True, backend=backend), [*inputs, g], SINGLE,
        "triton",
    )  # fmt: skip


@pytest.mark.parametrize("decay", DECAYS)
def test_low_precision_rounds_only_what_is_multiplied(decay):
    """float16, since the interpreter has no bfloat16; eight times finer, so its errors are an eighth."""
    inputs, g = make_inputs(100, decay, width=32, value=32, beta=1.0, apart=0.1, dtype=torch.float16)
    assert_close_to_double(inputs, g, None, values=0.005 / 8, gradients=0.008 / 8)


def assert_close_to_double(
    inputs: list[Tensor], g: Tensor | None, s: Tensor | None, *, values: float, gradients: float
) -> None:
    """RMS of the error over RMS of the float64 recurrence, for o and the last state, and for all gradients."""
    results = []
    for backend in ("triton", "reference"):
        exact = backend == "reference"
        leaves = [
            None if each is None else each.detach().to(torch.float64 if exact else each.dtype).requires_grad_()
            for each in (*inputs, g, s)
        ]
        *arguments, decay, start = leaves
        outputs = delta_rule(
            *arguments, log_decay=decay, scale=0.25, initial_state=start, return_state=True, backend=backend
        )
        generator = torch.Generator().manual_seed(1)
        weights = (torch.randn(each.shape, generator=generator).to(inputs[0]) for each in outputs)
        loss = sum((each.double() * weight).sum() for each, weight in zip(outputs, weights, strict=True))
        results.append([*outputs, *torch.autograd.grad(loss, given(*leaves))])
    for index, (got, want) in enumerate(zip(*results, strict=True)):
        error = ((got.double() - want).square().mean() / want.square().mean()).sqrt()
        assert error < (values if index < 2 else gradients), f"result {index} of shape {tuple(got.shape)}: {error:.1e}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(1, 5, 1, 257)}, "x has 257 channels; .* up to 256"),
        ({"b": torch.zeros(1, 5, 1, 300), "k": torch.zeros(1, 5, 1, 300)}, "k has 300 channels; .* up to 256"),
        ({"b": torch.zeros(1, 5, 1, 4)}, r"b has shape \(1, 5, 1, 4\)"),
        ({"log_decay": torch.zeros(1, 4, 1)}, r"log_decay has shape \(1, 4, 1\)"),
        ({"chunk": 0}, "chunk is 0"),
        ({"backend": "cuda"}, '"chunked", "reference" or "triton"'),
    ],
)
def test_refuses_what_does_not_fit(change, message):
    arguments = {"b": torch.zeros(1, 5, 1, 3), "k": torch.zeros(1, 5, 1, 3), "x": torch.zeros(1, 5, 1, 4)}
    arguments |= {"backend": "triton"} | change
    with pytest.raises(ValueError, match=message):
        resolvent(**arguments)
    with pytest.raises(ValueError, match=message):
        delta_rule(torch.zeros_like(arguments["k"]), **arguments)


def test_refuses_float64():
    with pytest.raises(ValueError, match=r"k has dtype torch.float64.*chunked"):
        resolvent(*(torch.zeros(1, 5, 1, 3, dtype=torch.float64) for _ in range(3)), backend="triton")


LARGE = {
    "64": {"heads": 4, "width": 64, "value": 64},
    "128": {"heads": 2, "width": 128, "value": 128},
    "odd": {"heads": 3, "width": 80, "value": 200},
    "256": {"heads": 1, "width": 256, "value": 256},
}


@pytest.mark.gpu
@pytest.mark.parametrize("decay", DECAYS)
@pytest.mark.parametrize("size", LARGE)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_realistic_sizes(size, decay, dtype):
    """In bfloat16 one rounding alone is 0.0017; a gradient passes through more of them than a value."""
    sizes = LARGE[size]
    inputs, g = make_inputs(1000, decay, batch=2, **sizes, beta=1.0, apart=0.1, dtype=dtype, device="cuda")
    s = make_state(sizes["width"], sizes["value"], batch=2, heads=sizes["heads"], device="cuda")
    low = dtype == torch.bfloat16
    assert_close_to_double(inputs, g, s, values=0.005 if low else 1e-5, gradients=0.008 if low else 1e-5)


@pytest.mark.gpu
@pytest.mark.parametrize("decay", DECAYS)
def test_results_repeat(decay):
    """Bit for bit: nothing is summed in an order that varies."""
    inputs, g = make_inputs(1000, decay, batch=2, heads=4, width=128, value=64, dtype=torch.bfloat16, device="cuda")
    found = []
    for _ in range(2):
        out = delta_rule(*inputs, log_decay=g, backend="triton")
        found.append([out, *torch.autograd.grad(out.float().square().sum(), given(*inputs, g))])
    assert all(torch.equal(first, second) for first, second in zip(*found, strict=True))
