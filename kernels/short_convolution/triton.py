# mypy: disallow-incomplete-defs=False
"""Short convolution as Triton kernels, forward and backward; see README.md.

    x [B, E + T, C]    inputs, the first E of them before the first output
    taps [C, W]        taps[:, 0] multiplies the current step

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

SPAN = tl.constexpr(8)  # blocks of steps in a partial sum of the gradient of taps


@triton.jit
def _read(p_x, i_b, row, column, ROWS, C: tl.constexpr):
    """Rows and columns of a batch of [B, ROWS, C], float32."""
    exists = ((row >= 0) & (row < ROWS))[:, None] & (column < C)[None, :]
    return tl.load(p_x + (i_b * ROWS + row)[:, None] * C + column[None, :], mask=exists, other=0.0).to(tl.float32)


@triton.jit
def convolution_kernel(
    p_x, p_taps, p_bias, p_y, FROM, TO, shift,
    C: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr, SIGN: tl.constexpr,
):  # fmt: skip
    """y_t = bias + sum over j of taps_j x_{t + shift + SIGN j}, x of FROM steps and y of TO.

    A program for BT steps and BC channels of y.
    """
    tiles, blocks = tl.cdiv(C, BC), tl.cdiv(TO, BT)
    i = tl.program_id(0).to(tl.int64)
    i_b, i_t, i_c = i // (tiles * blocks), i // tiles % blocks * BT, i % tiles * BC
    row, column = i_t + tl.arange(0, BT), i_c + tl.arange(0, BC)
    b_y = tl.zeros([BT, BC], tl.float32)
    if p_bias is not None:
        b_y += tl.load(p_bias + column, mask=column < C, other=0.0).to(tl.float32)[None, :]
    for j in range(W):
        b_tap = tl.load(p_taps + column * W + j, mask=column < C, other=0.0).to(tl.float32)
        b_y += b_tap[None, :] * _read(p_x, i_b, row + (shift + SIGN * j), column, FROM, C)
    p_tile = p_y + (i_b * TO + row)[:, None] * C + column[None, :]
    tl.store(p_tile, b_y.to(p_y.dtype.element_ty), mask=(row < TO)[:, None] & (column < C)[None, :])


@triton.jit
def taps_kernel(
    p_x, p_dy, p_dtaps, p_dbias, E, T,
    C: tl.constexpr, W: tl.constexpr, BT: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Gradients of taps and bias from SPAN blocks of steps, [.., C, W] and [.., C]; a program for BC channels."""
    tiles, spans = tl.cdiv(C, BC), tl.cdiv(T, BT * SPAN)
    i = tl.program_id(0).to(tl.int64)
    i_p, i_c = i // tiles, i % tiles * BC
    i_b, i_t, column = i_p // spans, i_p % spans * (BT * SPAN), i_c + tl.arange(0, BC)
    blocks = tl.minimum(SPAN, tl.cdiv(T - i_t, BT).to(tl.int32))
    for j in range(W):
        b_sum = tl.zeros([BC], tl.float32)
        for i_n in range(blocks):
            row = i_t + i_n * BT + tl.arange(0, BT)
            b_x = _read(p_x, i_b, row + (E - j), column, E + T, C)
            b_sum += tl.sum(_read(p_dy, i_b, row, column, T, C) * b_x, 0)
        tl.store(p_dtaps + (i_p * C + column) * W + j, b_sum, mask=column < C)
    if p_dbias is not None:
        b_sum = tl.zeros([BC], tl.float32)
        for i_n in range(blocks):
            row = i_t + i_n * BT + tl.arange(0, BT)
            b_sum += tl.sum(_read(p_dy, i_b, row, column, T, C), 0)
        tl.store(p_dbias + i_p * C + column, b_sum, mask=column < C)


STEPS, CHANNELS = 32, 64
"""Steps and, at most, channels of a block."""


def _tiles(channels: int) -> dict[str, int]:
    return {"BT": STEPS, "BC": min(CHANNELS, triton.next_power_of_2(channels))}


def _convolution(x: Tensor, taps: Tensor, bias: Tensor | None, steps: int, *, reverse: bool = False) -> Tensor:
    """The last `steps` outputs of x; if reverse, `steps` gradients of its inputs from the gradient x of the outputs."""
    batch, given, channels = x.shape
    tiles = _tiles(channels)
    out = torch.empty(batch, steps, channels, dtype=x.dtype, device=x.device)
    programs = batch * triton.cdiv(steps, STEPS) * triton.cdiv(channels, tiles["BC"])
    convolution_kernel[(programs,)](
        x, taps, bias, out, given, steps, given - steps,
        C=channels, W=taps.shape[1], SIGN=1 if reverse else -1, **tiles,
    )  # fmt: skip
    return out


class _ShortConvolution(torch.autograd.Function):
    """Keeps its arguments."""

    @staticmethod
    def forward(ctx, inputs, taps, bias, steps):
        ctx.save_for_backward(inputs, taps)
        ctx.with_bias = bias is not None
        return _convolution(inputs, taps, bias, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        inputs, taps = ctx.saved_tensors
        grad, (for_inputs, for_taps, for_bias, _) = grad.contiguous(), ctx.needs_input_grad
        batch, steps, channels = grad.shape
        dinputs = _convolution(grad, taps, None, inputs.shape[1], reverse=True) if for_inputs else None
        if not (for_taps or for_bias):
            return dinputs, None, None, None
        tiles = _tiles(channels)
        spans = batch * triton.cdiv(steps, STEPS * SPAN.value)
        dtaps = torch.empty(spans, *taps.shape, dtype=torch.float32, device=grad.device)
        dbias = torch.empty(spans, channels, dtype=torch.float32, device=grad.device) if ctx.with_bias else None
        taps_kernel[(spans * triton.cdiv(channels, tiles["BC"]),)](
            inputs, grad, dtaps, dbias, inputs.shape[1] - steps, steps, C=channels, W=taps.shape[1], **tiles
        )
        for_all = None if dbias is None else dbias.sum(0).to(taps.dtype)
        return dinputs, dtaps.sum(0).to(taps.dtype), for_all, None


def short_convolution(inputs: Tensor, taps: Tensor, bias: Tensor | None, steps: int) -> Tensor:
    """The last `steps` outputs [B, T, C] of inputs [B, E + T, C], E of any size, in the dtype of the inputs."""
    if inputs.dtype == torch.float64:
        raise ValueError('x has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    tensors = (None if each is None else each.contiguous() for each in (inputs, taps, bias))
    with torch.cuda.device_of(inputs):  # type: ignore[no-untyped-call]
        out: Tensor = _ShortConvolution.apply(*tensors, steps)  # type: ignore[no-untyped-call]
    return out


def _specialised(kernel: Any, dtype: torch.dtype, channels: int, width: int, **constants: object) -> Specialisation:
    """A launch with some arguments known, as Triton knows absent ones and those of 1."""
    known = {"C": channels, "W": width, **_tiles(channels), **constants}
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = {"p_dtaps": "*fp32", "p_dbias": "*fp32"}
    names = [name for name in kernel.arg_names if name not in known]
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, own) if name[:2] == "p_" else "i32" for name in names},
        constants=known,
    )


LOW, FULL = torch.bfloat16, torch.float32
LAUNCHES: tuple[tuple[Any, dict[str, object]], ...] = (
    (convolution_kernel, {"SIGN": -1}),
    (convolution_kernel, {"SIGN": 1, "p_bias": None}),
    (taps_kernel, {}),
)
SPECIALISATIONS = (
    *(
        _specialised(kernel, dtype, channels, width, **constants)
        for kernel, constants in LAUNCHES
        for dtype, channels, width in ((LOW, 1024, 4), (FULL, 1024, 4), (LOW, 3, 33))
    ),
    _specialised(convolution_kernel, LOW, 64, 2, SIGN=-1, FROM=1, TO=1),
    _specialised(taps_kernel, LOW, 64, 2, E=1, T=1, p_dbias=None),
)
