# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The backward kernel of the relative bias: tiles whose corners lie equally far from the diagonal are summed as they
are, which leaves one tile for each such distance, and no two programs adding to one number."""

import triton
import triton.language as tl

from archloom.kernels.attention.triton_tiles import (
    PLUS_ONE,
    decay_parts,
    gradients,
    log_lag,
    rows_of,
    shown,
    table_entry,
)


@triton.jit(
    do_not_specialize=["steps", "sources", "heads", "groups", "entries", "first_diagonal", "diagonals"],
)
def backward_lags(
    q,
    k,
    v,
    d_out,
    log_sum,
    delta,
    d_tile,
    decay,
    table,
    mask,
    scale,
    cap,
    steps,
    sources,
    heads,
    groups,
    entries,
    first_diagonal,
    diagonals,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    M: tl.constexpr,
    NORMALISER: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    DILATION: tl.constexpr,
    CHUNK: tl.constexpr,
    FIRST: tl.constexpr,
    STRIDE: tl.constexpr,
    MASKED: tl.constexpr,
    CAPPED: tl.constexpr,
    BIASED: tl.constexpr,
    DECAYED: tl.constexpr,
):
    """d_tile [B, H, D, M, M]: the gradients at the scores, summed over the tiles of each diagonal of tiles.

    On diagonal d, row i and column j of every tile are the lag S - T + d M + i - j apart, so what a lag receives is a
    sum along the diagonals of d_tile, which is left to the caller.
    """
    pair = (tl.program_id(0) // diagonals).to(tl.int64)
    ordinal = tl.program_id(0) % diagonals
    diagonal = first_diagonal + ordinal
    batch, head = pair // heads, pair % heads
    group = head // (heads // groups)
    offset = sources - steps
    q += (batch * steps * heads + head) * K
    d_out += (batch * steps * heads + head) * V
    k += (batch * sources * groups + group) * K
    v += (batch * sources * groups + group) * V
    decay += pair * 2 * sources
    table += head * entries
    acc = tl.zeros([M, M], tl.float32)
    start = tl.maximum(diagonal, 0)
    stop = tl.minimum((steps + M - 1) // M, (sources + M - 1) // M + diagonal)
    for block in range(start, stop):
        row = block * M + tl.arange(0, M)
        s = (block - diagonal) * M + tl.arange(0, M)
        t = offset + row
        queries = rows_of(q, row, steps, heads * K, K, BLOCK_K)
        d_outs = rows_of(d_out, row, steps, heads * V, V, BLOCK_V)
        keys = rows_of(k, s, sources, groups * K, K, BLOCK_K)
        values = rows_of(v, s, sources, groups * V, V, BLOCK_V)
        products = tl.dot(queries, tl.trans(keys), input_precision="ieee")
        d_weight = tl.dot(d_outs, tl.trans(values), input_precision="ieee")
        lag = t[:, None] - s[None, :]
        bias = table_entry(table, lag, entries, CAUSAL)
        between = 0.0
        sums = tl.zeros([M], tl.float32)
        deltas = sums
        if NORMALISER <= PLUS_ONE:
            sums = tl.load(log_sum + pair * steps + row, mask=row < steps, other=0.0)
            deltas = tl.load(delta + pair * steps + row, mask=row < steps, other=0.0)
        if DECAYED:
            large_t, small_t = decay_parts(decay, t, sources)
            large_s, small_s = decay_parts(decay, s, sources)
            between = log_lag(large_t[:, None], small_t[:, None], large_s[None, :], small_s[None, :], lag, CAUSAL)
        seen = shown(
            t[:, None], s[None, :], offset, sources, mask, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE, MASKED
        )
        _, _, d_score, _ = gradients(
            products, d_weight, bias, between, seen, sums[:, None], deltas[:, None], scale, cap,
            NORMALISER, CAPPED, BIASED, DECAYED, True,
        )  # fmt: skip
        acc += d_score
    cell = tl.arange(0, M)
    place = d_tile + (pair * diagonals + ordinal) * (M * M) + cell[:, None] * M + cell[None, :]
    tl.store(place, acc)
