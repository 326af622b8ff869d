"""Softmax attention under masks that are written out pair by pair. Conventions are those of `parts`.

Systems of images are two-dimensional in their papers and stand here in one dimension, without learned positions.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from .parts import join, kernel_scale, project, rotary

Sees = Callable[[int, int], bool]
"""(t, s) -> whether token t looks at token s."""


def table(steps: int, sees: Sees) -> Tensor:
    return torch.tensor([[sees(t, s) for s in range(steps)] for t in range(steps)])


def softmax_under(sees: Sees, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """softmax over the tokens seen of q_t . k_s / sqrt(K), applied to v; [T, H, V]."""
    mask = table(len(query), sees)
    heads = []
    for q, k, v in zip(query.unbind(1), key.unbind(1), value.unbind(1), strict=True):
        weights = torch.exp(q @ k.T * kernel_scale(query)) * mask
        heads.append(weights / weights.sum(-1, keepdim=True) @ v)
    return torch.stack(heads, 1)


def random_pair(t: int, s: int, *, one_in: int) -> bool:
    """The algebra's fixed choice of pairs by a hash of their positions."""
    mixed = (((t * 73_856_093) ^ (s * 19_349_663)) * 83_492_791) & 0x7FFF_FFFF
    return (mixed >> 8) % one_in == 0


def nearest(t: int, length: int, *, width: int, dilation: int) -> set[int]:
    """The neighbourhood of t: `width` tokens of its residue class modulo `dilation` around it, shifted at the borders
    so that it keeps its size. Of an even width one more lies after t than before it."""
    group = list(range(t % dilation, length, dilation))
    start = group.index(t) - (width - 1) // 2
    start = min(max(start, 0), max(len(group) - width, 0))
    return set(group[start : start + width])


def block_sparse(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Bouadi et al. 2025: a window, global tokens and random pairs together. All see the four global tokens, which in
    the paper also see all; the paper's random part differs from run to run and comes in blocks."""

    def sees(t: int, s: int) -> bool:
        window = nearest(t, len(x), width=8, dilation=1)
        return s in window or s < 4 or s == t or random_pair(t, s, one_in=8)

    q, k, v = (project(x, each, heads) for each in (query, key, value))
    return join(softmax_under(sees, q, k, v), output)


def neighbourhood(
    x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor, dilation: int = 1
) -> Tensor:
    """Hassani et al. 2023 (dilation 1) and Hassani and Shi 2022: attention to the 8 nearest neighbours. The papers take
    odd widths and add a learned relative bias."""
    near = [nearest(t, len(x), width=8, dilation=dilation) for t in range(len(x))]
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    return join(softmax_under(lambda t, s: s in near[t], q, k, v), output)


def prefix_blind(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Yuan et al. 2025, NAAViT: causal, but the 8 tokens of the prefix (their visual tokens) look at themselves alone.
    The paper also feeds visual tokens to each layer anew and has no queries for them."""

    def sees(t: int, s: int) -> bool:
        return s == t or (t >= 8 and s <= t)

    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    return join(softmax_under(sees, q, k, project(x, value, heads)), output)


def partial_attention(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    source_query: Tensor,
    source_key: Tensor,
    source_value: Tensor,
    output: Tensor,
) -> Tensor:
    """Fu et al. 2023: beside causal attention to everything, one that keeps to the source, the first 8 tokens. Its
    projections are its own; a token of the source sees those before it, and every token itself. How the paper joins
    the two is not followed: here both read x and are summed."""
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    whole = softmax_under(lambda t, s: s <= t, q, k, project(x, value, heads))
    q, k = rotary(project(x, source_query, heads)), rotary(project(x, source_key, heads))
    kept = softmax_under(lambda t, s: s <= t and (s < 8 or s == t), q, k, project(x, source_value, heads))
    return join(whole + kept, output)


def picked_tokens(query: Tensor, key: Tensor, count: int) -> list[set[int]]:
    """For each token the `count` earlier ones, itself among them, of which q_t . k_s is largest; one head, [T, K]."""
    picked = []
    for t, q in enumerate(query.unbind(0)):
        scores = (key[: t + 1] @ q).tolist()
        picked.append(set(sorted(range(t + 1), key=scores.__getitem__)[-count:]))
    return picked


def among(picked: list[set[int]], t: int, s: int) -> bool:
    return s in picked[t]


def tidal_decode(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    sparse_query: Tensor,
    sparse_key: Tensor,
    sparse_value: Tensor,
    output: Tensor,
    count: int = 16,
) -> Tensor:
    """Yang et al. 2024: full attention, whose `count` largest scores of each head say which tokens the attention of the
    following layers looks at.

    Departures: the sparse attention stands in the same layer, reads the same stream and is added; tokens are picked
    anew in every layer instead of in a few, and already in training, where the paper decodes a trained model.
    """
    q, k = rotary(project(x, query, heads)), rotary(project(x, key, heads))
    whole = softmax_under(lambda t, s: s <= t, q, k, project(x, value, heads))
    own_q, own_k = rotary(project(x, sparse_query, heads)), rotary(project(x, sparse_key, heads))
    v, sparse = project(x, sparse_value, heads), []
    for h in range(heads):
        sees = partial(among, picked_tokens(q[:, h], k[:, h], count))
        sparse.append(softmax_under(sees, *(each[:, h : h + 1] for each in (own_q, own_k, v))))
    return join(whole + torch.cat(sparse, 1), output)


def duplex(x: Tensor, *, heads: int, query: Tensor, key: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Zhang et al. 2025: attention inside each segment and across segments at once, each with a softmax of its own,
    over the same queries, keys and values; segments are the chunks of 16 tokens. The paper's segments are modalities,
    whose tokens it first maps into each other's space by basis vectors; this stands for its masks alone, as far as the
    abstract gives them."""
    q, k, v = rotary(project(x, query, heads)), rotary(project(x, key, heads)), project(x, value, heads)
    inside = softmax_under(lambda t, s: s <= t and s // 16 == t // 16, q, k, v)
    across = softmax_under(lambda t, s: s <= t and (s // 16 != t // 16 or s == t), q, k, v)
    return join(inside + across, output)


def pooled(x: Tensor, *, width: int) -> Tensor:
    """The mean of the last `width` tokens, of those that there are."""
    return torch.stack([x[max(0, t + 1 - width) : t + 1].mean(0) for t in range(len(x))])


def local_global(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    global_query: Tensor,
    global_key: Tensor,
    global_value: Tensor,
    output: Tensor,
) -> Tensor:
    """Hu et al. 2025: attention inside windows of 16 tokens, and attention to the sequence compressed by 4, summed.

    The paper looks to both sides, compresses frames in space and lets windows cross between layers. Here all is causal,
    compression is the mean over 4 tokens, queries are not compressed, and a token also sees the mean of the last 4
    tokens that it ends itself.
    """
    q, k, v = (project(x, each, heads) for each in (query, key, value))
    local = softmax_under(lambda t, s: s <= t and s // 16 == t // 16, q, k, v)
    q, k, v = (project(x, each, heads) for each in (global_query, global_key, global_value))
    compressed = softmax_under(
        lambda t, s: s <= t and (s % 4 == 3 or s == t), q, pooled(k, width=4), pooled(v, width=4)
    )
    return join(local + compressed, output)
