"""Causal softmax attention by its dense definition: every score is formed."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def attention(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, window: int | None, scale: float) -> Tensor:
    """softmax over s of scale <q_t, k_s> + D_ts, applied to v; [B, T, H, V] in the dtype of q."""
    dtype, (steps, sources) = accumulator(q.dtype), (q.shape[1], k.shape[1])
    repeats = q.shape[2] // k.shape[2]
    keys, values = (x.to(dtype).repeat_interleave(repeats, 2) for x in (k, v))
    logits = scale * torch.einsum("bthk,bshk->bhts", q.to(dtype), keys)
    if log_decay is not None:
        total = log_decay.to(dtype).cumsum(1).transpose(1, 2)  # [B, H, S]
        logits = logits + total[..., -steps:].unsqueeze(-1) - total.unsqueeze(-2)
    lag = torch.arange(sources - steps, sources).unsqueeze(1) - torch.arange(sources)
    kept = (lag >= 0) & (lag < (sources if window is None else window))
    weights = logits.masked_fill(~kept.to(q.device), -torch.inf).softmax(-1)
    return torch.einsum("bhts,bshv->bthv", weights, values).to(q.dtype)
