# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Where the parts of a chunk and of its slots lie in memory, for the kernels of `triton_forward` and `triton_backward`.

    B batch, T time, H heads, K key channels, V value channels, N slots; M chunks of C steps
    read, write [B, T, R, N]    routes; R = H, or 1 where all heads share them
    G [B, T, H, N]              log decay of slots summed from the start of each chunk, in units of log 2
    through [B, H, M, C, C]     sum_n read_tn write_sn e^(G_tn - G_sn) for s <= t, zero above; or its gradient
    states [B, H, M, N, V, K]   S before each chunk, or the gradient of S after it, transposed

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index; `i_r` is the row of [B * T * H] at which a chunk of
a head starts, and `left` the number of its steps, C but for the last chunk. Steps after the end read zeros as queries,
keys, values and routes and the last G, so that they change nothing. Sums over time and states are float32, and in the
same order every time.
"""

import triton
import triton.language as tl

C = tl.constexpr(64)
LEVELS = tl.constexpr(6)  # C = 2^LEVELS
LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def place(i, T, H):
    """Of chunk i of [B, M, H]: its batch, its number, its head, its first row of [B * T * H], and its steps."""
    chunks = tl.cdiv(T, C)
    i_h, i_m, i_b = i % H, i // H % chunks, i // H // chunks
    return i_b, i_m, i_h, (i_b * T + i_m * C) * H + i_h, tl.minimum(T - i_m * C, C).to(tl.int32)


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
def load_slot(p_x, i_r, left, i_n, H, N):
    """Column i_n of the steps of a chunk of [B, T, H, N], [C] float32."""
    row = tl.arange(0, C)
    return tl.load(p_x + (i_r + row * H) * N + i_n, mask=row < left, other=0.0).to(tl.float32)


@triton.jit
def store_slot(p_x, b_x, i_r, left, i_n, H, N):
    row = tl.arange(0, C)
    tl.store(p_x + (i_r + row * H) * N + i_n, b_x, mask=row < left)


@triton.jit
def route_row(i_r, i_h, H, R):
    """The row of [B * T * R] that is row i_r of [B * T * H]."""
    return i_r // H * R + i_h % R


@triton.jit
def slot_decay(p_g, i_r, left, i_n, H, N):
    """G of a slot [C], past the end the last one, and the last one."""
    row = tl.arange(0, C)
    b_g = tl.load(p_g + (i_r + tl.minimum(row, left - 1) * H) * N + i_n)
    return b_g, tl.load(p_g + (i_r + (left - 1) * H) * N + i_n)


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
def _square(p_x, i_s):
    row, column = tl.arange(0, C), tl.arange(0, C)
    return p_x + i_s * (C * C) + row[:, None] * C + column[None, :]


@triton.jit
def load_square(p_x, i_s):
    """Matrix number i_s of [..., C, C]."""
    return tl.load(_square(p_x, i_s))


@triton.jit
def store_square(p_x, b_x, i_s):
    tl.store(_square(p_x, i_s), b_x)


@triton.jit
def lower(b_x):
    row = tl.arange(0, C)
    return tl.where(row[:, None] >= row[None, :], b_x, 0.0)


@triton.jit
def halves(p_g, b_r, b_w, i_l, i_r, left, i_n, H, N, BN: tl.constexpr):
    """Routes relative to G = R at the borders between halves of 2^i_l steps.

    x [C, BN] is read e^(G - R) in the rows of second halves and write e^(R - G) in those of first halves. Returns x,
    these exponentials, none above 1, which rows are of second halves, and which pairs of rows are of both halves of a
    block [C, C].
    """
    row, column = tl.arange(0, C), i_n + tl.arange(0, BN)
    second = (((row >> i_l) & 1) == 1)[:, None]
    p_column = p_g + i_r * N + column[None, :]
    exists = (column < N)[None, :]
    border = tl.minimum(((row >> i_l) | 1) * (1 << i_l) - 1, left - 1)[:, None]
    b_g = tl.load(p_column + tl.minimum(row, left - 1)[:, None] * (H * N), mask=exists, other=0.0)
    b_border = tl.load(p_column + border * (H * N), mask=exists, other=0.0)
    b_e = tl.exp2(tl.where(second, b_g - b_border, b_border - b_g))
    return tl.where(second, b_r, b_w) * b_e, b_e, second, ((row[:, None] ^ row[None, :]) >> i_l) == 1
