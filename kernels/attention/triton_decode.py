# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-decorators=False
"""Decoding on a long cache in two kernels: each split of the keys on its own, then their combination; see decode.py.

All query heads of a group, of all new queries, are rows of one tile, so that a key is read once for them.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from archloom.kernels.attention.blocks import blocks_for, padded
from archloom.kernels.attention.launch import NUMBERS, check_type, decay_parts, scales
from archloom.kernels.attention.rule import Rule
from archloom.kernels.attention.triton_tiles import PLUS_ONE, capped, log_lag, rows_of

PROGRAMS_PER_PROCESSOR = 4
INTERPRETED_SPLITS = 3
SPLIT_BLOCK = 16
"""Splits that are combined at once."""


@triton.jit(do_not_specialize=["steps", "sources", "heads", "groups", "oldest", "length", "splits"])
def decode_split(
    q,
    k,
    v,
    part,
    log_sum,
    decay,
    scale,
    cap,
    steps,
    sources,
    heads,
    groups,
    oldest,
    length,
    splits,
    stride_k,
    stride_v,
    K: tl.constexpr,
    V: tl.constexpr,
    BLOCK_K: tl.constexpr,
    BLOCK_V: tl.constexpr,
    M: tl.constexpr,
    N: tl.constexpr,
    WINDOW: tl.constexpr,
    CAPPED: tl.constexpr,
    DECAYED: tl.constexpr,
):
    """part [B, T, H, splits, V], the softmax over the `length` keys of each split, applied, and log_sum
    [B, T, H, splits], the logarithm to base 2 of its denominator, -inf where nothing is seen. stride_k and stride_v are
    those of the batch: a cache may have room behind the keys."""
    repeats = heads // groups
    tiles = (steps * repeats + M - 1) // M
    split = tl.program_id(0) % splits
    tile = tl.program_id(0) // splits % tiles
    pair = (tl.program_id(0) // splits // tiles).to(tl.int64)
    batch, group = pair // groups, pair % groups
    row = tile * M + tl.arange(0, M)
    there = row < steps * repeats
    head = group * repeats + row % repeats
    t = sources - steps + row // repeats
    place = (batch * steps + row // repeats) * heads + head  # of [B, T, H]
    column = tl.arange(0, BLOCK_K)
    queries = tl.load(q + place[:, None] * K + column[None, :], mask=there[:, None] & (column < K)[None, :], other=0.0)
    k += batch * stride_k + group * K
    v += batch * stride_v + group * V
    decays = decay + (batch * heads + head) * 2 * sources
    if DECAYED:
        large_t = tl.load(decays + t, mask=there, other=0.0)
        small_t = tl.load(decays + sources + t, mask=there, other=0.0)

    acc = tl.zeros([M, BLOCK_V], tl.float32)
    largest = tl.full([M], float("-inf"), tl.float32)
    total = tl.zeros([M], tl.float32)
    start = oldest + split * length
    stop = tl.minimum(start + length, sources)
    for i in range((stop - start + N - 1) // N):
        s = start + i * N + tl.arange(0, N)
        keys = rows_of(k, s, stop, groups * K, K, BLOCK_K)
        values = rows_of(v, s, stop, groups * V, V, BLOCK_V)
        x = capped(tl.dot(queries, tl.trans(keys), input_precision="ieee"), scale, cap, CAPPED)
        lag = t[:, None] - s[None, :]
        seen = (s < stop)[None, :] & there[:, None] & (lag >= 0)
        if WINDOW > 0:
            seen = seen & (lag < WINDOW)
        if DECAYED:
            at = decays[:, None] + s[None, :]
            large_s = tl.load(at, mask=seen, other=0.0)
            small_s = tl.load(at + sources, mask=seen, other=0.0)
            x = x + log_lag(large_t[:, None], small_t[:, None], large_s, small_s, lag, True)
        x = tl.where(seen, x, float("-inf"))
        higher = tl.maximum(largest, tl.max(x, 1))
        finite = tl.where(higher == float("-inf"), 0.0, higher)
        weight = tl.exp2(x - finite[:, None])
        shrink = tl.exp2(largest - finite)
        total = total * shrink + tl.sum(weight, 1)
        acc = tl.dot(weight.to(values.dtype), values, acc * shrink[:, None], input_precision="ieee")
        largest = higher
    blind = total == 0
    total = tl.where(blind, 1.0, total)
    column = tl.arange(0, BLOCK_V)
    target = place * splits + split
    tl.store(
        part + target[:, None] * V + column[None, :],
        acc / total[:, None],
        mask=there[:, None] & (column < V)[None, :],
    )
    tl.store(log_sum + target, largest + tl.log2(total), mask=there)


@triton.jit(do_not_specialize=["splits"])
def decode_combine(
    part,
    log_sum,
    out,
    splits,
    V: tl.constexpr,
    BLOCK_V: tl.constexpr,
    N: tl.constexpr,
    NORMALISER: tl.constexpr,
):
    """out [B, T, H, V]: the mean of the parts, weighted by two to the power of log_sum."""
    place = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK_V)
    acc = tl.zeros([BLOCK_V], tl.float32)
    # the one of `softmax_plus_one` is the exponential of a score of zero, with a value of zero
    largest = tl.full([1], 0.0 if NORMALISER == PLUS_ONE else float("-inf"), tl.float32)
    total = tl.full([1], 1.0 if NORMALISER == PLUS_ONE else 0.0, tl.float32)
    for i in range((splits + N - 1) // N):
        split = i * N + tl.arange(0, N)
        logs = tl.load(log_sum + place * splits + split, mask=split < splits, other=float("-inf"))
        higher = tl.maximum(largest, tl.max(logs, 0))
        finite = tl.where(higher == float("-inf"), 0.0, higher)  # none of these splits is seen
        shrink = tl.exp2(largest - finite)
        share = tl.exp2(logs - finite)
        parts = tl.load(
            part + (place * splits + split)[:, None] * V + column[None, :],
            mask=(split < splits)[:, None] & (column < V)[None, :],
            other=0.0,
        )
        acc = acc * shrink + tl.sum(parts * share[:, None], 0)
        total = total * shrink + tl.sum(share, 0)
        largest = higher
    tl.store(out + place * V + column, (acc / total).to(out.dtype.element_ty), mask=column < V)


def attention_decode(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, rule: Rule, splits: int | None, oldest: int
) -> Tensor:
    """[B, T, H, V] in the dtype of q, of keys from position `oldest` on."""
    check_type(q, v)
    given = [each for each in (q, k, v, log_decay) if each is not None]
    if torch.is_grad_enabled() and any(each.requires_grad for each in given):
        raise ValueError('backend="triton" decodes without a gradient; use torch.no_grad(), or attention() for one')
    q, k, v = q.contiguous(), _rows_together(k), _rows_together(v)
    (batch, steps, heads, width), (sources, groups), value = q.shape, k.shape[1:3], v.shape[3]
    blocks = blocks_for("decode", q, max(width, value))
    rows = steps * heads // groups
    tile = min(blocks.queries, padded(rows))
    programs = batch * groups * -(-rows // tile)
    wanted = _splits(q, programs) if splits is None else splits
    length = -(-(sources - oldest) // (wanted * blocks.keys)) * blocks.keys  # whole blocks
    count = -(-(sources - oldest) // length)
    part = torch.empty(batch, steps, heads, count, value, dtype=torch.float32, device=q.device)
    log_sum = torch.empty(batch, steps, heads, count, dtype=torch.float32, device=q.device)
    out = torch.empty(batch, steps, heads, value, dtype=q.dtype, device=q.device)
    decay = q if log_decay is None else decay_parts(log_decay)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        decode_split[(programs * count,)](
            q, k, v, part, log_sum, decay, *scales(rule), steps, sources, heads, groups, oldest, length, count,
            k.stride(0), v.stride(0),
            K=width, V=value, BLOCK_K=padded(width), BLOCK_V=padded(value), M=tile, N=blocks.keys,
            WINDOW=rule.positions.window or 0, CAPPED=rule.soft_cap is not None, DECAYED=log_decay is not None,
            num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
        decode_combine[(batch * steps * heads,)](
            part, log_sum, out, count, V=value, BLOCK_V=padded(value), N=SPLIT_BLOCK,
            NORMALISER=NUMBERS[rule.normaliser], num_warps=4, num_stages=1,
        )  # fmt: skip
    return out


def _splits(q: Tensor, programs: int) -> int:
    """So many that all processors of the device have equal work, at no more than PROGRAMS_PER_PROCESSOR each."""
    if not q.is_cuda:
        return INTERPRETED_SPLITS
    processors = torch.cuda.get_device_properties(q.device).multi_processor_count
    return max(1, PROGRAMS_PER_PROCESSOR * processors // programs)


def _rows_together(x: Tensor) -> Tensor:
    """[B, S, G, K], copied unless the rows of each sequence lie one behind another, as in the front of a buffer."""
    return x if x[0].is_contiguous() else x.contiguous()
