"""Causal convolution as the literal sum over lags."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def long_convolution(x: Tensor, filter: Tensor, history: Tensor | None) -> Tensor:
    """y_t = sum over j of filter_j x_{t-j}; [B, T, C] in the dtype of x."""
    dtype, steps = accumulator(x.dtype), x.shape[1]
    inputs = (x if history is None else torch.cat([history, x], 1)).to(dtype)
    out = torch.zeros_like(inputs)
    for lag, tap in enumerate(filter.to(dtype).unbind(1)[: inputs.shape[1]]):
        out = out + tap * torch.cat([torch.zeros_like(inputs[:, :lag]), inputs[:, : inputs.shape[1] - lag]], 1)
    return out[:, -steps:].to(x.dtype)
