"""Depthwise causal convolution, one output at a time."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def short_convolution(inputs: Tensor, taps: Tensor, bias: Tensor | None) -> Tensor:
    """[B, W-1+T, C] -> [B, T, C] in the dtype of the inputs."""
    dtype, width = accumulator(inputs.dtype), taps.shape[1]
    sequence = inputs.to(dtype).unbind(1)
    newest_last = taps.to(dtype).flip(1)  # [C, W], oldest step first
    outputs = []
    for end in range(width, len(sequence) + 1):
        recent = torch.stack(sequence[end - width : end], -1)  # [B, C, W]
        outputs.append((recent * newest_last).sum(-1) + (0 if bias is None else bias.to(dtype)))
    return torch.stack(outputs, 1).to(inputs.dtype)
