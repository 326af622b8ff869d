# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
# mypy: disable-error-code="index"
"""The backward kernels: what each chunk solves again, gradients of states between chunks, and those of a chunk."""

import triton
import triton.language as tl

from archloom.kernels.resolvent.triton_tiles import decays, halves, inverse, matrices
from archloom.kernels.triton_chunks import (
    LEVELS,
    C,
    chunk_of,
    diagonal_of,
    load_state,
    load_tile,
    lower,
    place,
    store_state,
    store_tile,
)


@triton.jit(do_not_specialize=["T"])
def adjoint_kernel(
    p_q, p_b, p_k, p_g, p_r, p_j, p_qstart, p_bstart, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """R = scale A (I + L)^-1, without q the inverse, and J = (I + L)^-T k e^(G_C - G); a program for a chunk of a head.

    With decay by channel also scale q e^G and b e^G, to p_qstart and p_bstart.
    """
    _, i_r, _, left = place(tl.program_id(0).to(tl.int64), T, H)
    b_a, b_l = matrices(p_q, p_b, p_k, p_g, i_r, left, H, K, W, BK)
    b_t = inverse(b_l).to(b_a.dtype)
    if p_q is None:
        store_tile(p_r, b_t, i_r, left, 0, H, C, C)
    else:
        b_r = tl.dot(b_a, b_t, input_precision="ieee") * scale
        store_tile(p_r, b_r, i_r, left, 0, H, C, C)
    if W == 1:
        b_g, b_end = decays(p_g, i_r, left, 0, H, 1, 1)
        b_until = tl.exp2(b_end[None, :] - b_g)
    for i_k in range(0, K, BK):
        b_k = load_tile(p_k, i_r, left, i_k, H, K, BK)
        if W == 1:
            b_k = (b_k * b_until).to(b_t.dtype)
        if W > 1:
            b_g, b_end = decays(p_g, i_r, left, i_k, H, K, BK)
            b_k = (b_k * tl.exp2(b_end[None, :] - b_g)).to(b_t.dtype)
            b_since = tl.exp2(b_g)
            store_tile(p_bstart, load_tile(p_b, i_r, left, i_k, H, K, BK) * b_since, i_r, left, i_k, H, K, BK)
            if p_q is not None:
                b_q = load_tile(p_q, i_r, left, i_k, H, K, BK) * (b_since * scale)
                store_tile(p_qstart, b_q, i_r, left, i_k, H, K, BK)
        store_tile(p_j, tl.dot(tl.trans(b_t), b_k, input_precision="ieee"), i_r, left, i_k, H, K, BK)


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
        b_ds += load_state(p_dlast, i_s, 0, i_v, K, V, BK, BV)
    for step in range(chunks):
        i_m = chunks - 1 - step
        i_r, left = chunk_of(i_s, i_m, T, H)
        store_state(p_dstates, b_ds, i_s * chunks + i_m, 0, i_v, K, V, BK, BV)
        b_j, b_r = load_tile(p_j, i_r, left, 0, H, K, BK), load_tile(p_r, i_r, left, 0, H, C, C)
        b_b, b_do = load_tile(p_b, i_r, left, 0, H, K, BK), load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_r.dtype)
        b_dx = tl.dot(tl.trans(b_r), b_do, input_precision="ieee")
        b_dx = tl.dot(b_j, b_ds.to(b_j.dtype), b_dx, input_precision="ieee")
        store_tile(p_dx, b_dx, i_r, left, i_v, H, V, BV)
        if W > 0:
            b_g, b_end = decays(p_g, i_r, left, 0, H, W, BW)
            b_ds *= tl.exp2(b_end)[:, None]
        if W == 1:
            b_dx *= tl.exp2(b_g)
        b_ds = tl.dot(tl.trans(b_b), (-b_dx).to(b_b.dtype), b_ds, input_precision="ieee")
        if p_q is not None:
            b_q = load_tile(p_q, i_r, left, 0, H, K, BK)
            if W == 1:
                b_do = (b_do * (tl.exp2(b_g) * scale)).to(b_q.dtype)
            if W == 0:
                b_do = (b_do * scale).to(b_q.dtype)
            b_ds = tl.dot(tl.trans(b_q), b_do, b_ds, input_precision="ieee")
    if p_dstart is not None:
        store_state(p_dstart, b_ds, i_s, 0, i_v, K, V, BK, BV)


@triton.jit
def _channel_gradients(
    p_g, b_q, b_b, b_k, b_g, b_pq, b_pb, b_dq, b_db, b_dk, i_r, left, i_k, H, K: tl.constexpr, BK: tl.constexpr
):
    """Adds to dq, db and dk what comes of the symmetric gradients P + P^T of the scores of a chunk."""
    for i_l in range(LEVELS):
        b_e, second, pairs = halves(p_g, b_g, i_l, i_r, left, i_k, H, K, BK)
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
        b_z, b_dx = load_tile(p_z, i_r, left, i_v, H, V, BV), load_tile(p_dx, i_r, left, i_v, H, V, BV)
        b_pb = tl.dot(b_dx, tl.trans(b_z), b_pb, input_precision="ieee")
        if p_do is not None:
            b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_z.dtype)
            b_pq = tl.dot(b_do, tl.trans(b_z), b_pq, input_precision="ieee")
    b_pq *= scale
    b_self = diagonal_of(b_pq)
    b_pq, b_pb = lower(b_pq, b_g, b_g, W, 1 if W > 1 else 0), lower(-b_pb, b_g, b_g, W, 1)
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
        b_z, b_dx = load_tile(p_z, i_r, left, i_v, H, V, BV), load_tile(p_dx, i_r, left, i_v, H, V, BV)
        b_s = load_state(p_states, i_s, i_k, i_v, K, V, BK, BV)
        b_ds = load_state(p_dstates, i_s, i_k, i_v, K, V, BK, BV)
        b_carried += tl.sum(b_s.to(tl.float32) * b_ds, 1)
        b_s, b_ds = tl.trans(b_s.to(b_z.dtype)), tl.trans(b_ds.to(b_z.dtype))
        b_db = tl.dot(b_dx, b_s, b_db, input_precision="ieee")
        b_dk = tl.dot(b_z, b_ds, b_dk, input_precision="ieee")
        if p_do is not None:
            b_do = load_tile(p_do, i_r, left, i_v, H, V, BV).to(b_z.dtype)
            b_dq = tl.dot(b_do, b_s, b_dq, input_precision="ieee")
    return b_dq * scale, -b_db, b_dk, b_carried


@triton.jit(do_not_specialize=["T"])
def gradient_kernel(
    p_q, p_b, p_k, p_g, p_z, p_states, p_do, p_dx, p_dstates, p_dq, p_db, p_dk, p_dg, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """Gradients of q, b, k and the log decay; a program for a chunk of a head."""
    _, i_r, i_s, left = place(tl.program_id(0).to(tl.int64), T, H)
    b_hg, b_hend = decays(p_g, i_r, left, 0, H, 1, 1) if W == 1 else (0.0, 0.0)
    p_read = p_do if p_q is not None else None
    b_pq, b_pb, b_self = _score_gradients(p_z, p_read, p_dx, b_hg, i_r, left, H, scale, V, W, BV)
    b_sum, b_change = tl.zeros([1], tl.float32), tl.zeros([C, 1], tl.float32)
    for i_k in range(0, K, BK):
        b_dq, b_db, b_dk, b_carried = _through_states(
            p_z, p_read, p_dx, p_states, p_dstates, i_r, left, i_s, i_k, H, scale, K, V, BK, BV
        )
        b_b, b_k = load_tile(p_b, i_r, left, i_k, H, K, BK), load_tile(p_k, i_r, left, i_k, H, K, BK)
        b_q = None if p_q is None else load_tile(p_q, i_r, left, i_k, H, K, BK)
        b_g, b_end = decays(p_g, i_r, left, i_k, H, K, BK) if W > 1 else (b_hg, b_hend)
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
                store_tile(p_dg, b_d, i_r, left, i_k, H, K, BK)
            else:
                b_change += tl.sum(b_d, 1, keep_dims=True)
                b_sum += tl.sum(b_carried, 0, keep_dims=True)
        if p_q is not None:
            if W > 1:
                b_dq += b_self[:, None] * b_k
                b_dk += b_self[:, None] * b_q
            store_tile(p_dq, b_dq, i_r, left, i_k, H, K, BK)
        store_tile(p_db, b_db, i_r, left, i_k, H, K, BK)
        store_tile(p_dk, b_dk, i_r, left, i_k, H, K, BK)
    if W == 1:
        store_tile(p_dg, tl.cumsum(b_change, 0, reverse=True) + b_sum[None, :], i_r, left, 0, H, 1, 1)
