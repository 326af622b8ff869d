"""The cases that `bench_kernels.py` times: every primitive with the arguments that change how it is computed."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from kernel_costs import WINDOW, Size
from torch import Tensor
from torch.nn.functional import normalize, scaled_dot_product_attention

from archloom.kernels import compiled
from archloom.kernels.attention import attention
from archloom.kernels.banded import banded
from archloom.kernels.feature_toeplitz import feature_toeplitz
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.local_linear import local_linear
from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.resolvent import delta_rule, resolvent
from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.short_convolution import short_convolution

MOST_BYTES = 1 << 30
FUSED = "attention, torch's own"
"""PyTorch's fused softmax attention, with which all are compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """A call with its arguments bound, which takes a backend, and the inputs to differentiate by.

    `folder` is that of its primitive, `reference_bytes` about what the reference keeps for its backward.
    """

    name: str
    call: Callable[..., Tensor]
    inputs: Sequence[Tensor]
    folder: str = ""
    reference_bytes: int = 0

    def backends(self, wanted: Sequence[str]) -> tuple[str, ...]:
        """Those of `wanted` that it has."""
        if self.name == FUSED:
            return ("torch",)
        return tuple(each for each in wanted if each != "triton" or self.folder in compiled.PRIMITIVES)

    def step(self, backend: str) -> Tensor:
        """One forward and backward; the output."""
        out = self.call() if self.name == FUSED else self.call(backend=backend)
        torch.autograd.grad(out, self.inputs, torch.ones_like(out))
        return out


def cases(size: Size, *, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Iterator[Case]:
    """Every case at a size; decays are float32 beside half precision."""
    wide = torch.float32 if dtype != torch.float64 else dtype
    shape = (size.batch, size.steps, size.heads)

    def leaf(*sizes: int) -> Tensor:
        return torch.randn(sizes, device=device).to(dtype).requires_grad_()

    def rate(*sizes: int) -> Tensor:
        return (-torch.rand(sizes, device=device)).to(wide).requires_grad_()

    q, k, v = (leaf(*shape, size.width) for _ in range(3))
    yield from _attention(size, q, k, v, rate(*shape), leaf(size.heads, size.steps, size.steps))
    key = normalize(k.detach(), dim=-1).requires_grad_()
    write = (key.detach() * torch.rand(*shape, 1, device=device).to(dtype)).requires_grad_()
    for kind, decay in (("none", None), ("head", rate(*shape)), ("channel", rate(*shape, size.width))):
        extra = [] if decay is None else [decay]
        call: Callable[..., Tensor] = partial(linear_attention, q, k, v, log_decay=decay)
        yield Case(name=f"linear attention, {kind}", call=call, inputs=[q, k, v, *extra], folder="linear_attention")
        call = partial(resolvent, write, key, v, log_decay=decay)
        yield Case(name=f"resolvent, {kind}", call=call, inputs=[write, key, v, *extra], folder="resolvent")
        call = partial(delta_rule, q, write, key, v, log_decay=decay)
        yield Case(name=f"delta rule, {kind}", call=call, inputs=[q, write, key, v, *extra], folder="resolvent")
    decay, bonus = rate(*shape, size.width), leaf(size.heads, size.width)
    call = partial(linear_attention, q, k, v, log_decay=decay, exclusive=True, bonus=bonus)
    yield Case(name="linear attention, bonus", call=call, inputs=[q, k, v, decay, bonus], folder="linear_attention")
    step, speed = (-rate(*shape, size.width)).detach().requires_grad_(), rate(size.heads, size.width, size.width)
    call = partial(selective_scan, q, k, v, step=step, rate=speed)
    yield Case(name="selective scan", call=call, inputs=[q, k, v, step, speed], folder="selective_scan")
    call, kept = partial(local_linear, q, k, v, ridge=1.0), 4 * size.tokens * size.steps * size.width
    yield Case(name="local linear", call=call, inputs=[q, k, v], folder="local_linear", reference_bytes=kept)
    taps = leaf(size.heads, size.steps)
    call = partial(feature_toeplitz, q, k, v, taps=taps)
    yield Case(name="feature Toeplitz", call=call, inputs=[q, k, v, taps], folder="feature_toeplitz")
    for reach in (4, 32):
        band = leaf(*shape, reach)
        yield Case(name=f"banded, W {reach}", call=partial(banded, band, v), inputs=[band, v], folder="banded")
    x, filter, few = v.detach().flatten(2).requires_grad_(), leaf(size.heads * size.width, size.steps), 4
    call = partial(long_convolution, x, filter)
    yield Case(name="long convolution", call=call, inputs=[x, filter], folder="long_convolution", reference_bytes=kept)
    short = leaf(size.heads * size.width, few)
    call = partial(short_convolution, x, short)
    yield Case(name="short convolution, W 4", call=call, inputs=[x, short], folder="short_convolution")


def _attention(size: Size, q: Tensor, k: Tensor, v: Tensor, decay: Tensor, bias: Tensor) -> Iterator[Case]:
    side_by_side = [x.detach().transpose(1, 2).contiguous().requires_grad_() for x in (q, k, v)]
    fused: Callable[..., Tensor] = partial(scaled_dot_product_attention, *side_by_side, is_causal=True)
    yield Case(name=FUSED, call=fused, inputs=side_by_side)
    mask = torch.rand(size.steps, size.steps, device=q.device) < 0.5
    kept, qkv = 4 * 4 * size.batch * size.heads * size.steps**2, [q, k, v]
    for name, call, inputs in (
        ("attention", partial(attention, q, k, v), qkv),
        (f"attention, window {WINDOW}", partial(attention, q, k, v, window=WINDOW), qkv),
        ("attention, decay", partial(attention, q, k, v, log_decay=decay), [*qkv, decay]),
        ("attention, mask", partial(attention, q, k, v, mask=mask), qkv),
        ("attention, plus one", partial(attention, q, k, v, normaliser="softmax_plus_one"), qkv),
        ("attention, bias", partial(attention, q, k, v, bias=bias), [*qkv, bias]),
    ):
        yield Case(name=name, call=call, inputs=inputs, folder="attention", reference_bytes=kept)
