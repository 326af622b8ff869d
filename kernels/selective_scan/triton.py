# mypy: disallow-incomplete-defs=False
"""The selective scan as Triton kernels, forward and backward; see README.md for the equations.

    B batch, T time, H heads, K channels, V values; N chunks of BLOCKS blocks of C steps
    states [B, H, N, K, V]    h before each chunk

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index. A program has BK channels and BV values of a head
and walks over time, a block [C, BK, BV] of states at once. What is summed over channels or values is written once for
each tile of them, [tiles, B, T, H, V or K], and added afterwards. Steps after the end read zeros, so that they
change nothing. All sums are float32, and in the same order every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation

C = tl.constexpr(16)
BLOCKS = tl.constexpr(4)
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def _steps(p_x, i_b, i_h, t, i_c, T, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    """Where steps t and BC columns from i_c on of [B, T, H, WIDTH] lie, and which exist."""
    column = i_c + tl.arange(0, BC)
    p_tile = p_x + ((i_b * T + t) * H + i_h)[:, None] * WIDTH + column[None, :]
    return p_tile, ((t >= 0) & (t < T))[:, None] & (column < WIDTH)[None, :]


@triton.jit
def _read(p_x, i_b, i_h, t, i_c, T, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    p_tile, exists = _steps(p_x, i_b, i_h, t, i_c, T, H, WIDTH, BC)
    return tl.load(p_tile, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _write(p_x, b_x, i_b, i_h, t, i_c, T, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    p_tile, exists = _steps(p_x, i_b, i_h, t, i_c, T, H, WIDTH, BC)
    tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def _tile(p_x, i_s, i_k, i_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Where a tile of state number i_s of [..., K, V] lies, and which of it exists."""
    row, column = i_k + tl.arange(0, BK), i_v + tl.arange(0, BV)
    p_tile = p_x + (i_s * K + row[:, None]) * V + column[None, :]
    return p_tile, (row < K)[:, None] & (column < V)[None, :]


@triton.jit
def _read_state(p_x, i_s, i_k, i_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """A tile of a state, zeros where there is none."""
    b_x = tl.zeros([BK, BV], tl.float32)
    if p_x is not None:
        p_tile, exists = _tile(p_x, i_s, i_k, i_v, K, V, BK, BV)
        b_x += tl.load(p_tile, mask=exists, other=0.0)
    return b_x


@triton.jit
def _write_state(p_x, b_x, i_s, i_k, i_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    if p_x is not None:
        p_tile, exists = _tile(p_x, i_s, i_k, i_v, K, V, BK, BV)
        tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def _place(i, H, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Batch, head, first channel and first value of program i."""
    values, channels = tl.cdiv(V, BV), tl.cdiv(K, BK)
    i_s = i // (values * channels)
    return i_s // H, i_s % H, i // values % channels * BK, i % values * BV


@triton.jit
def _outer(b_k, b_v):
    """[C, BK] and [C, BV]: [C, BK, BV]."""
    return b_k[:, :, None] * b_v[:, None, :]


@triton.jit
def _decay(b_step, b_rate):
    return tl.exp2(b_step[:, None, :] * (b_rate * LOG2_E)[None, :, :])


@triton.jit
def _at(b_x, i_x, SIZE: tl.constexpr):
    """Entry i_x of the first axis."""
    row = tl.arange(0, SIZE)[:, None, None]
    return tl.sum(tl.where(row == i_x, b_x, 0.0), 0)


@triton.jit
def _placed(b_x, i_x, SIZE: tl.constexpr):
    """[BK, BV] as entry i_x of zeros [SIZE, BK, BV]."""
    row = tl.arange(0, SIZE)[:, None, None]
    return tl.where(row == i_x, b_x[None, :, :], 0.0)


@triton.jit
def _then(decay, written, later_decay, later_written):
    return decay * later_decay, later_decay * written + later_written


@triton.jit
def _recurrence(b_decay, b_written, REVERSE: tl.constexpr):
    """x_t = decay_t x_{t-1} + written_t, or with x_{t+1} if REVERSE, over the first axis."""
    return tl.associative_scan((b_decay, b_written), 0, _then, reverse=REVERSE)[1]


@triton.jit
def _states(
    p_k, p_v, p_step, b_rate, b_h, i_b, i_h, t, i_k, i_v, T, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """States after steps t [C, BK, BV], of which b_h is the one before."""
    b_k, b_v = _read(p_k, i_b, i_h, t, i_k, T, H, K, BK), _read(p_v, i_b, i_h, t, i_v, T, H, V, BV)
    b_step = _read(p_step, i_b, i_h, t, i_v, T, H, V, BV)
    b_decay = _decay(b_step, b_rate)
    return _recurrence(b_decay, _outer(b_k, b_step * b_v) + b_decay * _placed(b_h, 0, C), False)


@triton.jit
def scan_kernel(
    p_q, p_k, p_v, p_step, p_rate, p_start, p_states, p_end, p_o, B, T, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Outputs, the states before each chunk and the one after the last step."""
    i = tl.program_id(0).to(tl.int64)
    i_b, i_h, i_k, i_v = _place(i, H, K, V, BK, BV)
    i_s, i_o, row = i_b * H + i_h, i_k // BK * B + i_b, tl.arange(0, C)
    b_rate = _read_state(p_rate, i_h, i_k, i_v, K, V, BK, BV)
    b_h = _read_state(p_start, i_s, i_k, i_v, K, V, BK, BV)
    chunks = tl.cdiv(T, C * BLOCKS)
    for i_n in range(chunks):
        _write_state(p_states, b_h, i_s * chunks + i_n, i_k, i_v, K, V, BK, BV)
        for i_c in range(tl.minimum(BLOCKS, tl.cdiv(T, C) - i_n * BLOCKS)):
            t = (i_n * BLOCKS + i_c) * C + row
            b_hs = _states(p_k, p_v, p_step, b_rate, b_h, i_b, i_h, t, i_k, i_v, T, H, K, V, BK, BV)
            b_q = _read(p_q, i_b, i_h, t, i_k, T, H, K, BK)
            _write(p_o, tl.sum(b_q[:, :, None] * b_hs, 1), i_o, i_h, t, i_v, T, H, V, BV)
            b_h = _at(b_hs, C - 1, C)
    _write_state(p_end, b_h, i_s, i_k, i_v, K, V, BK, BV)


@triton.jit
def _block_gradient(
    p_q, p_k, p_v, p_step, p_do, p_dq, p_dk, p_dv, p_dstep, b_rate, b_h, b_later, i_b, i_h, i_t, i_k, i_v, B, T, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Writes the gradients of C steps from i_t on; those of the state before them and of the rate [BK, BV].

    `b_h` is the state before them, `b_later` what later steps ask of the state after them. Decays are read a step
    early and a step late too: entries of a block cannot be shifted.
    """
    row = tl.arange(0, C)
    t, before, after = i_t + row, tl.where(row > 0, i_t + row - 1, -1), tl.where(row < C - 1, i_t + row + 1, T)
    b_step = _read(p_step, i_b, i_h, before, i_v, T, H, V, BV)
    b_k, b_v = _read(p_k, i_b, i_h, before, i_k, T, H, K, BK), _read(p_v, i_b, i_h, before, i_v, T, H, V, BV)
    b_early = _recurrence(_decay(b_step, b_rate), _outer(b_k, b_step * b_v) + _placed(b_h, 0, C), False)

    b_q, b_do = _read(p_q, i_b, i_h, t, i_k, T, H, K, BK), _read(p_do, i_b, i_h, t, i_v, T, H, V, BV)
    b_step = _read(p_step, i_b, i_h, after, i_v, T, H, V, BV)
    b_dh = _recurrence(_decay(b_step, b_rate), _outer(b_q, b_do) + _placed(b_later, C - 1, C), True)

    b_k, b_v = _read(p_k, i_b, i_h, t, i_k, T, H, K, BK), _read(p_v, i_b, i_h, t, i_v, T, H, V, BV)
    b_step = _read(p_step, i_b, i_h, t, i_v, T, H, V, BV)
    b_decay, b_w = _decay(b_step, b_rate), b_step * b_v
    i_q, i_o = i_v // BV * B + i_b, i_k // BK * B + i_b
    b_hs = b_decay * b_early + _outer(b_k, b_w)
    _write(p_dq, tl.sum(b_hs * b_do[:, None, :], 2), i_q, i_h, t, i_k, T, H, K, BK)
    _write(p_dk, tl.sum(b_dh * b_w[:, None, :], 2), i_q, i_h, t, i_k, T, H, K, BK)
    b_dw = tl.sum(b_dh * b_k[:, :, None], 1)
    _write(p_dv, b_dw * b_step, i_o, i_h, t, i_v, T, H, V, BV)
    b_dh *= b_decay  # of the state before a step
    b_dlog = b_dh * b_early
    _write(p_dstep, b_dw * b_v + tl.sum(b_dlog * b_rate[None, :, :], 1), i_o, i_h, t, i_v, T, H, V, BV)
    return _at(b_dh, 0, C), tl.sum(b_dlog * b_step[:, None, :], 0)


@triton.jit
def gradient_kernel(
    p_q, p_k, p_v, p_step, p_rate, p_states, p_do, p_dend, p_dq, p_dk, p_dv, p_dstep, p_drate, p_dstart, B, T, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Gradients of all inputs, that of the rate for each batch; the states before each block of a chunk come first."""
    i = tl.program_id(0).to(tl.int64)
    i_b, i_h, i_k, i_v = _place(i, H, K, V, BK, BV)
    i_s, row, chunks = i_b * H + i_h, tl.arange(0, C), tl.cdiv(T, C * BLOCKS)
    b_rate = _read_state(p_rate, i_h, i_k, i_v, K, V, BK, BV)
    b_later = _read_state(p_dend, i_s, i_k, i_v, K, V, BK, BV)
    b_drate = tl.zeros([BK, BV], tl.float32)
    for step in range(chunks):
        i_n = chunks - 1 - step
        i_t, blocks = i_n * (C * BLOCKS), tl.minimum(BLOCKS, tl.cdiv(T, C) - i_n * BLOCKS)
        b_h = _read_state(p_states, i_s * chunks + i_n, i_k, i_v, K, V, BK, BV)
        b_starts = _placed(b_h, 0, BLOCKS)
        for i_c in range(1, blocks):
            t = i_t + (i_c - 1) * C + row
            b_h = _at(_states(p_k, p_v, p_step, b_rate, b_h, i_b, i_h, t, i_k, i_v, T, H, K, V, BK, BV), C - 1, C)
            b_starts += _placed(b_h, i_c, BLOCKS)
        for i_c in range(blocks):
            i_c = blocks - 1 - i_c
            b_later, b_more = _block_gradient(
                p_q, p_k, p_v, p_step, p_do, p_dq, p_dk, p_dv, p_dstep, b_rate, _at(b_starts, i_c, BLOCKS), b_later,
                i_b, i_h, i_t + i_c * C, i_k, i_v, B, T, H, K, V, BK, BV,
            )  # fmt: skip
            b_drate += b_more
    _write_state(p_drate, b_drate, i_s, i_k, i_v, K, V, BK, BV)
    _write_state(p_dstart, b_later, i_s, i_k, i_v, K, V, BK, BV)


TILE = 16
"""Channels, and values, of a program at most."""


def _tiles(key: int, value: int, elements: int) -> dict[str, int]:
    """Channels and values of a program, and its warps: a thread has C times `elements` entries of a block."""
    block_k, block_v = (min(TILE, triton.next_power_of_2(size)) for size in (key, value))
    warps = min(8, max(1, block_k * block_v // (32 * elements)))
    return {"BK": block_k, "BV": block_v, "num_warps": warps}


def _launch(q: Tensor, v: Tensor, elements: int) -> tuple[int, dict[str, int]]:
    """Programs of a launch, and its constants."""
    (batch, _, heads, key), value = q.shape, v.shape[-1]
    tiles = _tiles(key, value, elements)
    programs = batch * heads * triton.cdiv(key, tiles["BK"]) * triton.cdiv(value, tiles["BV"])
    return programs, {"K": key, "V": value, **tiles}


def _room(x: Tensor, size: int) -> Tensor:
    """Room for a part of x from each tile of `size` columns: float32, or the type of x where there is but one."""
    tiles = triton.cdiv(size, TILE)
    return torch.empty(tiles, *x.shape, dtype=torch.float32 if tiles > 1 else x.dtype, device=x.device)


def _whole(parts: Tensor, dtype: torch.dtype) -> Tensor:
    return parts[0] if len(parts) == 1 else parts.sum(0).to(dtype)


class _SelectiveScan(torch.autograd.Function):
    """Keeps its arguments and the states before each chunk; the states in a chunk are made again."""

    @staticmethod
    def forward(ctx, q, k, v, step, rate, initial_state, return_state, differentiable):
        (batch, steps, heads, key), value = q.shape, v.shape[-1]
        states = last = None
        if differentiable:
            chunks = triton.cdiv(steps, C.value * BLOCKS.value)
            states = torch.empty(batch, heads, chunks, key, value, dtype=torch.float32, device=q.device)
        if return_state:
            last = torch.empty(batch, heads, key, value, dtype=torch.float32, device=q.device)
        parts = _room(v, key)
        programs, constants = _launch(q, v, 2)
        scan_kernel[(programs,)](
            q, k, v, step, rate, initial_state, states, last, parts, batch, steps, heads, **constants
        )
        ctx.save_for_backward(q, k, v, step, rate, states)
        ctx.with_start = initial_state is not None
        return _whole(parts, v.dtype), last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        q, k, v, step, rate, states = ctx.saved_tensors
        dout, dlast = dout.contiguous(), None if dlast is None else dlast.contiguous()
        (batch, steps, heads, key), value = q.shape, v.shape[-1]
        slopes = [_room(x, size) for x, size in ((q, value), (k, value), (v, key), (step, key))]
        drate = torch.empty(batch, *rate.shape, dtype=torch.float32, device=q.device)
        dstart = torch.empty_like(drate) if ctx.with_start else None
        programs, constants = _launch(q, v, 1)
        gradient_kernel[(programs,)](
            q, k, v, step, rate, states, dout, dlast, *slopes, drate, dstart, batch, steps, heads, **constants
        )
        wholes = (_whole(parts, x.dtype) for parts, x in zip(slopes, (q, k, v, step), strict=True))
        return *wholes, drate.sum(0).to(rate.dtype), dstart, None, None


def selective_scan(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, rate: Tensor, initial_state: Tensor | None, return_state: bool
) -> tuple[Tensor, Tensor | None]:
    """Output [B, T, H, V] in the dtype of v, and the last state [B, H, K, V] if it is asked for."""
    if q.dtype == torch.float64:
        raise ValueError('q has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    given = (q, k, v, step, rate, initial_state)
    differentiable = torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in given)
    tensors = (None if each is None else each.contiguous() for each in given)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out: tuple[Tensor, Tensor | None] = _SelectiveScan.apply(  # type: ignore[no-untyped-call]
            *tensors, return_state, differentiable
        )
    return out


def _specialised(
    kernel: Any, key: int, value: int, dtype: torch.dtype, *, whole: bool = False, **known: int
) -> Specialisation:
    """A launch with states given and asked for if `whole`, and some sizes known, as Triton knows those of 1."""
    tiles = _tiles(key, value, 2 if kernel is scan_kernel else 1)
    constants = {"K": key, "V": value, "BK": tiles["BK"], "BV": tiles["BV"], **known}
    absent = () if whole else ("p_start", "p_end", "p_dend", "p_dstart")
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    summed = {"p_o": key, "p_dq": value, "p_dk": value, "p_dv": key}
    types = {name: "*fp32" if size > TILE else own for name, size in summed.items()}
    wide = ("p_rate", "p_step", "p_dstep", "p_drate", "p_states", "p_start", "p_end", "p_dend", "p_dstart")
    types |= dict.fromkeys(wide, "*fp32") | dict.fromkeys("BTH", "i32")
    names = [name for name in kernel.arg_names if name not in constants]
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, own) for name in names if name not in absent},
        constants={name: constants.get(name) for name in kernel.arg_names if name in constants or name in absent},
        warps=tiles["num_warps"],
    )


LOW, FULL = torch.bfloat16, torch.float32
SPECIALISATIONS = tuple(
    each
    for kernel in (scan_kernel, gradient_kernel)
    for each in (
        _specialised(kernel, 16, 64, LOW),
        _specialised(kernel, 16, 64, FULL, whole=True),
        _specialised(kernel, 64, 64, LOW, whole=True),
        _specialised(kernel, 1, 1, LOW, B=1, T=1, H=1),
        _specialised(kernel, 100, 5, FULL),
    )
)
