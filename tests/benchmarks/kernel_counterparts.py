"""The same operations by flash-linear-attention (Yang and Zhang 2024), where it is installed and there is a GPU.

Both run on the same bfloat16 inputs in one process, in turn: forward and backward over a sequence, and one decode step
from a state. Errors are relative, root mean square, against the literal recurrence in float64 on these inputs.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec

import torch
from kernel_costs import best_of
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.resolvent import delta_rule
from archloom.kernels.table import Size

SIZES = ("8x2048x4x64", "4x8192x4x64", "4x2048x4x128")
COUNTERPARTS = {
    "simple_gla": "linear attention, head",
    "gla": "linear attention, channel",
    "delta_rule": "delta rule, none",
    "gated_delta_rule": "delta rule, head",
    "kda": "delta rule, channel",
}
"""Folders of `fla.ops`, and what they are here."""

Run = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Inputs:
    """q, k, v [B, T, H, K], beta [B, T, H] and the log decay, of which an operation takes what it has."""

    q: Tensor
    k: Tensor
    v: Tensor
    beta: Tensor | None
    log_decay: Tensor | None

    @property
    def leaves(self) -> list[Tensor]:
        return [x for x in (self.q, self.k, self.v, self.beta, self.log_decay) if x is not None]

    def double(self) -> "Inputs":
        q, k, v, beta, log_decay = (
            None if x is None else x.detach().double().requires_grad_()
            for x in (self.q, self.k, self.v, self.beta, self.log_decay)
        )
        assert q is not None
        assert k is not None
        assert v is not None
        return Inputs(q=q, k=k, v=v, beta=beta, log_decay=log_decay)


def drawn(name: str, size: Size, device: str) -> Inputs:
    shape, half = (size.batch, size.steps, size.heads), torch.bfloat16
    q, k, v = (torch.randn(*shape, size.width, device=device) for _ in range(3))
    kind = COUNTERPARTS[name].split(", ")[1]
    decay = {"none": None, "head": torch.rand(shape, device=device), "channel": torch.rand_like(q)}[kind]
    leaves = [(q * size.width**-0.5).to(half), normalize(k, dim=-1).to(half), v.to(half)]
    q, k, v = (x.requires_grad_() for x in leaves)
    beta = torch.rand(shape, device=device).to(half).requires_grad_() if "delta" in COUNTERPARTS[name] else None
    return Inputs(q=q, k=k, v=v, beta=beta, log_decay=None if decay is None else (-decay).requires_grad_())


def ours(inputs: Inputs, state: Tensor | None = None, *, backend: str) -> tuple[Tensor, Tensor]:
    """Our operation; the products with beta are part of it."""
    q, k, v = inputs.q, inputs.k, inputs.v
    if inputs.beta is None:
        form = partial(linear_attention, q, k, v)
    else:
        beta = inputs.beta.unsqueeze(-1)
        form = partial(delta_rule, q, beta * k, k, beta * v)
    out = form(log_decay=inputs.log_decay, initial_state=state, return_state=True, backend=backend)
    assert isinstance(out, tuple)
    return out


def theirs(inputs: Inputs, state: Tensor | None = None, *, function: Callable[..., tuple[Tensor, Tensor]], decay: str):
    """Their operation; `decay` is what it calls the log decay."""
    given = {"q": inputs.q, "k": inputs.k, "v": inputs.v, "scale": 1.0, "initial_state": state}
    if inputs.beta is not None:
        given["beta"] = inputs.beta
    if inputs.log_decay is not None:
        given[decay] = inputs.log_decay
    return function(**given, output_final_state=True)


def functions(name: str) -> tuple[Run, Run]:
    """Their form for sequences and that for a step of decoding."""
    folder = import_module(f"fla.ops.{name}")
    whole, single = getattr(folder, f"chunk_{name}"), getattr(folder, f"fused_recurrent_{name}")
    return partial(theirs, function=whole, decay="g"), partial(
        theirs, function=single, decay="gk" if name == "gla" else "g"
    )


def print_counterparts(device: str, backends: Sequence[str], seconds: float) -> None:
    print()
    if device != "cuda" or find_spec("fla") is None:
        print("flash-linear-attention runs on a GPU only, and must be installed: pip install flash-linear-attention")
        return
    print(f"{'operation':18s} {'BxTxHxK':14s} {'by':8s} {'ms':>9s} {'ratio':>6s} {'step us':>9s} {'ratio':>6s} errors")
    for text in SIZES:
        size = Size.of(text)
        for name in COUNTERPARTS:
            print_operation(name, size, device, backends, seconds)


def print_operation(name: str, size: Size, device: str, backends: Sequence[str], seconds: float) -> None:
    """Ratios are of our time over theirs."""
    inputs = drawn(name, size, device)
    once = drawn(name, Size(batch=size.batch, steps=1, heads=size.heads, width=size.width), device)
    state = torch.randn(size.batch, size.heads, size.width, size.width, device=device)
    truth = results(partial(ours, backend="reference"), inputs.double())
    runs: dict[str, tuple[Run, Run]] = {"fla": functions(name)}
    runs |= {each: (partial(ours, backend=each), partial(ours, backend=each)) for each in backends}
    base: tuple[float, float] | None = None
    for by, (whole, single) in runs.items():
        best = 1e3 * best_of(lambda whole=whole: results(whole, inputs), device, seconds)
        with torch.no_grad():
            step = 1e6 * best_of(lambda single=single: single(once, state), device, seconds)
        base = base or (best, step)
        off = " ".join(f"{error:.0e}" for error in errors(results(whole, inputs), truth))
        print(
            f"{name:18s} {size!s:14s} {by:8s} {best:9.2f} {best / base[0]:6.2f} {step:9.1f} {step / base[1]:6.2f} {off}"
        )


def results(run: Run, inputs: Inputs) -> list[Tensor]:
    """The output and the gradients of its sum with fixed weights."""
    out, _ = run(inputs)
    weights = torch.linspace(-1, 1, out.shape[1], device=out.device).bfloat16().to(out.dtype)
    return [out.detach(), *torch.autograd.grad(out, inputs.leaves, weights[:, None, None].expand_as(out))]


def errors(found: Sequence[Tensor], truth: Sequence[Tensor]) -> Iterator[float]:
    """Of the output, then of the gradients."""
    for got, want in zip(found, truth, strict=True):
        yield ((got.double() - want).square().mean() / want.square().mean()).sqrt().item()
