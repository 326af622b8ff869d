"""Recurrences of which more than a decay changes the state, token by token. Conventions are those of `parts`."""

import torch
from torch import Tensor

from .feature_maps import softmax
from .parts import join, kernel_scale, project, rms_norm, short_convolution, sigmoid, silu, softplus, unit
from .recurrences import delta_rule, gated_linear, outer, read


def token_shift(x: Tensor, blend: Tensor) -> Tensor:
    """(1 - mu) x_t + mu x_{t-1}, with zero before the first token."""
    before = torch.cat([torch.zeros_like(x[:1]), x[:-1]])
    return (1 - blend) * x + blend * before


def hgrn2(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    forget: Tensor,
    bound: Tensor,
    value: Tensor,
    gain: Tensor,
    output: Tensor,
) -> Tensor:
    """Qin et al. 2024, section 3: S_t = Diag(f) S_{t-1} + (1 - f) v^T with f = b + (1 - b) sigmoid(W x).

    o = S^T silu(W_q x), normed.
    The bound b is learned by each layer; the paper's are sums of a softmax over the layers. The kernel scale is added.
    """
    low = sigmoid(bound)
    f = low + (1 - low) * sigmoid(project(x, forget, heads))
    q = silu(project(x, query, heads))
    o = gated_linear(kernel_scale(q) * q, 1 - f, project(x, value, heads), list(f))
    return join(rms_norm(o, gain), output)


def mamba(
    x: Tensor,
    *,
    heads: int,
    taps: Tensor,
    query: Tensor,
    key: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    rate: Tensor,
    value: Tensor,
    skip: Tensor,
    gate: Tensor,
    output: Tensor,
) -> Tensor:
    """Gu and Dao 2023, algorithm 2: h = e^(Delta A) h + Delta B u, y = C h + D u, times silu(z), channel by channel.

    A = -e^rate is [inner channels, N]; B and C are [N], shared by all channels; Delta = softplus(W_2 W_1 s + b). Here
    s = silu(conv(x)) comes before the in-projection u = W s, of which the paper's B, C and Delta are read; no bias in
    the convolution.
    """
    s = silu(short_convolution(x.unsqueeze(1), taps))[:, 0]
    u, b, c = s @ value.T, s @ key.T, s @ query.T
    delta = softplus(s @ down.T @ up.T + up_bias)
    size = rate.shape[1]
    a = torch.cat([-torch.exp(head).T for head in rate])  # [heads * V, N]
    state, outputs = torch.zeros(len(a), size), []
    for step, now, write, reading in zip(delta, u, b, c, strict=True):
        state = torch.exp(step[:, None] * a) * state + (step * now)[:, None] * write
        outputs.append(state @ reading + skip.flatten() * now)
    return (torch.stack(outputs) * silu(x @ gate.T)) @ output.T


def rwkv6(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_blend: Tensor,
    key: Tensor,
    key_blend: Tensor,
    value: Tensor,
    value_blend: Tensor,
    gate: Tensor,
    gate_blend: Tensor,
    decay_blend: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    bonus: Tensor,
    gain: Tensor,
    output: Tensor,
) -> Tensor:
    """Peng et al. 2024, section 4: o_t = q^T (S_{t-1} + Diag(u) k v^T), S_t = Diag(w) S_{t-1} + k v^T,
    w = exp(-exp(W_2 tanh(W_1 x) + b)), then norm and silu gate.

    Token shift has one learned blend per channel; Finch adds a low-rank correction that depends on the tokens.
    """
    q = project(token_shift(x, query_blend), query, heads)
    k = project(token_shift(x, key_blend), key, heads)
    v = project(token_shift(x, value_blend), value, heads)
    lora = torch.tanh(token_shift(x, decay_blend) @ down.T) @ up.T + up_bias
    keep = torch.exp(-torch.exp(lora)).reshape(len(x), heads, -1)
    state, outputs = torch.zeros(heads, q.shape[2], v.shape[2]), []
    for now, write, new, alpha in zip(q, k, v, keep, strict=True):
        outputs.append(read(state + outer(bonus * write, new), now))
        state = alpha.unsqueeze(-1) * state + outer(write, new)
    o = rms_norm(torch.stack(outputs), gain)
    return join(o * silu(project(token_shift(x, gate_blend), gate, heads)), output)


def rwkv7(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_blend: Tensor,
    key: Tensor,
    key_blend: Tensor,
    removal: Tensor,
    rate: Tensor,
    rate_blend: Tensor,
    bound: Tensor,
    value: Tensor,
    value_blend: Tensor,
    gate: Tensor,
    gate_blend: Tensor,
    decay_blend: Tensor,
    down: Tensor,
    up: Tensor,
    up_bias: Tensor,
    bonus: Tensor,
    output: Tensor,
    gain: Tensor | None = None,
) -> Tensor:
    """Peng et al. 2025, section 4: S_t = (Diag(w) - (eta * kappa) kappa^T) S_{t-1} + k v^T with
    w = exp(-e^-1/2 sigmoid(W_2 tanh(W_1 x) + b)), kappa = l2(W_k x * removal), k = W_k x * (1 + (eta - 1) c);
    o = norm(S^T q) + (q . u * k) v, gated. Without a `gain` there is no norm (ARWKV, 2501.15570).

    Departures: c = 1 - sigmoid(bound) lies in (0, 1); eta = sigmoid(W x) and the sigmoid gate have full rank; values do
    not lean to the first layer's; the kernel scale on the readout, which the norm forgets but for its epsilon.
    """
    q = project(token_shift(x, query_blend), query, heads)
    w = project(token_shift(x, key_blend), key, heads)
    eta = sigmoid(project(token_shift(x, rate_blend), rate, heads))
    v = project(token_shift(x, value_blend), value, heads)
    kappa, k = unit(w * removal), w * (1 + (eta - 1) * (1 - sigmoid(bound)))
    lora = torch.tanh(token_shift(x, decay_blend) @ down.T) @ up.T + up_bias
    keep = torch.exp(-torch.exp(torch.tensor(-0.5)) * sigmoid(lora)).reshape(len(x), heads, -1)
    state, outputs = torch.zeros(heads, q.shape[2], v.shape[2]), []
    for t in range(len(x)):
        transition = torch.diag_embed(keep[t]) - outer(eta[t] * kappa[t], kappa[t])
        state = transition @ state + outer(k[t], v[t])
        outputs.append(read(state, q[t]))
    o = kernel_scale(q) * torch.stack(outputs)
    o = (o if gain is None else rms_norm(o, gain)) + (q * bonus * k).sum(-1, keepdim=True) * v
    return join(o * sigmoid(project(token_shift(x, gate_blend), gate, heads)), output)


def sparse_state_expansion(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    forget: Tensor,
    forget_bias: Tensor,
    sparse_query: Tensor,
    sparse_key: Tensor,
    sparse_forget: Tensor,
    sparse_forget_bias: Tensor,
    route: Tensor,
    value: Tensor,
    output: Tensor,
) -> Tensor:
    """Pan et al. 2025 (2507.16577): e = softmax(W_e x); the partition with the largest e_i alone is decayed, written
    with e_i k and read with e_i q. One more partition is always on. q = silu, k = softmax over the head's channels.

    Four partitions, one selected. The partitions' queries and keys have projections of their own instead of low-rank
    corrections, all partitions decay at one rate sigmoid(w x + b) per head, and there is no loss that balances them.
    """
    v, e = project(x, value, heads), softmax(x @ route.T)
    q, k = silu(project(x, query, heads)), softmax(project(x, key, heads))
    keep = sigmoid(x @ forget.T + forget_bias).unsqueeze(-1)
    always = gated_linear(kernel_scale(q) * q, k, v, list(keep))
    q, k = silu(project(x, sparse_query, heads)), softmax(project(x, sparse_key, heads))
    keep = sigmoid(x @ sparse_forget.T + sparse_forget_bias).unsqueeze(-1)
    states = [torch.zeros(heads, q.shape[2], v.shape[2])] * len(route)
    outputs = []
    for t in range(len(x)):
        i = int(e[t].argmax())
        states[i] = keep[t].unsqueeze(-1) * states[i] + outer(e[t, i] * k[t], v[t])
        outputs.append(read(states[i], kernel_scale(q) * e[t, i] * q[t]))
    return join(always + torch.stack(outputs), output)


def external_memory(
    x: Tensor, *, heads: int, read_at: Tensor, write_at: Tensor, erase: Tensor, add: Tensor, output: Tensor
) -> Tensor:
    """Graves et al. 2014, eqs. 2-4: M(i) = M(i) (1 - w(i) e) + w(i) a, read by sum_i r(i) M(i).

    Weights over the slots are a softmax of the token: content alone, with neither interpolation nor shifts of location,
    and no controller but the block around. The mixer of the neural memory controllers is not known beyond this.
    """
    r, w = softmax(project(x, read_at, heads)), softmax(project(x, write_at, heads))
    e, a = sigmoid(project(x, erase, heads)), project(x, add, heads)
    memory, outputs = torch.zeros(heads, r.shape[2], a.shape[2]), []
    for t in range(len(x)):
        slots = []
        for i in range(r.shape[2]):
            weight = w[t, :, i, None]
            slots.append(memory[:, i] * (1 - weight * e[t]) + weight * a[t])
        memory = torch.stack(slots, 1)
        outputs.append(sum((r[t, :, i, None] * slot for i, slot in enumerate(slots)), torch.zeros(())))
    return join(torch.stack(outputs), output)


def hebbian_resonance(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    rate: Tensor,
    rate_bias: Tensor,
    agreement: Tensor,
    relevance_bias: Tensor,
    gain: Tensor,
    output: Tensor,
) -> Tensor:
    """A synaptic matrix that moves to what is relevant: M = (1 - g) M + g rho k v^T, rho = sigmoid(c <M^T k, v> / (1 +
    |v|^2) + b), normed readout.

    The abstract states the mechanism (memory pathways reinforced by contextual relevance) and no equations: these are
    chosen here, Hebbian, and bounded.
    """
    q, k, v = project(x, query, heads), unit(project(x, key, heads)), project(x, value, heads)
    g, strength = sigmoid(x @ rate.T + rate_bias), 4 * sigmoid(agreement)
    memory, outputs = torch.zeros(heads, q.shape[2], v.shape[2]), []
    for t in range(len(x)):
        recalled = read(memory, k[t])
        agree = (recalled * v[t]).sum(-1) / (1 + (v[t] * v[t]).sum(-1))
        rho = sigmoid(strength * agree + relevance_bias)
        memory = (1 - g[t])[:, None, None] * memory + (g[t] * rho)[:, None, None] * outer(k[t], v[t])
        outputs.append(read(memory, q[t]))
    return join(rms_norm(torch.stack(outputs), gain), output)


def deltanet_negative(
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
    """Grazzi et al. 2024, section 4: the delta rule with beta = 2 sigmoid(W x + b), so that I - beta k k^T has
    eigenvalues in (-1, 1]. Else as `recurrences.deltanet`."""
    q = unit(silu(short_convolution(project(x, query, heads), query_taps)))
    k = unit(silu(short_convolution(project(x, key, heads), key_taps)))
    v = silu(short_convolution(project(x, value, heads), value_taps))
    rates = 2 * sigmoid(x @ beta.T + beta_bias)
    o = delta_rule(kernel_scale(q) * q, k, v, rates, [torch.ones(heads, 1)] * len(x))
    return join(rms_norm(o, gain), output)
