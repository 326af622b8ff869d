"""Mixing by a learned matrix as one product with all of it."""

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator


def dense_mixing(v: Tensor, matrix: Tensor, causal: bool) -> Tensor:
    """[B, T, H, V] in the dtype of v; matrix [H, T, S], its rows those of the last T of S positions."""
    dtype, (_, steps, sources) = accumulator(v.dtype), matrix.shape
    weights = matrix.to(dtype)
    if causal:
        weights = weights.tril(sources - steps)
    return torch.einsum("hts,bshv->bthv", weights, v.to(dtype)).to(v.dtype)
