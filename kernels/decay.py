"""Decayed inner products <q_t, k_s>_g = sum_i q_ti k_si exp(G_ti - G_si) inside chunks, in log space.

    g [B, T, H] (head) or [B, T, H, K] (channel), g <= 0;    G = cumsum of g from the start of the chunk

Everything here works on chunks in the layout [B, H, N, C, K] (N chunks of C steps), all chunks at once. No exponent
is ever positive, so nothing overflows however strong the decay. A product over the channels cannot be written as
(q e^G) (k e^-G) for that reason; instead each pair s < t is split at the one dyadic boundary R that separates them,

    exp(G_t - G_s) = exp(G_t - R) exp(R - G_s),    both exponents <= 0,

which costs log2(C) products of halves instead of C * C * K exponentials. Below `PAIRWISE` steps the pairs are formed
outright.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

PAIRWISE = 4
DEFAULT_CHUNK = 64
SINGLE_CHUNK = 128
"""Up to so many steps one chunk without any state between chunks was measured to be faster than several."""


def chunk_length(steps: int, chunk: int | None, by_channel: bool) -> int:
    """Length of the chunks for `steps` steps: one short chunk if they fit, with channel decay rounded to dyadic."""
    if chunk is None:
        chunk = SINGLE_CHUNK if steps <= SINGLE_CHUNK else DEFAULT_CHUNK
    length = min(steps, chunk)
    if not by_channel or length <= PAIRWISE:
        return length
    return PAIRWISE << ((length - 1) // PAIRWISE).bit_length()


def to_chunks(x: Tensor, length: int) -> Tensor:
    """[B, T, H, K] -> [B, H, N, C, K], zeros after the end."""
    missing = -x.shape[1] % length
    if missing:
        x = pad(x, (0, 0, 0, 0, 0, missing))
    batch, steps, heads, width = x.shape
    return x.view(batch, steps // length, length, heads, width).permute(0, 3, 1, 2, 4)


def from_chunks(x: Tensor, steps: int) -> Tensor:
    """[B, H, N, C, V] -> [B, T, H, V]."""
    return x.flatten(2, 3).transpose(1, 2)[:, :steps]


def chunk_totals(log_decay: Tensor | None, length: int, dtype: torch.dtype) -> Tensor | None:
    """G of every chunk, [B, H, N, C, 1] or [B, H, N, C, K]."""
    if log_decay is None:
        return None
    decay = log_decay.to(dtype)
    return to_chunks(decay if decay.dim() == 4 else decay.unsqueeze(-1), length).cumsum(3)


def since_start(q: Tensor, total: Tensor | None) -> Tensor:
    """q_t exp(G_t): what a query sees of the state at the start of its chunk."""
    return q if total is None else q * total.exp()


def until_end(k: Tensor, total: Tensor | None) -> Tensor:
    """k_s exp(G_C - G_s): what of a key is left at the end of its chunk."""
    return k if total is None else k * (total[..., -1:, :] - total).exp()


def lower_scores(queries: tuple[Tensor, ...], k: Tensor, total: Tensor | None) -> tuple[Tensor, ...]:
    """<q_t, k_s>_g for s <= t and zero above, [B, H, N, C, C], for each of `queries` [B, H, N, C, K]."""
    if total is not None and total.shape[-1] > 1:
        return _channel_scores(queries, k, total)
    keys = k.transpose(-1, -2)
    if total is None:
        return tuple((q @ keys).tril_() for q in queries)
    decay = _lower_lag(total.squeeze(-1)).exp_()
    return tuple((q @ keys) * decay for q in queries)


def _lower_lag(total: Tensor) -> Tensor:
    """G_t - G_s for s <= t and -inf above, [..., C, C], from G [..., C]."""
    return (total.unsqueeze(-1) - total.unsqueeze(-2)).add_(_above(total.shape[-1], total))


def _above(length: int, like: Tensor) -> Tensor:
    """-inf above the diagonal and zero elsewhere, [C, C]; added, not filled in, since that has no backward cost."""
    return torch.full((length, length), -torch.inf, dtype=like.dtype, device=like.device).triu_(1)


def _channel_scores(queries: tuple[Tensor, ...], k: Tensor, total: Tensor) -> tuple[Tensor, ...]:
    length = k.shape[-2]
    half = min(PAIRWISE, length)
    scores = _pairwise_scores(
        tuple(torch.unflatten(q, -2, (-1, half)) for q in queries),
        torch.unflatten(k, -2, (-1, half)),
        torch.unflatten(total, -2, (-1, half)),
    )
    while half < length:
        scores = _joined_scores(scores, queries, k, total, half)
        half *= 2
    return tuple(block.squeeze(-3) for block in scores)


def _pairwise_scores(queries: tuple[Tensor, ...], k: Tensor, total: Tensor) -> tuple[Tensor, ...]:
    """Scores of blocks [..., h, K] by forming every pair: h * h * K exponentials a block."""
    above = _above(total.shape[-2], total).unsqueeze(-1)
    lag = (total.unsqueeze(-2) - total.unsqueeze(-3)).add_(above).exp_()  # [..., h, h, K]: channels innermost
    weighted = lag * k.unsqueeze(-3)
    return tuple((q.unsqueeze(-2) * weighted).sum(-1) for q in queries)


def _joined_scores(
    scores: tuple[Tensor, ...], queries: tuple[Tensor, ...], k: Tensor, total: Tensor, half: int
) -> tuple[Tensor, ...]:
    """Scores of blocks of 2h steps from those of h steps, adding the square of second half against first half."""
    first, second = torch.unflatten(total, -2, (-1, 2, half)).unbind(-3)
    boundary = first[..., -1:, :]
    since, until = (second - boundary).exp(), (boundary - first).exp()
    keys = (torch.unflatten(k, -2, (-1, 2, half))[..., 0, :, :] * until).transpose(-1, -2)
    joined = []
    for own, q in zip(scores, queries, strict=True):
        square = (torch.unflatten(q, -2, (-1, 2, half))[..., 1, :, :] * since) @ keys
        upper, lower = torch.unflatten(own, -3, (-1, 2)).unbind(-3)
        joined.append(torch.cat([pad(upper, (0, half)), torch.cat([square, lower], -1)], -2))
    return tuple(joined)
