# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The forward kernel: one block of queries against the keys that it sees, with a running maximum (Milakov and
Gimelshein 2018, arXiv:1805.02867; Dao et al. 2022, arXiv:2205.14135)."""

import triton
import triton.language as tl

from archloom.kernels.attention.triton_tiles import (
    PLUS_ONE,
    capped,
    decay_parts,
    entrywise,
    keep_rows,
    keys_seen,
    log_lag,
    rows_of,
    shown,
    table_entry,
)


@triton.jit
def _walk(
    acc,
    largest,
    total,
    q,
    t,
    large_t,
    small_t,
    k,
    v,
    decay,
    table,
    mask,
    listed,
    first,
    low,
    whole,
    end,
    count,
    scale,
    cap,
    offset,
    sources,
    entries,
    stride_k,
    stride_v,
    EDGE: tl.constexpr,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    N: tl.constexpr,
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
    """The next `count` blocks of keys: whole ones, or the others if EDGE."""
    SOFT: tl.constexpr = NORMALISER <= PLUS_ONE
    for i in range(count):
        if not EDGE:
            block = whole + i
        elif MASKED:
            block = tl.load(listed + i)
        else:
            near = low + i - first
            block = tl.where(i < first, i, tl.where(near < whole, near, near + end - whole))
        s = block * N + tl.arange(0, N)
        keys = rows_of(k, s, sources, stride_k, K, BLOCK_K)
        x = capped(tl.dot(q, tl.trans(keys), input_precision="ieee"), scale, cap, CAPPED)
        lag = t[:, None] - s[None, :]
        if BIASED:
            x = x + table_entry(table, lag, entries, CAUSAL)
        if DECAYED:
            large_s, small_s = decay_parts(decay, s, sources)
            between = log_lag(large_t[:, None], small_t[:, None], large_s[None, :], small_s[None, :], lag, CAUSAL)
            if SOFT:
                x = x + between
        if EDGE:
            seen = shown(
                t[:, None], s[None, :], offset, sources, mask, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE, MASKED
            )
            x = tl.where(seen, x, float("-inf"))
        values = rows_of(v, s, sources, stride_v, V, BLOCK_V)
        if SOFT:
            higher = tl.maximum(largest, tl.max(x, 1))
            finite = tl.where(higher == float("-inf"), 0.0, higher)
            weight = tl.exp2(x - finite[:, None])
            shrink = tl.exp2(largest - finite)
            total = total * shrink + tl.sum(weight, 1)
            acc = acc * shrink[:, None]
            largest = higher
        else:
            weight, _ = entrywise(x, NORMALISER)
            if DECAYED:
                if EDGE:
                    between = tl.where(seen, between, 0.0)
                weight = weight * tl.exp2(between)
        acc = tl.dot(weight.to(values.dtype), values, acc, input_precision="ieee")
    return acc, largest, total


@triton.jit(do_not_specialize=["steps", "sources", "heads", "groups", "entries"])
def forward(
    q,
    k,
    v,
    out,
    log_sum,
    decay,
    table,
    mask,
    listed,
    counts,
    scale,
    cap,
    steps,
    sources,
    heads,
    groups,
    entries,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
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
    """out [B, T, H, V] and, for the softmaxes, log_sum [B, H, T], the logarithm to base 2 of the denominator.

    Args:
        q: [B, T, H, K]; k [B, S, G, K]; v [B, S, G, V]; all contiguous.
        decay: [B, H, 2, S], the two parts of the cumulative log decay.
        table: [H, L], the relative bias.
        mask: [T, S] of bytes; listed [T / M, S / N] and counts [T / M]: the blocks of keys that it shows.
        scale, cap: x = scale <q, k>, or cap tanh(scale <q, k>).
    """
    blocks = (steps + M - 1) // M
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    block = blocks - 1 - tl.program_id(0) % blocks  # the longest rows of a causal mask first
    batch, head = pair // heads, pair % heads
    group = head // (heads // groups)
    offset = sources - steps
    row = block * M + tl.arange(0, M)
    t = offset + row
    queries = rows_of(q + (batch * steps * heads + head) * K, row, steps, heads * K, K, BLOCK_K)
    k += (batch * sources * groups + group) * K
    v += (batch * sources * groups + group) * V
    decay += pair * 2 * sources
    table += head * entries
    large_t = tl.zeros([M], tl.float32)
    small_t = large_t
    if DECAYED:
        large_t, small_t = decay_parts(decay, t, sources)

    acc = tl.zeros([M, BLOCK_V], tl.float32)
    # the one of `softmax_plus_one` is the exponential of a score of zero that was met before
    largest = tl.full([M], 0.0 if NORMALISER == PLUS_ONE else float("-inf"), tl.float32)
    total = tl.full([M], 1.0 if NORMALISER == PLUS_ONE else 0.0, tl.float32)
    WHOLE: tl.constexpr = DILATION + CHUNK + STRIDE == 0 and not MASKED
    first, low, high, whole, end = keys_seen(
        offset + block * M, sources, M, N, CAUSAL, WINDOW, CHUNK, FIRST, STRIDE, WHOLE
    )
    edges = first + (high - low) - (end - whole)
    if MASKED:
        listed += block.to(tl.int64) * ((sources + N - 1) // N)
        edges = tl.load(counts + block)
    for phase in tl.static_range(2):
        if phase == 1 or WHOLE:
            acc, largest, total = _walk(
                acc, largest, total, queries, t, large_t, small_t, k, v, decay, table, mask, listed,
                first, low, whole, end, edges if phase == 1 else end - whole,
                scale, cap, offset, sources, entries, groups * K, groups * V,
                phase == 1, K, V, BLOCK_K, BLOCK_V, N, NORMALISER, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE,
                MASKED, CAPPED, BIASED, DECAYED,
            )  # fmt: skip
    if NORMALISER <= PLUS_ONE:
        blind = total == 0
        total = tl.where(blind, 1.0, total)
        acc = acc / total[:, None]
        found = tl.where(blind, 0.0, largest + tl.log2(total))
        tl.store(log_sum + pair * steps + row, found, mask=row < steps)
    keep_rows(out + (batch * steps * heads + head) * V, row, steps, heads * V, acc, V, BLOCK_V)
