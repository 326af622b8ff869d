# mypy: disallow-incomplete-defs=False
"""Convolution with data-dependent taps as Triton kernels, forward and backward; see README.md.

    taps [B, T, H, W]     taps[..., 0] multiplies the current step
    v [B, E + T, H, V]    values, the first E of them before the first output

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index. What lies before or after a sequence reads as
zeros. Sums are float32, and in the same order every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation


@triton.jit
def _read(p_x, i_b, i_h, row, column, ROWS, H, V: tl.constexpr):
    """Rows and columns of a head of [B, ROWS, H, V], float32."""
    exists = ((row >= 0) & (row < ROWS))[:, None] & (column < V)[None, :]
    p_tile = p_x + ((i_b * ROWS + row) * H + i_h)[:, None] * V + column[None, :]
    return tl.load(p_tile, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _taps(p_taps, i_b, i_h, row, j, T, H, W: tl.constexpr):
    """Where tap j of steps `row` lies, and which exist."""
    return p_taps + ((i_b * T + row) * H + i_h) * W + j, (row >= 0) & (row < T)


@triton.jit
def band_kernel(
    p_x, p_taps, p_o, FROM, TO, T, H,
    V: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Outputs TO = T from values FROM = E + T; if REVERSE, gradients of these values from those FROM = T of outputs.

    A program for BT steps and BV columns of a head.
    """
    tiles, blocks = tl.cdiv(V, BV), tl.cdiv(TO, BT)
    i = tl.program_id(0).to(tl.int64)
    i_v, i_t, i_s = i % tiles * BV, i // tiles % blocks * BT, i // (tiles * blocks)
    i_b, i_h = i_s // H, i_s % H
    row, column = i_t + tl.arange(0, BT), i_v + tl.arange(0, BV)
    b_o = tl.zeros([BT, BV], tl.float32)
    for j in range(W):
        read = row + (FROM - TO) + j if REVERSE else row + (FROM - TO) - j
        p_tap, exists = _taps(p_taps, i_b, i_h, read if REVERSE else row, j, T, H, W)
        b_tap = tl.load(p_tap, mask=exists, other=0.0).to(tl.float32)
        b_o += b_tap[:, None] * _read(p_x, i_b, i_h, read, column, FROM, H, V)
    p_tile = p_o + ((i_b * TO + row) * H + i_h)[:, None] * V + column[None, :]
    tl.store(p_tile, b_o.to(p_o.dtype.element_ty), mask=(row < TO)[:, None] & (column < V)[None, :])


@triton.jit
def taps_kernel(p_x, p_do, p_dtaps, E, T, H, V: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BV: tl.constexpr):
    """The gradient of tap j of a step, sum over V of do_t v_{t-j}; a program for BT steps of a head."""
    blocks = tl.cdiv(T, BT)
    i = tl.program_id(0).to(tl.int64)
    i_s, row = i // blocks, i % blocks * BT + tl.arange(0, BT)
    i_b, i_h = i_s // H, i_s % H
    for j in range(W):
        b_sum = tl.zeros([BT], tl.float32)
        for i_v in range(0, V, BV):
            column = i_v + tl.arange(0, BV)
            b_x = _read(p_x, i_b, i_h, row + (E - j), column, E + T, H, V)
            b_sum += tl.sum(_read(p_do, i_b, i_h, row, column, T, H, V) * b_x, 1)
        p_tap, exists = _taps(p_dtaps, i_b, i_h, row, j, T, H, W)
        tl.store(p_tap, b_sum.to(p_dtaps.dtype.element_ty), mask=exists)


STEPS, VALUES = 64, 32
"""Steps and, at most, values of a block."""


def _tiles(value: int) -> dict[str, int]:
    return {"BT": STEPS, "BV": min(VALUES, triton.next_power_of_2(value))}


def _band(x: Tensor, taps: Tensor, steps: int, *, reverse: bool = False) -> Tensor:
    """`steps` outputs of values x, or if reverse gradients of values from the gradient x of the outputs."""
    (batch, given, heads, value), (times, width) = x.shape, (taps.shape[1], taps.shape[3])
    tiles = _tiles(value)
    out = torch.empty(batch, steps, heads, value, dtype=x.dtype, device=x.device)
    programs = batch * heads * triton.cdiv(steps, STEPS) * triton.cdiv(value, tiles["BV"])
    band_kernel[(programs,)](x, taps, out, given, steps, times, heads, V=value, W=width, REVERSE=reverse, **tiles)
    return out


class _Banded(torch.autograd.Function):
    """Keeps its arguments."""

    @staticmethod
    def forward(ctx, taps, values):
        ctx.save_for_backward(taps, values)
        return _band(values, taps, taps.shape[1])

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        taps, values = ctx.saved_tensors
        grad, (for_taps, for_values) = grad.contiguous(), ctx.needs_input_grad
        dvalues = _band(grad, taps, values.shape[1], reverse=True) if for_values else None
        if not for_taps:
            return None, dvalues
        (batch, steps, heads, width), value = taps.shape, values.shape[-1]
        dtaps = torch.empty_like(taps)
        taps_kernel[(batch * heads * triton.cdiv(steps, STEPS),)](
            values, grad, dtaps, values.shape[1] - steps, steps, heads, V=value, W=width, **_tiles(value)
        )
        return dtaps, dvalues


def banded(taps: Tensor, values: Tensor) -> Tensor:
    """Taps [B, T, H, W] over values [B, E + T, H, V], E of any size: [B, T, H, V] in the dtype of the values."""
    if values.dtype == torch.float64:
        raise ValueError('v has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        out: Tensor = _Banded.apply(taps.contiguous(), values.contiguous())  # type: ignore[no-untyped-call]
    return out


def _specialised(kernel: Any, dtype: torch.dtype, value: int, width: int, **constants: object) -> Specialisation:
    """A launch with some arguments known, as Triton knows those of 1."""
    known = {"V": value, "W": width, **_tiles(value), **constants}
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    names = [name for name in kernel.arg_names if name not in known]
    return Specialisation(
        kernel=kernel, types={name: own if name[:2] == "p_" else "i32" for name in names}, constants=known
    )


LOW, FULL = torch.bfloat16, torch.float32
LAUNCHES: tuple[tuple[Any, dict[str, object]], ...] = (
    (band_kernel, {"REVERSE": False}),
    (band_kernel, {"REVERSE": True}),
    (taps_kernel, {}),
)
SPECIALISATIONS = (
    *(
        _specialised(kernel, dtype, value, width, **constants)
        for kernel, constants in LAUNCHES
        for dtype, value, width in ((LOW, 64, 4), (FULL, 128, 32), (LOW, 5, 33))
    ),
    _specialised(band_kernel, LOW, 64, 2, REVERSE=True, FROM=1, TO=1, T=1, H=1),
    _specialised(taps_kernel, LOW, 64, 2, E=1, T=1, H=1),
)
