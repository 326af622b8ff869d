"""Kernelised attention with Toeplitz weights by its dense definition."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def feature_toeplitz(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """[B, T, H, V] in the accumulator's type; taps [H, S]."""
    dtype, (steps, sources) = accumulator(q.dtype), (q.shape[1], k.shape[1])
    query, key, value, weights = (x.to(dtype) for x in (q, k, v, taps))
    lag = torch.arange(sources - steps, sources).unsqueeze(1) - torch.arange(sources)
    lag = lag.to(q.device)
    toeplitz = weights[:, lag.clamp(min=0)] * (lag >= 0)  # [H, T, S]
    return torch.einsum("bhts,bshv->bthv", toeplitz * torch.einsum("bthk,bshk->bhts", query, key), value)
