"""Depthwise causal convolution as one multiply-add per tap over the whole sequence."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def short_convolution(inputs: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """[B, W-1+T, C] -> [B, T, C] in the dtype of the inputs."""
    earlier = taps.shape[1] - 1
    steps, dtype = inputs.shape[1] - earlier, accumulator(inputs.dtype)
    sequence, weights = inputs.to(dtype), taps.to(dtype)
    out = sequence[:, earlier:] * weights[:, 0]
    if bias is not None:
        out = out + bias.to(dtype)
    for lag in range(1, earlier + 1):
        out = torch.addcmul(out, sequence[:, earlier - lag : earlier - lag + steps], weights[:, lag])
    return out.to(inputs.dtype)
