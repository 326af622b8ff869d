"""Attention with other normalisers and score functions, written row by row. Conventions are those of `parts`.

Where a paper has learned positions or biases, the algebra has rotary positions in causal systems and none in noncausal
ones. A causal form stands for n, the length of a paper's sequence, by the number of tokens seen.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx

from .parts import join, kernel_scale, project, rotary, sigmoid

Weigh = Callable[[int, Tensor], Tensor]
"""(head, logits [T, S]) -> weights [T, S]; where a token is not seen its logit is -inf."""


def logits_of(query: Tensor, key: Tensor, *, causal: bool) -> list[Tensor]:
    """q_t . k_s / sqrt(K), head by head."""
    found = []
    for q, k in zip(query.unbind(1), key.unbind(1), strict=True):
        scores = q @ k.T * kernel_scale(query)
        if causal:
            hidden = torch.ones_like(scores, dtype=torch.bool).triu(1)
            scores = scores.masked_fill(hidden, -math.inf)
        found.append(scores)
    return found


def weighed(
    x: Tensor,
    weigh: Weigh,
    *,
    heads: int,
    causal: bool,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    output: Tensor,
    source: Tensor | None = None,
) -> Tensor:
    """W_o of sum over s of weights_ts v_s; rotary if causal."""
    read = x if source is None else source
    q, k, v = project(x, query, heads), project(read, key, heads), project(read, value, heads)
    if causal:
        q, k = rotary(q), rotary(k)
    mixed = [weigh(h, logits) @ v[:, h] for h, logits in enumerate(logits_of(q, k, causal=causal))]
    return join(torch.stack(mixed, 1), output)


def seen(logits: Tensor) -> Tensor:
    return logits > -math.inf


def exponentials(logits: Tensor) -> Tensor:
    return torch.exp(logits)


def over_sum(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)


def relu(logits: Tensor) -> Tensor:
    return torch.where(logits > 0, logits, torch.zeros_like(logits))


# -- systems -----------------------------------------------------------------------------------------------------------


def relu_attention(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Guo et al. 2024 put ReLU where softmax stands; Wortsman et al. 2023 divide it by the sequence length, which is
    here the number of tokens seen."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        return relu(logits) / seen(logits).sum(-1, keepdim=True)

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def softmax_plus_one(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Miller 2023: exp(x_i) / (1 + sum_j exp(x_j))."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        weights = exponentials(logits)
        return weights / (1 + weights.sum(-1, keepdim=True))

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def sigmoid_attention(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Ramapuram et al. 2024: sigma(q . k / sqrt(K) + b) v with b = -log n, unnormalised. The paper's n is the length of
    the training sequences; here it is the number of tokens seen, so that nothing depends on what follows."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        rows = [torch.cat([sigmoid(row[: t + 1] - math.log(t + 1)), row.new_zeros(len(row) - t - 1)])
                for t, row in enumerate(logits.unbind(0))]  # fmt: skip
        return torch.stack(rows)

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def forgetting_attention(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    forget: Tensor,
    forget_bias: Tensor,
    output: Tensor,
) -> Tensor:
    """Lin et al. 2025: logits q_t . k_s / sqrt(K) + sum over (s, t] of log f, f = sigma(w x + b); no positions. The
    paper's Pro block (key shift, output norm and gate) is left out."""
    q, k, v = project(x, query, heads), project(x, key, heads), project(x, value, heads)
    log_forget = torch.log(sigmoid(x @ forget.T + forget_bias))
    mixed = []
    for h in range(heads):
        total = torch.cumsum(log_forget[:, h], 0)
        between = total[:, None] - total[None, :]
        mixed.append(over_sum(torch.exp(logits_of(q, k, causal=True)[h] + between)) @ v[:, h])
    return join(torch.stack(mixed, 1), output)


def onto_simplex(row: Tensor) -> Tensor:
    """The nearest point of the simplex to a row of finite numbers: numbers not above the threshold are dropped until
    none is (Michelot 1986), which is another way to it than sorting."""
    kept = torch.ones_like(row, dtype=torch.bool)
    while True:
        threshold = (row[kept].sum() - 1) / kept.sum()
        below = kept & (row <= threshold)
        if not below.any():
            return torch.where(kept, row - threshold, torch.zeros_like(row))
        kept = kept & ~below


def rows_onto_simplex(logits: Tensor) -> Tensor:
    projected = []
    for row in logits.unbind(0):
        visible = int(seen(row).sum())  # the first ones
        projected.append(torch.cat([onto_simplex(row[:visible]), row.new_zeros(len(row) - visible)]))
    return torch.stack(projected)


def sparsemax_attention(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Martins and Astudillo 2016, eq. 2, in place of softmax. Nguyen et al. 2022 attend by it from one query to the
    sentences of a document; here every token is a query."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        return rows_onto_simplex(logits)

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def topk_attention(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor, k: int = 16
) -> Tensor:
    """Softmax over the k largest logits. Yang et al. 2024 choose tokens in a few layers and use their choice again in
    the layers above; here every layer chooses for itself."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        rows = []
        for row in logits.unbind(0):
            best = sorted(range(len(row)), key=row.tolist().__getitem__, reverse=True)[:k]
            chosen = [s for s in best if row[s] > -math.inf]
            weights = exponentials(row[chosen])
            rows.append(torch.zeros_like(row).index_put((torch.tensor(chosen),), weights / weights.sum()))
        return torch.stack(rows)

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def relu_softmax(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Zeng et al. 2023: relu(x_i) / sum_j relu(x_j). Their code adds 1e-5 to the sum; the algebra keeps the sum above
    1e-6, which no row here comes near. Their search keeps it in some heads and puts scores / n into the others."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        return over_sum(relu(logits))

    return weighed(x, weigh, heads=heads, causal=False, query=query, key=key, value=value, output=output)


def two_quad(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, shift: Tensor, output: Tensor
) -> Tensor:
    """Li et al. 2023: (x_i + c)^2 / sum_j (x_j + c)^2. They fix c = 5; here it is learned by head and starts at 5."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        return over_sum((logits + shift[head]) ** 2)

    return weighed(x, weigh, heads=heads, causal=False, query=query, key=key, value=value, output=output)


def karat(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    cosines: Tensor,
    sines: Tensor,
    output: Tensor,
) -> Tensor:
    """Maity et al. 2025: phi(s) = sum over m of a_m cos(m s) + b_m sin(m s), then the projection onto the simplex that
    stands for softmax. The paper has one phi for each pair of a source and a hidden unit, and a linear map from the
    hidden units back to the n sources, which holds for one n only. Here one phi per head acts on every score."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        waves = [
            a * torch.cos((m + 1) * logits) + b * torch.sin((m + 1) * logits)
            for m, (a, b) in enumerate(zip(cosines[head], sines[head], strict=True))
        ]
        return rows_onto_simplex(sum(waves, torch.zeros_like(logits)))

    return weighed(x, weigh, heads=heads, causal=False, query=query, key=key, value=value, output=output)


def uniform_attention(x: Tensor, *, heads: int, value: Tensor, output: Tensor) -> Tensor:
    """Xue et al. 2025: every token averages the values of all tokens up to itself."""
    v = project(x, value, heads)
    return join(torch.stack([v[: t + 1].mean(0) for t in range(len(x))]), output)


def tempered(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, log_gain: Tensor, output: Tensor
) -> Tensor:
    """Jha and Reagen 2025: softmax attention with a learnable temperature per head. The algebra learns its negative
    logarithm; the paper's entropy regulariser is a loss and no part of the mixer."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        visible = torch.where(seen(logits), logits, torch.zeros_like(logits))
        return over_sum(exponentials(visible * torch.exp(log_gain[head])) * seen(logits))

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def soft_cap_attention(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor, cap: float = 50
) -> Tensor:
    """Gemma 2: logits c tanh(logits / c) with c = 50, then softmax. Gemma 2 groups its heads."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        capped = cap * torch.tanh(logits / cap)
        return over_sum(exponentials(capped) * seen(logits))

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


class OneHot(torch.autograd.Function):
    """One at the largest logit of each row; backward the Jacobian of softmax, p (g - <p, g>), written out."""

    @staticmethod
    def forward(ctx: FunctionCtx, logits: Tensor) -> Tensor:
        weights = over_sum(exponentials(logits - logits.amax(-1, keepdim=True)))
        ctx.save_for_backward(weights)
        chosen = torch.zeros_like(logits)
        for t, s in enumerate(logits.argmax(-1).tolist()):
            chosen[t, s] = 1
        return chosen

    @staticmethod
    def backward(ctx: FunctionCtx, *gradients: Tensor) -> Tensor:
        (weights,), (gradient,) = ctx.saved_tensors, gradients
        return weights * (gradient - (weights * gradient).sum(-1, keepdim=True))


def one_hot(logits: Tensor) -> Tensor:
    chosen = OneHot.apply(logits)
    assert isinstance(chosen, Tensor)
    return chosen


def hard_attention(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Hahn 2020: the value at the largest logit. The paper trains nothing; here the gradient is that of the softmax,
    straight through."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        return one_hot(logits)

    return weighed(x, weigh, heads=heads, causal=True, query=query, key=key, value=value, output=output)


def kmeans_cross(x: Tensor, source: Tensor, *, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Yu et al. 2022: A = argmax over cluster centres of Q K^T, C <- C + A V: x holds the centres, the source the
    pixels. The sum with C is the block's residual; the algebra puts K^-1/2 into Q K^T and W_o behind A V, and learns
    through the softmax over centres, where the paper supervises A by itself."""

    def weigh(head: int, logits: Tensor) -> Tensor:
        return one_hot(logits.T).T

    return weighed(x, weigh, heads=1, causal=False, query=query, key=key, value=value, output=output, source=source)
