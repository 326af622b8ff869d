# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The forward kernels: what each chunk solves, states between chunks, and the output."""

import triton
import triton.language as tl

from archloom.kernels.resolvent.triton_tiles import decays, inverse, matrices
from archloom.kernels.triton_chunks import (
    C,
    chunk_of,
    load_decay,
    load_state,
    load_tile,
    place,
    store_state,
    store_tile,
)


@triton.jit(do_not_specialize=["T"])
def solve_kernel(
    p_q, p_b, p_k, p_x, p_g, p_a, p_response, p_z, p_kend, T, H,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """A of the readout, (I + L)^-1 b e^G (the response) and Y = (I + L)^-1 x (to p_z); a program for a chunk of a head.

    With decay by channel also the keys at the end of the chunk, k e^(G_C - G), to p_kend.
    """
    _, i_r, _, left = place(tl.program_id(0).to(tl.int64), T, H)
    b_a, b_l = matrices(p_q, p_b, p_k, p_g, i_r, left, H, K, W, BK)
    if p_q is not None:
        store_tile(p_a, b_a, i_r, left, 0, H, C, C)
    b_t = inverse(b_l).to(b_a.dtype)
    if W == 1:
        b_since = tl.exp2(load_decay(p_g, tl.arange(0, C), i_r, left, 0, H, 1, 1))
    for i_k in range(0, K, BK):
        b_b = load_tile(p_b, i_r, left, i_k, H, K, BK)
        if W == 1:
            b_b = (b_b * b_since).to(b_t.dtype)
        if W > 1:
            b_g, b_end = decays(p_g, i_r, left, i_k, H, K, BK)
            b_b = (b_b * tl.exp2(b_g)).to(b_t.dtype)
            b_k = load_tile(p_k, i_r, left, i_k, H, K, BK)
            store_tile(p_kend, b_k * tl.exp2(b_end[None, :] - b_g), i_r, left, i_k, H, K, BK)
        store_tile(p_response, tl.dot(b_t, b_b, input_precision="ieee"), i_r, left, i_k, H, K, BK)
    for i_v in range(0, V, BV):
        b_x = load_tile(p_x, i_r, left, i_v, H, V, BV)
        store_tile(p_z, tl.dot(b_t, b_x, input_precision="ieee"), i_r, left, i_v, H, V, BV)


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
        b_s += load_state(p_start, i_s, 0, i_v, K, V, BK, BV)
    for i_m in range(chunks):
        i_r, left = chunk_of(i_s, i_m, T, H)
        store_state(p_states, b_s, i_s * chunks + i_m, 0, i_v, K, V, BK, BV)
        b_response, b_k = load_tile(p_response, i_r, left, 0, H, K, BK), load_tile(p_k, i_r, left, 0, H, K, BK)
        b_z = load_tile(p_z, i_r, left, i_v, H, V, BV) - tl.dot(
            b_response, b_s.to(b_response.dtype), input_precision="ieee"
        )
        store_tile(p_z, b_z, i_r, left, i_v, H, V, BV)
        if W > 0:
            b_g, b_end = decays(p_g, i_r, left, 0, H, W, BW)
            b_s *= tl.exp2(b_end)[:, None]
        if W == 1:
            b_z *= tl.exp2(b_end[None, :] - b_g)
        b_s = tl.dot(tl.trans(b_k), b_z.to(b_k.dtype), b_s, input_precision="ieee")
    if p_last is not None:
        store_state(p_last, b_s, i_s, 0, i_v, K, V, BK, BV)


@triton.jit(do_not_specialize=["T"])
def output_kernel(
    p_q, p_a, p_z, p_g, p_states, p_o, T, H, scale,
    K: tl.constexpr, V: tl.constexpr, W: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr,
):  # fmt: skip
    """o = scale ((q e^G) S + A z); a program for BV columns of a chunk of a head."""
    i, tiles = tl.program_id(0).to(tl.int64), tl.cdiv(V, BV)
    i_v = i % tiles * BV
    _, i_r, i_s, left = place(i // tiles, T, H)
    b_o = tl.zeros([C, BV], tl.float32)
    for i_k in range(0, K, BK):
        b_q = load_tile(p_q, i_r, left, i_k, H, K, BK)
        b_s = load_state(p_states, i_s, i_k, i_v, K, V, BK, BV).to(b_q.dtype)
        if W > 1:
            b_q = (b_q * tl.exp2(load_decay(p_g, tl.arange(0, C), i_r, left, i_k, H, K, BK))).to(b_q.dtype)
        b_o = tl.dot(b_q, b_s, b_o, input_precision="ieee")
    if W == 1:
        b_o *= tl.exp2(load_decay(p_g, tl.arange(0, C), i_r, left, 0, H, 1, 1))
    b_a, b_z = load_tile(p_a, i_r, left, 0, H, C, C), load_tile(p_z, i_r, left, i_v, H, V, BV)
    b_o = tl.dot(b_a, b_z, b_o, input_precision="ieee")
    store_tile(p_o, b_o * scale, i_r, left, i_v, H, V, BV)
