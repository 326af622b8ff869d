"""Kernels in a window as blocks of a band: chunks no shorter than the window see themselves and the one before.

With G summed from the start of each chunk, P its end and ' for the chunk before, a block of the band is

    <q_t, k_s>_g = (q e^{G_t}) . (k' e^{P' - G'_s})    s in the chunk before
    <q_t, k_s>_g = (q e^{G_t}) . (k e^{-G_s})          s <= t in the chunk itself

Where the decay is weak enough both are one product, of queries scaled by e^{G - P/2} and of keys by e^{P/2 - G}, those
of the chunk before once more by e^{P'/2 + P/2}; else the second is split at dyadic boundaries (`kernels.decay`). There
are no states: to resolve, the chunks are solved at once, and each is then moved by the z of the one before,

    z = (I + A)^-1 x - (I + A)^-1 A' z'
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.arguments import accumulator
from archloom.kernels.chunks import WIDEST
from archloom.kernels.decay import from_chunks, lower_scores, since_start, to_chunks, until_end
from archloom.kernels.resolvent.chunked import solve_unit_lower

SHORTEST = 32
"""Steps of a chunk, unless the window is longer."""


def apply(q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, window: int) -> Tensor:
    """[B, T, H, V] in the accumulator's type."""
    steps, window = q.shape[1], min(window, k.shape[1])
    length = _length(window)
    band = _band(q, k, log_decay, window, length, nearest=0)
    value = _with_before(v.to(band.dtype), steps, length)
    return from_chunks(band @ torch.cat([value[:, :, :-1], value[:, :, 1:]], -2), steps)


def resolve(b: Tensor, k: Tensor, x: Tensor, log_decay: Tensor | None, earlier: Tensor, window: int) -> Tensor:
    """[B, T, H, V] in the accumulator's type."""
    steps, window = b.shape[1], min(window, k.shape[1])
    length = _length(window)
    band = _band(b, k, log_decay, window, length, nearest=1)
    value = to_chunks(x.to(band.dtype), length)
    before, system = torch.split(band, length, -1)
    if value.shape[2] == 1 and not earlier.shape[1]:
        return from_chunks(solve_unit_lower(system, value), steps)
    free, moved = torch.split(solve_unit_lower(system, torch.cat([value, before], -1)), [value.shape[-1], length], -1)
    z = _with_before(earlier.to(band.dtype), 0, length)[:, :, 0].flatten(0, 1) if earlier.shape[1] else None
    outputs = []
    for own, by in zip(free.flatten(0, 1).unbind(1), moved.flatten(0, 1).unbind(1), strict=True):
        z = own if z is None else torch.baddbmm(own, by, z, alpha=-1)
        outputs.append(z)
    return from_chunks(torch.unflatten(torch.stack(outputs, 1), 0, free.shape[:2]), steps)


def _length(window: int) -> int:
    """Steps of a chunk: 2^n, no fewer than a window reaches back."""
    return max(SHORTEST, 1 << max(window - 2, 0).bit_length())


def _with_before(x: Tensor, steps: int, length: int) -> Tensor:
    """[B, S, H, K] -> [B, H, N + 1, C, K]: one chunk that ends where the last `steps` positions begin, then theirs."""
    x = x[:, max(0, x.shape[1] - steps - length) :]
    return to_chunks(pad(x, (0, 0, 0, 0, steps + length - x.shape[1], 0)), length)


def _band(q: Tensor, k: Tensor, log_decay: Tensor | None, window: int, length: int, *, nearest: int) -> Tensor:
    """<q_t, k_s>_g of every chunk, [B, H, N, C, 2 C]: columns of the chunk before, then its own.

    Zero but where nearest <= t - s < window.
    """
    dtype, steps = accumulator(q.dtype), q.shape[1]
    query, key = to_chunks(q.to(dtype), length), _with_before(k.to(dtype), steps, length)
    lag = torch.arange(length, 2 * length, device=q.device).unsqueeze(1) - torch.arange(2 * length, device=q.device)
    outside = (lag < nearest) | (lag >= window)
    before, own = key[:, :, :-1], key[:, :, 1:]
    if log_decay is None:
        found = query @ torch.cat([before, own], -2).transpose(-1, -2)
        return found.masked_fill(outside, 0)
    decay = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
    total = _with_before(decay.to(dtype), steps, length).cumsum(3)
    half = total[..., -1:, :] / 2
    if bool(half.detach().min() >= -WIDEST[dtype] / 2):
        scaled = key * (half - total).exp()
        before = scaled[:, :, :-1] * (half[:, :, :-1] + half[:, :, 1:]).exp()
        query = query * (total - half)[:, :, 1:].exp()
        found = query @ torch.cat([before, scaled[:, :, 1:]], -2).transpose(-1, -2)
        return found.masked_fill(outside, 0)
    first = since_start(query, total[:, :, 1:]) @ until_end(before, total[:, :, :-1]).transpose(-1, -2)
    (second,) = lower_scores((query,), own, total[:, :, 1:])
    return torch.cat([first, second], -1).masked_fill(outside, 0)
