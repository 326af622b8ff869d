# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The forward kernels: states before each chunk, and the output of each chunk; see README.md for the equations.

    g [B, T, H, W]           log decay; W = 1 by head, K by channel, 0 for none
    states [B, H, M, V, K]   S before each chunk, or the gradient of S after it, transposed

K are the key channels and V the value channels; the other letters are those of `triton_chunks`.
"""

import triton
import triton.language as tl

from archloom.kernels.triton_chunks import (
    LEVELS,
    C,
    chunk_of,
    halves,
    last_decay,
    load_decay,
    load_state,
    load_tile,
    lower,
    on_diagonal,
    place,
    store_state,
    store_tile,
)


@triton.jit
def decay_of_queries(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr, EXCLUSIVE: tl.constexpr):
    """G for the queries of a chunk, [C, BW]: if EXCLUSIVE that of the step before, which is 0 for the first."""
    row = tl.arange(0, C)
    b_g = load_decay(p_g, tl.maximum(row - EXCLUSIVE, 0), i_r, left, i_c, H, W, BW)
    if EXCLUSIVE:
        b_g = tl.where(row[:, None] > 0, b_g, 0.0)
    return b_g


@triton.jit
def decays(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr, EXCLUSIVE: tl.constexpr):
    """G for the queries and for the keys of a chunk [C, BW], and at its end [BW]."""
    row = tl.arange(0, C)
    b_gk = load_decay(p_g, row, i_r, left, i_c, H, W, BW)
    b_gq = decay_of_queries(p_g, i_r, left, i_c, H, W, BW, 1) if EXCLUSIVE else b_gk
    return b_gq, b_gk, last_decay(p_g, i_r, left, i_c, H, W, BW)


@triton.jit
def _channel_scores(p_g, b_q, b_k, b_gq, b_gk, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """<q_t, k_s>_g over BK channels for s < t, and for t < s what is not asked for, [C, C]."""
    b_a = tl.zeros([C, C], tl.float32)
    for i_l in range(LEVELS):
        b_x, _, _, pairs = halves(p_g, b_q, b_k, b_gq, b_gk, i_l, i_r, left, i_k, H, K, BK)
        b_a = tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision="ieee"), b_a)
    return b_a


@triton.jit
def with_bonus(p_bonus, b_x, i_h, i_k, K: tl.constexpr, BK: tl.constexpr):
    """x times the bonus of its head, or x where there is none, float32."""
    b_x = b_x.to(tl.float32)
    if p_bonus is not None:
        column = i_k + tl.arange(0, BK)
        b_x *= tl.load(p_bonus + i_h * K + column, mask=column < K, other=0.0).to(tl.float32)[None, :]
    return b_x


@triton.jit
def walk(
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
        b_s += tl.trans(load_state(p_first, i_s, i_k, i_v, K, V, BK, BV))
    for step in range(chunks):
        i_m = chunks - 1 - step if REVERSE else step
        i_r, left = chunk_of(i_s, i_m, T, H)
        store_state(p_states, b_s, i_s * chunks + i_m, i_v, i_k, V, K, BV, BK)
        b_k = load_tile(p_k, i_r, left, i_k, H, K, BK)
        b_v = load_tile(p_v, i_r, left, i_v, H, V, BV).to(b_k.dtype)
        if W > 0:
            b_end = last_decay(p_g, i_r, left, i_w, H, W, BW)
            if REVERSE:
                b_e = tl.exp2(decay_of_queries(p_g, i_r, left, i_w, H, W, BW, EXCLUSIVE))
            else:
                b_e = tl.exp2(b_end[None, :] - load_decay(p_g, row, i_r, left, i_w, H, W, BW))
            b_k = (b_k * b_e).to(b_k.dtype)
            b_s *= tl.exp2(b_end)[None, :]
        b_s += tl.dot(tl.trans(b_v), b_k, input_precision="ieee") * scale
    if p_last is not None:
        store_state(p_last, tl.trans(b_s), i_s, i_k, i_v, K, V, BK, BV)


@triton.jit
def states_kernel(
    p_k, p_v, p_g, p_start, p_states, p_end, T, H,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """States before each chunk and after the last; a program for a tile of the states of a head."""
    i = tl.program_id(0).to(tl.int64)
    walk(i, p_k, p_v, p_g, p_start, p_states, p_end, T, H, 1.0, K, V, W, BK, BV, 0, False)


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_g, p_bonus, p_states, p_o, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """o = scale ((q e^Gq) S + A v); a program for BV columns of a chunk of a head."""
    tiles = tl.cdiv(V, BV)
    i_v = tl.program_id(0) % tiles * BV
    i_h, i_r, i_s, left = place((tl.program_id(0) // tiles).to(tl.int64), T, H)
    STRICT: tl.constexpr = 1 if W > 1 else EXCLUSIVE
    SELF: tl.constexpr = p_bonus is not None or (W > 1 and EXCLUSIVE == 0)
    b_o, b_a = tl.zeros([C, BV], tl.float32), tl.zeros([C, C], tl.float32)
    b_self = tl.zeros([C], tl.float32)
    for i_k in range(0, K, BK):
        b_q, b_k = load_tile(p_q, i_r, left, i_k, H, K, BK), load_tile(p_k, i_r, left, i_k, H, K, BK)
        b_s = load_state(p_states, i_s, i_v, i_k, V, K, BV, BK).to(b_q.dtype)
        if SELF:
            b_self += tl.sum(b_q * with_bonus(p_bonus, b_k, i_h, i_k, K, BK), 1)
        if W > 1:
            b_gq, b_gk, _ = decays(p_g, i_r, left, i_k, H, K, BK, EXCLUSIVE)
            b_a += _channel_scores(p_g, b_q, b_k, b_gq, b_gk, i_r, left, i_k, H, K, BK)
            b_q = (b_q * tl.exp2(b_gq)).to(b_q.dtype)
        else:
            b_a = tl.dot(b_q, tl.trans(b_k), b_a, input_precision="ieee")
        b_o = tl.dot(b_q, tl.trans(b_s), b_o, input_precision="ieee")
    if W == 1:
        b_gq, b_gk, _ = decays(p_g, i_r, left, 0, H, 1, 1, EXCLUSIVE)
        b_o *= tl.exp2(b_gq)
        b_a = lower(b_a, b_gq, b_gk, 1, EXCLUSIVE)
    else:
        b_a = lower(b_a, None, None, W, STRICT)
    if SELF:
        b_a += on_diagonal(b_self)
    b_v = load_tile(p_v, i_r, left, i_v, H, V, BV)
    b_o = tl.dot(b_a.to(b_v.dtype), b_v, b_o, input_precision="ieee")
    store_tile(p_o, b_o * scale, i_r, left, i_v, H, V, BV)
