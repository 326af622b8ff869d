"""Softmax attention of one or a few new queries on a long cache, whose keys are split: flash-decoding.

Every split gives the softmax of its own keys and the logarithm of their sum of exponentials; the softmax of all is the
mean of these, weighted by the exponential of that logarithm (Dao et al. 2023, flash-decoding; Sanovar et al. 2024,
arXiv:2405.10480, LeanAttention, whose equal shares for all processors the number of splits approaches).
"""

from typing import Literal

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator, check_decay_sign
from archloom.kernels.attention import reference
from archloom.kernels.attention.checks import check_mask, check_numbers, check_tensors
from archloom.kernels.attention.positions import PositionalMask, shown
from archloom.kernels.attention.rule import EXPONENTIAL, Rule
from archloom.kernels.backends import Backend, require_triton, unknown_backend

SPLIT = 4096
"""Keys of a split, at most, where the number of splits is not given."""


def attention_decode(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    soft_cap: float | None = None,
    normaliser: Literal["softmax", "softmax_plus_one"] = "softmax",
    splits: int | None = None,
    backend: Backend = "chunked",
) -> Tensor:
    """`attention` of the last T of S positions, causal, made for T of a few and a long cache.

    Args:
        q: [B, T, H, K], the new queries.
        k: [B, S, G, K], the cached keys and those of the new queries behind them.
        v: [B, S, G, V].
        log_decay: None or [B, S, H].
        window: keep only 0 <= t - s < window; older keys are not read.
        scale: factor of the inner products; None for K ** -0.5.
        soft_cap: c of c tanh(x / c); None for none.
        normaliser: "softmax" or "softmax_plus_one".
        splits: parts into which the keys are cut; None for a number that suits the device.
        backend: "chunked", "reference", or "triton", which has no gradient.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: as `attention`; for a number of splits below 1; with "triton" where a gradient is asked for.
    """
    check_tensors(q, k, v, log_decay, None, None)
    check_mask(q.shape[1], k.shape[1], window, None, True, [])
    check_numbers(None, False, soft_cap, normaliser, None)
    if normaliser not in EXPONENTIAL:
        raise ValueError(f"normaliser is {normaliser!r}; attention_decode takes {' or '.join(EXPONENTIAL)}")
    if splits is not None and splits < 1:
        raise ValueError(f"splits is {splits}; expected at least 1, or None")
    rule = Rule(
        scale=q.shape[3] ** -0.5 if scale is None else scale,
        positions=PositionalMask(window=window),
        soft_cap=soft_cap,
        normaliser=normaliser,
    )
    match backend:
        case "chunked":
            return _chunked(q, k, v, log_decay, rule, splits)
        case "reference":
            check_decay_sign(log_decay)
            return reference.attention(q, k, v, log_decay, None, None, None, rule)
        case "triton":
            require_triton("attention_decode", q)
            from archloom.kernels.attention.triton_decode import attention_decode as compiled

            low = oldest(q.shape[1], k.shape[1], window)
            return compiled(q, k, v, log_decay, rule, splits, low)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")


def oldest(steps: int, sources: int, window: int | None) -> int:
    """The first position that any of the last T queries sees."""
    return 0 if window is None else max(0, sources - steps - window + 1)


def _chunked(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, rule: Rule, splits: int | None) -> Tensor:
    dtype, (batch, steps, heads, width), (sources, groups) = accumulator(q.dtype), q.shape, k.shape[1:3]
    low = oldest(steps, sources, rule.positions.window)
    length = SPLIT if splits is None else -(-(sources - low) // splits)
    total = None if log_decay is None else log_decay.double().cumsum(1).transpose(1, 2)
    # the query heads of a group read the same keys: one product for all of them
    queries = (q.to(dtype) * rule.scale).view(batch, steps, groups, -1, width).permute(0, 2, 3, 1, 4).flatten(2, 3)
    outs, logs = [], []
    for start in range(low, sources, length):
        keys, values = (x[:, start : start + length].to(dtype).transpose(1, 2) for x in (k, v))
        scores = _scores(queries, keys, total, start, (batch, heads, steps, sources), rule)
        largest = scores.detach().amax(-1, keepdim=True).clamp(min=torch.finfo(dtype).min)
        exponentials = (scores - largest).exp()
        summed = exponentials.sum(-1, keepdim=True)
        out = exponentials.view(batch, groups, -1, keys.shape[2]) @ values
        outs.append(out.view(batch, heads, steps, -1) / summed.masked_fill(summed == 0, 1))
        logs.append(largest + summed.log())
    if rule.normaliser == "softmax_plus_one":
        outs.append(torch.zeros_like(outs[0]))
        logs.append(torch.zeros_like(logs[0]))
    share = torch.stack(logs).softmax(0)
    return (torch.stack(outs) * share).sum(0).transpose(1, 2).to(q.dtype)


def _scores(
    queries: Tensor, keys: Tensor, total: Tensor | None, start: int, sizes: tuple[int, int, int, int], rule: Rule
) -> Tensor:
    """[B, H, T, C] of the C keys from position `start`, -inf where hidden."""
    batch, heads, steps, sources = sizes
    scores = (queries @ keys.transpose(-1, -2)).view(batch, heads, steps, -1)
    if rule.soft_cap is not None:
        scores = rule.soft_cap * torch.tanh(scores / rule.soft_cap)
    end = start + keys.shape[2]
    if total is not None:
        lag = total[..., sources - steps :].unsqueeze(-1) - total[..., start:end].unsqueeze(-2)
        scores = scores + lag.to(scores.dtype)
    t, s = (torch.arange(*ends, device=keys.device) for ends in ((sources - steps, sources), (start, end)))
    return scores.masked_fill(~shown(rule.positions, True, t, s), -torch.inf)
