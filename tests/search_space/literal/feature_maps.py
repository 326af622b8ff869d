"""Linear attention by its feature maps, and gated units, as sums over tokens. Conventions are those of `parts`."""

import math
import random
from collections.abc import Callable

import torch
from torch import Tensor

from .parts import join, kernel_scale, project, rotary, short_convolution, sigmoid, silu
from .recurrences import gated_linear, normalised_linear, outer, read

SMALLEST = 1e-6
"""Denominators are at least so large: a query whose ReLU is zero in every channel reads zero."""


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros(()))


def softmax(x: Tensor) -> Tensor:
    """Over the last axis."""
    exponentials = torch.exp(x)
    return exponentials / exponentials.sum(-1, keepdim=True)


def normalised_gated(query: Tensor, key: Tensor, value: Tensor, keep: Tensor) -> Tensor:
    """S_t = Diag(alpha_t) S_{t-1} + k_t v_t^T and z_t = alpha_t z_{t-1} + k_t; o = S^T q / z^T q."""
    state, total, outputs = torch.zeros(()), torch.zeros(()), []
    for q, k, v, alpha in zip(query, key, value, keep, strict=True):
        state, total = alpha.unsqueeze(-1) * state + outer(k, v), alpha * total + k
        outputs.append(read(state, q) / (total * q).sum(-1, keepdim=True).clamp(min=SMALLEST))
    return torch.stack(outputs)


def orthogonal_directions(heads: int, size: int) -> Tensor:
    """For each head, normal vectors made orthogonal one after the other with their lengths kept: [H, K, K]."""
    source, drawn = random.Random(0), []
    for _ in range(heads):
        rows: list[Tensor] = []
        for normal in [torch.tensor([source.gauss(0, 1) for _ in range(size)]) for _ in range(size)]:
            rest = normal
            for earlier in rows:
                rest = rest - (rest @ earlier) / (earlier @ earlier) * earlier
            rows.append(rest * (normal.norm() / rest.norm()))
        drawn.append(torch.stack(rows))
    return torch.stack(drawn)


def performer(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Choromanski et al. 2021, lemma 1: phi(x) = exp(-|y|^2 / 2) (exp(omega_i y))_i m^-1/2 with y = x K^-1/4.

    m = K directions, drawn by a seed and never again; the authors draw them anew now and then, and take out a maximum
    that the quotient cancels.
    """

    def phi(features: Tensor) -> Tensor:
        size = features.shape[-1]
        y = features / size**0.25
        along = torch.stack(
            [y[:, h] @ omega.T for h, omega in enumerate(orthogonal_directions(heads, size))], 1
        )  # [T, H, m]
        return torch.exp(-(y * y).sum(-1, keepdim=True) / 2) * torch.exp(along) / math.sqrt(size)

    q, k = phi(project(x, query, heads)), phi(project(x, key, heads))
    return join(normalised_linear(q, k, project(x, value, heads)), output)


def cosformer(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Qin et al. 2022: sum_s relu(q) relu(k) cos(pi (t - s) / 2 M) v_s over the same sum without v; M = 128.

    The paper takes M no shorter than the text, so that no cosine is negative.
    """
    q, k, v = relu(project(x, query, heads)), relu(project(x, key, heads)), project(x, value, heads)
    outputs = []
    for t in range(len(x)):
        nearness = torch.tensor([math.cos(math.pi / 2 * (t - s) / 128) for s in range(t + 1)])
        weights = (q[t] * k[: t + 1]).sum(-1) * nearness[:, None]  # [t + 1, H]
        outputs.append((weights.unsqueeze(-1) * v[: t + 1]).sum(0) / weights.sum(0).unsqueeze(-1).clamp(min=SMALLEST))
    return join(torch.stack(outputs), output)


def hedgehog_map(x: Tensor, weight: Tensor) -> Tensor:
    """softmax over [W x, -W x] in each head; x [T, H, K], W [H, K / 2, K]."""
    mapped = torch.stack([x[:, h] @ rows.T for h, rows in enumerate(weight)], 1)
    return softmax(torch.cat([mapped, -mapped], -1))


def hedgehog(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_map: Tensor,
    key: Tensor,
    key_map: Tensor,
    value: Tensor,
    output: Tensor,
) -> Tensor:
    """Zhang et al. 2024, section 4: phi(x) = [exp(W x), exp(-W x)], divided by its sum over the channels.

    W has half as many rows as the head has channels, so that phi is no wider than them; the paper's has as many.
    """
    q, k = hedgehog_map(project(x, query, heads), query_map), hedgehog_map(project(x, key, heads), key_map)
    return join(normalised_linear(q, k, project(x, value, heads)), output)


def simplified(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, taps: Tensor, output: Tensor
) -> Tensor:
    """Guo et al. 2024: relu(Q) (relu(K)^T V) normalised, plus a depthwise convolution of V.

    Causal; in the paper, on images, the sums run over all tokens and the convolution has two dimensions.
    """
    q, k = relu(project(x, query, heads)), relu(project(x, key, heads))
    v = project(x, value, heads)
    return join(normalised_gated(q, k, v, torch.ones_like(k)) + short_convolution(v, taps), output)


def lawcat(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    output: Tensor,
) -> Tensor:
    """Liu et al. 2025: causal depthwise convolutions of width 4 on q and k, then normalised gated linear attention.

    The feature map elu + 1 and the gate sigmoid(W_2 W_1 x + b)^(1/16) of gated linear attention were chosen here; the
    convolutions and the normaliser are the paper's.
    """

    def phi(y: Tensor) -> Tensor:
        return torch.where(y > 0, y + 1, torch.exp(y))

    q = phi(short_convolution(project(x, query, heads), query_taps))
    k = phi(short_convolution(project(x, key, heads), key_taps))
    alpha = sigmoid(x @ down.T @ up.T + up_bias).reshape(len(x), heads, -1) ** (1 / 16)
    return join(normalised_gated(q, k, project(x, value, heads), alpha), output)


def lizard(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_map: Tensor,
    key: Tensor,
    key_map: Tensor,
    value: Tensor,
    forget: Tensor,
    output: Tensor,
) -> Tensor:
    """Nguyen et al. 2025: normalised gated linear attention over learned features, plus softmax over a window and a few
    lasting tokens.

    The gate is sigmoid(W x) by channel, the window 16 tokens. The lasting tokens are the first four of the text: the
    paper puts learned ones before it.
    """
    q, k, v = project(x, query, heads), project(x, key, heads), project(x, value, heads)
    alpha = sigmoid(project(x, forget, heads))
    far = normalised_gated(hedgehog_map(q, query_map), hedgehog_map(k, key_map), v, alpha)
    q, k, near = rotary(q), rotary(k), []
    for t in range(len(x)):
        seen = [s for s in range(t + 1) if t - s < 16 or s < 4]
        weights = torch.exp(kernel_scale(q) * (q[t] * k[seen]).sum(-1))  # [S, H]
        near.append((weights.unsqueeze(-1) * v[seen]).sum(0) / weights.sum(0).unsqueeze(-1))
    return join(far + torch.stack(near), output)


def spikes(x: Tensor) -> Tensor:
    """Pan et al. 2025 (2509.05276): s = round(x / V_th) spikes of size V_th = mean |x|, over the channels of a head.

    The threshold is larger by a factor 1 + sqrt(2) / 1000 so that no value lies midway. Backward it is the identity.
    """
    size = x.detach()
    threshold = size.abs().mean(-1, keepdim=True) * (1 + math.sqrt(2) / 1000)
    return x - size + threshold * torch.floor(size / threshold + 0.5)


def spiking_linear(
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
    """Pan et al. 2025 (2509.05276): gated linear attention (as in `recurrences.gla`) over spike counts of q, k and v.

    The report encodes the input of every matrix in spikes; here those of the attention's own products.
    """
    q, k, v = (spikes(project(x, each, heads)) for each in (query, key, value))
    alpha = sigmoid(x @ down.T @ up.T + up_bias).reshape(len(x), heads, -1) ** (1 / 16)
    o = gated_linear(kernel_scale(q) * q, k, v, list(alpha))
    normed = gain * o / torch.sqrt((o * o).mean(-1, keepdim=True) + 1e-6)
    return join(normed * silu(project(x, gate, heads)), output)


def transnormer(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    rates: Tensor,
    decay: Tensor,
    value: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Qin et al. 2023, section 3: o_t = sum_s Re(q_t k_s e^(i theta (t - s))) gamma^(t - s) v_s.

    Queries and keys pass a swish; o is normed and multiplied by u. Departures: gamma = exp(-e^a) per head is learned
    instead of exp(-8 h / H (1 - l / L)); every layer turns its scores, not the first alone; the norm is per head.
    """
    q, k = silu(project(x, query, heads)), silu(project(x, key, heads))
    v, gamma, outputs = project(x, value, heads), torch.exp(-torch.exp(decay)), []
    for t in range(len(x)):
        lag = torch.tensor([float(t - s) for s in range(t + 1)])
        turned = (q[t] * k[: t + 1] * torch.cos(rates * lag[:, None, None])).sum(-1)  # [t + 1, H]
        weights = kernel_scale(q) * turned * gamma ** lag[:, None]
        outputs.append((weights.unsqueeze(-1) * v[: t + 1]).sum(0))
    o = torch.stack(outputs)
    return join(o / torch.sqrt((o * o).mean(-1, keepdim=True) + 1e-6) * project(x, gate, heads), output)


def attended(query: Tensor, key: Tensor, value: Tensor, weigh: Callable[[Tensor], Tensor], seen: Tensor) -> Tensor:
    """sum over the s that t sees of weigh(<q_t, k_s> K^-1/2) v_s; one head, [T, C]; seen [T, T]."""
    return (weigh(query @ key.T * kernel_scale(query)) * seen) @ value


def squared_relu(x: Tensor) -> Tensor:
    return relu(x) ** 2


def gau(
    x: Tensor,
    *,
    shared: Tensor,
    query_gain: Tensor,
    query_offset: Tensor,
    key_gain: Tensor,
    key_offset: Tensor,
    value: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Hua et al. 2022: U, V, Z = silu(x W), and o = W_o (U * relu(Q K^T)^2 V) with Q and K scales and offsets of Z.

    Causal. Scores are scaled by K^-1/2 instead of 1 / T, and have no relative bias.
    """
    u, v, z = (silu(project(x, each, 1))[:, 0] for each in (gate, value, shared))
    q, k = query_gain[0] * z + query_offset[0], key_gain[0] * z + key_offset[0]
    seen = torch.ones(len(x), len(x)).tril()
    return (u * attended(q, k, v, squared_relu, seen)) @ output.T


def flash(x: Tensor, *, shared: Tensor, value: Tensor, gate: Tensor, output: Tensor, **weights: Tensor) -> Tensor:
    """Hua et al. 2022, section 3: o = W_o (U * (V_near + V_far)) with the U, V, Z of the gated attention unit.

    V_near = relu(Q K^T)^2 V inside chunks, V_far = Q' (K'^T V) over all earlier tokens; Q, K, Q', K' are scales and
    offsets of Z. Departures: a token sees its own chunk by the far form too, scores are scaled by K^-1/2 and not by
    lengths, there is no relative bias, and chunks have 16 tokens.
    """
    u, v, z = (silu(project(x, each, 1))[:, 0] for each in (gate, value, shared))
    near_query, near_key, far_query, far_key = (
        weights[f"{name}_gain"][0] * z + weights[f"{name}_offset"][0]
        for name in ("near_query", "near_key", "far_query", "far_key")
    )
    chunk, earlier = torch.arange(len(x)) // 16, torch.ones(len(x), len(x)).tril()
    near = attended(near_query, near_key, v, squared_relu, (chunk[:, None] == chunk) * earlier)
    return (u * (near + attended(far_query, far_key, v, lambda scores: scores, earlier))) @ output.T


def two_sided_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = sum_j c_j x_{t+2-j} of width 4, zero outside; x [T, C], taps [C, 4]."""
    padded = torch.cat([x, torch.zeros(2, x.shape[1])])
    return short_convolution(padded.unsqueeze(1), taps)[2:, 0]


def mossformer(
    x: Tensor,
    *,
    shared: Tensor,
    shared_taps: Tensor,
    first: Tensor,
    first_taps: Tensor,
    second: Tensor,
    second_taps: Tensor,
    output: Tensor,
    **weights: Tensor,
) -> Tensor:
    """Zhao and Ma 2023: with A = relu(Q K^T)^2 inside chunks plus Q' K'^T everywhere,
    o = (A U) * V * sigmoid((A V) * U).

    Q, K, Q', K' are scales and offsets of Z. Every stream is a projection, a depthwise convolution to both sides and
    SiLU; chunks have 16 tokens. Departures: convolutions 4 wide instead of 17 and without their own residuals, no
    rotary, scores scaled by K^-1/2 instead of by the length of the chunk or the text.
    """

    def stream(weight: Tensor, taps: Tensor) -> Tensor:
        return silu(two_sided_convolution(project(x, weight, 1)[:, 0], taps))

    u, v, z = stream(first, first_taps), stream(second, second_taps), stream(shared, shared_taps)
    near_query, near_key, far_query, far_key = (
        weights[f"{name}_gain"][0] * z + weights[f"{name}_offset"][0]
        for name in ("near_query", "near_key", "far_query", "far_key")
    )
    chunk = torch.arange(len(x)) // 16
    near, everywhere = (chunk[:, None] == chunk).to(x.dtype), torch.ones(len(x), len(x))

    def attention(value: Tensor) -> Tensor:
        local = attended(near_query, near_key, value, squared_relu, near)
        return local + attended(far_query, far_key, value, lambda scores: scores, everywhere)

    return (attention(u) * v * sigmoid(attention(v) * u)) @ output.T
