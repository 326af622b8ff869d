"""Attention in plain PyTorch: the fused kernel where it applies, else blocks of queries against the keys that they see.

A block of C queries forms C S scores for each head. With a gradient the scores of one block at a time are formed again
instead of kept, so that memory is O(T C) and not O(T S).
"""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from archloom.kernels.arguments import accumulator
from archloom.kernels.attention import fused, masked
from archloom.kernels.attention.positions import Span, shown, spans
from archloom.kernels.attention.rule import LOGARITHMIC, Rule
from archloom.kernels.attention.weights import weights

QUERY_BLOCK = 256
"""Queries whose scores are formed at once."""
KEPT_SCORES = 1 << 22
"""So many scores are kept for the backward, 16 MiB in float32 for each step from score to weight."""
DECAYED_BLOCK = 128
"""The same where weights decay: only pairs inside a block take an exponential each."""
SMALLEST = {torch.float32: -30.0, torch.float64: -300.0}
"""Log factors of decays end here: products of two of them are far from denormal, which processors are slow at."""
FUSED_BLOCK = 1024
"""Queries of one call of the fused kernel, for which only a mask without heads is formed."""


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bias: Tensor | None,
    lag_bias: Tensor | None,
    mask: Tensor | None,
    rule: Rule,
) -> Tensor:
    """[B, T, H, V] in the dtype of q."""
    steps, offset = q.shape[1], k.shape[1] - q.shape[1]
    unbiased = bias is None and lag_bias is None
    if rule.added_to and rule.normaliser == "softmax" and rule.causal and unbiased and rule.positions.only_window:
        return fused.causal(q, k, v, log_decay, rule.positions.window, rule.scale)
    length = QUERY_BLOCK
    if rule.added_to and unbiased and log_decay is None:
        # the mask is no larger than the given one, or there is none
        length = FUSED_BLOCK if mask is None and not rule.sees_all else steps
    elif not rule.added_to and log_decay is not None:
        length = DECAYED_BLOCK
    kept = steps <= length or q.shape[0] * q.shape[2] * steps * k.shape[1] <= KEPT_SCORES
    total = None if log_decay is None else log_decay.double().cumsum(1).transpose(1, 2)  # [B, H, S]
    blocks = []
    for start in range(0, steps, length):
        rows = slice(start, min(start + length, steps))
        arguments = (
            q[:, rows],
            k,
            v,
            total,
            None if bias is None else bias[:, rows],
            lag_bias,
            None if mask is None else mask[rows],
            rule,
            start + offset,
        )
        if kept:
            blocks.append(_block(*arguments))
        else:
            blocks.append(checkpoint(_block, *arguments, use_reentrant=False, preserve_rng_state=False))
    return blocks[0] if len(blocks) == 1 else torch.cat(blocks, 1)


def _block(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    total: Tensor | None,
    bias: Tensor | None,
    lag_bias: Tensor | None,
    mask: Tensor | None,
    rule: Rule,
    start: int,
) -> Tensor:
    """C queries [B, C, H, K], the first at position `start`; `bias` and `mask` are their rows."""
    dtype, steps, sources = accumulator(q.dtype), q.shape[1], k.shape[1]
    kept = [(0, sources)] if mask is not None else spans(rule.positions, rule.causal, start, start + steps, sources)
    k, v = (_taken(x, kept, 1) for x in (k, v))
    added = None if bias is None else _taken(bias, kept, -1).to(dtype)
    if lag_bias is not None:
        table = by_lag(lag_bias, start, steps, kept, rule).to(dtype)
        added = table if added is None else added + table
    seen = _seen(mask, start, steps, kept, rule, q.device)
    if not rule.added_to:
        simple = rule.causal and rule.top_k is None and rule.normaliser not in LOGARITHMIC and len(kept) == 1
        if total is not None and simple:
            return _decayed(q, k, v, *_decays(total, start, steps, kept, dtype), added, seen, rule)
        log_lag = None if total is None else _log_lag(total, start, steps, kept, rule, dtype)
        return _weighted(q, k, v, log_lag, added, seen, rule, blind=mask is not None)
    scale, plus_one, given = rule.scale, rule.normaliser == "softmax_plus_one", q.dtype
    if total is not None and rule.causal:
        scale, (q, k, v) = 1.0, _with_decay(q, k, v, *_decays(total, start, steps, kept, dtype), rule.scale)
    elif total is not None:
        log_lag = _log_lag(total, start, steps, kept, rule, dtype)
        added = log_lag if added is None else log_lag + added
    return masked.attention(q, k, v, added, seen, scale, plus_one=plus_one).to(given)


def _with_decay(
    q: Tensor, k: Tensor, v: Tensor, rows: Tensor, columns: Tensor, scale: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Inner products that hold the decay: <(scale q, G_t, 1), (k, 1, -G_s)>, so that no bias [B, H, C, S] is formed.

    Each query head has its own column, for which grouped keys are repeated.
    """
    repeats, missing = q.shape[2] // k.shape[2], -(q.shape[3] + 2) % fused.ALIGNMENT
    q, k, v = (x.to(rows.dtype) for x in (q, k, v))
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2)
    since, until = (x.transpose(1, 2).unsqueeze(-1) for x in (rows, -columns))  # [B, C, H, 1], [B, S, H, 1]
    q = torch.cat([q * scale, since, torch.ones_like(since)], -1)
    k = torch.cat([k, torch.ones_like(until), until], -1)
    return pad(q, (0, missing)), pad(k, (0, missing)), v


def _weighted(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_lag: Tensor | None,
    added: Tensor | None,
    seen: Tensor | None,
    rule: Rule,
    *,
    blind: bool,
) -> Tensor:
    """With the weights of all pairs; the query heads of a group share one product, so that no key is repeated."""
    batch, steps, heads, _ = q.shape
    weight = weights(_scores(q, k, added, rule), log_lag, seen, rule, blind=blind)
    values = v.to(weight.dtype).transpose(1, 2)
    out = weight.view(batch, v.shape[2], -1, weight.shape[-1]) @ values  # [B, G, H / G * C, V]
    return out.view(batch, heads, steps, -1).transpose(1, 2).to(q.dtype)


def _scores(q: Tensor, k: Tensor, added: Tensor | None, rule: Rule) -> Tensor:
    """Scaled inner products, capped, and what is added to them, [B, H, C, S] in the accumulator's type."""
    dtype, (batch, steps, heads, width), groups = accumulator(q.dtype), q.shape, k.shape[2]
    queries = (q.to(dtype) * rule.scale).view(batch, steps, groups, -1, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
    scores = (queries @ k.to(dtype).transpose(1, 2).transpose(-1, -2)).view(batch, heads, steps, -1)
    if rule.soft_cap is not None:
        scores = rule.soft_cap * torch.tanh(scores / rule.soft_cap)
    return scores if added is None else scores + added


def _decayed(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    rows: Tensor,
    columns: Tensor,
    added: Tensor | None,
    seen: Tensor | None,
    rule: Rule,
) -> Tensor:
    """f(x) e^{G_t - G_s} with the decay of all keys before the block as two factors, e^{G_t - R} and e^{R - G_s}.

    R is G at the first query, relative to which `rows` [B, H, C] and `columns` [B, H, S] are given. So only the keys of
    the block itself take an exponential for each pair.
    """
    steps, repeats = q.shape[1], q.shape[2] // v.shape[2]
    before = columns.shape[2] - steps
    weight = weights(_scores(q, k, added, rule), None, seen, rule, blind=False)
    values = v.to(weight.dtype).transpose(1, 2)
    values = values.repeat_interleave(repeats, 1) if repeats > 1 else values
    hidden = torch.ones(steps, steps, dtype=torch.bool, device=q.device).triu(1)
    lag = (rows.unsqueeze(-1) - rows.unsqueeze(-2)).masked_fill(hidden, 0)
    out = (weight[..., before:] * _factor(lag)) @ values[:, :, before:]
    if before:
        held = values[:, :, :before] * _factor(-columns[..., :before]).unsqueeze(-1)
        out = out + (weight[..., :before] @ held) * _factor(rows).unsqueeze(-1)
    return out.transpose(1, 2).to(q.dtype)


def _factor(log_decay: Tensor) -> Tensor:
    """Its exponential, but for what is too small to matter."""
    return log_decay.clamp(min=SMALLEST[log_decay.dtype]).exp()


def _taken(x: Tensor, kept: list[Span], axis: int) -> Tensor:
    """The keys of some spans, all others left out."""
    parts = [x.narrow(axis, low, high - low) for low, high in kept]
    return parts[0] if len(parts) == 1 else torch.cat(parts, axis)


def _positions(kept: list[Span], device: torch.device) -> Tensor:
    parts = [torch.arange(low, high, device=device) for low, high in kept]
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _seen(
    mask: Tensor | None, start: int, steps: int, kept: list[Span], rule: Rule, device: torch.device
) -> Tensor | None:
    if mask is not None or rule.sees_all:
        return mask
    return shown(
        rule.positions, rule.causal, torch.arange(start, start + steps, device=device), _positions(kept, device)
    )


def _decays(total: Tensor, start: int, steps: int, kept: list[Span], dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """The cumulative log decay at the queries [B, H, C] and at the keys [B, H, S].

    `total` is float64; both are rounded relative to the first query, where the decay is small.
    """
    total = total - total[..., start : start + 1]
    return total[..., start : start + steps].to(dtype), _taken(total, kept, -1).to(dtype)


def _log_lag(total: Tensor, start: int, steps: int, kept: list[Span], rule: Rule, dtype: torch.dtype) -> Tensor:
    """[B, H, C, S]: the log decay summed between query and key, in either direction unless causal."""
    rows, columns = _decays(total, start, steps, kept, dtype)
    lag = rows.unsqueeze(-1) - columns.unsqueeze(-2)
    if rule.causal:
        return lag
    t = torch.arange(start, start + steps, device=total.device)
    return lag * (t.unsqueeze(1) - _positions(kept, total.device)).sign().to(dtype)


def by_lag(table: Tensor, start: int, steps: int, kept: list[Span], rule: Rule) -> Tensor:
    """[H, C, S]: the entries of a table [H, L] by lag.

    A band of the table, windows of which are the rows: unlike a gather it has a deterministic gradient everywhere.
    """
    zero, entries = rule.lag_zero(table.shape[1]), table.shape[1]
    parts = []
    for low, high in kept:
        first, last = start - high + 1 + zero, start + steps - 1 - low + zero  # of the band, not yet clamped
        band = table[:, min(max(first, 0), entries - 1) : min(max(last, 0), entries - 1) + 1]
        length = last - first + 1
        before = min(max(-first, 0), length - 1)
        after = length - before - band.shape[1]
        band = torch.cat([band[:, :1].expand(-1, before), band, band[:, -1:].expand(-1, after)], 1)
        parts.append(band.unfold(1, high - low, 1).flip(-1))
    return parts[0] if len(parts) == 1 else torch.cat(parts, -1)
