"""Softmax attention as dense masked matrices, head by head. Shapes and conventions are those of `parts`."""

import torch
from torch import Tensor

from .parts import join, kernel_scale, project, rotary, short_convolution, silu


def masked_softmax(query: Tensor, key: Tensor, value: Tensor, *, window: int | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(K)) V over the last `window` tokens, or all earlier ones; query head h reads key-value head
    floor(h H_kv / H)."""
    steps, heads, _ = query.shape
    lag = torch.arange(steps)[:, None] - torch.arange(steps)
    seen = (lag >= 0) & (lag < (window or steps))
    outputs = []
    for h in range(heads):
        shared = h * key.shape[1] // heads
        weights = torch.exp(query[:, h] @ key[:, shared].T * kernel_scale(query)) * seen
        outputs.append(weights / weights.sum(-1, keepdim=True) @ value[:, shared])
    return torch.stack(outputs, 1)


def multi_head(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Vaswani et al. 2017, eq. 1, causal; rotary positions instead of sinusoids added to the input."""
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    return join(masked_softmax(q, k, project(x, value, heads)), output)


def grouped_query(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Ainslie et al. 2023, section 2.2: half as many key-value heads as query heads. Rotary and causal."""
    groups = heads // 2
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, groups))
    return join(masked_softmax(q, k, project(x, value, groups)), output)


def sliding_window(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Beltagy et al. 2020, section 3.1, in its autoregressive form: 0 <= t - s < 16, this token among the 16.

    The paper's window looks to both sides and grows with depth; rotary stands in for its learned positions.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    return join(masked_softmax(q, k, project(x, value, heads), window=16), output)


def multi_head_convolved(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    output: Tensor,
) -> Tensor:
    """Attention whose q, k and v pass a depthwise convolution of width 4 and SiLU, as delta rules have them.

    So et al. 2021 (section 4) convolve with width 3 and no nonlinearity.
    """
    q = rotary(silu(short_convolution(project(x, query, heads), query_taps)))
    k = rotary(silu(short_convolution(project(x, key, heads), key_taps)))
    v = silu(short_convolution(project(x, value, heads), value_taps))
    return join(masked_softmax(q, k, v), output)
