"""Division of a weighted sum by the sum of its weights, which linear forms carry as a last column of ones."""

import torch
from torch import Tensor

SMALLEST_DENOMINATOR = 1e-6


def normalised(sums: Tensor) -> Tensor:
    """[..., V+1] -> [..., V]: divide by the last column, its magnitude kept at or above 1e-6."""
    denominator = sums[..., -1:]
    away = torch.where(
        denominator < 0, denominator.clamp(max=-SMALLEST_DENOMINATOR), denominator.clamp(min=SMALLEST_DENOMINATOR)
    )
    return sums[..., :-1] / away
