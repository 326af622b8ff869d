# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code="union-attr"
"""What the kernels of `triton_forward` and `triton_backward` share: the matrices of a chunk, and their inverses.

    g [B, T, H, W]           log decay; W = 1 by head, K by channel, 0 for none
    A, R [B, T, H, C]        a row of a chunk's matrix for each step
    states [B, H, M, K, V]   S before each chunk, or the gradient of S after it

K are the key channels and V the value channels; the other letters are those of `triton_chunks`. Solves are float32.
"""

import triton
import triton.language as tl

from archloom.kernels.triton_chunks import LEVELS, C, last_decay, load_decay, load_tile, lower, on_diagonal

ROWS = tl.constexpr(16)  # rows solved one by one


@triton.jit
def decays(p_g, i_r, left, i_c, H, W: tl.constexpr, BW: tl.constexpr):
    """G of a chunk [C, BW], and at its end [BW]."""
    b_g = load_decay(p_g, tl.arange(0, C), i_r, left, i_c, H, W, BW)
    return b_g, last_decay(p_g, i_r, left, i_c, H, W, BW)


@triton.jit
def halves(p_g, b_g, i_l, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """e^-|G - R| [C, BK] with R the G where the second half begins of a row's block of 2 * 2^i_l steps.

    Also which rows are of second halves [C, 1], and which pairs of rows are of both halves of one block [C, C].
    """
    half = tl.arange(0, C) >> i_l
    b_e = tl.exp2(-tl.abs(b_g - load_decay(p_g, (half | 1) << i_l, i_r, left, i_k, H, K, BK)))
    return b_e, ((half & 1) == 1)[:, None], half[:, None] == (half ^ 1)[None, :]


@triton.jit
def _channel_scores(p_g, b_q, b_b, b_k, b_a, b_l, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr):
    """Adds <q_t, k_s>_g over BK channels to A and <b_t, k_s>_g to L for s < t; for s > t what is not asked for."""
    b_g = load_decay(p_g, tl.arange(0, C), i_r, left, i_k, H, K, BK)
    for i_l in range(LEVELS):
        b_e, second, pairs = halves(p_g, b_g, i_l, i_r, left, i_k, H, K, BK)
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
def inverse(b_l):
    """(I + strictly lower part of L)^-1, [C, C] float32, by block substitution."""
    b_t, block = _inverse_of_rows(b_l), tl.arange(0, C // ROWS)[:, None, None]
    b_1, b_2 = tl.sum(tl.where(block == 0, b_t, 0.0), 0), tl.sum(tl.where(block == 1, b_t, 0.0), 0)
    b_3, b_4 = tl.sum(tl.where(block == 2, b_t, 0.0), 0), tl.sum(tl.where(block == 3, b_t, 0.0), 0)
    b_12 = _inverse_of_pair(b_1, b_2, _block(b_l, 1, 0, 16), 16)
    b_34 = _inverse_of_pair(b_3, b_4, _block(b_l, 3, 2, 16), 16)
    return _inverse_of_pair(b_12, b_34, _block(b_l, 1, 0, 32), 32)


@triton.jit
def matrices(p_q, p_b, p_k, p_g, i_r, left, H, K: tl.constexpr, W: tl.constexpr, BK: tl.constexpr):
    """A of the readout (zero without q), in the type of k, and L of a chunk, float32 [C, C]."""
    b_a, b_l = tl.zeros([C, C], tl.float32), tl.zeros([C, C], tl.float32)
    b_self = tl.zeros([C], tl.float32)
    for i_k in range(0, K, BK):
        b_b, b_k = load_tile(p_b, i_r, left, i_k, H, K, BK), load_tile(p_k, i_r, left, i_k, H, K, BK)
        b_q = None if p_q is None else load_tile(p_q, i_r, left, i_k, H, K, BK)
        if W > 1:
            b_a, b_l = _channel_scores(p_g, b_q, b_b, b_k, b_a, b_l, i_r, left, i_k, H, K, BK)
            if p_q is not None:
                b_self += tl.sum(b_q.to(tl.float32) * b_k, 1)
        else:
            b_l = tl.dot(b_b, tl.trans(b_k), b_l, input_precision="ieee")
            if p_q is not None:
                b_a = tl.dot(b_q, tl.trans(b_k), b_a, input_precision="ieee")
    b_g = load_decay(p_g, tl.arange(0, C), i_r, left, 0, H, 1, 1) if W == 1 else 0.0
    if p_q is not None:
        b_a = lower(b_a, b_g, b_g, W, 1 if W > 1 else 0)
        if W > 1:
            b_a += on_diagonal(b_self)
    return b_a.to(p_k.dtype.element_ty), lower(b_l, b_g, b_g, W, 1)
