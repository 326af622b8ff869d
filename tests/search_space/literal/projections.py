"""Attention whose queries, keys and values are made in other ways. Shapes and conventions are those of `parts`."""

import torch
from torch import Tensor

from .attention import masked_softmax
from .parts import join, project, rms_norm, rotary


def fewer_heads(
    x: Tensor, *, heads: int, groups: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> Tensor:
    """`heads` query heads that read `groups` key-value heads, rotary and causal.

    Shazeer 2019, section 3, has one group; Filipek 2025, eq. 4 to 8, fewer query heads than the inner width has room
    for, which W_o maps back from.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, groups))
    return join(masked_softmax(q, k, project(x, value, groups)), output)


def latent_attention(
    x: Tensor,
    *,
    heads: int,
    query_down: Tensor,
    query_gain: Tensor,
    query_up: Tensor,
    query_turned: Tensor,
    down: Tensor,
    gain: Tensor,
    key_up: Tensor,
    key_turned: Tensor,
    value_up: Tensor,
    output: Tensor,
) -> Tensor:
    """DeepSeek-AI 2024, eq. 9 to 19: latents c = norm(W_DKV h) and c_Q = norm(W_DQ h); k^C = W_UK c, v = W_UV c,
    q^C = W_UQ c_Q; q^R = RoPE(W_QR c_Q) and one k^R = RoPE(W_KR h) for all heads; logits are the products of
    [q^C; q^R] and [k^C; k^R].

    Both parts have K channels, where the paper gives the rotated one half as many; the logits are divided by sqrt(K)
    and not by the root of both widths. The norms of the latents are those of section 3.1.2 of the paper.
    """
    c = rms_norm(x @ down.T, gain)
    c_query = rms_norm(x @ query_down.T, query_gain)
    q = torch.cat([project(c_query, query_up, heads), rotary(project(c_query, query_turned, heads))], -1)
    rotated = rotary(project(x, key_turned, 1)).expand(-1, heads, -1)
    k = torch.cat([project(c, key_up, heads), rotated], -1)
    # `masked_softmax` divides by the root of all channels of q.
    return join(masked_softmax(2**0.5 * q, k, project(c, value_up, heads)), output)


def latent_attention_without_positions(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    down: Tensor,
    gain: Tensor,
    key_up: Tensor,
    value_up: Tensor,
    output: Tensor,
) -> Tensor:
    """Kimi Team 2025: latent attention of full-width queries with no positional part."""
    c = rms_norm(x @ down.T, gain)
    k, v = project(c, key_up, heads), project(c, value_up, heads)
    return join(masked_softmax(project(x, query, heads), k, v), output)


def sigma_reparam(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_gain: Tensor,
    key: Tensor,
    key_gain: Tensor,
    value: Tensor,
    output: Tensor,
) -> Tensor:
    """Zhai et al. 2023: W is replaced by gamma W / sigma(W), sigma its largest singular value; rotary and causal.

    The paper does so for every linear map of the model; here for queries and keys, whose product its bound on the
    entropy is about. sigma is the root of the largest eigenvalue of W W^T, not a step of power iteration.
    """

    def bounded(weight: Tensor, gain: Tensor) -> Tensor:
        return gain * weight / torch.linalg.eigvalsh(weight @ weight.T)[-1].sqrt()

    q = rotary(project(x, bounded(query, query_gain), heads))
    k = rotary(project(x, bounded(key, key_gain), heads))
    return join(masked_softmax(q, k, project(x, value, heads)), output)


def heterogeneous(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Gui et al. 2023, heterogeneous attention: token i has projections Q_i, K_i, V_i of its own kind of feature.

    Kinds alternate with the position (two of them, weights [2, H C, D]), and the attention is causal. The paper's
    tokens are a fixed set of features, of which each is a kind. Its Hiformer layer, where every pair of features meets
    in one composite projection, is not this.
    """

    def by_kind(weights: Tensor) -> Tensor:
        return torch.cat([project(token[None], weights[t % 2], heads) for t, token in enumerate(x)])

    return join(masked_softmax(by_kind(query), by_kind(key), by_kind(value)), output)


def window_query(
    x: Tensor, *, heads: int, long_query: Tensor, short_query: Tensor, key: Tensor, value: Tensor, output: Tensor
) -> Tensor:
    """Zhu et al. 2023, eq. 7 and 8: the query of a long attention is the mean of the last L = 8 items (of those there
    are), that of a short one the last item; the outputs are summed.

    The paper weighs them by alpha and 1 - alpha, a hyperparameter: alpha = 1/2 up to the scale of W_o. It scores the
    attention against item embeddings; here keys and values are projections that both attentions share.
    """
    k, v = project(x, key, heads), project(x, value, heads)
    means = torch.stack([x[max(0, t - 7) : t + 1].mean(0) for t in range(len(x))])
    attentions = [
        masked_softmax(project(stream, weight, heads), k, v)
        for stream, weight in ((means, long_query), (x, short_query))
    ]
    return join(attentions[0] + attentions[1], output)
