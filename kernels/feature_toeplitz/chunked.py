"""Kernelised attention with Toeplitz weights: blocks of scores up to some length, Fourier transforms beyond.

    o_t = sum_i q_t[i] (c * (k[i] v))_t

The convolutions of all K V products cost T log T, but K V of them are many: see README.md for where they win.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad
from torch.utils.checkpoint import checkpoint

from archloom.kernels.arguments import accumulator
from archloom.kernels.long_convolution.chunked import long_convolution

QUERIES = 64
"""Queries whose scores exist at once."""
STEPS_PER_PRODUCT = 8
"""The convolutions are used from K V times so many steps on."""
CHANNELS = 1 << 18
"""Entries of k[i] v that exist at once."""


def feature_toeplitz(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """[B, T, H, V] in the accumulator's type; taps [H, S]."""
    dtype = accumulator(q.dtype)
    query, key, value, weights = (x.to(dtype) for x in (q, k, v, taps))
    if k.shape[1] < STEPS_PER_PRODUCT * k.shape[3] * v.shape[3]:
        return by_scores(query, key, value, weights)
    return by_transforms(query, key, value, weights)


def by_scores(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """T S (K + V) operations, in blocks of queries."""
    steps, sources = q.shape[1], k.shape[1]
    query, key, value = (x.transpose(1, 2) for x in (q, k, v))  # [B, H, T, K]
    # entry S - 1 - t + s of this is c_{t-s}, and zero for s > t
    shifted, outs = pad(taps.flip(-1), (0, sources - 1)), []
    for start in range(sources - steps, sources, QUERIES):
        end = min(start + QUERIES, sources)
        block = query[:, :, start - (sources - steps) : end - (sources - steps)]
        toeplitz = shifted[:, sources - end : sources - start + end - 1].unfold(-1, end, 1).flip(1)
        outs.append((block @ key[:, :, :end].transpose(-1, -2) * toeplitz) @ value[:, :, :end])
    return torch.cat(outs, 2).transpose(1, 2)


def by_transforms(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """B H K V convolutions of T log T operations, some channels of k at a time; their backward forms them again."""
    channels = max(1, CHANNELS // v.numel())
    out = torch.zeros_like(q[:, :, :, :1])
    for query, key in zip(torch.split(q, channels, -1), torch.split(k, channels, -1), strict=True):
        part: Tensor = checkpoint(_convolved, query, key, v, taps, use_reentrant=False, preserve_rng_state=False)
        out = out + part
    return out


def _convolved(q: Tensor, k: Tensor, v: Tensor, taps: Tensor) -> Tensor:
    """sum_i q[i] (c * (k[i] v)) over the channels [B, T, H, I] given."""
    batch, steps, heads, channels = q.shape
    products = (k.permute(3, 0, 1, 2).unsqueeze(-1) * v).flatten(3).flatten(0, 1)  # [I B, S, H V]
    filters = taps.repeat_interleave(v.shape[-1], 0)
    sources = k.shape[1]
    history = products[:, : sources - steps] if sources > steps else None
    mixed = long_convolution(products[:, sources - steps :], filters, history)
    mixed = mixed.reshape(channels, batch, steps, heads, -1)
    return torch.einsum("bthi,ibthv->bthv", q, mixed)
