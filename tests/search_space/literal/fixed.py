"""Mixers whose kernel ignores the input: direct sums over lags or tokens. Conventions are those of `parts`."""

import math

import torch
from torch import Tensor

from .parts import join, project, short_convolution


def hyena_filter(
    length: int,
    steps: int,
    *,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
) -> list[Tensor]:
    """Poli et al. 2023, eq. 7: h_n = FFN(position n) (e^(-delta n) + c), one [channels] tensor per lag n < `steps`.

    Positions are n / length. The network has sines of frequency 10 and then 1, and reads the position with the cosine
    and sine of one and two turns; the authors' is 64 wide with one learned frequency. c = 0.01, and delta runs evenly
    from ln(100) / 1.5 to ln(100) / 0.3 over the channels.
    """
    channels = len(last)
    slowest, fastest = math.log(100) / 1.5, math.log(100) / 0.3
    delta = torch.tensor([slowest + (fastest - slowest) * c / max(1, channels - 1) for c in range(channels)])
    taps = []
    for n in range(steps):
        t = n / length
        turns = [2 * math.pi * t, 4 * math.pi * t]
        position = torch.tensor([t, *map(math.cos, turns), *map(math.sin, turns)])
        hidden = torch.sin(10 * (first @ position + first_bias))
        hidden = torch.sin(second @ hidden + second_bias)
        taps.append((last @ hidden) * (torch.exp(-delta * t) + 0.01))
    return taps


def hyena(
    x: Tensor,
    *,
    length: int,
    outer_gate: Tensor,
    outer_gate_taps: Tensor,
    inner_gate: Tensor,
    inner_gate_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
    skip: Tensor,
    output: Tensor,
) -> Tensor:
    """Poli et al. 2023, order 2: u = v x_1, y = W_o (x_0 (h * u + b u)), each projection convolved with width 3.

    Definition 3.1 has a second long convolution, of v before its first gate; the authors' code for order 2 has the one
    that stands here, and the skip b u that the definition leaves out. No biases in projections and convolutions.
    """

    def convolved(weight: Tensor, taps: Tensor) -> Tensor:
        return short_convolution(project(x, weight, 1), taps)[:, 0]

    u = (convolved(value, value_taps) * convolved(inner_gate, inner_gate_taps)).unbind(0)
    h = hyena_filter(
        length, len(x), first=first, first_bias=first_bias, second=second, second_bias=second_bias, last=last
    )
    reached = [torch.stack([h[t - s] * u[s] for s in range(t + 1)]) for t in range(len(x))]
    mixed = torch.stack([terms.sum(0) + skip[0] * u[t] for t, terms in enumerate(reached)])
    return (convolved(outer_gate, outer_gate_taps) * mixed) @ output.T


def just_dense(x: Tensor, *, length: int, entries: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """y_t = sum over s <= t of M_ts v_s with one learned lower-triangular M of `length` rows, stored row by row.

    MLP-Mixer (Tolstikhin et al. 2021, eq. 1) mixes tokens by a two-layer network without a mask and has no projections
    before and after it.
    """
    v = project(x, value, 1).unbind(0)
    assert entries.shape == (1, length * (length + 1) // 2)
    row = [entries[0, t * (t + 1) // 2 :] for t in range(len(x))]
    mixed = torch.stack([torch.stack([row[t][s] * v[s] for s in range(t + 1)]).sum(0) for t in range(len(x))])
    return join(mixed, output)


def no_mixer(x: Tensor, *, value: Tensor, output: Tensor) -> Tensor:
    """W_o W_v x_t: no token sees another."""
    return torch.stack([output @ (value @ now) for now in x])
