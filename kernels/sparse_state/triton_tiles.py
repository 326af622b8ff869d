# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Where slots and routes lie in memory, for the kernels of `triton_forward` and `triton_backward`.

    read, write [B, T, R, N]    routes; R = H, or 1 where all heads share them
    G [B, T, H, N]              log decay of slots summed from the start of each chunk, in units of log 2
    through [B, H, M, C, C]     sum_n read_tn write_sn e^(G_tn - G_sn) for s <= t, zero above; or its gradient
    states [B, H, M, N, V, K]   S before each chunk, or the gradient of S after it, transposed

K are the key channels, V the value channels and N the slots; the other letters are those of `triton_chunks`.
"""

import triton
import triton.language as tl

from archloom.kernels.triton_chunks import C


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
