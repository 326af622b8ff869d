# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Where the parts of a chunk lie in memory, and decays in it: for Triton kernels of mixers that keep a state.

    B batch, T time, H heads; M chunks of C steps, the last of which may have less
    G [B, T, H, W]   log decay summed from the start of each chunk, in units of log 2; W = 1 by head
    states [..., Y, X]   matrices by number, such as those of [B, H, M]

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index; `i_r` is the row of [B * T * H] at which a chunk of
a head starts, and `left` the number of its steps. Steps after the end read zeros and the last G, so that they change
nothing. Sums over time and states are float32, and in the same order every time.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

C = tl.constexpr(64)
LEVELS = tl.constexpr(6)  # C = 2^LEVELS
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(i, T, H):
    """Of chunk i of [B, M, H]: its head, its first row of [B * T * H], its number in [B, H, M], and its steps."""
    chunks = tl.cdiv(T, C)
    i_h, i_m, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, i_s = (i_b * T + i_m * C) * H + i_h, (i_b * H + i_h) * chunks + i_m
    return i_h, i_r, i_s, tl.minimum(T - i_m * C, C).to(tl.int32)


@triton.jit
def chunk_of(i_s, i_m, T, H):
    """Of chunk i_m of head i_s of [B, H]: its first row of [B * T * H], and its steps."""
    return (i_s // H * T + i_m * C) * H + i_s % H, tl.minimum(T - i_m * C, C).to(tl.int32)


@triton.jit
def _tile(p_x, i_r, left, i_c, H, WIDTH, BC: tl.constexpr):
    """Where the steps of a chunk and BC columns from i_c on of [B, T, H, WIDTH] lie, and which exist."""
    row, column = tl.arange(0, C), i_c + tl.arange(0, BC)
    p_tile = p_x + i_r * WIDTH + row[:, None] * (H * WIDTH) + column[None, :]
    return p_tile, (row < left)[:, None] & (column < WIDTH)[None, :]


@triton.jit
def load_tile(p_x, i_r, left, i_c, H, WIDTH, BC: tl.constexpr):
    p_tile, exists = _tile(p_x, i_r, left, i_c, H, WIDTH, BC)
    return tl.load(p_tile, mask=exists, other=0.0)


@triton.jit
def store_tile(p_x, b_x, i_r, left, i_c, H, WIDTH, BC: tl.constexpr):
    p_tile, exists = _tile(p_x, i_r, left, i_c, H, WIDTH, BC)
    tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def _state(p_x, i_s, i_y, i_x, Y: tl.constexpr, X: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    """Where a tile of state number i_s of [..., Y, X] lies, and which of it exists."""
    row, column = i_y + tl.arange(0, BY), i_x + tl.arange(0, BX)
    p_tile = p_x + i_s * (Y * X) + row[:, None] * X + column[None, :]
    return p_tile, (row < Y)[:, None] & (column < X)[None, :]


@triton.jit
def load_state(p_x, i_s, i_y, i_x, Y: tl.constexpr, X: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    p_tile, exists = _state(p_x, i_s, i_y, i_x, Y, X, BY, BX)
    return tl.load(p_tile, mask=exists, other=0.0)


@triton.jit
def store_state(p_x, b_x, i_s, i_y, i_x, Y: tl.constexpr, X: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    p_tile, exists = _state(p_x, i_s, i_y, i_x, Y, X, BY, BX)
    tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def load_decay(p_g, row, i_r, left, i_c, H, W, BW: tl.constexpr):
    """G at rows of a chunk, [rows, BW]; past the end the last one."""
    column = i_c + tl.arange(0, BW)
    p_tile = p_g + i_r * W + tl.minimum(row, left - 1)[:, None] * (H * W) + column[None, :]
    return tl.load(p_tile, mask=(column < W)[None, :], other=0.0)


@triton.jit
def last_decay(p_g, i_r, left, i_c, H, W, BW: tl.constexpr):
    """G at the end of a chunk, [BW]."""
    column = i_c + tl.arange(0, BW)
    p_last = p_g + i_r * W + (left - 1) * (H * W)
    return tl.load(p_last + column, mask=column < W, other=0.0)


@triton.jit
def lower(b_a, b_gq, b_gk, W: tl.constexpr, STRICT: tl.constexpr):
    """A [C, C], if W = 1 times the decay e^(Gq_t - Gk_s) of a head; zero for s > t, and for s = t if STRICT."""
    row = tl.arange(0, C)
    seen = row[:, None] >= row[None, :] + STRICT
    if W == 1:
        b_a *= tl.exp2(tl.where(seen, b_gq - tl.trans(b_gk), float("-inf")))
    else:
        b_a = tl.where(seen, b_a, 0.0)
    return b_a


@triton.jit
def on_diagonal(b_x):
    """[C] on the diagonal of [C, C]."""
    row = tl.arange(0, C)
    return tl.where(row[:, None] == row[None, :], b_x[:, None], 0.0)


@triton.jit
def diagonal_of(b_x):
    """The diagonal [C] of [C, C]."""
    row = tl.arange(0, C)
    return tl.sum(tl.where(row[:, None] == row[None, :], b_x, 0.0), 1)


@triton.jit
def sides(i_l):
    """Which rows are of second halves of blocks of 2 * 2^i_l steps [C, 1], and which pairs of both of one [C, C]."""
    row = tl.arange(0, C)
    return (((row >> i_l) & 1) == 1)[:, None], ((row[:, None] ^ row[None, :]) >> i_l) == 1


@triton.jit
def halves(p_g, b_q, b_k, b_gq, b_gk, i_l, i_r, left, i_c, H, W, BW: tl.constexpr):
    """Queries and keys relative to G = R at the borders between halves of 2^i_l steps.

    x [C, BW] is q e^(Gq - R) in the rows of second halves and k e^(R - Gk) in those of first halves. Returns x, these
    exponentials, none above 1, and the `sides`.
    """
    row = tl.arange(0, C)
    second, pairs = sides(i_l)
    border = ((row >> i_l) | 1) * (1 << i_l) - 1
    b_r = load_decay(p_g, border, i_r, left, i_c, H, W, BW)
    b_e = tl.exp2(tl.where(second, b_gq - b_r, b_r - b_gk))
    return (tl.where(second, b_q, b_k) * b_e).to(b_q.dtype), b_e, second, pairs


@triton.jit(do_not_specialize=["T"])
def decay_kernel(p_log_decay, p_g, T, WIDTH, BW: tl.constexpr):
    """G from log decays [B, T, WIDTH]; a program for BW columns of a chunk."""
    i, columns, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(WIDTH, BW), tl.cdiv(T, C)
    i_c, i_m, i_b = i % columns * BW, i // columns % chunks, i // columns // chunks
    row, column = i_m * C + tl.arange(0, C), i_c + tl.arange(0, BW)
    at = (i_b * T + row)[:, None] * WIDTH + column[None, :]
    exists = (row < T)[:, None] & (column < WIDTH)[None, :]
    b_g = tl.load(p_log_decay + at, mask=exists, other=0.0).to(tl.float32)
    tl.store(p_g + at, tl.cumsum(b_g, 0) * LOG2_E, mask=exists)


def decay_sums(log_decay: Tensor) -> Tensor:
    """G of a log decay [B, T, ...], float32."""
    batch, steps = log_decay.shape[:2]
    width = log_decay[0, 0].numel()
    sums = torch.empty_like(log_decay, dtype=torch.float32)
    block = min(64, triton.next_power_of_2(width))
    programs = batch * triton.cdiv(steps, C.value) * triton.cdiv(width, block)
    decay_kernel[(programs,)](log_decay, sums, steps, width, BW=block)
    return sums
