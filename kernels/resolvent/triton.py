# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disable-error-code="union-attr,index"
"""Resolvent and delta rule as Triton kernels, forward and backward; see README.md for the equations.

    B batch, T time, H heads, K key channels, V value channels; N chunks of C steps
    g [B, T, H, W]           log decay; W = 1 by head, K by channel, 0 for none
    G [B, T, H, W]           g summed from the start of each chunk, in units of log 2
    A, R [B, T, H, C]        a row of a chunk's matrix for each step
    states [B, H, N, K, V]   S before each chunk, or the gradient of S after it

The chunkwise delta rule is that of Yang et al. 2024, arXiv:2406.06484.

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index; `i_r` is the row of [B * T * H] at which a chunk
of a head starts, and `left` the number of steps from there to the end. Steps after the end read zeros as queries, keys
and values and the last G, so that they change nothing. Solves, states and sums are float32, and deterministic.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation

C = tl.constexpr(64)
LEVELS = tl.constexpr(6)  # C = 2^LEVELS
ROWS = tl.constexpr(16)  # rows solved one by one
LOG2_E = tl.constexpr(1.4426950408889634)
LARGEST = 256
"""The most key channels, and the most value channels."""


@triton.jit
def _tile(p_x, i_r, left, i_c, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    """Where the steps of a chunk and BC columns from i_c on of [B, T, H, WIDTH] lie, and which exist."""
    row, column = tl.arange(0, C), i_c + tl.arange(0, BC)
    p_tile = p_x + i_r * WIDTH + row[:, None] * (H * WIDTH) + column[None, :]
    return p_tile, (row < left)[:, None] & (column < WIDTH)[None, :]


@triton.jit
def _read(p_x, i_r, left, i_c, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    p_tile, exists = _tile(p_x, i_r, left, i_c, H, WIDTH, BC)
    return tl.load(p_tile, mask=exists, other=0.0)


@triton.jit
def _write(p_x, b_x, i_r, left, i_c, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    p_tile, exists = _tile(p_x, i_r, left, i_c, H, WIDTH, BC)
    tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def _state(p_states, i_s, i_k, i_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Where a tile of state number i_s of [..., K, V] lies, and which of it exists."""
    row, column = i_k + tl.arange(0, BK), i_v + tl.arange(0, BV)
    p_tile = p_states + i_s * (K * V) + row[:, None] * V + column[None, :]
    return p_tile, (row < K)[:, None] & (column < V)[None, :]


@triton.jit
def _read_state(p_states, i_s, i_k, i_v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    p_tile, exists = _state(p_states, i_s, i_k, i_v, K, V, BK, BV)
    return tl.load(p_tile, mask=exists, other=0.0)


@triton.jit
def _decay(p_g, row, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr):
    """G at rows of a chunk, [rows, BW]; past the end the last one."""
    column = i_c + tl.arange(0, BW)
    p_tile = p_g + i_r * W + tl.minimum(row, left - 1)[:, None] * (H * W) + column[None, :]
    return tl.load(p_tile, mask=(column < W)[None, :], other=0.0)


@triton.jit
def _decays(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr):
    """G of a chunk [C, BW], and at its end [BW]."""
    column = i_c + tl.arange(0, BW)
    p_last = p_g + i_r * W + (tl.minimum(left, C) - 1) * (H * W)
    b_end = tl.load(p_last + column, mask=column < W, other=0.0)
    return _decay(p_g, tl.arange(0, C), i_r, left, i_c, H, W, BW), b_end


@triton.jit
def _lower(b_a, b_g, W: tl.constexpr, STRICT: tl.constexpr):
    """A [C, C] times the decay e^(G_t - G_s) of a head, zero for s > t, and for s = t if STRICT."""
    row = tl.arange(0, C)
    seen = row[:, None] >= row[None, :] + STRICT
    if W == 1:
        b_a *= tl.exp2(tl.where(seen, b_g - tl.trans(b_g), float("-inf")))
    else:
        b_a = tl.where(seen, b_a, 0.0)
    return b_a


@triton.jit
def _add_diagonal(b_a, b_self):
    row = tl.arange(0, C)
    return b_a + tl.where(row[:, None] == row[None, :], b_self[:, None], 0.0)


@triton.jit
def _halves(p_g, b_g, i_l, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """e^-|G - R| [C, BK] with R the G where the second half begins of a row's block of 2 * 2^i_l steps.

    Also which rows are of second halves [C, 1], and which pairs of rows are of both halves of one block [C, C].
    """
    half = tl.arange(0, C) >> i_l
    b_e = tl.exp2(-tl.abs(b_g - _decay(p_g, (half | 1) << i_l, i_r, left, i_k, H, K, BK)))
    return b_e, ((half & 1) == 1)[:, None], half[:, None] == (half ^ 1)[None, :]


@triton.jit
def _channel_scores(p_g, b_q, b_b, b_k, b_a, b_l, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """Adds <q_t, k_s>_g over BK channels to A and <b_t, k_s>_g to L for s < t; for s > t what is not asked for."""
    b_g = _decay(p_g, tl.arange(0, C), i_r, left, i_k, H, K, BK)
    for i_l in range(LEVELS):
        b_e, second, pairs = _halves(p_g, b_g, i_l, i_r, left, i_k, H, K, BK)
        b_x = (tl.where(second, b_b, b_k) * b_e).to(b_k.dtype)
        b_l += tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision="ieee"), 0.0)
        if b_q is not None:
            b_x = (tl.where(second, b_q, b_k) * b_e).to(b_k.dtype)
            b_a += tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision="ieee"), 0.0)
    return b_a, b_l


@triton.jit
def _inverse_of_rows(b_l):
    """(I + strictly lower part)^-1 of the ROWS x ROWS blocks on the diagonal of L, by forward substitution."""
    block, row = tl.arange(0, C // ROWS), tl.arange(0, ROWS)
    on = block[:, None, None, None] == block[None, None, :, None]
    b_d = tl.sum(tl.where(on, tl.reshape(b_l, [C // ROWS, ROWS, C // ROWS, ROWS]), 0.0), 2)
    b_d = tl.trans(b_d, 0, 2, 1)
    b_t = tl.where(row[:, None] == row[None, :], 1.0, 0.0)[None, :, :] + tl.zeros([C // ROWS, ROWS, ROWS], tl.float32)
    for i in range(1, ROWS):
        b_row = tl.sum(tl.where((row[None, None, :] == i) & (row[None, :, None] < i), b_d, 0.0), 2)
        b_row = tl.sum(b_row[:, :, None] * b_t, 1)
        b_t -= tl.where(row[None, :, None] == i, b_row[:, None, :], 0.0)
    return b_t


@triton.jit
def _block(b_l, i: tl.constexpr, j: tl.constexpr, SIZE: tl.constexpr):
    """Block (i, j) of [C, C], [SIZE, SIZE]."""
    block = tl.arange(0, C // SIZE)
    on = (block[:, None, None, None] == i) & (block[None, None, :, None] == j)
    return tl.sum(tl.sum(tl.where(on, tl.reshape(b_l, [C // SIZE, SIZE, C // SIZE, SIZE]), 0.0), 2), 0)


@triton.jit
def _inverse_of_pair(b_1, b_2, b_l, SIZE: tl.constexpr):
    """Inverse [2 SIZE, 2 SIZE] from those of its blocks on the diagonal and L below them: -T_2 L T_1 is below these."""
    b_21 = tl.dot(b_2, tl.dot(b_l, b_1, input_precision="ieee"), input_precision="ieee")
    half = tl.arange(0, 2)
    i, j = half[:, None, None, None], half[None, None, :, None]
    b_own = tl.where(i == 0, b_1[None, :, None, :], b_2[None, :, None, :])
    b_t = tl.where(i == j, b_own, tl.where(i > j, -b_21[None, :, None, :], 0.0))
    return tl.reshape(b_t, [2 * SIZE, 2 * SIZE])


@triton.jit
def _inverse(b_l):
    """(I + strictly lower part of L)^-1, [C, C] float32, by block substitution."""
    b_t, block = _inverse_of_rows(b_l), tl.arange(0, C // ROWS)[:, None, None]
    b_1, b_2 = tl.sum(tl.where(block == 0, b_t, 0.0), 0), tl.sum(tl.where(block == 1, b_t, 0.0), 0)
    b_3, b_4 = tl.sum(tl.where(block == 2, b_t, 0.0), 0), tl.sum(tl.where(block == 3, b_t, 0.0), 0)
    b_12 = _inverse_of_pair(b_1, b_2, _block(b_l, 1, 0, 16), 16)
    b_34 = _inverse_of_pair(b_3, b_4, _block(b_l, 3, 2, 16), 16)
    return _inverse_of_pair(b_12, b_34, _block(b_l, 1, 0, 32), 32)


@triton.jit
def _matrices(p_q, p_b, p_k, p_g, i_r, left, H, K: tl.constexpr, W: tl.constexpr, BK: tl.constexpr):
    """A of the readout (zero without q), in the type of k, and L of a chunk, float32 [C, C]."""
    b_a, b_l = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    b_self = tl.zeros([C], tl.float32)
    for i_k in range(0, K, BK):
        b_b, b_k = _read(p_b, i_r, left, i_k, H, K, BK), _read(p_k, i_r, left, i_k, H, K, BK)
        b_q = None if p_q is None else _read(p_q, i_r, left, i_k, H, K, BK)
        if W > 1:
            b_a, b_l = _channel_scores(p_g, b_q, b_b, b_k, b_a, b_l, i_r, left, i_k, H, K, BK)
            if p_q is not None:
                b_self += tl.sum(b_q.to(tl.float32) * b_k, 1)
        else:
            b_l = tl.dot(b_b, tl.trans(b_k), b_l, input_precision="ieee")
            if p_q is not None:
                b_a = tl.dot(b_q, tl.trans(b_k), b_a, input_precision="ieee")
    b_g = _decay(p_g, tl.arange(0, C), i_r, left, 0, H, 1, 1) if W == 1 else 0.0
    if p_q is not None:
        b_a = _lower(b_a, b_g, W, 1 if W > 1 else 0)
        if W > 1:
            b_a = _add_diagonal(b_a, b_self)
    return b_a.to(p_k.dtype.element_ty), _lower(b_l, b_g, W, 1)


@triton.jit(do_not_specialize=["T"])
def decay_kernel(p_log_decay, p_g, T, WIDTH, BW: tl.constexpr):
    """G from log decays [B, T, WIDTH]; a program for BW columns of a chunk."""
    i, columns, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(WIDTH, BW), tl.cdiv(T, C)
    i_c, i_n, i_b = i % columns * BW, i // columns % chunks, i // columns // chunks
    row, column = i_n * C + tl.arange(0, C), i_c + tl.arange(0, BW)
    at = (i_b * T + row)[:, None] * WIDTH + column[None, :]
    exists = (row < T)[:, None] & (column < WIDTH)[None, :]
    b_g = tl.load(p_log_decay + at, mask=exists, other=0.0).to(tl.float32)
    tl.store(p_g + at, tl.cumsum(b_g, 0) * LOG2_E, mask=exists)


@triton.jit(do_not_specialize=["T"])
def solve_kernel(
    p_q, p_b, p_k, p_x, p_g, p_a, p_response, p_z, p_kend, T, H,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """A of the readout, (I + L)^-1 b e^G (the response) and Y = (I + L)^-1 x (to p_z); a program for a chunk of a head.

    With decay by channel also the keys at the end of the chunk, k e^(G_C - G), to p_kend.
    """
    i, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(T, C)
    i_h, i_n, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, left = (i_b * T + i_n * C) * H + i_h, (T - i_n * C).to(tl.int32)
    b_a, b_l = _matrices(p_q, p_b, p_k, p_g, i_r, left, H, K, W, BK)
    if p_q is not None:
        _write(p_a, b_a, i_r, left, 0, H, C, C)
    b_t = _inverse(b_l).to(b_a.dtype)
    if W == 1:
        b_since = tl.exp2(_decay(p_g, tl.arange(0, C), i_r, left, 0, H, 1, 1))
    for i_k in range(0, K, BK):
        b_b = _read(p_b, i_r, left, i_k, H, K, BK)
        if W == 1:
            b_b = (b_b * b_since).to(b_t.dtype)
        if W > 1:
            b_g, b_end = _decays(p_g, i_r, left, i_k, H, K, BK)
            b_b = (b_b * tl.exp2(b_g)).to(b_t.dtype)
            b_k = _read(p_k, i_r, left, i_k, H, K, BK)
            _write(p_kend, b_k * tl.exp2(b_end[None, :] - b_g), i_r, left, i_k, H, K, BK)
        _write(p_response, tl.dot(b_t, b_b, input_precision="ieee"), i_r, left, i_k, H, K, BK)
    for i_v in range(0, V, BV):
        b_x = _read(p_x, i_r, left, i_v, H, V, BV)
        _write(p_z, tl.dot(b_t, b_x, input_precision="ieee"), i_r, left, i_v, H, V, BV)


@triton.jit(do_not_specialize=["T"])
def states_kernel(
    p_response, p_z, p_k, p_g, p_start, p_states, p_last, T, H,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """z = Y - response S in the place of Y, S before each chunk and after the last; a program for BV columns of a head.

    With decay by channel p_k are the keys at the end of their chunk.
    """
    i, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(T, C)
    i_v, i_s = i % tl.cdiv(V, BV) * BV, i // tl.cdiv(V, BV)
    BW: tl.constexpr = BK if W > 1 else 1
    b_s = tl.zeros([BK, BV], tl.float32)
    if p_start is not None:
        b_s += _read_state(p_start, i_s, 0, i_v, K, V, BK, BV)
    for i_n in range(chunks):
        i_r, left = (i_s // H * T + i_n * C) * H + i_s % H, (T - i_n * C).to(tl.int32)
        p_tile, exists = _state(p_states, i_s * chunks + i_n, 0, i_v, K, V, BK, BV)
        tl.store(p_tile, b_s.to(p_states.dtype.element_ty), mask=exists)
        b_response, b_k = _read(p_response, i_r, left, 0, H, K, BK), _read(p_k, i_r, left, 0, H, K, BK)
        b_z = _read(p_z, i_r, left, i_v, H, V, BV) - tl.dot(
            b_response, b_s.to(b_response.dtype), input_precision="ieee"
        )
        _write(p_z, b_z, i_r, left, i_v, H, V, BV)
        if W > 0:
            b_g, b_end = _decays(p_g, i_r, left, 0, H, W, BW)
            b_s *= tl.exp2(b_end)[:, None]
        if W == 1:
            b_z *= tl.exp2(b_end[None, :] - b_g)
        b_s = tl.dot(tl.trans(b_k), b_z.to(b_k.dtype), b_s, input_precision="ieee")
    if p_last is not None:
        p_tile, exists = _state(p_last, i_s, 0, i_v, K, V, BK, BV)
        tl.store(p_tile, b_s, mask=exists)


@triton.jit(do_not_specialize=["T"])
def output_kernel(
    p_q, p_a, p_z, p_g, p_states, p_o, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """o = scale ((q e^G) S + A z); a program for BV columns of a chunk of a head."""
    i, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(T, C)
    i_v, i = i % tl.cdiv(V, BV) * BV, i // tl.cdiv(V, BV)
    i_h, i_n, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, left, i_s = (i_b * T + i_n * C) * H + i_h, (T - i_n * C).to(tl.int32), (i_b * H + i_h) * chunks + i_n
    b_o = tl.zeros([C, BV], tl.float32)
    for i_k in range(0, K, BK):
        b_q = _read(p_q, i_r, left, i_k, H, K, BK)
        b_s = _read_state(p_states, i_s, i_k, i_v, K, V, BK, BV).to(b_q.dtype)
        if W > 1:
            b_q = (b_q * tl.exp2(_decay(p_g, tl.arange(0, C), i_r, left, i_k, H, K, BK))).to(b_q.dtype)
        b_o = tl.dot(b_q, b_s, b_o, input_precision="ieee")
    if W == 1:
        b_o *= tl.exp2(_decay(p_g, tl.arange(0, C), i_r, left, 0, H, 1, 1))
    b_a, b_z = _read(p_a, i_r, left, 0, H, C, C), _read(p_z, i_r, left, i_v, H, V, BV)
    b_o = tl.dot(b_a, b_z, b_o, input_precision="ieee")
    _write(p_o, b_o * scale, i_r, left, i_v, H, V, BV)


@triton.jit(do_not_specialize=["T"])
def adjoint_kernel(
    p_q, p_b, p_k, p_g, p_r, p_j, p_qstart, p_bstart, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """R = scale A (I + L)^-1, without q the inverse, and J = (I + L)^-T k e^(G_C - G); a program for a chunk of a head.

    With decay by channel also scale q e^G and b e^G, to p_qstart and p_bstart.
    """
    i, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(T, C)
    i_h, i_n, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, left = (i_b * T + i_n * C) * H + i_h, (T - i_n * C).to(tl.int32)
    b_a, b_l = _matrices(p_q, p_b, p_k, p_g, i_r, left, H, K, W, BK)
    b_t = _inverse(b_l).to(b_a.dtype)
    if p_q is None:
        _write(p_r, b_t, i_r, left, 0, H, C, C)
    else:
        b_r = tl.dot(b_a, b_t, input_precision="ieee") * scale
        _write(p_r, b_r, i_r, left, 0, H, C, C)
    if W == 1:
        b_g, b_end = _decays(p_g, i_r, left, 0, H, 1, 1)
        b_until = tl.exp2(b_end[None, :] - b_g)
    for i_k in range(0, K, BK):
        b_k = _read(p_k, i_r, left, i_k, H, K, BK)
        if W == 1:
            b_k = (b_k * b_until).to(b_t.dtype)
        if W > 1:
            b_g, b_end = _decays(p_g, i_r, left, i_k, H, K, BK)
            b_k = (b_k * tl.exp2(b_end[None, :] - b_g)).to(b_t.dtype)
            b_since = tl.exp2(b_g)
            _write(p_bstart, _read(p_b, i_r, left, i_k, H, K, BK) * b_since, i_r, left, i_k, H, K, BK)
            if p_q is not None:
                b_q = _read(p_q, i_r, left, i_k, H, K, BK) * (b_since * scale)
                _write(p_qstart, b_q, i_r, left, i_k, H, K, BK)
        _write(p_j, tl.dot(tl.trans(b_t), b_k, input_precision="ieee"), i_r, left, i_k, H, K, BK)


@triton.jit(do_not_specialize=["T"])
def dstates_kernel(
    p_q, p_b, p_g, p_r, p_j, p_do, p_dlast, p_dx, p_dstates, p_dstart, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """dx = R^T do + J dS and the gradients dS after each chunk and at the start; a program for BV columns of a head.

    With decay by channel p_q and p_b are scale q e^G and b e^G.
    """
    i, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(T, C)
    i_v, i_s = i % tl.cdiv(V, BV) * BV, i // tl.cdiv(V, BV)
    BW: tl.constexpr = BK if W > 1 else 1
    b_ds = tl.zeros([BK, BV], tl.float32)
    if p_dlast is not None:
        b_ds += _read_state(p_dlast, i_s, 0, i_v, K, V, BK, BV)
    for step in range(chunks):
        i_n = chunks - 1 - step
        i_r, left = (i_s // H * T + i_n * C) * H + i_s % H, (T - i_n * C).to(tl.int32)
        p_tile, exists = _state(p_dstates, i_s * chunks + i_n, 0, i_v, K, V, BK, BV)
        tl.store(p_tile, b_ds.to(p_dstates.dtype.element_ty), mask=exists)
        b_j, b_r = _read(p_j, i_r, left, 0, H, K, BK), _read(p_r, i_r, left, 0, H, C, C)
        b_b, b_do = _read(p_b, i_r, left, 0, H, K, BK), _read(p_do, i_r, left, i_v, H, V, BV).to(b_r.dtype)
        b_dx = tl.dot(tl.trans(b_r), b_do, input_precision="ieee")
        b_dx = tl.dot(b_j, b_ds.to(b_j.dtype), b_dx, input_precision="ieee")
        _write(p_dx, b_dx, i_r, left, i_v, H, V, BV)
        if W > 0:
            b_g, b_end = _decays(p_g, i_r, left, 0, H, W, BW)
            b_ds *= tl.exp2(b_end)[:, None]
        if W == 1:
            b_dx *= tl.exp2(b_g)
        b_ds = tl.dot(tl.trans(b_b), (-b_dx).to(b_b.dtype), b_ds, input_precision="ieee")
        if p_q is not None:
            b_q = _read(p_q, i_r, left, 0, H, K, BK)
            if W == 1:
                b_do = (b_do * (tl.exp2(b_g) * scale)).to(b_q.dtype)
            if W == 0:
                b_do = (b_do * scale).to(b_q.dtype)
            b_ds = tl.dot(tl.trans(b_q), b_do, b_ds, input_precision="ieee")
    if p_dstart is not None:
        p_tile, exists = _state(p_dstart, i_s, 0, i_v, K, V, BK, BV)
        tl.store(p_tile, b_ds, mask=exists)


@triton.jit
def _channel_gradients(
    p_g, b_q, b_b, b_k, b_g, b_pq, b_pb, b_dq, b_db, b_dk, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr
):
    """Adds to dq, db and dk what comes of the symmetric gradients P + P^T of the scores of a chunk."""
    for i_l in range(LEVELS):
        b_e, second, pairs = _halves(p_g, b_g, i_l, i_r, left, i_k, H, K, BK)
        b_x = (tl.where(second, b_b, b_k) * b_e).to(b_k.dtype)
        b_d = tl.dot(tl.where(pairs, b_pb, 0.0), b_x, input_precision="ieee") * b_e
        b_db += tl.where(second, b_d, 0.0)
        b_dk += tl.where(second, 0.0, b_d)
        if b_q is not None:
            b_x = (tl.where(second, b_q, b_k) * b_e).to(b_k.dtype)
            b_d = tl.dot(tl.where(pairs, b_pq, 0.0), b_x, input_precision="ieee") * b_e
            b_dq += tl.where(second, b_d, 0.0)
            b_dk += tl.where(second, 0.0, b_d)
    return b_dq, b_db, b_dk


@triton.jit
def _score_gradients(p_z, p_do, p_dx, b_g, i_r, left, H, scale, V: tl.constexpr, W: tl.constexpr, BV: tl.constexpr):
    """Gradients P of A (zero without do) and of L of a chunk [C, C], times the decay of a head, and A's diagonal [C].

    With decay by channel P + P^T without the diagonal.
    """
    b_pq, b_pb = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    for i_v in range(0, V, BV):
        b_z, b_dx = _read(p_z, i_r, left, i_v, H, V, BV), _read(p_dx, i_r, left, i_v, H, V, BV)
        b_pb = tl.dot(b_dx, tl.trans(b_z), b_pb, input_precision="ieee")
        if p_do is not None:
            b_do = _read(p_do, i_r, left, i_v, H, V, BV).to(b_z.dtype)
            b_pq = tl.dot(b_do, tl.trans(b_z), b_pq, input_precision="ieee")
    row = tl.arange(0, C)
    b_pq *= scale
    b_self = tl.sum(tl.where(row[:, None] == row[None, :], b_pq, 0.0), 1)
    b_pq, b_pb = _lower(b_pq, b_g, W, 1 if W > 1 else 0), _lower(-b_pb, b_g, W, 1)
    if W > 1:
        b_pq += tl.trans(b_pq)
        b_pb += tl.trans(b_pb)
    dtype: tl.constexpr = p_z.dtype.element_ty
    return b_pq.to(dtype), b_pb.to(dtype), b_self


@triton.jit
def _through_states(
    p_z, p_do, p_dx, p_states, p_dstates, i_r, left, i_s, i_k, H, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """dq, db and dk [C, BK] by way of the states, still without decay, and the sum over V of S dS [BK]."""
    b_dq, b_db = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
    b_dk, b_carried = tl.zeros([C, BK], tl.float32), tl.zeros([BK], tl.float32)
    for i_v in range(0, V, BV):
        b_z, b_dx = _read(p_z, i_r, left, i_v, H, V, BV), _read(p_dx, i_r, left, i_v, H, V, BV)
        b_s = _read_state(p_states, i_s, i_k, i_v, K, V, BK, BV)
        b_ds = _read_state(p_dstates, i_s, i_k, i_v, K, V, BK, BV)
        b_carried += tl.sum(b_s.to(tl.float32) * b_ds, 1)
        b_s, b_ds = tl.trans(b_s.to(b_z.dtype)), tl.trans(b_ds.to(b_z.dtype))
        b_db = tl.dot(b_dx, b_s, b_db, input_precision="ieee")
        b_dk = tl.dot(b_z, b_ds, b_dk, input_precision="ieee")
        if p_do is not None:
            b_do = _read(p_do, i_r, left, i_v, H, V, BV).to(b_z.dtype)
            b_dq = tl.dot(b_do, b_s, b_dq, input_precision="ieee")
    return b_dq * scale, -b_db, b_dk, b_carried


@triton.jit(do_not_specialize=["T"])
def gradient_kernel(
    p_q, p_b, p_k, p_g, p_z, p_states, p_do, p_dx, p_dstates, p_dq, p_db, p_dk, p_dg, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Gradients of q, b, k and the log decay; a program for a chunk of a head."""
    i, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(T, C)
    i_h, i_n, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, left, i_s = (i_b * T + i_n * C) * H + i_h, (T - i_n * C).to(tl.int32), (i_b * H + i_h) * chunks + i_n
    b_hg, b_hend = _decays(p_g, i_r, left, 0, H, 1, 1) if W == 1 else (0.0, 0.0)
    p_read = p_do if p_q is not None else None
    b_pq, b_pb, b_self = _score_gradients(p_z, p_read, p_dx, b_hg, i_r, left, H, scale, V, W, BV)
    b_sum, b_change = tl.zeros([1], tl.float32), tl.zeros([C, 1], tl.float32)
    for i_k in range(0, K, BK):
        b_dq, b_db, b_dk, b_carried = _through_states(
            p_z, p_read, p_dx, p_states, p_dstates, i_r, left, i_s, i_k, H, scale, K, V, BK, BV
        )
        b_b, b_k = _read(p_b, i_r, left, i_k, H, K, BK), _read(p_k, i_r, left, i_k, H, K, BK)
        b_q = None if p_q is None else _read(p_q, i_r, left, i_k, H, K, BK)
        b_g, b_end = _decays(p_g, i_r, left, i_k, H, K, BK) if W > 1 else (b_hg, b_hend)
        if W > 0:
            b_dk *= tl.exp2(b_end[None, :] - b_g)
            b_db *= tl.exp2(b_g)
            b_dq *= tl.exp2(b_g)
            b_carried = b_carried * tl.exp2(b_end) + tl.sum(b_k * b_dk, 0)
        if W > 1:
            b_dq, b_db, b_dk = _channel_gradients(
                p_g, b_q, b_b, b_k, b_g, b_pq, b_pb, b_dq, b_db, b_dk, i_r, left, i_k, H, K, BK
            )
        else:
            b_db = tl.dot(b_pb, b_k, b_db, input_precision="ieee")
            b_dk = tl.dot(tl.trans(b_pb), b_b, b_dk, input_precision="ieee")
            if p_q is not None:
                b_dq = tl.dot(b_pq, b_k, b_dq, input_precision="ieee")
                b_dk = tl.dot(tl.trans(b_pq), b_q, b_dk, input_precision="ieee")
        if W > 0:
            b_d = b_b * b_db - b_k * b_dk
            if p_q is not None:
                b_d += b_q * b_dq
            if W > 1:
                b_d = tl.cumsum(b_d, 0, reverse=True) + b_carried[None, :]
                _write(p_dg, b_d, i_r, left, i_k, H, K, BK)
            else:
                b_change += tl.sum(b_d, 1, keep_dims=True)
                b_sum += tl.sum(b_carried, 0, keep_dims=True)
        if p_q is not None:
            if W > 1:
                b_dq += b_self[:, None] * b_k
                b_dk += b_self[:, None] * b_q
            _write(p_dq, b_dq, i_r, left, i_k, H, K, BK)
        _write(p_db, b_db, i_r, left, i_k, H, K, BK)
        _write(p_dk, b_dk, i_r, left, i_k, H, K, BK)
    if W == 1:
        _write(p_dg, tl.cumsum(b_change, 0, reverse=True) + b_sum[None, :], i_r, left, 0, H, 1, 1)


class _Tiles(NamedTuple):
    """The most columns of K and of V that a program holds at once, its warps, and its stages of loads ahead."""

    key: int
    value: int
    warps: int
    stages: int


_SMALL = {
    ("chunk", 2): (_Tiles(64, 64, 4, 1),),
    ("chunk", 4): (_Tiles(32, 32, 8, 1),),
    ("channel chunk", 2): (_Tiles(32, 64, 4, 1),),
    ("channel chunk", 4): (_Tiles(32, 32, 8, 1),),
    ("walk", 2): (_Tiles(128, 64, 4, 1), _Tiles(128, 32, 4, 1)),
    ("walk", 4): (_Tiles(128, 16, 8, 1),),
    ("wide walk", 2): (_Tiles(256, 32, 4, 1),),
    ("wide walk", 4): (_Tiles(256, 16, 8, 1),),
    ("output", 2): (_Tiles(64, 128, 4, 2),),
    ("output", 4): (_Tiles(32, 64, 4, 1),),
    ("gradient", 2): (_Tiles(32, 64, 4, 1),),
    ("gradient", 4): (_Tiles(32, 32, 8, 1),),
}
_LARGE = _SMALL | {("walk", 2): (_Tiles(128, 64, 4, 2), _Tiles(128, 32, 4, 2))}
TILES = {8: _SMALL, 9: _LARGE, 10: _LARGE}
"""Tiles by the first number of the compute capability (8 for all others), kernel and bytes of an element.

Of several the first is taken that makes PROGRAMS programs, or else the last.
"""
PROGRAMS = 96


def _tiles(kernel: str, size: int, width: int, columns: int, value: int, heads: int, major: int) -> _Tiles:
    """Tiles of a kernel for elements of `size` bytes, `width` key and `value` value channels, and B * H = `heads`."""
    if kernel == "chunk" and columns > 1:
        kernel = "channel chunk"
    if kernel == "walk" and width > 128:
        kernel = "wide walk"
    rows = TILES.get(major, TILES[8])[kernel, size]
    row = next((each for each in rows if heads * triton.cdiv(value, each.value) >= PROGRAMS), rows[-1])
    width, value = (max(16, triton.next_power_of_2(each)) for each in (width, value))
    return row._replace(key=min(width, row.key), value=min(value, row.value))


def _launch(kernel, name: str, arguments: Sequence[object], k: Tensor, value: int, columns: int) -> None:
    """Run a kernel: by chunk of a head, or for tiles of V of each head (walk) or of each chunk of a head (output)."""
    batch, steps, heads, width = k.shape
    major = torch.cuda.get_device_capability(k.device)[0] if k.is_cuda else 9
    tiles = _tiles(name, k.element_size(), width, columns, value, batch * heads, major)
    programs = batch * heads * (1 if name == "walk" else triton.cdiv(steps, C.value))
    if name in ("walk", "output"):
        programs *= triton.cdiv(value, tiles.value)
    constants = {"K": width, "V": value, "W": columns, "BK": tiles.key, "BV": tiles.value}
    kernel[(programs,)](*arguments, **constants, num_warps=tiles.warps, num_stages=tiles.stages)


def _sums(log_decay: Tensor) -> Tensor:
    """G of a log decay, float32."""
    batch, steps = log_decay.shape[:2]
    width = log_decay[0, 0].numel()
    sums = torch.empty_like(log_decay, dtype=torch.float32)
    block = min(64, triton.next_power_of_2(width))
    grid = (batch * triton.cdiv(steps, C.value) * triton.cdiv(width, block),)
    decay_kernel[grid](log_decay, sums, steps, width, BW=block)
    return sums


def _room(*sizes: int, like: Tensor, single: bool = False) -> Tensor:
    return torch.empty(*sizes, dtype=torch.float32 if single else like.dtype, device=like.device)


class _Solve(torch.autograd.Function):
    """Keeps q, b, k, G, z and the states before each chunk; what the chunks solve is made again in the backward."""

    @staticmethod
    def forward(ctx, q, b, k, x, log_decay, initial_state, return_state, scale):
        (batch, steps, heads, width), value = k.shape, x.shape[-1]
        columns, chunks = 0 if log_decay is None else log_decay[0, 0, 0].numel(), triton.cdiv(steps, C.value)
        sums = None if log_decay is None else _sums(log_decay)
        scores = None if q is None else _room(batch, steps, heads, C.value, like=k)
        response, z, kept = torch.empty_like(k), torch.empty_like(x), torch.empty_like(k) if columns > 1 else k
        sizes = {"k": k, "value": value, "columns": columns}
        _launch(solve_kernel, "chunk", (q, b, k, x, sums, scores, response, z, kept, steps, heads), **sizes)
        states = _room(batch, heads, chunks, width, value, like=k, single=k.dtype != torch.bfloat16)
        last = _room(batch, heads, width, value, like=k, single=True) if return_state else None
        walked = (response, z, kept, sums, initial_state, states, last, steps, heads)
        _launch(states_kernel, "walk", walked, **sizes)
        out = z if q is None else torch.empty_like(x)
        if q is not None:
            _launch(output_kernel, "output", (q, scores, z, sums, states, out, steps, heads, scale), **sizes)
        ctx.save_for_backward(q, b, k, sums, z, states)
        ctx.columns, ctx.scale, ctx.started = columns, scale, initial_state is not None
        ctx.decay_dtype = None if log_decay is None else log_decay.dtype
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        q, b, k, sums, z, states = ctx.saved_tensors
        (batch, steps, heads, width), value, scale = k.shape, z.shape[-1], ctx.scale
        dout, dlast = dout.contiguous(), None if dlast is None else dlast.contiguous()
        sizes = {"k": k, "value": value, "columns": ctx.columns}
        r, j = _room(batch, steps, heads, C.value, like=k), torch.empty_like(k)
        query, writer = (each if each is None or ctx.columns < 2 else torch.empty_like(each) for each in (q, b))
        _launch(adjoint_kernel, "chunk", (q, b, k, sums, r, j, query, writer, steps, heads, scale), **sizes)
        dx, dstates = torch.empty_like(z), torch.empty_like(states)
        dstart = _room(batch, heads, width, value, like=k, single=True) if ctx.started else None
        walked = (query, writer, sums, r, j, dout, dlast, dx, dstates, dstart, steps, heads, scale)
        _launch(dstates_kernel, "walk", walked, **sizes)
        dq, db, dk = (None if each is None else torch.empty_like(each) for each in (q, b, k))
        ddecay = None if sums is None else torch.empty_like(sums, dtype=ctx.decay_dtype)
        given = (q, b, k, sums, z, states, dout, dx, dstates, dq, db, dk, ddecay, steps, heads, scale)
        _launch(gradient_kernel, "gradient", given, **sizes)
        return dq, db, dk, dx, ddecay, dstart, None, None


def delta_rule(
    q: Tensor | None,
    b: Tensor,
    k: Tensor,
    x: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """scale S_t^T q_t, or z without q, [B, T, H, V] like x, and the last state [B, H, K, V] if it is asked for."""
    if k.dtype == torch.float64:
        raise ValueError('k has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    for name, tensor in (("k", k), ("x", x)):
        if tensor.shape[-1] > LARGEST:
            raise ValueError(
                f'{name} has {tensor.shape[-1]} channels; backend="triton" takes up to {LARGEST}, backend="chunked" any'
            )
    tensors = (None if each is None else each.contiguous() for each in (q, b, k, x, log_decay, initial_state))
    with torch.cuda.device_of(k):
        out: tuple[Tensor, Tensor | None] = _Solve.apply(*tensors, return_state, scale)
    return out


def _specialised(kernel, name: str, width: int, columns: int, element: str, absent: tuple[str, ...]) -> Specialisation:
    """A launch on a Hopper GPU with K = V = width and many heads, with None for the arguments in `absent`."""
    tiles = _tiles(name, 4 if element == "fp32" else 2, width, columns, width, 1024, 9)
    types = {each: element for each in kernel.arg_names if each.startswith("p_")}
    types |= dict.fromkeys(("p_g", "p_start", "p_last", "p_dlast", "p_dstart", "p_dg"), "fp32")
    types = {each: f"*{kind}" for each, kind in types.items()} | {"T": "i32", "H": "i32", "scale": "fp32"}
    constants = {"K": width, "V": width, "W": columns, "BK": tiles.key, "BV": tiles.value} | dict.fromkeys(absent)
    return Specialisation(
        kernel=kernel,
        types={each: types[each] for each in kernel.arg_names if each in types and each not in constants},
        constants={each: constants[each] for each in kernel.arg_names if each in constants},
        warps=tiles.warps,
        stages=tiles.stages,
    )


_KERNELS = {
    solve_kernel: "chunk",
    states_kernel: "walk",
    output_kernel: "output",
    adjoint_kernel: "chunk",
    dstates_kernel: "walk",
    gradient_kernel: "gradient",
}
_ALONE = ("p_q", "p_a", "p_qstart", "p_dq", "p_start", "p_last", "p_dlast", "p_dstart")
"""What the resolvent lacks, without states given or asked for."""
SPECIALISATIONS = (
    Specialisation(
        kernel=decay_kernel,
        types={"p_log_decay": "*bf16", "p_g": "*fp32", "T": "i32", "WIDTH": "i32"},
        constants={"BW": 64},
    ),
    *(
        _specialised(kernel, name, width, columns, "bf16", () if columns else ("p_g", "p_dg"))
        for width, columns in ((64, 0), (128, 1), (64, 64), (128, 128))
        for kernel, name in _KERNELS.items()
    ),
    *(
        _specialised(kernel, name, 64, 1, "bf16", _ALONE)
        for kernel, name in _KERNELS.items()
        if kernel is not output_kernel
    ),
    _specialised(states_kernel, "walk", 64, 1, "fp32", ()),
    _specialised(gradient_kernel, "gradient", 64, 64, "fp32", ()),
)
