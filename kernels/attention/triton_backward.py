# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""The backward kernels by queries and by keys, each of which forms the scores again. No two programs add to one number,
so that results do not depend on their order."""

import triton
import triton.language as tl

from archloom.kernels.attention.triton_tiles import (
    PLUS_ONE,
    decay_parts,
    gradients,
    keep_rows,
    keys_seen,
    log_lag,
    queries_seeing,
    rows_of,
    shown,
    table_entry,
)


@triton.jit
def _along_keys(
    d_q,
    d_row,
    q,
    d_out,
    log_sum,
    delta,
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
        values = rows_of(v, s, sources, stride_v, V, BLOCK_V)
        products = tl.dot(q, tl.trans(keys), input_precision="ieee")
        d_weight = tl.dot(d_out, tl.trans(values), input_precision="ieee")
        lag = t[:, None] - s[None, :]
        bias = 0.0
        between = 0.0
        seen = True
        if BIASED:
            bias = table_entry(table, lag, entries, CAUSAL)
        if DECAYED:
            large_s, small_s = decay_parts(decay, s, sources)
            between = log_lag(large_t[:, None], small_t[:, None], large_s[None, :], small_s[None, :], lag, CAUSAL)
        if EDGE:
            seen = shown(
                t[:, None], s[None, :], offset, sources, mask, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE, MASKED
            )
        _, d_product, _, d_decay = gradients(
            products, d_weight, bias, between, seen, log_sum[:, None], delta[:, None], scale, cap,
            NORMALISER, CAPPED, BIASED, DECAYED, EDGE,
        )  # fmt: skip
        d_q = tl.dot(d_product.to(keys.dtype), keys, d_q, input_precision="ieee")
        if DECAYED:
            if not CAUSAL:
                d_decay = tl.where(lag >= 0, d_decay, -d_decay)
            d_row += tl.sum(d_decay, 1)
    return d_q, d_row


@triton.jit(do_not_specialize=["steps", "sources", "heads", "groups", "entries"])
def backward_queries(
    q,
    k,
    v,
    out,
    d_out,
    log_sum,
    delta,
    d_q,
    d_row,
    decay,
    table,
    mask,
    listed,
    counts,
    scale,
    cap,
    d_scale,
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
    """d_q [B, T, H, K], delta = <d_out, out> [B, H, T] for the softmaxes, and d_row [B, H, T], what the decays receive
    as those of a query. d_scale is the scale of the inner products; the rest as in `forward`."""
    blocks = (steps + M - 1) // M
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    block = blocks - 1 - tl.program_id(0) % blocks
    batch, head = pair // heads, pair % heads
    group = head // (heads // groups)
    offset = sources - steps
    row = block * M + tl.arange(0, M)
    t = offset + row
    queries = rows_of(q + (batch * steps * heads + head) * K, row, steps, heads * K, K, BLOCK_K)
    d_outs = rows_of(d_out + (batch * steps * heads + head) * V, row, steps, heads * V, V, BLOCK_V)
    k += (batch * sources * groups + group) * K
    v += (batch * sources * groups + group) * V
    decay += pair * 2 * sources
    table += head * entries
    large_t = tl.zeros([M], tl.float32)
    small_t = large_t
    if DECAYED:
        large_t, small_t = decay_parts(decay, t, sources)
    sums = large_t
    deltas = large_t
    if NORMALISER <= PLUS_ONE:
        outs = rows_of(out + (batch * steps * heads + head) * V, row, steps, heads * V, V, BLOCK_V)
        deltas = tl.sum(outs.to(tl.float32) * d_outs.to(tl.float32), 1)
        tl.store(delta + pair * steps + row, deltas, mask=row < steps)
        sums = tl.load(log_sum + pair * steps + row, mask=row < steps, other=0.0)

    acc = tl.zeros([M, BLOCK_K], tl.float32)
    rows = tl.zeros([M], tl.float32)
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
            acc, rows = _along_keys(
                acc, rows, queries, d_outs, sums, deltas, t, large_t, small_t, k, v, decay, table, mask, listed,
                first, low, whole, end, edges if phase == 1 else end - whole,
                scale, cap, offset, sources, entries, groups * K, groups * V,
                phase == 1, K, V, BLOCK_K, BLOCK_V, N, NORMALISER, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE,
                MASKED, CAPPED, BIASED, DECAYED,
            )  # fmt: skip
    keep_rows(d_q + (batch * steps * heads + head) * K, row, steps, heads * K, acc * d_scale, K, BLOCK_K)
    if DECAYED:
        tl.store(d_row + pair * steps + row, rows, mask=row < steps)


@triton.jit
def _along_queries(
    d_k,
    d_v,
    d_column,
    k,
    v,
    s,
    large_s,
    small_s,
    q,
    d_out,
    log_sum,
    delta,
    decay,
    table,
    mask,
    listed,
    low,
    whole,
    end,
    count,
    scale,
    cap,
    offset,
    steps,
    sources,
    entries,
    stride_k,
    stride_v,
    EDGE: tl.constexpr,
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
    """The next `count` blocks of queries of one head: whole ones, or the others if EDGE. Tiles are [N, M]."""
    for i in range(count):
        if not EDGE:
            block = whole + i
        elif MASKED:
            block = tl.load(listed + i)
        else:
            block = tl.where(low + i < whole, low + i, low + i + end - whole)
        row = block * M + tl.arange(0, M)
        t = offset + row
        queries = rows_of(q, row, steps, stride_k, K, BLOCK_K)
        d_outs = rows_of(d_out, row, steps, stride_v, V, BLOCK_V)
        products = tl.dot(k, tl.trans(queries), input_precision="ieee")
        d_weight = tl.dot(v, tl.trans(d_outs), input_precision="ieee")
        lag = t[None, :] - s[:, None]
        bias = 0.0
        between = 0.0
        seen = True
        sums = tl.zeros([M], tl.float32)
        deltas = sums
        if NORMALISER <= PLUS_ONE:
            sums = tl.load(log_sum + row, mask=row < steps, other=0.0)
            deltas = tl.load(delta + row, mask=row < steps, other=0.0)
        if BIASED:
            bias = table_entry(table, lag, entries, CAUSAL)
        if DECAYED:
            large_t, small_t = decay_parts(decay, t, sources)
            between = log_lag(large_t[None, :], small_t[None, :], large_s[:, None], small_s[:, None], lag, CAUSAL)
        if EDGE:
            seen = shown(
                t[None, :], s[:, None], offset, sources, mask, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE, MASKED
            )
        weight, d_product, _, d_decay = gradients(
            products, d_weight, bias, between, seen, sums[None, :], deltas[None, :], scale, cap,
            NORMALISER, CAPPED, BIASED, DECAYED, EDGE,
        )  # fmt: skip
        d_v = tl.dot(weight.to(d_outs.dtype), d_outs, d_v, input_precision="ieee")
        d_k = tl.dot(d_product.to(queries.dtype), queries, d_k, input_precision="ieee")
        if DECAYED:
            if not CAUSAL:
                d_decay = tl.where(lag >= 0, d_decay, -d_decay)
            d_column += tl.sum(d_decay, 1)
    return d_k, d_v, d_column


@triton.jit(do_not_specialize=["steps", "sources", "heads", "groups", "entries"])
def backward_keys(
    q,
    k,
    v,
    d_out,
    log_sum,
    delta,
    d_k,
    d_v,
    d_column,
    decay,
    table,
    mask,
    listed,
    counts,
    scale,
    cap,
    d_scale,
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
    """d_k [B, S, G, K] and d_v [B, S, G, V], summed over the query heads of a group one after another, and d_column
    [B, H, S], what the decays lose as those of a key. `listed` [S / N, T / M] and `counts` [S / N] are by block of
    keys; `delta` is that of `backward_queries`."""
    blocks = (sources + N - 1) // N
    pair = (tl.program_id(0) // blocks).to(tl.int64)
    block = tl.program_id(0) % blocks
    batch, group = pair // groups, pair % groups
    repeats = heads // groups
    offset = sources - steps
    s = block * N + tl.arange(0, N)
    keys = rows_of(k + (batch * sources * groups + group) * K, s, sources, groups * K, K, BLOCK_K)
    values = rows_of(v + (batch * sources * groups + group) * V, s, sources, groups * V, V, BLOCK_V)
    WHOLE: tl.constexpr = DILATION + CHUNK + STRIDE == 0 and not MASKED
    low, high, whole, end = queries_seeing(
        block * N, offset, steps, sources, M, N, CAUSAL, WINDOW, CHUNK, FIRST, STRIDE, WHOLE
    )
    edges = (high - low) - (end - whole)
    if MASKED:
        listed += block.to(tl.int64) * ((steps + M - 1) // M)
        edges = tl.load(counts + block)

    key_acc = tl.zeros([N, BLOCK_K], tl.float32)
    value_acc = tl.zeros([N, BLOCK_V], tl.float32)
    for repeat in range(repeats):
        head = group * repeats + repeat
        own = batch * heads + head
        large_s = tl.zeros([N], tl.float32)
        small_s = large_s
        if DECAYED:
            large_s, small_s = decay_parts(decay + own * 2 * sources, s, sources)
        column = tl.zeros([N], tl.float32)
        for phase in tl.static_range(2):
            if phase == 1 or WHOLE:
                key_acc, value_acc, column = _along_queries(
                    key_acc, value_acc, column, keys, values, s, large_s, small_s,
                    q + (batch * steps * heads + head) * K, d_out + (batch * steps * heads + head) * V,
                    log_sum + own * steps, delta + own * steps, decay + own * 2 * sources, table + head * entries,
                    mask, listed, low, whole, end, edges if phase == 1 else end - whole,
                    scale, cap, offset, steps, sources, entries, heads * K, heads * V,
                    phase == 1, K, V, BLOCK_K, BLOCK_V, M, NORMALISER, CAUSAL, WINDOW, DILATION, CHUNK, FIRST, STRIDE,
                    MASKED, CAPPED, BIASED, DECAYED,
                )  # fmt: skip
        if DECAYED:
            tl.store(d_column + own * sources + s, column, mask=s < sources)
    place = batch * sources * groups + group
    keep_rows(d_k + place * K, s, sources, groups * K, key_acc * d_scale, K, BLOCK_K)
    keep_rows(d_v + place * V, s, sources, groups * V, value_acc, V, BLOCK_V)
