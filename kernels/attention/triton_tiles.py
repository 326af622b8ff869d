# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""What the attention kernels do with one tile of scores, and which tiles they visit.

A tile lies either way round: `t` and `s` are positions that broadcast against each other, [M, 1] and [1, N] or [1, M]
and [N, 1]. Scores of the softmaxes, decays and tables count in powers of two. A hidden pair is one whose score is -inf.
Switches are compile-time constants; a length of 0 stands for none.
"""

import triton
import triton.language as tl

# the softmaxes come first
SOFTMAX = tl.constexpr(0)
PLUS_ONE = tl.constexpr(1)
SIGMOID = tl.constexpr(2)
RELU = tl.constexpr(3)
RELU2 = tl.constexpr(4)


@triton.jit
def rows_of(base, index, limit, stride, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Rows [M, BLOCK] at `index`, `stride` apart, zeros beyond `limit` and beyond the width."""
    column = tl.arange(0, BLOCK)
    inside = (index < limit)[:, None]
    if WIDTH != BLOCK:
        inside = inside & (column < WIDTH)[None, :]
    return tl.load(base + index.to(tl.int64)[:, None] * stride + column[None, :], mask=inside, other=0.0)


@triton.jit
def keep_rows(base, index, limit, stride, rows, WIDTH: tl.constexpr, BLOCK: tl.constexpr):
    """Stores what `rows_of` loads, in the type of `base`."""
    column = tl.arange(0, BLOCK)
    inside = (index < limit)[:, None]
    if WIDTH != BLOCK:
        inside = inside & (column < WIDTH)[None, :]
    place = base + index.to(tl.int64)[:, None] * stride + column[None, :]
    tl.store(place, rows.to(base.dtype.element_ty), mask=inside)


@triton.jit
def shown(
    t,
    s,
    offset,
    sources,
    mask,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    DILATION: tl.constexpr,
    CHUNK: tl.constexpr,
    FIRST: tl.constexpr,
    STRIDE: tl.constexpr,
    MASKED: tl.constexpr,
):
    """The pairs that a query sees, of those that exist; `offset` is the position of the first query."""
    exists = (s < sources) & (t < sources)
    lag = t - s
    near = exists
    if WINDOW > 0:
        near = near & (lag < WINDOW) & (lag > -WINDOW)
    if DILATION > 0:
        near = near & (lag % DILATION == 0)
    if CHUNK > 0:
        near = near & (t // CHUNK == s // CHUNK)
    if FIRST > 0:
        near = near | (exists & (s < FIRST))
    if STRIDE > 0:
        near = near | (exists & ((s + 1) % STRIDE == 0))
    if CAUSAL:
        near = near & (lag >= 0)
    if MASKED:
        place = mask + (t - offset).to(tl.int64) * sources + s
        near = near & (tl.load(place, mask=exists, other=0) != 0)
    return near


@triton.jit
def keys_seen(
    start,
    sources,
    M: tl.constexpr,
    N: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    FIRST: tl.constexpr,
    STRIDE: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Blocks of N keys for the M queries from position `start`: those of the first keys, [low, high) of the near ones,
    and of these the blocks [whole, end) all of which every query sees, none unless WHOLE."""
    low = start * 0
    high = low + sources
    if CAUSAL:
        high = tl.minimum(high, start + M)
    first = tl.minimum(low + FIRST, high)
    if STRIDE == 0:
        if WINDOW > 0:
            low = tl.maximum(low, start - WINDOW + 1)
            high = tl.minimum(high, start + M + WINDOW - 1)
        if CHUNK > 0:
            low = tl.maximum(low, start // CHUNK * CHUNK)
            high = tl.minimum(high, (start + M + CHUNK - 1) // CHUNK * CHUNK)
    low = low // N
    high = (high + N - 1) // N
    first = tl.minimum((first + N - 1) // N, low)
    whole = low
    end = low
    if WHOLE:
        end = sources // N
        if CAUSAL:
            end = tl.minimum(end, (start + 1) // N)
        if WINDOW > 0:
            end = tl.minimum(end, (start + WINDOW) // N)
            whole = tl.maximum(low, (tl.maximum(start + M - WINDOW, 0) + N - 1) // N)
        whole = tl.minimum(whole, high)
        end = tl.maximum(end, whole)
    return first, low, high, whole, end


@triton.jit
def queries_seeing(
    start,
    offset,
    steps,
    sources,
    M: tl.constexpr,
    N: tl.constexpr,
    CAUSAL: tl.constexpr,
    WINDOW: tl.constexpr,
    CHUNK: tl.constexpr,
    FIRST: tl.constexpr,
    STRIDE: tl.constexpr,
    WHOLE: tl.constexpr,
):
    """Blocks [low, high) of M queries, counted from the first, that see any of the N keys from position `start`, and of
    these the blocks [whole, end) all of which see every key, none unless WHOLE."""
    low = start * 0 + offset
    high = low + steps
    if STRIDE == 0:
        if WINDOW > 0:
            low = tl.maximum(low, start - WINDOW + 1)
            high = tl.minimum(high, start + N + WINDOW - 1)
        if CHUNK > 0:
            low = tl.maximum(low, start // CHUNK * CHUNK)
            high = tl.minimum(high, (start + N + CHUNK - 1) // CHUNK * CHUNK)
        if FIRST > 0:
            everyone = start < FIRST
            low = tl.where(everyone, offset, low)
            high = tl.where(everyone, offset + steps, high)
    if CAUSAL:
        low = tl.maximum(low, start)
    low = (low - offset) // M
    high = (tl.maximum(high - offset, 0) + M - 1) // M
    high = tl.maximum(high, low)
    whole = low
    end = low
    if WHOLE:
        end = steps // M
        if CAUSAL:
            whole = tl.maximum(low, (tl.maximum(start + N - 1 - offset, 0) + M - 1) // M)
        if WINDOW > 0:
            end = tl.minimum(end, tl.maximum(start + WINDOW - offset, 0) // M)
            if not CAUSAL:
                whole = tl.maximum(low, (tl.maximum(start + N - WINDOW - offset, 0) + M - 1) // M)
        whole = tl.minimum(whole, high)
        end = tl.maximum(tl.minimum(end, high), whole)
    return low, high, whole, end


@triton.jit
def capped(products, scale, cap, CAPPED: tl.constexpr):
    """scale x, or cap tanh(scale x) without an exponential that overflows."""
    x = products * scale
    if CAPPED:
        small = tl.exp(-2 * tl.abs(x))
        size = (1 - small) / (1 + small)
        x = cap * tl.where(x < 0, -size, size)
    return x


@triton.jit
def table_entry(table, lag, entries, CAUSAL: tl.constexpr):
    """The relative bias of each pair, of one head."""
    zero = 0 if CAUSAL else entries // 2
    return tl.load(table + tl.minimum(tl.maximum(lag + zero, 0), entries - 1))


@triton.jit
def decay_parts(base, position, sources):
    """The cumulative log decay at each position as the sum of two float32 numbers, beyond the end that of the last."""
    place = base + tl.minimum(position, sources - 1)
    return tl.load(place), tl.load(place + sources)


@triton.jit
def log_lag(large_t, small_t, large_s, small_s, lag, CAUSAL: tl.constexpr):
    """The log decay between s and t. The difference of the large parts is exact where they are close."""
    found = (large_t - large_s) + (small_t - small_s)
    if not CAUSAL:
        found = tl.where(lag >= 0, found, -found)
    return found


@triton.jit
def entrywise(x, NORMALISER: tl.constexpr):
    """f(x) and its slope."""
    if NORMALISER == SIGMOID:
        small = tl.exp(-tl.abs(x))
        value = tl.where(x < 0, small, 1.0) / (1 + small)
        slope = value * (1 - value)
    elif NORMALISER == RELU:
        value = tl.maximum(x, 0.0)
        slope = tl.where(x > 0, 1.0, 0.0)
    else:
        slope = 2 * tl.maximum(x, 0.0)
        value = 0.25 * slope * slope
    return value, slope


@triton.jit
def gradients(
    products,
    d_weight,
    bias,
    decay,
    seen,
    log_sum,
    delta,
    scale,
    cap,
    NORMALISER: tl.constexpr,
    CAPPED: tl.constexpr,
    BIASED: tl.constexpr,
    DECAYED: tl.constexpr,
    EDGE: tl.constexpr,
):
    """Of one tile: the weight, and the gradients at the inner product (without its scale), at the score and at the
    decay; from the gradient at the weight. `bias`, `decay` and `seen` are read where the switches say so."""
    x = capped(products, scale, cap, CAPPED)
    flat = x
    if BIASED:
        x = x + bias
    if NORMALISER <= PLUS_ONE:
        if DECAYED:
            x = x + decay
        if EDGE:
            x = tl.where(seen, x, float("-inf"))
        weight = tl.exp2(x - log_sum)
        d_score = weight * (d_weight - delta)
        d_decay = d_score
    else:
        if EDGE:
            x = tl.where(seen, x, float("-inf"))
        weight, slope = entrywise(x, NORMALISER)
        d_score = d_weight * slope
        d_decay = d_score
        if DECAYED:
            if EDGE:
                decay = tl.where(seen, decay, 0.0)
            factor = tl.exp2(decay)
            weight = weight * factor
            d_score = d_score * factor
            d_decay = d_weight * weight
    d_product = d_score
    if CAPPED:
        flat = flat / cap
        d_product = d_score * (1 - flat * flat)
    return weight, d_product, d_score, d_decay
