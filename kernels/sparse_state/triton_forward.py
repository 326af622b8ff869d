# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The forward kernels: decays of slots, what goes through the slots inside a chunk, states between chunks, output."""

import triton
import triton.language as tl

from archloom.kernels.sparse_state.triton_tiles import load_slot, load_square, route_row, slot_decay, store_square
from archloom.kernels.triton_chunks import (
    LEVELS,
    LOG2_E,
    C,
    chunk_of,
    halves,
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
def decay_kernel(p_log_decay, p_write, p_g, T, H, R, N, BN: tl.constexpr):
    """G of log decays [B, T, H] where slots are written; a program for BN slots of a chunk of a head."""
    tiles = tl.cdiv(N, BN)
    i_n = tl.program_id(0) % tiles * BN
    i_h, i_r, _, left = place((tl.program_id(0) // tiles).to(tl.int64), T, H)
    b_w = load_tile(p_write, route_row(i_r, i_h, H, R), left, i_n, R, N, BN)
    b_g = load_tile(p_log_decay, i_r, left, 0, H, 1, 1).to(tl.float32)
    b_g = tl.cumsum(tl.where(b_w > 0, b_g, 0.0), 0) * LOG2_E
    store_tile(p_g, b_g, i_r, left, i_n, H, N, BN)


@triton.jit
def through_kernel(p_read, p_write, p_g, p_through, T, H, R, N, BN: tl.constexpr, PRECISION: tl.constexpr):
    """sum_n read_tn write_sn e^(G_tn - G_sn) for s <= t; a program for a chunk of a head."""
    i_h, i_r, i_s, left = place(tl.program_id(0).to(tl.int64), T, H)
    i_route = route_row(i_r, i_h, H, R)
    b_m, b_self = tl.zeros([C, C], tl.float32), tl.zeros([C], tl.float32)
    for i_n in range(0, N, BN):
        b_r = load_tile(p_read, i_route, left, i_n, R, N, BN).to(tl.float32)
        b_w = load_tile(p_write, i_route, left, i_n, R, N, BN).to(tl.float32)
        if p_g is None:
            b_m = tl.dot(b_r, tl.trans(b_w), b_m, input_precision=PRECISION)
        else:
            b_self += tl.sum(b_r * b_w, 1)
            b_g = load_decay(p_g, tl.arange(0, C), i_r, left, i_n, H, N, BN)
            for i_l in range(LEVELS):
                b_x, _, _, pairs = halves(p_g, b_r, b_w, b_g, b_g, i_l, i_r, left, i_n, H, N, BN)
                b_m += tl.where(pairs, tl.dot(b_x, tl.trans(b_x), input_precision=PRECISION), 0.0)
    b_m = lower(b_m, None, None, 0, 0)
    if p_g is not None:
        b_m += on_diagonal(b_self)
    store_square(p_through, b_m, i_s)


@triton.jit
def walk(
    i, p_route, p_k, p_v, p_g, p_first, p_states, p_last, T, H, R, N, scale, K: tl.constexpr, V: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, REVERSE: tl.constexpr,
):  # fmt: skip
    """Tile i of the states of slots before each chunk; if REVERSE, with read for write, q for k and do for v, of the
    gradients after each. A chunk in which no step has a route to the slot is only passed on; if REVERSE it forgets."""
    i_v, i_k = i % tl.cdiv(V, BV) * BV, i // tl.cdiv(V, BV) % tl.cdiv(K, BK) * BK
    i_s = i // (tl.cdiv(V, BV) * tl.cdiv(K, BK))
    i_n, i_bh, chunks = i_s % N, i_s // N, tl.cdiv(T, C)
    b_s = tl.zeros([BV, BK], tl.float32)  # transposed, so that keys need not be
    if p_first is not None:
        b_s += tl.trans(load_state(p_first, i_s, i_k, i_v, K, V, BK, BV))
    for step in range(chunks):
        i_m = chunks - 1 - step if REVERSE else step
        i_r, left = chunk_of(i_bh, i_m, T, H)
        store_state(p_states, b_s, (i_bh * chunks + i_m) * N + i_n, i_v, i_k, V, K, BV, BK)
        b_w = load_slot(p_route, route_row(i_r, i_bh % H, H, R), left, i_n, R, N) * scale
        used = tl.max(tl.abs(b_w)) > 0
        if p_g is not None:
            b_g, b_end = slot_decay(p_g, i_r, left, i_n, H, N)
            b_w *= tl.exp2(b_g) if REVERSE else tl.exp2(b_end - b_g)
            b_s *= tl.exp2(b_end)
        if used:
            b_k = load_tile(p_k, i_r, left, i_k, H, K, BK)
            b_v = load_tile(p_v, i_r, left, i_v, H, V, BV).to(b_k.dtype)
            b_s += tl.dot(tl.trans(b_v), (b_k * b_w[:, None]).to(b_k.dtype), input_precision="ieee")
    if p_last is not None:
        store_state(p_last, tl.trans(b_s), i_s, i_k, i_v, K, V, BK, BV)


@triton.jit
def states_kernel(
    p_k, p_v, p_write, p_g, p_start, p_states, p_end, T, H, R, N,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """States before each chunk and after the last; a program for a tile of the state of a slot of a head."""
    i = tl.program_id(0).to(tl.int64)
    walk(i, p_write, p_k, p_v, p_g, p_start, p_states, p_end, T, H, R, N, 1.0, K, V, BK, BV, False)


@triton.jit
def output_kernel(
    p_q, p_k, p_v, p_read, p_g, p_through, p_states, p_o, T, H, R, N, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """o = scale (sum_n read_n e^(G_n) (q S_n) + A v), A = through (q k^T); a program for BV columns of a chunk."""
    tiles = tl.cdiv(V, BV)
    i_v = tl.program_id(0) % tiles * BV
    i_h, i_r, i_s, left = place((tl.program_id(0) // tiles).to(tl.int64), T, H)
    i_route = route_row(i_r, i_h, H, R)
    b_a = tl.zeros([C, C], tl.float32)
    for i_k in range(0, K, BK):
        b_q = load_tile(p_q, i_r, left, i_k, H, K, BK)
        b_a = tl.dot(b_q, tl.trans(load_tile(p_k, i_r, left, i_k, H, K, BK)), b_a, input_precision="ieee")
    b_v = load_tile(p_v, i_r, left, i_v, H, V, BV)
    b_a = (b_a * load_square(p_through, i_s)).to(b_v.dtype)
    b_o = tl.dot(b_a, b_v, input_precision="ieee")
    for i_n in range(N):
        b_r = load_slot(p_read, i_route, left, i_n, R, N)
        if tl.max(tl.abs(b_r)) > 0:
            b_y = tl.zeros([C, BV], tl.float32)
            for i_k in range(0, K, BK):
                b_q = load_tile(p_q, i_r, left, i_k, H, K, BK)
                b_s = load_state(p_states, i_s * N + i_n, i_v, i_k, V, K, BV, BK).to(b_q.dtype)
                b_y = tl.dot(b_q, tl.trans(b_s), b_y, input_precision="ieee")
            if p_g is not None:
                b_g, _ = slot_decay(p_g, i_r, left, i_n, H, N)
                b_r *= tl.exp2(b_g)
            b_o += b_r[:, None] * b_y
    store_tile(p_o, b_o * scale, i_r, left, i_v, H, V, BV)
