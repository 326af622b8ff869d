"""Kernels in a window as a dense matrix, applied at once and resolved step by step."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def scores(q: Tensor, k: Tensor, log_decay: Tensor | None, window: int) -> Tensor:
    """<q_t, k_s>_g in the window, [B, H, T, S]."""
    dtype, (steps, sources) = accumulator(q.dtype), (q.shape[1], k.shape[1])
    t = torch.arange(sources - steps, sources, device=q.device).unsqueeze(1)
    lag = t - torch.arange(sources, device=q.device)
    seen = (lag >= 0) & (lag < window)
    if log_decay is None:
        log_decay = k.new_zeros(*k.shape[:3], dtype=dtype)
    decay = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
    total = decay.to(dtype).cumsum(1).transpose(1, 2)  # [B, H, S, 1 or K]
    between = total[:, :, sources - steps :].unsqueeze(3) - total.unsqueeze(2)
    factor = between.masked_fill(~seen.unsqueeze(-1), -torch.inf).exp()
    return torch.einsum("bthk,bshk,bhtsk->bhts", q.to(dtype), k.to(dtype), factor.expand(*factor.shape[:4], k.shape[3]))


def apply(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, window: int) -> Tensor:
    """[B, T, H, V] in the accumulator's type."""
    weights = scores(q, k, log_decay, window)
    return torch.einsum("bhts,bshv->bthv", weights, v.to(weights.dtype))


def resolve(b: Tensor, k: Tensor, x: Tensor, log_decay: Tensor | None, earlier: Tensor, window: int) -> Tensor:
    """[B, T, H, V] in the accumulator's type."""
    weights = scores(b, k, log_decay, window)
    known, new = list(earlier.to(weights.dtype).unbind(1)), x.to(weights.dtype).unbind(1)
    for row, now in zip(weights.unbind(2), new, strict=True):
        first = max(0, len(known) - window + 1)
        before = known[first:]
        if before:
            now = now - torch.einsum("bhs,bshv->bhv", row[..., first : len(known)], torch.stack(before, 1))
        known.append(now)
    return torch.stack(known[len(known) - len(new) :], 1)
