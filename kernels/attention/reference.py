"""Attention by its dense definition: every score is formed."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator
from archloom.kernels.attention.positions import shown
from archloom.kernels.attention.rule import Rule
from archloom.kernels.attention.weights import weights


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
    """[B, T, H, V] in the dtype of q; all T S scores of each head at once."""
    dtype, (steps, sources) = accumulator(q.dtype), (q.shape[1], k.shape[1])
    repeats = q.shape[2] // k.shape[2]
    keys, values = (x.to(dtype).repeat_interleave(repeats, 2) for x in (k, v))
    scores = rule.scale * torch.einsum("bthk,bshk->bhts", q.to(dtype), keys)
    if rule.soft_cap is not None:
        scores = rule.soft_cap * torch.tanh(scores / rule.soft_cap)

    s = torch.arange(sources, device=q.device)
    t = torch.arange(sources - steps, sources, device=q.device)
    lag = t.unsqueeze(1) - s
    if bias is not None:
        scores = scores + bias.to(dtype)
    if lag_bias is not None:
        entries = lag_bias.shape[1]
        scores = scores + lag_bias.to(dtype)[:, (lag + rule.lag_zero(entries)).clamp(0, entries - 1)]
    log_lag = None
    if log_decay is not None:
        total = log_decay.to(dtype).cumsum(1).transpose(1, 2)  # [B, H, S]
        log_lag = lag.sign() * (total[..., -steps:].unsqueeze(-1) - total.unsqueeze(-2))
    seen = shown(rule.positions, rule.causal, t, s) if mask is None else mask
    weight = weights(scores, log_lag, seen, rule, blind=mask is not None)
    return torch.einsum("bhts,bshv->bthv", weight, values).to(q.dtype)
