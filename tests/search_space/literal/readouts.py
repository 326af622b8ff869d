"""Readouts token by token: regressions, summaries, channels over channels. Conventions are those of `parts`."""

import math

import torch
from torch import Tensor

from .attention import masked_softmax
from .parts import join, kernel_scale, project, rms_norm, rotary, sigmoid


def local_linear(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, log_ridge: Tensor, output: Tensor
) -> Tensor:
    """Zuo et al. 2025: omega = sum w, mu = sum w z, Sigma = sum w z z^T + lambda omega I, rho = Sigma^-1 mu, and
    o = sum w (1 - z^T rho) v / (omega - mu^T rho), with w_s = exp(q k_s / sqrt(K)) and z_s = k_s - q.

    lambda = e^log_ridge is learned, one number a head; multiplying it by omega makes it a ridge of the mean.
    """
    q, k, v = project(x, query, heads), project(x, key, heads), project(x, value, heads)
    rows = []
    for t in range(len(x)):
        row = []
        for h in range(heads):
            w = torch.exp(k[: t + 1, h] @ q[t, h] * kernel_scale(q))
            z = k[: t + 1, h] - q[t, h]
            omega, mu = w.sum(), w @ z
            sigma = z.T @ (w[:, None] * z) + torch.exp(log_ridge[h]) * omega * torch.eye(z.shape[1])
            rho = torch.linalg.inv(sigma) @ mu
            row.append((w * (1 - z @ rho)) @ v[: t + 1, h] / (omega - mu @ rho))
        rows.append(torch.stack(row))
    return join(torch.stack(rows), output)


def combiner(x: Tensor, *, heads: int, span: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Ren et al. 2021, section 4.1, causal: logits q k_s for the s <= t of the span of t, and for each earlier span
    one logit q K_i with K_i = max over its keys, whose value is softmax_s(Q_i k_s) v with Q_i = max over its queries.

    All logits are scaled by K^-1/2; rotary stands in for the positions that the paper adds to the input.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    v = project(x, value, heads)
    scale = kernel_scale(q)
    rows = []
    for t in range(len(x)):
        start, row = t // span * span, []
        for h in range(heads):
            logits = [q[t, h] @ k[s, h] * scale for s in range(start, t + 1)]
            seen = [v[s, h] for s in range(start, t + 1)]
            for first in range(0, start, span):
                inside = slice(first, first + span)
                logits.append(q[t, h] @ k[inside, h].amax(0) * scale)
                local = torch.exp(k[inside, h] @ q[inside, h].amax(0) * scale)
                seen.append(local @ v[inside, h] / local.sum())
            weights = torch.exp(torch.stack(logits))
            row.append(weights @ torch.stack(seen) / weights.sum())
        rows.append(torch.stack(row))
    return join(torch.stack(rows), output)


def gin_attention(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    own: Tensor,
    hidden: Tensor,
    output: Tensor,
) -> Tensor:
    """Xu et al. 2019, eq. 4.1 with the softmax attention map as adjacency: MLP((1 + eps) x + A x) in each head.

    The node features are the head's values. Departures: 1 + eps is a number per channel (`own`), the network has no
    biases and is as wide inside as outside, and its second layer is one with W_o, which follows it. The paper also
    tries to sharpen A before it is used; here it is used as it is.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    v = project(x, value, heads)
    nodes = masked_softmax(q, k, v) + own * v
    inner = torch.stack([nodes[:, h] @ hidden[h].T for h in range(heads)], 1)
    return join(torch.where(inner > 0, inner, torch.zeros(())), output)


def squash(s: Tensor) -> Tensor:
    """Mazzia et al. 2021 (2101.12491): (1 - e^-|s|) s / |s|; the 1e-6 under the root is that of the compiled module."""
    length = torch.sqrt((s * s).sum(-1, keepdim=True) + 1e-6)
    return (1 - torch.exp(-length)) * (s / length)


def capsule_routing(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    active: Tensor,
    active_bias: Tensor,
    output: Tensor,
) -> Tensor:
    """Each head of a token is a capsule: a squashed pose times its activation probability; routing is by softmax
    attention over the capsules of the tokens so far, and what arrives is squashed.

    Only the mechanism that the abstract of Duarte et al. 2021 states: their layer sizes and modalities are left out.
    """
    pose = squash(project(x, value, heads)) * sigmoid(x @ active.T + active_bias).unsqueeze(-1)
    routed = masked_softmax(project(x, query, heads), project(x, key, heads), pose)
    return join(squash(routed), output)


def channel_attention(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, temperature: Tensor, output: Tensor
) -> Tensor:
    """El-Nouby et al. 2021, eq. 2: v softmax(K^T Q / tau) with the channels of K and Q of unit length along time.

    Departures: at token t only the tokens up to t are correlated, which makes it causal; `temperature` multiplies;
    1e-6 is added to squared lengths. TLOB (Berti and Kasneci 2025) attends over features and over time in turn; its
    abstract does not say how features are embedded, and this is attention over features that needs no fixed length.
    """
    q, k, v = project(x, query, heads), project(x, key, heads), project(x, value, heads)
    rows = []
    for t in range(len(x)):
        row = []
        for h in range(heads):
            past_q, past_k = q[: t + 1, h], k[: t + 1, h]
            unit_q = past_q / torch.sqrt((past_q * past_q).sum(0) + 1e-6)
            unit_k = past_k / torch.sqrt((past_k * past_k).sum(0) + 1e-6)
            weights = torch.exp(temperature[h] * (unit_q.T @ unit_k))
            row.append(weights @ v[t, h] / weights.sum(-1))
        rows.append(torch.stack(row))
    return join(torch.stack(rows), output)


def aft_local(
    x: Tensor, *, window: int, gate: Tensor, exponent: Tensor, value: Tensor, bias: Tensor, output: Tensor
) -> Tensor:
    """Zhai et al. 2021, eq. 2: sigmoid(q_t) sum_s e^(k_s + w_ts) v_s / sum_s e^(k_s + w_ts), channel by channel.

    As in AFT-local (eq. 4) w_ts is learned for t - s < window and 0 beyond; as in AFT-conv it depends on t - s alone.
    The paper has one w_ts for every pair of positions, or a low-rank product in its place.
    """
    q, k, v = (project(x, weight, 1)[:, 0] for weight in (gate, exponent, value))
    rows = []
    for t in range(len(x)):
        terms = [torch.exp(k[s] + (bias[0, t - s] if t - s < window else 0)) for s in range(t + 1)]
        weights = torch.stack(terms)
        rows.append(sigmoid(q[t]) * (weights * v[: t + 1]).sum(0) / weights.sum(0))
    return torch.stack(rows) @ output.T


def gelu(x: Tensor) -> Tensor:
    """Hendrycks and Gimpel 2016: x Phi(x)."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def activator(x: Tensor, *, gate: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """W_o (gelu(W_g x) . W_v x): a gated linear unit where a transformer has attention. No token sees another.

    Abdullah and Aydin 2024, as its abstract says; activation and widths are this project's choice.
    """
    return torch.stack([output @ (gelu(gate @ now) * (value @ now)) for now in x])


def mlp_mixer(x: Tensor, *, length: int, first: Tensor, second: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Tolstikhin et al. 2021, eq. 1: W_2 gelu(W_1 X) along the tokens, noncausal; matrices have `length` rows.

    Departures: projections before and after (the paper has none), no biases, a hidden layer as wide as the sequence.
    """
    steps = len(x)
    one, two = (each.reshape(length, length)[:steps, :steps] for each in (first, second))
    return (two @ gelu(one @ (x @ value.T))) @ output.T


def gmlp(
    x: Tensor, *, length: int, gate: Tensor, value: Tensor, gain: Tensor, entries: Tensor, output: Tensor
) -> Tensor:
    """Liu et al. 2021, section 2: Z = gelu(x U) in halves Z_1, Z_2, and Z_1 . (W norm(Z_2)) V.

    Causal, with W lower-triangular. Departures: an RMS norm for the layer norm, and no bias along the tokens (the paper
    starts W near 0 and the bias at 1).
    """
    steps = len(x)
    rows, columns = torch.tril_indices(length, length)
    matrix = torch.zeros(length, length).index_put((rows, columns), entries[0])[:steps, :steps]
    normed = rms_norm(gelu(x @ value.T), gain)
    return (gelu(x @ gate.T) * (matrix @ normed)) @ output.T
