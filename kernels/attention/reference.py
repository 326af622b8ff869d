"""Softmax attention by its dense definition: every score is formed."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bias: Tensor | None,
    kept: Tensor | None,
    scale: float,
    plus_one: bool,
) -> Tensor:
    """softmax over s of scale <q_t, k_s> + D_ts + bias_ts where kept [T, S], applied to v; [B, T, H, V]."""
    dtype, (steps, sources) = accumulator(q.dtype), (q.shape[1], k.shape[1])
    repeats = q.shape[2] // k.shape[2]
    keys, values = (x.to(dtype).repeat_interleave(repeats, 2) for x in (k, v))
    logits = scale * torch.einsum("bthk,bshk->bhts", q.to(dtype), keys)
    if log_decay is not None:
        total = log_decay.to(dtype).cumsum(1).transpose(1, 2)  # [B, H, S]
        lag = torch.arange(sources - steps, sources, device=q.device).unsqueeze(1) - torch.arange(sources).to(q.device)
        logits = logits + lag.sign() * (total[..., -steps:].unsqueeze(-1) - total.unsqueeze(-2))
    if bias is not None:
        logits = logits + bias.to(dtype)
    if kept is None:
        kept = torch.ones(steps, sources, dtype=torch.bool, device=q.device)
    logits = logits.masked_fill(~kept, torch.finfo(dtype).min)
    largest = logits.detach().amax(-1, keepdim=True)
    if plus_one:
        largest = largest.clamp(min=0)
    exponentials = (logits - largest).exp() * kept
    denominator = exponentials.sum(-1, keepdim=True) + ((-largest).exp() if plus_one else 0)
    blind = ~kept.any(-1, keepdim=True)
    return torch.einsum("bhts,bshv->bthv", exponentials / denominator.masked_fill(blind, 1), values).to(q.dtype)
