"""Positions in scores and features, written pair by pair. Shapes and conventions are those of `parts`."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .attention import masked_softmax
from .parts import join, kernel_scale, project, rms_norm, softplus

Logits = Callable[[int, int], Tensor]
"""(head, t) -> the logits of s = 0..t."""


def attend(value: Tensor, logits: Logits) -> Tensor:
    """softmax over s <= t of `logits`, applied to values [T, H, V]."""
    steps, heads, _ = value.shape
    outputs = []
    for h in range(heads):
        weights = [torch.softmax(logits(h, t), 0) for t in range(steps)]
        outputs.append(torch.stack([row @ value[: len(row), h] for row in weights]))
    return torch.stack(outputs, 1)


def lags(t: int, most: int) -> list[int]:
    """t - s of s = 0..t, those above `most` counted as `most`."""
    return [min(t - s, most) for s in range(t + 1)]


def products(query: Tensor, key: Tensor) -> list[Tensor]:
    """K^-1/2 <q_t, k_s> of every head, [T, T] each."""
    return [query[:, h] @ key[:, h].T * kernel_scale(query) for h in range(query.shape[1])]


def nope(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Vaswani et al. 2017, eq. 1, causal and without positions."""
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    return join(masked_softmax(q, k, v), output)


def alibi(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Press et al. 2022, section 3: softmax(q_t K^T + m [-(t - 1), ..., -1, 0]), the slope m of head h = 1..H being
    2^(-8h/H). The paper's q carries the factor K^-1/2."""
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    scores = products(q, k)
    slopes = [2 ** (-8 * (h + 1) / heads) for h in range(heads)]
    return join(attend(v, lambda h, t: scores[h][t, : t + 1] - slopes[h] * torch.arange(t, -1, -1)), output)


def t5_bias(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, output: Tensor
) -> Tensor:
    """Raffel et al. 2020, section 2.1: a learned number for each head and offset is added to the logit.

    Here every lag up to 32 has a number of its own and larger ones share the last; the paper has 32 numbers whose
    ranges grow logarithmically up to 128, shares them between layers and leaves out the factor K^-1/2.
    """
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    scores = products(q, k)
    assert bias.shape == (heads, 33)
    return join(attend(v, lambda h, t: scores[h][t, : t + 1] + bias[h, lags(t, 32)]), output)


def turned(x: Tensor, rate: Tensor) -> Tensor:
    """Pair i = 1..K/2 of head h turned by phi_i(t) = sum over r <= t of rate_r^i; rate [T, H]."""
    pairs = x.shape[-1] // 2
    phase = torch.zeros(x.shape[1], pairs, dtype=x.dtype)
    exponents = torch.arange(1, pairs + 1)
    result = []
    for now, chosen in zip(x.unbind(0), rate.unbind(0), strict=True):
        phase = phase + torch.stack([head**exponents for head in chosen])
        point = torch.complex(now[:, :pairs], now[:, pairs : 2 * pairs])
        point = point * torch.complex(torch.cos(phase), torch.sin(phase))
        result.append(torch.cat([point.real, point.imag, now[:, 2 * pairs :]], -1))
    return torch.stack(result)


def carope(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, angle: Tensor, output: Tensor
) -> Tensor:
    """Veisi et al. 2025, section 3: f(x_t) = 1 / (1 + softplus(x_t W)) in (0, 1)^H is the base frequency of token t,
    pair i advances by its i-th power, and queries and keys turn by the sum of what the tokens so far advanced.

    Powers run from i = 1, as RoPE's theta_i = theta_1^i; pairs are (i, i + K/2) as in `parts.rotary`.
    """
    rate = 1 / (1 + softplus(x @ angle.T))
    q, k = turned(project(x, query, heads), rate), turned(project(x, key, heads), rate)
    return join(masked_softmax(q, k, project(x, value, heads)), output)


def relative_keys(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, vectors: Tensor, output: Tensor
) -> Tensor:
    """Shaw et al. 2018, eq. 4: e_ts = q_t (k_s + a_(t-s))^T / sqrt(K), lags clipped at 16, a shared by the heads.

    Their eq. 3, which adds such vectors to the values too, is left out: their ablation finds no gain in it.
    """
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    assert vectors.shape == (17, q.shape[-1])

    def logits(h: int, t: int) -> Tensor:
        return (k[: t + 1, h] + vectors[lags(t, 16)]) @ q[t, h] * kernel_scale(q)

    return join(attend(v, logits), output)


def climbed(node: int) -> list[int]:
    """A node of the binary tree in heap order, counted from 1, and its ancestors up to the root."""
    return [node] if node == 1 else [node, *climbed(node // 2)]


def tree_distance(t: int, s: int) -> int:
    """Edges between two positions (counted from 0) of the tree: from both up to the first common ancestor."""
    above, other = climbed(t + 1), climbed(s + 1)
    common = max(set(above) & set(other))
    return above.index(common) + other.index(common)


def graph_distance(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, bias: Tensor, output: Tensor
) -> Tensor:
    """Song et al. 2025, eq. 4: softmax(Q K^T / sqrt(d_k) + lambda E) V with E one number for each head and quantised
    graph distance; lambda is part of it here.

    The paper's graph is the skeleton whose joints are the tokens. A sequence alone has none: here it is the complete
    binary tree of which it is the heap order, distances from 8 on count as 8, and earlier tokens alone are seen.
    """
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    scores = products(q, k)
    assert bias.shape == (heads, 9)

    def logits(h: int, t: int) -> Tensor:
        return scores[h][t, : t + 1] + bias[h, [min(tree_distance(t, s), 8) for s in range(t + 1)]]

    return join(attend(v, logits), output)


def causal_graph(
    x: Tensor, *, heads: int, feature: Tensor, query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> Tensor:
    """Velickovic et al. 2018, eq. 3 and 4: alpha_ts = softmax_s(LeakyReLU(a^T [W h_t || W h_s])), slope 0.2, where the
    neighbours of a token are all earlier ones and itself; the two halves of a are `query` and `key` [H, K].

    Values have a projection of their own where the paper sends W h_s, and W_o stands for its last nonlinearity. Of the
    causal graph mechanism of Buehler 2023 no more than the abstract was at hand.
    """
    f, v = project(x, feature, heads), project(x, value, heads)

    def logits(h: int, t: int) -> Tensor:
        pairs = torch.cat([f[t, h].expand(t + 1, -1), f[: t + 1, h]], 1)
        joined = pairs @ torch.cat([query[h], key[h]])
        return torch.where(joined > 0, joined, 0.2 * joined)

    return join(attend(v, logits), output)


def sinusoids(steps: int, width: int) -> Tensor:
    """Vaswani et al. 2017, section 3.5: sin and cos of t / 10000^(2i/D), here all sines before all cosines; [T, D]."""
    pairs = (width + 1) // 2
    rows = []
    for t in range(steps):
        angles = [t * 10_000 ** (-i / pairs) for i in range(pairs)]
        rows.append([*map(math.sin, angles), *map(math.cos, angles)][:width])
    return torch.tensor(rows)


def static_attention(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Xue et al. 2025, eq. 10: Q and K are projections of a sequence that is the same for every input, V of the input.

    Their fixed sequence is random embeddings or a text after the blocks so far; here it is sinusoids, for any length.
    """
    fixed = sinusoids(*x.shape)
    q, k = project(fixed, query, heads), project(fixed, key, heads)
    return join(masked_softmax(q, k, project(x, value, heads)), output)


def random_attention(x: Tensor, *, heads: int, length: int, entries: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Tay et al. 2021, section 3.2: softmax(R) V, R learned and the same for every input; causal, stored row by row."""
    assert entries.shape == (heads, length * (length + 1) // 2)
    v = project(x, value, heads)
    return join(attend(v, lambda h, t: entries[h, t * (t + 1) // 2 :][: t + 1]), output)


def synthesizer(x: Tensor, *, heads: int, first: Tensor, second: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Tay et al. 2021, section 3.1: softmax(B) V, B_t = W_2 relu(W_1 x_t), one logit for every position; causal.

    W_2 has a row for every position. Here row s is K^-1/2 times a learned map of the sinusoids of s, so that there is
    one at any length; there are no biases.
    """
    hidden, rows = torch.relu(project(x, first, heads)), project(sinusoids(*x.shape), second, heads)
    v = project(x, value, heads)
    logits = [hidden[:, h] @ (rows[:, h] * kernel_scale(rows)).T for h in range(heads)]
    return join(attend(v, lambda h, t: logits[h][t, : t + 1]), output)


def kernel_rpe(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_gain: Tensor,
    key: Tensor,
    key_gain: Tensor,
    value: Tensor,
    bias: Tensor,
    output: Tensor,
) -> Tensor:
    """Luo et al. 2021, section 3: o_t = phi(q_t) sum over s <= t of e^(b_(t-s)) phi(k_s) v_s^T / the same with v = 1.

    phi is elu + 1 instead of positive random features, and acts on RMS-normalised queries and keys instead of unit
    ones. Lags beyond 32 share one number, so that any length has all.
    """

    def features(weight: Tensor, gain: Tensor) -> Tensor:
        normal = rms_norm(project(x, weight, heads), gain)
        return torch.where(normal > 0, normal + 1, torch.exp(normal))

    q, k, v = features(query, query_gain), features(key, key_gain), project(x, value, heads)
    rows = []
    for t in range(len(x)):
        factors = torch.exp(bias[:, lags(t, 32)]).T  # [S, H]
        sums = torch.einsum("sh,shk,shv->hkv", factors, k[: t + 1], v[: t + 1])
        ones = torch.einsum("sh,shk->hk", factors, k[: t + 1])
        rows.append(torch.einsum("hk,hkv->hv", q[t], sums) / torch.einsum("hk,hk->h", q[t], ones)[:, None])
    return join(torch.stack(rows), output)
