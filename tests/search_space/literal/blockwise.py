"""Mixers of the systems that differ in their blocks and that no other file has. Conventions are those of `parts`."""

import torch
from torch import Tensor

from .attention import masked_softmax
from .parts import join, kernel_scale, project, rms_norm, rotary, short_convolution, silu
from .residuals import residual
from .whole import Layer, Weights, under


def full_softmax(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(K)) V over the whole sequence, head by head."""
    outputs = []
    for q, k, v in zip(query.unbind(1), key.unbind(1), value.unbind(1), strict=True):
        weights = torch.exp(q @ k.T * kernel_scale(query))
        outputs.append(weights / weights.sum(-1, keepdim=True) @ v)
    return torch.stack(outputs, 1)


def both_ways(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Vaswani et al. 2017, eq. 1, over the whole sequence; rotary positions."""
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    return join(full_softmax(q, k, project(x, value, heads)), output)


def without_positions(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Causal attention without positions. Kimi Linear has latent keys and values there, each head has its own here."""
    q, k = project(x, query, heads), project(x, key, heads)
    return join(masked_softmax(q, k, project(x, value, heads)), output)


def subspace(x: Tensor, *, heads: int, subspaces: Tensor, output: Tensor) -> Tensor:
    """Yu et al. 2023, MSSA: head k attends within U_k^T Z, which is query, key and value at once, then W.

    Values as wide as keys would be the published ones; where the widths differ they repeat their channels.
    """
    z = project(x, subspaces, heads)
    channels = output.shape[1] // heads
    value = torch.stack([z[..., j % z.shape[-1]] for j in range(channels)], -1)
    return join(full_softmax(z, z, value), output)


def forward_cross(
    x: Tensor, earlier: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> Tensor:
    """Zhang et al. 2022: attention of this block's tokens over those of the block before. Causal, rotary.

    Published, both blocks' tokens stand under one softmax after merging; the learned scales are in the values' weights.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(earlier, key, heads))
    return join(masked_softmax(q, k, project(earlier, value, heads)), output)


def fcaformer(channel: Layer, attention: Layer, *, blocks: int) -> Layer:
    """Blocks that attend to what the one before received, under their own norm; the first one to its own input."""

    def whole(x: Tensor, w: Weights) -> Tensor:
        before = x
        for number in range(blocks):
            own = under(w, f"layers.blocks.{number}")
            earlier = rms_norm(before, own["mixer_norm.weight"])

            def mixer(normed: Tensor, weights: Weights, earlier: Tensor = earlier) -> Tensor:
                crossed = forward_cross(normed, earlier, heads=2, **under(weights, "parts.0"))
                return crossed + attention(normed, under(weights, "parts.1"))

            before, x = x, residual(mixer, channel)(x, own)
        return rms_norm(x, w["norm.weight"])

    return whole


def convolved(x: Tensor, *, heads: int, value: Tensor, taps: Tensor, output: Tensor) -> Tensor:
    """Point-wise, depthwise of width 4, SiLU, point-wise: the convolution blocks of early stages. Causal."""
    return join(silu(short_convolution(project(x, value, heads), taps)), output)


def convolved_both_ways(x: Tensor, *, heads: int, value: Tensor, taps: Tensor, output: Tensor) -> Tensor:
    """Kim et al. 2022, section 3.2: point-wise, Swish, depthwise, Swish, point-wise.

    Width 4 (two ahead, one behind) instead of 31, and no batch norm: the block's norm stands before it.
    """
    inner = silu(project(x, value, heads))
    flat, steps = inner.flatten(1), len(x)
    rows = []
    for t in range(steps):
        seen = [(j, t + 2 - j) for j in range(4) if 0 <= t + 2 - j < steps]
        rows.append(torch.stack([taps[:, j] * flat[s] for j, s in seen]).sum(0))
    return join(silu(torch.stack(rows).reshape(inner.shape)), output)


def with_memory(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    ask: Tensor,
    memory_keys: Tensor,
    memory_values: Tensor,
    output: Tensor,
) -> Tensor:
    """Causal attention, and in every head attention over learned slots, added (Orion-MSP 2025).

    The abstract states a Perceiver-style memory; here its latents are weights, read by every token and written by
    training alone, which keeps the mixer causal.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    found = masked_softmax(q, k, project(x, value, heads))
    asked = project(x, ask, heads)
    recalled = []
    for h in range(heads):
        weights = torch.exp(asked[:, h] @ memory_keys[h].T * kernel_scale(asked))
        recalled.append(weights / weights.sum(-1, keepdim=True) @ memory_values[h])
    return join(found + torch.stack(recalled, 1), output)
