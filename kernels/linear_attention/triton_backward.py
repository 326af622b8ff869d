# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The backward kernels: states again with their gradients, then the gradients of each chunk of a head."""

import triton
import triton.language as tl

from archloom.kernels.linear_attention.triton_forward import decays, walk, with_bonus
from archloom.kernels.triton_chunks import (
    LEVELS,
    C,
    diagonal_of,
    halves,
    load_state,
    load_tile,
    lower,
    on_diagonal,
    place,
    store_tile,
)


@triton.jit
def both_states_kernel(
    p_q, p_k, p_v, p_g, p_start, p_states, p_do, p_dend, p_dstates, p_dstart, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """The states again by programs of even number, and by those of odd number their gradients."""
    i = tl.program_id(0).to(tl.int64)
    if i % 2 == 0:
        walk(i // 2, p_k, p_v, p_g, p_start, p_states, None, T, H, 1.0, K, V, W, BK, BV, EXCLUSIVE, False)
    else:
        walk(i // 2, p_q, p_do, p_g, p_dend, p_dstates, p_dstart, T, H, scale, K, V, W, BK, BV, EXCLUSIVE, True)


@triton.jit
def _channel_gradients(
    p_g, b_q, b_k, b_gq, b_gk, b_p, b_a, b_dq, b_dk, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr
):
    """Adds to A (of s < t) and to dq and dk what comes of the symmetric gradient P + P^T of scores of a chunk."""
    for i_l in range(LEVELS):
        b_x, b_e, second, pairs = halves(p_g, b_q, b_k, b_gq, b_gk, i_l, i_r, left, i_k, H, K, BK)
        b_a += tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision="ieee"), 0.0)
        b_d = tl.dot(tl.where(pairs, b_p, 0.0).to(b_p.dtype), b_x, input_precision="ieee") * b_e
        b_dq += tl.where(second, b_d, 0.0)
        b_dk += tl.where(second, 0.0, b_d)
    return b_a, b_dq, b_dk


@triton.jit
def _pair_gradients(p_v, p_do, b_v, b_do, i_r, left, H, V: tl.constexpr, BV: tl.constexpr):
    """<do_t, v_s>, [C, C], where b_v and b_do are the first BV columns."""
    b_p = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
    for i_v in range(BV, V, BV):
        b_v = load_tile(p_v, i_r, left, i_v, H, V, BV)
        b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_v.dtype)
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
            b_v = load_tile(p_v, i_r, left, i_v, H, V, BV)
            b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_v.dtype)
        b_s = load_state(p_states, i_s, i_v, i_k, V, K, BV, BK).to(b_v.dtype)
        b_ds = load_state(p_dstates, i_s, i_v, i_k, V, K, BV, BK).to(b_v.dtype)
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
            b_k = load_tile(p_k, i_r, left, i_k, H, K, BK)
            if W > 1:
                _, b_gk, b_end = decays(p_g, i_r, left, i_k, H, K, BK, 0)
                b_k = (b_k * tl.exp2(b_end[None, :] - b_gk)).to(b_k.dtype)
            b_ds = load_state(p_dstates, i_s, i_v, i_k, V, K, BV, BK).to(b_k.dtype)
            b_dv = tl.dot(b_k, tl.trans(b_ds), b_dv, input_precision="ieee")
        if W == 1:
            _, b_hk, b_hend = decays(p_g, i_r, left, 0, H, 1, 1, 0)
            b_dv *= tl.exp2(b_hend[None, :] - b_hk)
        if V > BV:
            b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_do.dtype)
        b_dv = tl.dot(tl.trans(b_a), b_do, b_dv, input_precision="ieee")
        store_tile(p_dv, b_dv, i_r, left, i_v, H, V, BV)


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
        b_gq, b_gk, b_end = decays(p_g, i_r, left, i_k, H, K, BK, EXCLUSIVE) if W > 1 else (b_hq, b_hk, b_hend)
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
def _own_gradients(p_bonus, p_dbonus, b_q, b_k, b_dself, b_dq, b_dk, i, i_h, i_k, K: tl.constexpr, BK: tl.constexpr):
    """Adds a step's own pair to dq and dk and gives A_tt; writes the bonus gradient to row i of [.., K]."""
    b_uk = with_bonus(p_bonus, b_k, i_h, i_k, K, BK)
    b_dq += b_dself[:, None] * b_uk
    b_dk += b_dself[:, None] * with_bonus(p_bonus, b_q, i_h, i_k, K, BK)
    if p_bonus is not None:
        column = i_k + tl.arange(0, BK)
        p_sum = p_dbonus + i * K + column
        tl.store(p_sum, tl.sum(b_dself[:, None] * b_q * b_k, 0), mask=column < K)
    return b_dq, b_dk, tl.sum(b_q * b_uk, 1)


@triton.jit
def gradient_kernel(
    p_q, p_k, p_v, p_g, p_bonus, p_states, p_do, p_dstates, p_dq, p_dk, p_dv, p_dg, p_dbonus, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, EXCLUSIVE: tl.constexpr,
):  # fmt: skip
    """Gradients of q, k, v, the log decay and, summed over the steps, the bonus; a program for a chunk of a head."""
    i, row = tl.program_id(0).to(tl.int64), tl.arange(0, C)
    i_h, i_r, i_s, left = place(i, T, H)
    STRICT: tl.constexpr = 1 if W > 1 else EXCLUSIVE
    SELF: tl.constexpr = p_bonus is not None or (W > 1 and EXCLUSIVE == 0)
    PRECISION: tl.constexpr = "ieee" if p_q.dtype.element_ty == tl.float32 else "tf32"
    b_v = load_tile(p_v, i_r, left, 0, H, V, BV)
    b_do = load_tile(p_do, i_r, left, 0, H, V, BV).to(b_v.dtype)
    b_hq, b_hk, b_hend = tl.zeros([C, 1], tl.float32), tl.zeros([C, 1], tl.float32), tl.zeros([1], tl.float32)
    if W == 1:
        b_hq, b_hk, b_hend = decays(p_g, i_r, left, 0, H, 1, 1, EXCLUSIVE)
    b_p = _pair_gradients(p_v, p_do, b_v, b_do, i_r, left, H, V, BV) * scale
    b_dself = diagonal_of(b_p)
    b_p = lower(b_p, b_hq, b_hk, W, STRICT)
    if W > 1:
        b_p += tl.trans(b_p)
    b_p = b_p.to(b_v.dtype)
    b_a, b_self = tl.zeros([C, C], tl.float32), tl.zeros([C], tl.float32)
    b_read, b_written, b_sum = tl.zeros([C], tl.float32), tl.zeros([C], tl.float32), 0.0
    for i_k in range(0, K, BK):
        b_q, b_k = load_tile(p_q, i_r, left, i_k, H, K, BK), load_tile(p_k, i_r, left, i_k, H, K, BK)
        b_dq, b_dk, b_both, b_a = _key_gradients(
            p_g, p_v, p_do, p_states, p_dstates, b_q, b_k, b_v, b_do, b_p, b_a, b_hq, b_hk, b_hend,
            i_r, left, i_s, i_k, H, scale, K, V, W, BK, BV, EXCLUSIVE,
        )  # fmt: skip
        if W > 1:
            b_dg = _sums_to_end(b_q * b_dq - b_k * b_dk, PRECISION) + b_both[None, :]
            store_tile(p_dg, b_dg - b_q * b_dq if EXCLUSIVE else b_dg, i_r, left, i_k, H, K, BK)
        if W == 1:
            b_read += tl.sum(b_q * b_dq, 1)
            b_written += tl.sum(b_k * b_dk, 1)
            b_sum += tl.sum(b_both)
        if SELF:
            b_dq, b_dk, b_own = _own_gradients(p_bonus, p_dbonus, b_q, b_k, b_dself, b_dq, b_dk, i, i_h, i_k, K, BK)
            b_self += b_own
        store_tile(p_dq, b_dq, i_r, left, i_k, H, K, BK)
        store_tile(p_dk, b_dk, i_r, left, i_k, H, K, BK)
    if W == 1:
        b_dg = tl.sum(tl.where(row[:, None] >= row[None, :], (b_read - b_written)[:, None], 0.0), 0) + b_sum
        store_tile(p_dg, (b_dg - b_read if EXCLUSIVE else b_dg)[:, None], i_r, left, 0, H, 1, 1)
    b_a = lower(b_a, b_hq, b_hk, W, STRICT)
    if SELF:
        b_a += on_diagonal(b_self)
    b_a = (b_a * scale).to(b_v.dtype)
    _value_gradients(p_k, p_g, p_do, p_dstates, p_dv, b_a, b_do, i_r, left, i_s, H, K, V, W, BK, BV)
