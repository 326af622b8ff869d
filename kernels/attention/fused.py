"""PyTorch's fused `scaled_dot_product_attention`: the causal softmax, with a window and a decay.

The queries are cut into blocks where that saves work.

Inside softmax the query's own part of a decay cancels: q.k + G_t - G_s may be replaced by q.k + (R - G_s) for any R.
So a decay is one more column (1 for the queries, R - G_s for the keys), and the fused kernel needs no dense mask with
a gradient. R is G at the first query of a block, and the difference is formed in float64, so that long sequences lose
no precision.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad, scaled_dot_product_attention

from archloom.kernels.arguments import accumulator

DECAY_BLOCK = 512
"""Queries that share one reference R."""
SHORTEST_BLOCK = 32
"""Windows narrower than this still form blocks of so many queries."""
UNBLOCKED_STEPS, UNBLOCKED_BLOCKS = 128, 3
"""Up to so many queries, or blocks of queries, one masked call was measured to be faster than blocks."""
ALIGNMENT = 8
"""Fused GPU kernels want widths that are multiples of this."""


def causal(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, window: int | None, scale: float) -> Tensor:
    """Causal softmax attention, [B, T, H, V] in the dtype of q."""
    steps, sources = q.shape[1], k.shape[1]
    if window is not None and window >= sources:
        window = None
    total = None
    dtype = q.dtype
    if log_decay is not None:
        total = log_decay.double().cumsum(1).unsqueeze(-1)  # [B, S, H, 1]
        repeats = q.shape[2] // k.shape[2]
        q, k, v = (x.to(accumulator(dtype)) for x in (q, k, v))
        if repeats > 1:
            k, v = k.repeat_interleave(repeats, 2), v.repeat_interleave(repeats, 2)
    if window is not None:
        if steps > max(UNBLOCKED_STEPS, UNBLOCKED_BLOCKS * max(window, SHORTEST_BLOCK)):
            return _banded(q, k, v, total, window, scale).to(dtype)
        kept = min(sources, steps + window - 1)
        k, v, total = k[:, -kept:], v[:, -kept:], None if total is None else total[:, -kept:]
        return fused(q, k, v, total, _band(steps, kept, window, q.device), scale).to(dtype)
    if total is None:
        return _causal(q, k, v, None, scale)
    blocks, end = [], sources - steps
    for block in torch.split(q, DECAY_BLOCK, 1):
        end += block.shape[1]
        blocks.append(_causal(block, k[:, :end], v[:, :end], total[:, :end], scale))
    return torch.cat(blocks, 1).to(dtype)


def _causal(q: Tensor, k: Tensor, v: Tensor, total: Tensor | None, scale: float) -> Tensor:
    steps, sources = q.shape[1], k.shape[1]
    if steps == sources:
        return fused(q, k, v, total, None, scale, is_causal=True)
    mask = None if steps == 1 else _band(steps, sources, sources, q.device)
    return fused(q, k, v, total, mask, scale)


def _band(steps: int, sources: int, window: int, device: torch.device) -> Tensor:
    """Which of `sources` keys each of the last `steps` positions keeps, [T, S]."""
    kept = torch.ones(steps, sources, dtype=torch.bool, device=device)
    return kept.tril_(sources - steps).triu_(sources - steps - window + 1)


def _banded(q: Tensor, k: Tensor, v: Tensor, total: Tensor | None, window: int, scale: float) -> Tensor:
    """Blocks of C queries, each against its own C keys and the window - 1 before them; linear in T."""
    batch, steps, heads, _ = q.shape
    length = max(window, SHORTEST_BLOCK)
    count = -(-steps // length)
    span, missing = length + window - 1, count * length - steps
    history = min(k.shape[1] - steps, window - 1)

    def sources(x: Tensor) -> Tensor:  # [B, S, G, K] -> [N, C + window - 1, B * G, K]
        x = pad(x[:, x.shape[1] - steps - history :], (0, 0, 0, 0, window - 1 - history, missing))
        return x.unfold(1, span, length).permute(1, 4, 0, 2, 3).flatten(2, 3)

    queries = torch.unflatten(pad(q, (0, 0, 0, 0, 0, missing)), 1, (count, length)).permute(1, 2, 0, 3, 4).flatten(2, 3)
    mask = torch.ones(length, span, dtype=torch.bool, device=q.device).tril_(window - 1).triu_()
    position = torch.arange(count, device=q.device)[:, None] * length + torch.arange(span, device=q.device)
    mask = mask & (position >= window - 1 - history)[:, None]  # [N, C, C + window - 1]
    decays = None if total is None else sources(total)
    out = fused(queries, sources(k), sources(v), decays, mask.unsqueeze(1), scale)
    return torch.unflatten(out, 2, (batch, heads)).permute(2, 0, 1, 3, 4).flatten(1, 2)[:, :steps]


def fused(
    q: Tensor, k: Tensor, v: Tensor, total: Tensor | None, mask: Tensor | None, scale: float, is_causal: bool = False
) -> Tensor:
    """Fused attention of [B, T, H, K]; `total` is G [B, S, H, 1] in float64, the queries being the last positions."""
    if total is not None:
        steps, sources = q.shape[1], k.shape[1]
        bias = (total[:, sources - steps : sources - steps + 1] - total).to(q.dtype)
        q, scale = torch.cat([q * scale, torch.ones_like(q[..., :1])], -1), 1.0
        k = torch.cat([k, bias], -1)
    # the fused kernels want one width for keys and values
    width = max(q.shape[-1], v.shape[-1])
    width += -width % ALIGNMENT if total is not None else 0
    query, key, value = (_widened(x, width).transpose(1, 2) for x in (q, k, v))
    grouped = q.shape[2] != k.shape[2]
    out = scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=is_causal, scale=scale, enable_gqa=grouped
    )
    return out.transpose(1, 2)[..., : v.shape[-1]]


def _widened(x: Tensor, width: int) -> Tensor:
    return x if x.shape[-1] == width else pad(x, (0, width - x.shape[-1]))
