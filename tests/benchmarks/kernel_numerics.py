"""Errors of the primitives against float64 on the same inputs, over lengths and decays: the grid, and its measure.

Inputs are rounded to the type under test first, and so are the weights of the outputs, so that only arithmetic differs.
With bfloat16 inputs the decays stay float32, as models keep them.

The reference is the literal recurrence or dense form in float64; beyond `LITERAL_STEPS`, where that would cost minutes
or tens of gigabytes, the chunked form in float64, which `tests/kernels/test_numerics.py` shows to equal it.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels.attention import attention, attention_resolvent
from archloom.kernels.banded import banded
from archloom.kernels.feature_toeplitz import feature_toeplitz
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.local_linear import local_linear
from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.resolvent import delta_rule, resolvent
from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.short_convolution import short_convolution
from archloom.kernels.sparse_state import sparse_state
from archloom.kernels.windowed import windowed_linear_attention, windowed_resolvent

LENGTHS = (64, 1024, 8192, 65536)
HEADS, WIDTH = 2, 8
DECAYS = ("weak", "moderate", "strong", "mixed")
"""-1e-4, uniform in (-1, 0), -20, and each one of 0, -1e-4, -0.5 and -20."""
LITERAL_STEPS = 1024
WIDE = ("log_decay", "step", "rate")
SMALLEST_GRADIENT = 1e-3
"""Of the weights of the outputs, which are normal. A gradient that is smaller, as that of a log decay of -20 is, is a
difference of larger numbers: its error is relative to this."""
BOUNDS = {
    "linear_attention": (3e-5, 1e-4),
    "resolvent": (3e-5, 1e-4),
    "delta_rule": (3e-5, 1e-4),
    "selective_scan": (1e-4, 1e-4),
    "attention": (2e-4, 5e-4),
    "attention, strong": (1e-2, 2e-2),
    "long_convolution": (1e-6, 1e-6),
    "feature_toeplitz": (3e-3, 1e-2),
    "local_linear": (1e-3, 1e-3),
    "banded": (1e-6, 1e-6),
    "short_convolution": (1e-6, 1e-6),
    "attention_resolvent": (2e-6, 2e-6),
    "windowed_linear_attention": (6e-5, 1.5e-4),
    "windowed_resolvent": (6e-5, 1.5e-4),
    "sparse_state": (6e-5, 1.5e-4),
}
"""For float32, of `Error.rms` and `Error.largest`, at any length and decay of the grid: about three times the most that
was measured on a CPU."""
PRIMITIVES = tuple(name for name in BOUNDS if "," not in name)
BFLOAT16_BOUNDS = {"attention": (4e-2, 8e-2), "attention_resolvent": (1.2e-2, 2.4e-2)}
USUAL_BFLOAT16_BOUND = (3e-3, 8e-3)

Primitive = Callable[..., Tensor | tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A primitive on inputs that are given in float64; `variant` says which decays or keys."""

    primitive: str
    variant: str
    call: Primitive
    inputs: Mapping[str, Tensor]

    @property
    def steps(self) -> int:
        return next(iter(self.inputs.values())).shape[1]

    def bound(self, dtype: torch.dtype) -> tuple[float, float]:
        if dtype == torch.bfloat16:
            return BFLOAT16_BOUNDS.get(self.primitive, USUAL_BFLOAT16_BOUND)
        return BOUNDS.get(f"{self.primitive}, {self.variant.split()[0]}", BOUNDS[self.primitive])


@dataclass(frozen=True, slots=True, kw_only=True)
class Error:
    """Of one result: root mean square of the error over that of the reference, and the same of the largest entries."""

    result: str
    rms: float
    largest: float
    finite: bool


def cases(steps: int, *primitives: str) -> Iterator[Case]:
    """Every decay and granularity of the named primitives, or of all, at a length."""
    q, k, v = (torch.randn(1, steps, HEADS, WIDTH, dtype=torch.float64) for _ in range(3))
    q, k = q * WIDTH**-0.5, k * WIDTH**-0.5
    for family in (_linear, _resolved, _scanned, _attended, _convolved, _local, _windowed, _in_slots):
        yield from (each for each in family(q, k, v) if not primitives or each.primitive in primitives)


def _linear(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    call = partial(linear_attention, return_state=True)
    for variant, decay in decays(v.shape[1]):
        given = {"q": q, "k": k, "v": v, **decay}
        yield Case(primitive="linear_attention", variant=variant, call=call, inputs=given)


def _resolved(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    steps = v.shape[1]
    keys, beta, near_two = normalize(k, dim=-1), torch.rand(1, steps, HEADS, 1).double(), torch.tensor(1.99).double()
    parallel, weak = nearly_parallel(k), decay_of("weak", (1, steps, HEADS))
    written: dict[str, tuple[Tensor, Tensor, dict[str, Tensor]]] = {
        variant: (keys, beta, decay) for variant, decay in decays(steps)
    }
    written["beta 1.99"] = (keys, near_two, {})
    written["parallel keys"] = (parallel, beta, {})
    written["beta 1.99, parallel"] = (parallel, near_two, {})
    written["beta 1.99, parallel, weak"] = (parallel, near_two, {"log_decay": weak})
    for variant, (key, rate, decay) in written.items():
        given = {"b": rate * key, "k": key, "x": rate * v, **decay}
        yield Case(primitive="resolvent", variant=variant, call=partial(resolvent, return_state=True), inputs=given)
        given = {"q": q, **given}
        yield Case(primitive="delta_rule", variant=variant, call=partial(delta_rule, return_state=True), inputs=given)


def _scanned(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    call = partial(selective_scan, return_state=True)
    for variant in ("none", *DECAYS):
        given = {"q": q, "k": k, "v": v, "step": torch.rand_like(v), "rate": decay_of(variant, (HEADS, WIDTH, WIDTH))}
        yield Case(primitive="selective_scan", variant=variant, call=call, inputs=given)


def _attended(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    steps, given = v.shape[1], {"q": 4 * q, "k": 4 * k, "v": v}
    for variant, decay in decays(steps):
        if "channel" not in variant:
            yield Case(primitive="attention", variant=variant, call=attention, inputs={**given, **decay})
    given["log_decay"] = decay_of("mixed", (1, steps, HEADS))
    yield Case(primitive="attention", variant="mixed, window 100", call=partial(attention, window=100), inputs=given)
    for variant, window in (("none", None), ("window 100", 100)):
        damped = {"q": 4 * q, "k": 4 * k, "x": v, "gate": torch.rand(1, steps, HEADS, dtype=torch.float64)}
        call = partial(attention_resolvent, window=window)
        yield Case(primitive="attention_resolvent", variant=variant, call=call, inputs=damped)


def _convolved(_: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    x, lags = v.flatten(2), torch.arange(v.shape[1])
    for variant, rate in (("none", 0.0), ("weak", 1e-4), ("moderate", 0.1), ("strong", 20.0)):
        fading = torch.exp(-rate * lags)
        given = {"x": x, "filter": torch.randn(x.shape[2], x.shape[1], dtype=torch.float64) * fading}
        yield Case(primitive="long_convolution", variant=variant, call=long_convolution, inputs=given)
        given = {"q": k.exp(), "k": k.flip(1).exp(), "v": v, "taps": fading.double().expand(HEADS, -1)}
        call = partial(feature_toeplitz, normalise=True)
        yield Case(primitive="feature_toeplitz", variant=variant, call=call, inputs=given)


def _local(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    for ridge in (1.0, 0.1):
        for window in (None, 100):
            variant = f"ridge {ridge:g}, window {window}"
            call = partial(local_linear, ridge=ridge, window=window)
            yield Case(primitive="local_linear", variant=variant, call=call, inputs={"q": 4 * q, "k": 4 * k, "v": v})
    for reach in (4, 32):
        taps = torch.softmax(torch.randn(*v.shape[:3], reach, dtype=torch.float64), -1)
        given = {"taps": taps, "v": v}
        call = partial(banded, return_state=True)
        yield Case(primitive="banded", variant=f"W {reach}", call=call, inputs=given)
    given = {"x": v.flatten(2), "taps": torch.randn(HEADS * WIDTH, 4, dtype=torch.float64)}
    call = partial(short_convolution, return_state=True)
    yield Case(primitive="short_convolution", variant="W 4", call=call, inputs=given)


def _windowed(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    keys, beta = normalize(k, dim=-1), torch.rand(*v.shape[:3], 1, dtype=torch.float64)
    for variant, decay in decays(v.shape[1]):
        given = {"q": q, "k": k, "v": v, **decay}
        call = partial(windowed_linear_attention, window=100)
        yield Case(primitive="windowed_linear_attention", variant=variant, call=call, inputs=given)
        given = {"b": beta * keys, "k": keys, "x": beta * v, **decay}
        call = partial(windowed_resolvent, window=100)
        yield Case(primitive="windowed_resolvent", variant=variant, call=call, inputs=given)


def _in_slots(q: Tensor, k: Tensor, v: Tensor) -> Iterator[Case]:
    drawn = torch.rand(*v.shape[:2], 4, dtype=torch.float64)
    route = drawn * (drawn >= drawn.topk(2, -1).values[..., -1:])
    for variant, decay in decays(v.shape[1]):
        if "channel" not in variant:
            given = {"q": q, "k": k, "v": v, "read": route, "write": route, **decay}
            call = partial(sparse_state, return_state=True)
            yield Case(primitive="sparse_state", variant=variant, call=call, inputs=given)


def decays(steps: int) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Variants and their log decay, by head and by channel."""
    yield "none", {}
    for kind in DECAYS:
        yield f"{kind} head", {"log_decay": decay_of(kind, (1, steps, HEADS))}
        yield f"{kind} channel", {"log_decay": decay_of(kind, (1, steps, HEADS, WIDTH))}


def decay_of(kind: str, shape: tuple[int, ...]) -> Tensor:
    fixed = {"none": 0.0, "weak": -1e-4, "strong": -20.0}
    if kind in fixed:
        return torch.full(shape, fixed[kind], dtype=torch.float64)
    if kind == "moderate":
        return -torch.rand(shape, dtype=torch.float64)
    return torch.tensor([0.0, -1e-4, -0.5, -20.0], dtype=torch.float64)[torch.randint(4, shape)]


def nearly_parallel(noise: Tensor) -> Tensor:
    """Unit keys of which any two have a cosine of about 0.999."""
    common = torch.zeros_like(noise)
    common[..., 0] = 1
    return normalize(common + 1e-3**0.5 * normalize(noise, dim=-1), dim=-1)


def errors(
    case: Case, dtype: torch.dtype, *, backends: Sequence[str] = ("chunked",), device: str = "cpu", oracle: str = ""
) -> dict[str, list[Error]]:
    """For each backend those of the output, the state, and the gradient of every input; `oracle` is run in float64."""
    oracle = oracle or ("reference" if case.steps <= LITERAL_STEPS else "chunked")
    wide = torch.float32 if dtype == torch.bfloat16 else dtype
    given = {name: x.to(device=device, dtype=wide if name in WIDE else dtype) for name, x in case.inputs.items()}
    expected = _results(case.call, {name: x.double() for name, x in given.items()}, oracle)
    return {
        backend: [_error(name, got, expected[name]) for name, got in _results(case.call, given, backend).items()]
        for backend in backends
    }


def _results(call: Primitive, inputs: Mapping[str, Tensor], backend: str) -> dict[str, Tensor]:
    """Output, state, and the gradients of a random weighted sum of both (a plain sum would hide errors that cancel)."""
    leaves = {name: x.clone().requires_grad_() for name, x in inputs.items()}
    outputs = call(**leaves, backend=backend)
    outputs = (outputs,) if isinstance(outputs, Tensor) else outputs
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(out.shape, generator=generator).bfloat16().to(out) for out in outputs]
    gradients = torch.autograd.grad(outputs, list(leaves.values()), weights)
    found = {name: out.detach() for name, out in zip(("output", "state"), outputs, strict=False)}
    return found | {f"d {name}": x for name, x in zip(leaves, gradients, strict=True)}


def _error(name: str, got: Tensor, want: Tensor) -> Error:
    off, least = got.double() - want, SMALLEST_GRADIENT if name.startswith("d ") else torch.finfo(torch.float64).tiny
    return Error(
        result=name,
        rms=(off.square().mean() / want.square().mean().clamp(min=least**2)).sqrt().item(),
        largest=(off.abs().max() / want.abs().max().clamp(min=least)).item(),
        finite=bool(got.isfinite().all()),
    )
