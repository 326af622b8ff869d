# mypy: disallow-incomplete-defs=False
"""Linear attention as Triton kernels, forward and backward; see README.md for the equations.

    B batch, T time, H heads, K key channels, V value channels; N chunks of C steps
    g [B, T, H, W]           log decay; W = 1 by head, K by channel, 0 for none
    G [B, T, H, W]           g summed from the start of each chunk, in units of log 2
    states [B, H, N, V, K]   S before each chunk, or the gradient of S after it, transposed

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index; `i_r` is the row of [B * T * H] at which a chunk
of a head starts, and `left` the number of its steps, C but for the last chunk. Steps after the end read zeros as
queries, keys and values and the last G, so that they change nothing. Sums over time and states are float32, and in
the same order every time.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation

C = tl.constexpr(64)
LEVELS = tl.constexpr(6)  # C = 2^LEVELS
LOG2_E = tl.constexpr(1.4426950408889634)


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
def _state(p_x, i_s, i_y, i_x, Y: tl.constexpr, X: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    """Where a tile of state number i_s of [..., Y, X] lies, and which of it exists."""
    row, column = i_y + tl.arange(0, BY), i_x + tl.arange(0, BX)
    p_tile = p_x + i_s * (Y * X) + row[:, None] * X + column[None, :]
    return p_tile, (row < Y)[:, None] & (column < X)[None, :]


@triton.jit
def _read_state(p_x, i_s, i_y, i_x, Y: tl.constexpr, X: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    p_tile, exists = _state(p_x, i_s, i_y, i_x, Y, X, BY, BX)
    return tl.load(p_tile, mask=exists, other=0.0)


@triton.jit
def _write_state(p_x, b_x, i_s, i_y, i_x, Y: tl.constexpr, X: tl.constexpr, BY: tl.constexpr, BX: tl.constexpr):
    p_tile, exists = _state(p_x, i_s, i_y, i_x, Y, X, BY, BX)
    tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def _decay(p_g, row, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr):
    """G at rows of a chunk, [rows, BW]."""
    column = i_c + tl.arange(0, BW)
    p_tile = p_g + i_r * W + tl.minimum(row, left - 1)[:, None] * (H * W) + column[None, :]
    return tl.load(p_tile, mask=(column < W)[None, :], other=0.0)


@triton.jit
def _decay_of_queries(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr, EXCLUSIVE: tl.constexpr):
    """G for the queries of a chunk, [C, BW]: if EXCLUSIVE that of the step before, which is 0 for the first."""
    row = tl.arange(0, C)
    b_g = _decay(p_g, tl.maximum(row - EXCLUSIVE, 0), i_r, left, i_c, H, W, BW)
    if EXCLUSIVE:
        b_g = tl.where(row[:, None] > 0, b_g, 0.0)
    return b_g


@triton.jit
def _total(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr):
    """G at the end of a chunk, [BW]."""
    column = i_c + tl.arange(0, BW)
    p_last = p_g + i_r * W + (left - 1) * (H * W)
    return tl.load(p_last + column, mask=column < W, other=0.0)


@triton.jit
def _decays(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr, EXCLUSIVE: tl.constexpr):
    """G for the queries and for the keys of a chunk [C, BW], and at its end [BW]."""
    row = tl.arange(0, C)
    b_gk = _decay(p_g, row, i_r, left, i_c, H, W, BW)
    b_gq = _decay_of_queries(p_g, i_r, left, i_c, H, W, BW, 1) if EXCLUSIVE else b_gk
    return b_gq, b_gk, _total(p_g, i_r, left, i_c, H, W, BW)


@triton.jit
def _seen(b_a, b_gq, b_gk, W: tl.constexpr, EXCLUSIVE: tl.constexpr):
    """Scores [C, C] of a head times e^(Gq_t - G_s), zero for s > t, and for s = t if EXCLUSIVE."""
    row = tl.arange(0, C)
    seen = row[:, None] >= row[None, :] + EXCLUSIVE
    if W == 1:
        b_a *= tl.exp2(tl.where(seen, b_gq - tl.trans(b_gk), float("-inf")))
    else:
        b_a = tl.where(seen, b_a, 0.0)
    return b_a


@triton.jit
def _halves(p_g, b_q, b_k, b_gq, b_gk, i_l, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """Queries and keys relative to G = R at the borders between halves of 2^i_l steps.

    x [C, BK] is q e^(Gq - R) in the rows of second halves and k e^(R - G) in those of first halves. Returns x, these
    exponentials, which rows are of second halves, and which pairs of rows are of both halves of a block [C, C].
    """
    row = tl.arange(0, C)
    second = (((row >> i_l) & 1) == 1)[:, None]
    border = ((row >> i_l) | 1) * (1 << i_l) - 1
    b_r = _decay(p_g, border, i_r, left, i_k, H, K, BK)
    b_e = tl.exp2(tl.where(second, b_gq - b_r, b_r - b_gk))
    b_x = (tl.where(second, b_q, b_k) * b_e).to(b_q.dtype)
    return b_x, b_e, second, ((row[:, None] ^ row[None, :]) >> i_l) == 1


@triton.jit
def _channel_scores(p_g, b_q, b_k, b_gq, b_gk, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """<q_t, k_s>_g over BK channels for s < t, and for t < s what is not asked for, [C, C]."""
    b_a = tl.zeros([C, C], tl.float32)
    for i_l in range(LEVELS):
        b_x, _, _, pairs = _halves(p_g, b_q, b_k, b_gq, b_gk, i_l, i_r, left, i_k, H, K, BK)
        b_a = tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision="ieee"), b_a)
    return b_a


@triton.jit
def _channel_gradients(
    p_g, b_q, b_k, b_gq, b_gk, b_p, b_a, b_dq, b_dk, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr
):
    """Adds to A (of s < t) and to dq and dk what comes of the symmetric gradient P + P^T of scores of a chunk."""
    for i_l in range(LEVELS):
        b_x, b_e, second, pairs = _halves(p_g, b_q, b_k, b_gq, b_gk, i_l, i_r, left, i_k, H, K, BK)
        b_a += tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision="ieee"), 0.0)
        b_d = tl.dot(tl.where(pairs, b_p, 0.0).to(b_p.dtype), b_x, input_precision="ieee") * b_e
        b_dq += tl.where(second, b_d, 0.0)
        b_dk += tl.where(second, 0.0, b_d)
    return b_a, b_dq, b_dk


@triton.jit
def _with_bonus(p_bonus, b_x, i_h, i_k, K: tl.constexpr, BK: tl.constexpr):
    """x times the bonus of its head, or x where there is none, float32."""
    b_x = b_x.to(tl.float32)
    if p_bonus is not None:
        column = i_k + tl.arange(0, BK)
        b_x *= tl.load(p_bonus + i_h * K + column, mask=column < K, other=0.0).to(tl.float32)[None, :]
    return b_x


@triton.jit
def _diagonal(b_self):
    """[C] on the diagonal of [C, C]."""
    row = tl.arange(0, C)
    return tl.where(row[:, None] == row[None, :], b_self[:, None], 0.0)


@triton.jit
def decay_kernel(p_log_decay, p_g, T, WIDTH, BW: tl.constexpr):
    """G from log decays [B, T, WIDTH]; a program for BW columns of a chunk."""
    i, columns, chunks = tl.program_id(0).to(tl.int64), tl.cdiv(WIDTH, BW), tl.cdiv(T, C)
    i_c, i_n, i_b = i % columns * BW, i // columns % chunks, i // columns // chunks
    row, column = i_n * C + tl.arange(0, C), i_c + tl.arange(0, BW)
    at = (i_b * T + row)[:, None] * WIDTH + column[None, :]
    exists = (row < T)[:, None] & (column < WIDTH)[None, :]
    b_g = tl.load(p_log_decay + at, mask=exists, other=0.0).to(tl.float32)
    tl.store(p_g + at, tl.cumsum(b_g, 0) * LOG2_E, mask=exists)


@triton.jit
def _walk(
    i, p_k, p_v, p_g, p_first, p_states, p_last, T, H, scale, K: tl.constexpr, V: tl.constexpr, W: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Tile i of the states before each chunk; if REVERSE, with q for k and do for v, of the gradients after each."""
    BW: tl.constexpr = BK if W > 1 else 1
    i_v, i_k = i % tl.cdiv(V, BV) * BV, i // tl.cdiv(V, BV) % tl.cdiv(K, BK) * BK
    i_s = i // (tl.cdiv(V, BV) * tl.cdiv(K, BK))
    i_w = i_k if W > 1 else 0
    chunks, row = tl.cdiv(T, C), tl.arange(0, C)
    b_s = tl.zeros([BV, BK], tl.float32)  # transposed, so that keys need not be
    if p_first is not None:
        b_s += tl.trans(_read_state(p_first, i_s, i_k, i_v, K, V, BK, BV))
    for step in range(chunks):
        i_n = chunks - 1 - step if REVERSE else step
        i_r, left = (i_s // H * T + i_n * C) * H + i_s % H, tl.minimum(T - i_n * C, C)
        _write_state(p_states, b_s, i_s * chunks + i_n, i_v, i_k, V, K, BV, BK)
        b_k = _read(p_k, i_r, left, i_k, H, K, BK)
        b_v = _read(p_v, i_r, left, i_v, H, V, BV).to(b_k.dtype)
        if W > 0:
            b_end = _total(p_g, i_r, left, i_w, H, W, BW)
            if REVERSE:
                b_e = tl.exp2(_decay_of_queries(p_g, i_r, left, i_w, H, W, BW, EXCLUSIVE))
            else:
                b_e = tl.exp2(b_end[None, :] - _decay(p_g, row, i_r, left, i_w, H, W, BW))
            b_k = (b_k * b_e).to(b_k.dtype)
            b_s *= tl.exp2(b_end)[None, :]
        b_s += tl.dot(tl.trans(b_v), b_k, input_precision="ieee") * scale
    if p_last is not None:
        _write_state(p_last, tl.trans(b_s), i_s, i_k, i_v, K, V, BK, BV)


@triton.jit
def states_kernel(
    p_k, p_v, p_g, p_start, p_states, p_end, T, H,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """States before each chunk and after the last; a program for a tile of the states of a head."""
    i = tl.program_id(0).to(tl.int64)
    _walk(i, p_k, p_v, p_g, p_start, p_states, p_end, T, H, 1.0, K, V, W, BK, BV, 0, False)


@triton.jit
def both_states_kernel(
    p_q, p_k, p_v, p_g, p_start, p_states, p_do, p_dend, p_dstates, p_dstart, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """The states again by programs of even number, and by those of odd number their gradients."""
    i = tl.program_id(0).to(tl.int64)
    if i % 2 == 0:
        _walk(i // 2, p_k, p_v, p_g, p_start, p_states, None, T, H, 1.0, K, V, W, BK, BV, EXCLUSIVE, False)
    else:
        _walk(i // 2, p_q, p_do, p_g, p_dend, p_dstates, p_dstart, T, H, scale, K, V, W, BK, BV, EXCLUSIVE, True)


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_g, p_bonus, p_states, p_o, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """o = scale ((q e^Gq) S + A v); a program for BV columns of a chunk of a head."""
    chunks, tiles = tl.cdiv(T, C), tl.cdiv(V, BV)
    i_v, i = tl.program_id(0) % tiles * BV, (tl.program_id(0) // tiles).to(tl.int64)
    i_h, i_n, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, i_s = (i_b * T + i_n * C) * H + i_h, (i_b * H + i_h) * chunks + i_n
    left = tl.minimum(T - i_n * C, C).to(tl.int32)
    STRICT: tl.constexpr = 1 if W > 1 else EXCLUSIVE
    SELF: tl.constexpr = p_bonus is not None or (W > 1 and EXCLUSIVE == 0)
    b_o, b_a = tl.zeros([C, BV], tl.float32), tl.zeros([C, C], tl.float32)
    b_self = tl.zeros([C], tl.float32)
    for i_k in range(0, K, BK):
        b_q, b_k = _read(p_q, i_r, left, i_k, H, K, BK), _read(p_k, i_r, left, i_k, H, K, BK)
        b_s = _read_state(p_states, i_s, i_v, i_k, V, K, BV, BK).to(b_q.dtype)
        if SELF:
            b_self += tl.sum(b_q * _with_bonus(p_bonus, b_k, i_h, i_k, K, BK), 1)
        if W > 1:
            b_gq, b_gk, _ = _decays(p_g, i_r, left, i_k, H, K, BK, EXCLUSIVE)
            b_a += _channel_scores(p_g, b_q, b_k, b_gq, b_gk, i_r, left, i_k, H, K, BK)
            b_q = (b_q * tl.exp2(b_gq)).to(b_q.dtype)
        else:
            b_a = tl.dot(b_q, tl.trans(b_k), b_a, input_precision="ieee")
        b_o = tl.dot(b_q, tl.trans(b_s), b_o, input_precision="ieee")
    if W == 1:
        b_gq, b_gk, _ = _decays(p_g, i_r, left, 0, H, 1, 1, EXCLUSIVE)
        b_o *= tl.exp2(b_gq)
        b_a = _seen(b_a, b_gq, b_gk, 1, EXCLUSIVE)
    else:
        b_a = _seen(b_a, None, None, 0, STRICT)
    if SELF:
        b_a += _diagonal(b_self)
    b_v = _read(p_v, i_r, left, i_v, H, V, BV)
    b_o = tl.dot(b_a.to(b_v.dtype), b_v, b_o, input_precision="ieee")
    _write(p_o, b_o * scale, i_r, left, i_v, H, V, BV)


@triton.jit
def _pair_gradients(p_v, p_do, b_v, b_do, i_r, left, H, V: tl.constexpr, BV: tl.constexpr):
    """<do_t, v_s>, [C, C], where b_v and b_do are the first BV columns."""
    b_p = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
    for i_v in range(BV, V, BV):
        b_v = _read(p_v, i_r, left, i_v, H, V, BV)
        b_do = _read(p_do, i_r, left, i_v, H, V, BV).to(b_v.dtype)
        b_p = tl.dot(b_do, tl.trans(b_v), b_p, input_precision="ieee")
    return b_p


@triton.jit
def _state_gradients(
    p_v, p_do, p_states, p_dstates, b_v, b_do, i_r, left, i_s, i_k, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """do S^T and v dS^T [C, BK], and S dS summed over V [BK]; b_v and b_do are the first BV columns."""
    b_dq, b_dk = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32)
    b_both = tl.zeros([BK], tl.float32)
    for i_v in range(0, V, BV):
        if V > BV:
            b_v = _read(p_v, i_r, left, i_v, H, V, BV)
            b_do = _read(p_do, i_r, left, i_v, H, V, BV).to(b_v.dtype)
        b_s = _read_state(p_states, i_s, i_v, i_k, V, K, BV, BK).to(b_v.dtype)
        b_ds = _read_state(p_dstates, i_s, i_v, i_k, V, K, BV, BK).to(b_v.dtype)
        b_dq = tl.dot(b_do, b_s, b_dq, input_precision="ieee")
        b_dk = tl.dot(b_v, b_ds, b_dk, input_precision="ieee")
        b_both += tl.sum(b_s.to(tl.float32) * b_ds, 0)
    return b_dq, b_dk, b_both


@triton.jit
def _value_gradients(
    p_k, p_g, p_do, p_dstates, p_dv, b_a, b_do, i_r, left, i_s, H,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Writes dv = (k e^(G_C - G)) dS + A^T do; b_do are the first BV columns."""
    for i_v in range(0, V, BV):
        b_dv = tl.zeros([C, BV], tl.float32)
        for i_k in range(0, K, BK):
            b_k = _read(p_k, i_r, left, i_k, H, K, BK)
            if W > 1:
                _, b_gk, b_end = _decays(p_g, i_r, left, i_k, H, K, BK, 0)
                b_k = (b_k * tl.exp2(b_end[None, :] - b_gk)).to(b_k.dtype)
            b_ds = _read_state(p_dstates, i_s, i_v, i_k, V, K, BV, BK).to(b_k.dtype)
            b_dv = tl.dot(b_k, tl.trans(b_ds), b_dv, input_precision="ieee")
        if W == 1:
            _, b_hk, b_hend = _decays(p_g, i_r, left, 0, H, 1, 1, 0)
            b_dv *= tl.exp2(b_hend[None, :] - b_hk)
        if V > BV:
            b_do = _read(p_do, i_r, left, i_v, H, V, BV).to(b_do.dtype)
        b_dv = tl.dot(tl.trans(b_a), b_do, b_dv, input_precision="ieee")
        _write(p_dv, b_dv, i_r, left, i_v, H, V, BV)


@triton.jit
def _sums_to_end(b_x, PRECISION: tl.constexpr):
    """Sums [C, X] over the rows of b_x from each row on: a product with a triangle of ones.

    TF32 where the inputs are of 16 bits: it rounds less than they do.
    """
    row = tl.arange(0, C)
    return tl.dot(tl.where(row[:, None] <= row[None, :], 1.0, 0.0), b_x, input_precision=PRECISION)


@triton.jit
def _key_gradients(
    p_g, p_v, p_do, p_states, p_dstates, b_q, b_k, b_v, b_do, b_p, b_a, b_hq, b_hk, b_hend,
    i_r, left, i_s, i_k, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """dq and dk [C, BK] but for a step's own pair, S dS at the end of the chunk summed over V [BK], and A added to."""
    b_dq, b_dk, b_both = _state_gradients(
        p_v, p_do, p_states, p_dstates, b_v, b_do, i_r, left, i_s, i_k, H, K, V, BK, BV
    )
    b_dq *= scale
    if W > 0:
        b_gq, b_gk, b_end = _decays(p_g, i_r, left, i_k, H, K, BK, EXCLUSIVE) if W > 1 else (b_hq, b_hk, b_hend)
        b_dq *= tl.exp2(b_gq)
        b_dk *= tl.exp2(b_end[None, :] - b_gk)
        b_both = b_both * tl.exp2(b_end) + tl.sum(b_k * b_dk, 0)
    if W > 1:
        b_a, b_dq, b_dk = _channel_gradients(p_g, b_q, b_k, b_gq, b_gk, b_p, b_a, b_dq, b_dk, i_r, left, i_k, H, K, BK)
    else:
        b_a = tl.dot(b_q, tl.trans(b_k), b_a, input_precision="ieee")
        b_dq = tl.dot(b_p, b_k, b_dq, input_precision="ieee")
        b_dk = tl.dot(tl.trans(b_p), b_q, b_dk, input_precision="ieee")
    return b_dq, b_dk, b_both, b_a


@triton.jit
def _own_gradients(
    p_bonus, p_dbonus, b_q, b_k, b_dself, b_dq, b_dk, i_h, i_m, i_k, H, K: tl.constexpr, BK: tl.constexpr
):
    """Adds a step's own pair to dq and dk and gives A_tt; writes the bonus gradient to place i_m of [.., H, K]."""
    b_uk = _with_bonus(p_bonus, b_k, i_h, i_k, K, BK)
    b_dq += b_dself[:, None] * b_uk
    b_dk += b_dself[:, None] * _with_bonus(p_bonus, b_q, i_h, i_k, K, BK)
    if p_bonus is not None:
        column = i_k + tl.arange(0, BK)
        p_sum = p_dbonus + (i_m * H + i_h) * K + column
        tl.store(p_sum, tl.sum(b_dself[:, None] * b_q * b_k, 0), mask=column < K)
    return b_dq, b_dk, tl.sum(b_q * b_uk, 1)


@triton.jit
def gradient_kernel(
    p_q, p_k, p_v, p_g, p_bonus, p_states, p_do, p_dstates, p_dq, p_dk, p_dv, p_dg, p_dbonus, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """Gradients of q, k, v, the log decay and, summed over the steps, the bonus; a program for a chunk of a head."""
    i, chunks, row = tl.program_id(0).to(tl.int64), tl.cdiv(T, C), tl.arange(0, C)
    i_h, i_n, i_b = i % H, i // H % chunks, i // H // chunks
    i_r, i_s = (i_b * T + i_n * C) * H + i_h, (i_b * H + i_h) * chunks + i_n
    left = tl.minimum(T - i_n * C, C).to(tl.int32)
    STRICT: tl.constexpr = 1 if W > 1 else EXCLUSIVE
    SELF: tl.constexpr = p_bonus is not None or (W > 1 and EXCLUSIVE == 0)
    PRECISION: tl.constexpr = "ieee" if p_q.dtype.element_ty == tl.float32 else "tf32"
    b_v = _read(p_v, i_r, left, 0, H, V, BV)
    b_do = _read(p_do, i_r, left, 0, H, V, BV).to(b_v.dtype)
    b_hq, b_hk, b_hend = tl.zeros([C, 1], tl.float32), tl.zeros([C, 1], tl.float32), tl.zeros([1], tl.float32)
    if W == 1:
        b_hq, b_hk, b_hend = _decays(p_g, i_r, left, 0, H, 1, 1, EXCLUSIVE)
    b_p = _pair_gradients(p_v, p_do, b_v, b_do, i_r, left, H, V, BV) * scale
    b_dself = tl.sum(tl.where(row[:, None] == row[None, :], b_p, 0.0), 1)
    b_p = _seen(b_p, b_hq, b_hk, W, STRICT)
    if W > 1:
        b_p += tl.trans(b_p)
    b_p = b_p.to(b_v.dtype)
    b_a, b_self = tl.zeros([C, C], tl.float32), tl.zeros([C], tl.float32)
    b_read, b_written, b_sum = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32), 0.0
    for i_k in range(0, K, BK):
        b_q, b_k = _read(p_q, i_r, left, i_k, H, K, BK), _read(p_k, i_r, left, i_k, H, K, BK)
        b_dq, b_dk, b_both, b_a = _key_gradients(
            p_g, p_v, p_do, p_states, p_dstates, b_q, b_k, b_v, b_do, b_p, b_a, b_hq, b_hk, b_hend,
            i_r, left, i_s, i_k, H, scale, K, V, W, BK, BV, EXCLUSIVE,
        )  # fmt: skip
        if W > 1:
            b_dg = _sums_to_end(b_q * b_dq - b_k * b_dk, PRECISION) + b_both[None, :]
            _write(p_dg, b_dg - b_q * b_dq if EXCLUSIVE else b_dg, i_r, left, i_k, H, K, BK)
        if W == 1:
            b_read += tl.sum(b_q * b_dq, 1)
            b_written += tl.sum(b_k * b_dk, 1)
            b_sum += tl.sum(b_both)
        if SELF:
            b_dq, b_dk, b_own = _own_gradients(
                p_bonus, p_dbonus, b_q, b_k, b_dself, b_dq, b_dk, i_h, i_b * chunks + i_n, i_k, H, K, BK
            )
            b_self += b_own
        _write(p_dq, b_dq, i_r, left, i_k, H, K, BK)
        _write(p_dk, b_dk, i_r, left, i_k, H, K, BK)
    if W == 1:
        b_dg = tl.sum(tl.where(row[:, None] >= row[None, :], (b_read - b_written)[:, None], 0.0), 0) + b_sum
        _write(p_dg, (b_dg - b_read if EXCLUSIVE else b_dg)[:, None], i_r, left, 0, H, 1, 1)
    b_a = _seen(b_a, b_hq, b_hk, W, STRICT)
    if SELF:
        b_a += _diagonal(b_self)
    b_a = (b_a * scale).to(b_v.dtype)
    _value_gradients(p_k, p_g, p_do, p_dstates, p_dv, b_a, b_do, i_r, left, i_s, H, K, V, W, BK, BV)


class _Tiles(NamedTuple):
    """Key and value columns of a program, at most; its warps, and the stages of loads ahead."""

    BK: int
    BV: int
    num_warps: int
    num_stages: int


TILES = {
    80: {
        "walk": (_Tiles(64, 64, 4, 3), _Tiles(64, 64, 4, 3)),
        "output": (_Tiles(64, 64, 4, 1), _Tiles(64, 128, 8, 1)),
        "output by channel": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 8, 1)),
        "gradient": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 8, 1)),
        "gradient by channel": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 8, 1)),
    },
    90: {
        "walk": (_Tiles(64, 64, 4, 3), _Tiles(64, 64, 4, 3)),
        "output": (_Tiles(64, 64, 4, 1), _Tiles(64, 128, 4, 1)),
        "output by channel": (_Tiles(64, 64, 4, 1), _Tiles(32, 128, 4, 1)),
        "gradient": (_Tiles(64, 64, 4, 1), _Tiles(32, 128, 4, 1)),
        "gradient by channel": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 4, 1)),
    },
}
"""Tiles by least compute capability, for 16 bits: up to 64 value channels, and beyond."""
SINGLE = {"walk": _Tiles(32, 32, 4, 1), "output": _Tiles(32, 64, 8, 1), "gradient": _Tiles(32, 32, 8, 1)}
"""Tiles for float32, whose products do not run on tensor cores."""


def _tiles(kernel: str, dtype: torch.dtype, capability: int, key: int, value: int, columns: int) -> _Tiles:
    """Tiles of a kernel for `key` and `value` channels and W = `columns`."""
    if dtype == torch.float32:
        most = SINGLE[kernel]
    else:
        rows = TILES[max(each for each in TILES if each <= max(capability, min(TILES)))]
        most = rows.get(f"{kernel} by channel" if columns > 1 else kernel, rows[kernel])[value > 64]
    padded = (max(16, triton.next_power_of_2(each)) for each in (key, value))
    return most._replace(**dict(zip(("BK", "BV"), map(min, most[:2], padded), strict=True)))


@cache
def _device(index: int | None) -> tuple[int, int]:
    """Compute capability and multiprocessors of a GPU; those of one program at a time for the interpreter."""
    if index is None:
        return 90, 1
    properties = torch.cuda.get_device_properties(index)
    return 10 * properties.major + properties.minor, properties.multi_processor_count


def _launch(q: Tensor, v: Tensor, columns: int, kernel: str, walks: int = 1) -> tuple[int, dict[str, int]]:
    """Programs of a launch, and its constants."""
    (batch, steps, heads, key), value = q.shape, v.shape[-1]
    capability, processors = _device(q.device.index)
    tiles = _tiles(kernel, q.dtype, capability, key, value, columns)
    constants = {"K": key, "V": value, "W": columns}
    each = batch * heads * triton.cdiv(value, tiles.BV)
    if kernel == "walk":  # it is a loop over time: smaller tiles rather than idle processors
        while tiles.BK > 16 and walks * each * triton.cdiv(key, tiles.BK) < processors:
            tiles = tiles._replace(BK=tiles.BK // 2)
        return walks * each * triton.cdiv(key, tiles.BK), constants | tiles._asdict()
    chunks = triton.cdiv(steps, C.value)
    return chunks * (each if kernel == "output" else batch * heads), constants | tiles._asdict()


def _sums(log_decay: Tensor) -> Tensor:
    """G of a log decay, float32."""
    batch, steps = log_decay.shape[:2]
    width = log_decay[0, 0].numel()
    sums = torch.empty_like(log_decay, dtype=torch.float32)
    block = min(64, triton.next_power_of_2(width))
    programs = batch * triton.cdiv(steps, C.value) * triton.cdiv(width, block)
    decay_kernel[(programs,)](log_decay, sums, steps, width, BW=block)
    return sums


def _room(q: Tensor, v: Tensor) -> Tensor:
    """Room for the states of all chunks: bfloat16 for bfloat16 inputs, otherwise float32."""
    (batch, steps, heads, key), value = q.shape, v.shape[-1]
    dtype = q.dtype if q.dtype == torch.bfloat16 else torch.float32
    return torch.empty(batch, heads, triton.cdiv(steps, C.value), value, key, dtype=dtype, device=q.device)


class _LinearAttention(torch.autograd.Function):
    """Keeps its arguments and G; the states are made again in the backward pass, beside their gradients."""

    @staticmethod
    def forward(ctx, q, k, v, log_decay, bonus, initial_state, exclusive, return_state, scale, dtype):
        (batch, steps, heads, key), value = q.shape, v.shape[-1]
        columns = 0 if log_decay is None else 1 if log_decay.dim() == 3 else key
        sums = None if log_decay is None else _sums(log_decay)
        states, last = _room(q, v), None
        if return_state:
            last = torch.empty(batch, heads, key, value, dtype=torch.float32, device=q.device)
        programs, constants = _launch(q, v, columns, "walk")
        states_kernel[(programs,)](k, v, sums, initial_state, states, last, steps, heads, **constants)
        out = torch.empty_like(v, dtype=dtype)
        programs, constants = _launch(q, v, columns, "output")
        output_kernel[(programs,)](
            q, k, v, sums, bonus, states, out, steps, heads, scale, EXCLUSIVE=int(exclusive), **constants
        )
        ctx.save_for_backward(q, k, v, sums, bonus, initial_state)
        ctx.columns, ctx.exclusive, ctx.scale = columns, int(exclusive), scale
        ctx.decay_dtype = None if log_decay is None else log_decay.dtype
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        q, k, v, sums, bonus, initial_state = ctx.saved_tensors
        dout, dlast = dout.contiguous(), None if dlast is None else dlast.contiguous()
        (batch, steps, heads, key), states, dstates = q.shape, _room(q, v), _room(q, v)
        dstart = None if initial_state is None else torch.empty_like(initial_state)
        programs, constants = _launch(q, v, ctx.columns, "walk", walks=2)
        both_states_kernel[(programs,)](
            q, k, v, sums, initial_state, states, dout, dlast, dstates, dstart, steps, heads, ctx.scale,
            EXCLUSIVE=ctx.exclusive, **constants,
        )  # fmt: skip
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        ddecay = None if sums is None else torch.empty_like(sums, dtype=ctx.decay_dtype)
        parts = None
        if bonus is not None:
            parts = torch.empty(batch * states.shape[2], heads, key, dtype=torch.float32, device=q.device)
        programs, constants = _launch(q, v, ctx.columns, "gradient")
        gradient_kernel[(programs,)](
            q, k, v, sums, bonus, states, dout, dstates, dq, dk, dv, ddecay, parts, steps, heads, ctx.scale,
            EXCLUSIVE=ctx.exclusive, **constants,
        )  # fmt: skip
        dbonus = None if parts is None else parts.sum(0).to(bonus.dtype)
        return dq, dk, dv, ddecay, dbonus, dstart, None, None, None, None


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    exclusive: bool,
    bonus: Tensor | None,
    return_state: bool,
    *,
    scale: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """scale S_t^T q_t [B, T, H, V] in the given type, and the last state [B, H, K, V] if it is asked for."""
    if q.dtype == torch.float64:
        raise ValueError('q has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    tensors = (None if each is None else each.contiguous() for each in (q, k, v, log_decay, bonus, initial_state))
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out: tuple[Tensor, Tensor | None] = _LinearAttention.apply(  # type: ignore[no-untyped-call]
            *tensors, exclusive, return_state, float(scale), dtype
        )
    return out


def _specialised(
    kernel: Any, width: int, columns: int, dtype: torch.dtype = torch.bfloat16, *, whole: bool = False
) -> Specialisation:
    """A launch with K = V = width and W = columns; if `whole`, exclusive, with a bonus and with states in and out."""
    tiles = _tiles(PASSES[kernel.__name__], dtype, 90, width, width, columns)
    constants = {"K": width, "V": width, "W": columns, "BK": tiles.BK, "BV": tiles.BV, "EXCLUSIVE": int(whole)}
    absent = {*(() if columns else ("p_g", "p_dg")), *(() if whole else EXTRAS)}
    types = {"T": "i32", "H": "i32", "scale": "fp32"} | dict.fromkeys((*EXTRAS, "p_g", "p_dg"), "*fp32")
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    names = [name for name in kernel.arg_names if name not in constants]
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, own) for name in names if name not in absent},
        constants={name: constants.get(name) for name in kernel.arg_names if name in constants or name in absent},
        warps=tiles.num_warps,
        stages=tiles.num_stages,
    )


PASSES = {
    "states_kernel": "walk",
    "both_states_kernel": "walk",
    "output_kernel": "output",
    "gradient_kernel": "gradient",
}
EXTRAS = ("p_bonus", "p_dbonus", "p_start", "p_end", "p_dend", "p_dstart")
KERNELS = (both_states_kernel, output_kernel, gradient_kernel)
SPECIALISATIONS = (
    Specialisation(
        kernel=decay_kernel,
        types={"p_log_decay": "*bf16", "p_g": "*fp32", "T": "i32", "WIDTH": "i32"},
        constants={"BW": 64},
    ),
    *(_specialised(each, width, w) for width in (64, 128) for w in (0, 1, width) for each in KERNELS),
    *(_specialised(each, 64, 64, whole=True) for each in (states_kernel, *KERNELS)),
    *(_specialised(each, 64, 64, torch.float32) for each in KERNELS),
)
