"""Linear recurrences, one token after the other, with states S [H, K, V]. Conventions are those of `parts`."""

from collections.abc import Sequence

import torch
from torch import Tensor

from .parts import (
    join,
    kernel_scale,
    project,
    rms_norm,
    rotary,
    short_convolution,
    sigmoid,
    silu,
    softplus,
    unit,
)


def outer(left: Tensor, right: Tensor) -> Tensor:
    """u v^T in each head."""
    return left.unsqueeze(-1) * right.unsqueeze(-2)


def read(state: Tensor, query: Tensor) -> Tensor:
    """S^T q in each head."""
    return (state * query.unsqueeze(-1)).sum(-2)


def normalised_linear(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Katharopoulos et al. 2020, eqs. 18-20: S and z sum phi(k) v^T and phi(k); o = S^T phi(q) / z^T phi(q)."""
    state, total, outputs = torch.zeros(()), torch.zeros(()), []
    for q, k, v in zip(query, key, value, strict=True):
        state, total = state + outer(k, v), total + k
        outputs.append(read(state, q) / (total * q).sum(-1, keepdim=True))
    return torch.stack(outputs)


def gated_linear(
    query: Tensor, key: Tensor, value: Tensor, keep: Sequence[Tensor], start: Tensor | None = None
) -> Tensor:
    """S_t = Diag(alpha_t) S_{t-1} + k_t v_t^T, o = S^T q; `keep` has alpha_t as [H, K] or [H, 1] per token. S_0 is
    `start` or zero."""
    state = torch.zeros(query.shape[1], query.shape[2], value.shape[2]) if start is None else start
    outputs = []
    for q, k, v, alpha in zip(query, key, value, keep, strict=True):
        state = alpha.unsqueeze(-1) * state + outer(k, v)
        outputs.append(read(state, q))
    return torch.stack(outputs)


def delta_rule(query: Tensor, key: Tensor, value: Tensor, beta: Tensor, keep: Sequence[Tensor]) -> Tensor:
    """S_t = (I - beta k k^T) Diag(alpha) S_{t-1} + beta k v^T, with the matrix I - beta k k^T written out."""
    state, outputs = torch.zeros(query.shape[1], query.shape[2], value.shape[2]), []
    for q, k, v, b, alpha in zip(query, key, value, beta, keep, strict=True):
        rate = b[:, None, None]
        transition = torch.eye(key.shape[2]) - rate * outer(k, k)
        state = transition @ (alpha.unsqueeze(-1) * state) + rate * outer(k, v)
        outputs.append(read(state, q))
    return torch.stack(outputs)


def linear_attention(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Katharopoulos et al. 2020, eq. 7: phi(x) = elu(x) + 1. The kernel scale cancels in the quotient."""

    def phi(y: Tensor) -> Tensor:
        return torch.where(y > 0, y + 1, torch.exp(y))

    q, k = phi(project(x, query, heads)), phi(project(x, key, heads))
    return join(normalised_linear(q, k, project(x, value, heads)), output)


def based_linear(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Arora et al. 2024, section 4.1: phi(x) = [1, x / K^(1/4), vec(x x^T) / sqrt(2 K)].

    Here K is the mixer's key width; the paper takes 16. Its released models also have short convolution layers.
    """

    def phi(y: Tensor) -> Tensor:
        width = y.shape[-1]
        square = torch.stack([y[..., i] * y[..., j] for i in range(width) for j in range(width)], -1)
        return torch.cat([torch.ones_like(y[..., :1]), y / width**0.25, square / (2 * width) ** 0.5], -1)

    q, k = phi(project(x, query, heads)), phi(project(x, key, heads))
    return join(normalised_linear(q, k, project(x, value, heads)), output)


def retnet(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, gain: Tensor, gate: Tensor, output: Tensor
) -> Tensor:
    """Sun et al. 2023, eqs. 6 and 8: gamma_h = 1 - 2^(-5-h), swish(W_g x) times the normed retention.

    The paper's group norm has no gain, and its values are twice as wide as the keys.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    gamma = torch.tensor([[1 - 2.0 ** (-5 - h)] for h in range(heads)])
    o = gated_linear(kernel_scale(q) * q, k, project(x, value, heads), [gamma] * len(x))
    return join(rms_norm(o, gain) * silu(project(x, gate, heads)), output)


def gla(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    gain: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Yang et al. 2024, eq. 3 and section 4.4: alpha = sigmoid(W_2 W_1 x + b)^(1/16), swish output gate.

    The paper norms heads by a layer norm and gives the output gate a bias; its keys are half as wide as its values.
    """
    q = project(x, query, heads)
    alpha = sigmoid(x @ down.T @ up.T + up_bias).reshape(len(x), heads, -1) ** (1 / 16)
    o = gated_linear(kernel_scale(q) * q, project(x, key, heads), project(x, value, heads), list(alpha))
    return join(rms_norm(o, gain) * silu(project(x, gate, heads)), output)


def lina_speech(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    state: Tensor,
    gain: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Lemerle et al. 2024: the recurrence of gated linear attention from a learned S_0 [H, K, V].

    Departures: S_0 is learned with all other weights and is of full rank, where the paper tunes one of low rank for
    each voice of a trained model; those of `gla`, and no convolutions or positions around it.
    """
    q = project(x, query, heads)
    alpha = sigmoid(x @ down.T @ up.T + up_bias).reshape(len(x), heads, -1) ** (1 / 16)
    k, v = project(x, key, heads), project(x, value, heads)
    o = gated_linear(kernel_scale(q) * q, k, v, list(alpha), start=state)
    return join(rms_norm(o, gain) * silu(project(x, gate, heads)), output)


def mamba2(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    step: Tensor,
    step_bias: Tensor,
    rate: Tensor,
    skip: Tensor,
    gate: Tensor,
    gain: Tensor,
    output: Tensor,
) -> Tensor:
    """Dao and Gu 2024, sections 5 and 7: h_t = e^(Delta A) h_{t-1} + Delta B x, y = C^T h + D x, norm(y silu(z)).

    C (`query`) and B (`key`) are one head read by all; A = -e^rate is one number per head. Departures: the kernel scale
    on C, D per channel instead of per head, convolutions without bias, and a norm per head instead of one over all.
    """
    c = silu(short_convolution(project(x, query, 1), query_taps)).expand(-1, heads, -1)
    b = silu(short_convolution(project(x, key, 1), key_taps)).expand(-1, heads, -1)
    v = silu(short_convolution(project(x, value, heads), value_taps))
    delta = softplus(x @ step.T + step_bias).unsqueeze(-1)
    keep = [torch.exp(-torch.exp(rate)[:, None] * each) for each in delta]
    y = gated_linear(kernel_scale(c) * c, b, delta * v, keep) + skip * v
    return join(rms_norm(y * silu(project(x, gate, heads)), gain), output)


def deltanet(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    beta: Tensor,
    beta_bias: Tensor,
    gain: Tensor,
    output: Tensor,
) -> Tensor:
    """Yang et al. 2024 (2406.06484), eq. 2: S_t = S_{t-1} - beta (S_{t-1} k - v) k^T, transposed as everywhere here.

    q, k = l2(silu(conv)), v = silu(conv). Departures: a bias in beta = sigmoid(W x + b), and the kernel scale.
    """
    q = unit(silu(short_convolution(project(x, query, heads), query_taps)))
    k = unit(silu(short_convolution(project(x, key, heads), key_taps)))
    v = silu(short_convolution(project(x, value, heads), value_taps))
    rates = sigmoid(x @ beta.T + beta_bias)
    o = delta_rule(kernel_scale(q) * q, k, v, rates, [torch.ones(heads, 1)] * len(x))
    return join(rms_norm(o, gain), output)


def gated_deltanet(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    beta: Tensor,
    beta_bias: Tensor,
    step: Tensor,
    step_bias: Tensor,
    rate: Tensor,
    gain: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Yang et al. 2024 (2412.06464), eq. 10: S_t = alpha (I - beta k k^T) S_{t-1} + beta k v^T, silu output gate.

    log alpha = -e^rate softplus(W x + b), one number per head. Departures as in `deltanet`.
    """
    q = unit(silu(short_convolution(project(x, query, heads), query_taps)))
    k = unit(silu(short_convolution(project(x, key, heads), key_taps)))
    v = silu(short_convolution(project(x, value, heads), value_taps))
    alpha = torch.exp(-torch.exp(rate) * softplus(x @ step.T + step_bias)).unsqueeze(-1)
    o = delta_rule(kernel_scale(q) * q, k, v, sigmoid(x @ beta.T + beta_bias), list(alpha))
    return join(rms_norm(o, gain) * silu(project(x, gate, heads)), output)


def kda(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    beta: Tensor,
    beta_bias: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    rate: Tensor,
    gain: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Kimi Team 2025, eq. 1: the delta rule with decay by channel, sigmoid output gate.

    log alpha = -e^rate softplus(W_2 W_1 x + b), e^rate per head. Departures: W_1 has 16 rows instead of a head's width,
    the output gate is of full rank, and those of `deltanet`.
    """
    q = unit(silu(short_convolution(project(x, query, heads), query_taps)))
    k = unit(silu(short_convolution(project(x, key, heads), key_taps)))
    v = silu(short_convolution(project(x, value, heads), value_taps))
    steps = softplus(x @ down.T @ up.T + up_bias).reshape(len(x), heads, -1)
    alpha = torch.exp(-torch.exp(rate)[:, None] * steps)
    o = delta_rule(kernel_scale(q) * q, k, v, sigmoid(x @ beta.T + beta_bias), list(alpha))
    return join(rms_norm(o, gain) * sigmoid(project(x, gate, heads)), output)
