# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The backward kernels: gradients of states, of keys and queries, of values, and of routes and decays."""

import triton
import triton.language as tl

from archloom.kernels.sparse_state.triton_forward import walk
from archloom.kernels.sparse_state.triton_tiles import (
    load_slot,
    load_square,
    route_row,
    slot_decay,
    store_slot,
    store_square,
)
from archloom.kernels.triton_chunks import (
    LEVELS,
    C,
    diagonal_of,
    halves,
    load_decay,
    load_state,
    load_tile,
    lower,
    place,
    store_tile,
)


@triton.jit
def both_states_kernel(
    p_q, p_k, p_v, p_read, p_write, p_g, p_start, p_states, p_do, p_dend, p_dstates, p_dstart, T, H, R, N, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """The states again by programs of even number, and by those of odd number their gradients."""
    i = tl.program_id(0).to(tl.int64)
    if i % 2 == 0:
        walk(i // 2, p_write, p_k, p_v, p_g, p_start, p_states, None, T, H, R, N, 1.0, K, V, BK, BV, False)
    else:
        walk(i // 2, p_read, p_q, p_do, p_g, p_dend, p_dstates, p_dstart, T, H, R, N, scale, K, V, BK, BV, True)


@triton.jit
def _products(p_x, p_y, i_r, left, H, WIDTH: tl.constexpr, BC: tl.constexpr):
    """<x_t, y_s>, [C, C]; x is rounded to the type of y."""
    b_p = tl.zeros([C, C], tl.float32)
    for i_c in range(0, WIDTH, BC):
        b_y = load_tile(p_y, i_r, left, i_c, H, WIDTH, BC)
        b_x = load_tile(p_x, i_r, left, i_c, H, WIDTH, BC).to(b_y.dtype)
        b_p = tl.dot(b_x, tl.trans(b_y), b_p, input_precision="ieee")
    return b_p


@triton.jit
def key_gradient_kernel(
    p_q, p_k, p_v, p_read, p_write, p_g, p_through, p_states, p_do, p_dstates, p_dq, p_dk,
    p_dthrough, p_dread, p_dwrite, p_dboth, B, T, H, R, N, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Gradients of q and k, and of what goes through the slots; a program for BK columns of a chunk of a head.

    Of every tile of columns also what the routes receive of the states [B, T, H, N], and S dS at the end of the chunk
    summed over its entries [B, H, M, N]. Where gradients of the routes are not asked for, a slot to which no step of
    the chunk has a route is passed over.
    """
    tiles, chunks = tl.cdiv(K, BK), tl.cdiv(T, C)
    i_t = (tl.program_id(0) % tiles).to(tl.int64)
    i_k = tl.program_id(0) % tiles * BK
    i_h, i_r, i_s, left = place((tl.program_id(0) // tiles).to(tl.int64), T, H)
    i_route = route_row(i_r, i_h, H, R)
    b_p = lower(_products(p_do, p_v, i_r, left, H, V, BV), None, None, 0, 0) * scale
    if p_dthrough is not None:  # noqa: SIM102
        if i_t == 0:
            store_square(p_dthrough, b_p * _products(p_q, p_k, i_r, left, H, K, BK), i_s)
    b_q, b_k = load_tile(p_q, i_r, left, i_k, H, K, BK), load_tile(p_k, i_r, left, i_k, H, K, BK)
    b_p = (b_p * load_square(p_through, i_s)).to(b_k.dtype)
    b_dq = tl.dot(b_p, b_k, input_precision="ieee")
    b_dk = tl.dot(tl.trans(b_p), b_q, input_precision="ieee")
    for i_n in range(N):
        b_r, b_w = load_slot(p_read, i_route, left, i_n, R, N), load_slot(p_write, i_route, left, i_n, R, N)
        wanted = tl.max(tl.maximum(tl.abs(b_r), tl.abs(b_w))) > 0
        if p_dthrough is not None:
            wanted = True
        if wanted:
            b_y, b_z, b_both = tl.zeros([C, BK], tl.float32), tl.zeros([C, BK], tl.float32), tl.zeros([BK], tl.float32)
            for i_v in range(0, V, BV):
                b_v = load_tile(p_v, i_r, left, i_v, H, V, BV)
                b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_v.dtype)
                b_s = load_state(p_states, i_s * N + i_n, i_v, i_k, V, K, BV, BK)
                b_ds = load_state(p_dstates, i_s * N + i_n, i_v, i_k, V, K, BV, BK)
                b_y = tl.dot(b_do, b_s.to(b_v.dtype), b_y, input_precision="ieee")
                b_z = tl.dot(b_v, b_ds.to(b_v.dtype), b_z, input_precision="ieee")
                b_both += tl.sum(b_s.to(tl.float32) * b_ds.to(tl.float32), 0)
            b_since, b_until, b_whole = tl.full([C], 1.0, tl.float32), tl.full([C], 1.0, tl.float32), 1.0
            if p_g is not None:
                b_g, b_end = slot_decay(p_g, i_r, left, i_n, H, N)
                b_since, b_until, b_whole = tl.exp2(b_g), tl.exp2(b_end - b_g), tl.exp2(b_end)
            b_since *= scale
            b_dq += (b_r * b_since)[:, None] * b_y
            b_dk += (b_w * b_until)[:, None] * b_z
            if p_dthrough is not None:
                b_dw = tl.sum(b_k * b_z, 1) * b_until
                i_part = i_t * B * T * H + i_r
                store_slot(p_dread, tl.sum(b_q * b_y, 1) * b_since, i_part, left, i_n, H, N)
                store_slot(p_dwrite, b_dw, i_part, left, i_n, H, N)
                if p_g is not None:
                    at = (i_t * B * H * chunks + i_s) * N + i_n
                    tl.store(p_dboth + at, tl.sum(b_both) * b_whole + tl.sum(b_w * b_dw))
    store_tile(p_dq, b_dq, i_r, left, i_k, H, K, BK)
    store_tile(p_dk, b_dk, i_r, left, i_k, H, K, BK)


@triton.jit
def value_gradient_kernel(
    p_q, p_k, p_write, p_g, p_through, p_do, p_dstates, p_dv, T, H, R, N, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """dv = scale A^T do + sum_n write_n e^(G_C - G_n) (k dS_n); a program for BV columns of a chunk of a head."""
    tiles = tl.cdiv(V, BV)
    i_v = tl.program_id(0) % tiles * BV
    i_h, i_r, i_s, left = place((tl.program_id(0) // tiles).to(tl.int64), T, H)
    i_route = route_row(i_r, i_h, H, R)
    b_a = _products(p_q, p_k, i_r, left, H, K, BK) * load_square(p_through, i_s) * scale
    b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(p_k.dtype.element_ty)
    b_dv = tl.dot(tl.trans(b_a).to(b_do.dtype), b_do, input_precision="ieee")
    for i_n in range(N):
        b_w = load_slot(p_write, i_route, left, i_n, R, N)
        if tl.max(tl.abs(b_w)) > 0:
            b_z = tl.zeros([C, BV], tl.float32)
            for i_k in range(0, K, BK):
                b_k = load_tile(p_k, i_r, left, i_k, H, K, BK)
                b_ds = load_state(p_dstates, i_s * N + i_n, i_v, i_k, V, K, BV, BK).to(b_k.dtype)
                b_z = tl.dot(b_k, tl.trans(b_ds), b_z, input_precision="ieee")
            if p_g is not None:
                b_g, b_end = slot_decay(p_g, i_r, left, i_n, H, N)
                b_w *= tl.exp2(b_end - b_g)
            b_dv += b_w[:, None] * b_z
    store_tile(p_dv, b_dv, i_r, left, i_v, H, V, BV)


@triton.jit
def _part_sum(p_x, parts, B, T, i_r, left, i_n, H, N, BN: tl.constexpr):
    """A tile of the sum over parts [parts, B, T, H, N]."""
    b_x = tl.zeros([C, BN], tl.float32)
    for i in range(parts):
        b_x += load_tile(p_x, tl.cast(i, tl.int64) * B * T * H + i_r, left, i_n, H, N, BN)
    return b_x


@triton.jit
def route_gradient_kernel(
    p_read, p_write, p_g, p_dthrough, p_partread, p_partwrite, p_partboth, p_dread, p_dwrite, p_ddecay, parts,
    B, T, H, R, N, BN: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Gradients of the routes by head [B, T, H, N], and of the log decay [B, T, H]; a program for a chunk of a head."""
    i_h, i_r, i_s, left = place(tl.program_id(0).to(tl.int64), T, H)
    chunks, row = tl.cdiv(T, C), tl.arange(0, C)
    i_route = route_row(i_r, i_h, H, R)
    b_d, b_ddecay = load_square(p_dthrough, i_s), tl.zeros([C], tl.float32)
    b_self = diagonal_of(b_d)[:, None]
    for i_n in range(0, N, BN):
        column = i_n + tl.arange(0, BN)
        b_r = load_tile(p_read, i_route, left, i_n, R, N, BN).to(tl.float32)
        b_w = load_tile(p_write, i_route, left, i_n, R, N, BN).to(tl.float32)
        b_dr = _part_sum(p_partread, parts, B, T, i_r, left, i_n, H, N, BN)
        b_dw = _part_sum(p_partwrite, parts, B, T, i_r, left, i_n, H, N, BN)
        if p_g is None:
            b_dr = tl.dot(b_d, b_w, b_dr, input_precision=PRECISION)
            b_dw = tl.dot(tl.trans(b_d), b_r, b_dw, input_precision=PRECISION)
        else:
            b_pairs = b_d + tl.trans(b_d)
            b_g = load_decay(p_g, tl.arange(0, C), i_r, left, i_n, H, N, BN)
            for i_l in range(LEVELS):
                b_x, b_e, second, pairs = halves(p_g, b_r, b_w, b_g, b_g, i_l, i_r, left, i_n, H, N, BN)
                b_dx = tl.dot(tl.where(pairs, b_pairs, 0.0), b_x, input_precision=PRECISION) * b_e
                b_dr += tl.where(second, b_dx, 0.0)
                b_dw += tl.where(second, 0.0, b_dx)
            b_both = tl.zeros([BN], tl.float32)
            for i in range(parts):
                p_part = p_partboth + (tl.cast(i, tl.int64) * B * H * chunks + i_s) * N + column
                b_both += tl.load(p_part, mask=column < N, other=0.0)
            # sums over the steps from each on: a product with a triangle of ones
            b_later = tl.where(row[:, None] <= row[None, :], 1.0, 0.0)
            b_dg = tl.dot(b_later, b_r * b_dr - b_w * b_dw, input_precision=PRECISION) + b_both[None, :]
            b_ddecay += tl.sum(tl.where(b_w > 0, b_dg, 0.0), 1)
            b_dr += b_self * b_w
            b_dw += b_self * b_r
        store_tile(p_dread, b_dr, i_r, left, i_n, H, N, BN)
        store_tile(p_dwrite, b_dw, i_r, left, i_n, H, N, BN)
    if p_g is not None:
        store_tile(p_ddecay, b_ddecay[:, None], i_r, left, 0, H, 1, 1)
