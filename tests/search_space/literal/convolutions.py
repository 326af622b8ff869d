"""Convolutions as direct sums over lags, frequencies or states. Conventions are those of `parts`."""

import math

import torch
from torch import Tensor

from .attention import masked_softmax
from .fixed import hyena_filter
from .parts import join, kernel_scale, project, rotary, short_convolution, sigmoid
from .readouts import gelu


def dynamic_convolution(
    x: Tensor, *, heads: int, width: int, taps: Tensor, gate: Tensor, value: Tensor, output: Tensor
) -> Tensor:
    """Wu et al. 2019, eq. 5 and figure 2: a gated linear unit, sum_j softmax_j(W_h x_t)_j v_{t-j}, W_o.

    Causal as in the paper's decoder; weights of taps before the first token are lost, as with its zero padding.
    Departure: the weights are predicted from the mixer's input instead of the gated linear unit's output.
    """
    v = project(x, value, heads) * sigmoid(project(x, gate, heads))
    logits = torch.exp(project(x, taps, heads))
    assert logits.shape[-1] == width
    weights = logits / logits.sum(-1, keepdim=True)
    rows = [
        torch.stack([weights[t, :, j, None] * v[t - j] for j in range(min(width, t + 1))]).sum(0) for t in range(len(x))
    ]
    return join(torch.stack(rows), output)


def spaced(x: Tensor, *, reach: int, taps: Tensor, positions: Tensor, value: Tensor, output: Tensor) -> Tensor:
    """Hassani et al. 2023 in one dimension: tap n reads between the steps floor(p_n) and floor(p_n) + 1 before t.

    Positions stay within [0, reach - 1]. Departures: causal, and projections around the depthwise convolution.
    """
    v = x @ value.T
    rows = []
    for t in range(len(x)):
        channels = []
        for c in range(v.shape[1]):
            total = torch.zeros(())
            for weight, place in zip(taps[c], positions[c], strict=True):
                place = place.clamp(0, reach - 1)
                near = min(int(place), reach - 2)
                part = place - near
                if near <= t:
                    total = total + weight * (1 - part) * v[t - near, c]
                if near + 1 <= t:
                    total = total + weight * part * v[t - near - 1, c]
            channels.append(total)
        rows.append(torch.stack(channels))
    return torch.stack(rows) @ output.T


def centred_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = c_0 x_{t+1} + c_1 x_t + c_2 x_{t-1}, zero outside; x [T, C], taps [C, 3]."""
    zero = torch.zeros_like(x[0])
    steps = [zero, *x.unbind(0), zero]
    ahead, now, back = taps.unbind(1)
    return torch.stack([ahead * steps[t + 1] + now * steps[t] + back * steps[t - 1] for t in range(1, len(x) + 1)])


def magnitudes(x: Tensor) -> Tensor:
    """|DFT| of each channel at the frequencies 0 ... T/2, divided by sqrt(T): [T // 2 + 1, C]."""
    steps = torch.arange(len(x))
    rows = []
    for f in range(len(x) // 2 + 1):
        angle = 2 * math.pi * f * steps / len(x)
        real, imaginary = torch.cos(angle) @ x, torch.sin(angle) @ x
        rows.append(torch.sqrt(real**2 + imaginary**2) / math.sqrt(len(x)))
    return torch.stack(rows)


def around(x: Tensor, spectrum: Tensor) -> Tensor:
    """Circular convolution of x [T, C] with the filter whose real spectrum [T // 2 + 1, C] is given."""
    steps = len(x)
    lag = torch.arange(steps)
    response = torch.zeros_like(x)
    for f in range(len(spectrum)):
        twice = 1 if f == 0 or 2 * f == steps else 2  # the other half of a real filter's spectrum
        response = response + twice * torch.cos(2 * math.pi * f * lag / steps)[:, None] * spectrum[f] / steps
    return torch.stack([(response[(t - lag) % steps] * x).sum(0) for t in range(steps)])


def orchid(
    x: Tensor,
    *,
    length: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    condition_taps: Tensor,
    spectrum_taps: Tensor,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
    skip: Tensor,
    output: Tensor,
) -> Tensor:
    """Karami and Ghodsi 2024, section 3, noncausal: q . ((h_0 + h(v)) * (k . v) + b (k . v)), projections convolved.

    Type I: the spectrum of h is a width-3 convolution, along frequencies, of |DFT(convolution of v)|, v before its
    short convolution, as the authors' code has it; h acts around the ends of the sequence. Departures: the magnitudes
    are divided by sqrt(T) instead of normalised by a layer norm; h_0 is Hyena's filter to both sides and not around
    the ends; no biases; the code's second static convolution beside the mixer is left out.
    """
    u = x @ value.T
    y = centred_convolution(u, value_taps) * centred_convolution(x @ key.T, key_taps)
    magnitude = magnitudes(centred_convolution(u, condition_taps))
    spectrum = centred_convolution(magnitude, spectrum_taps[0])
    taps = hyena_filter(
        length, len(x), first=first, first_bias=first_bias, second=second, second_bias=second_bias, last=last
    )
    static = torch.stack([sum(taps[abs(t - s)] * y[s] for s in range(len(x))) for t in range(len(x))])  # type: ignore[misc]
    mixed = static + around(y, spectrum) + skip[0] * y
    return (centred_convolution(x @ query.T, query_taps) * mixed) @ output.T


def diagonal_ssm(u: Tensor, log_rates: Tensor, weights: Tensor) -> Tensor:
    """s_n <- e^(-lambda_n) s_n + u, y = sum_n c_n s_n, lambda = e^log_rate > 0; u [T, C], both weights [C, N].

    Real states, discretised with step 1: S4D's are complex with a learned step, of which this is the real form.
    """
    state, rows = torch.zeros_like(weights), []
    for now in u:
        state = torch.exp(-torch.exp(log_rates)) * state + now[:, None]
        rows.append((weights * state).sum(-1))
    return torch.stack(rows)


def h3(
    x: Tensor,
    *,
    query: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    log_rates: Tensor,
    weights: Tensor,
    skip: Tensor,
    output: Tensor,
) -> Tensor:
    """Fu et al. 2023, section 3.1: q . SSM_diagonal(SSM_shift(k) . v).

    The shift state space of four states with its skip is a causal convolution of width 4. Departures: the diagonal one
    is real (`diagonal_ssm`), and heads have one channel, as in the paper's elementwise form.
    """
    shifted = short_convolution(project(x, key, 1), key_taps)[:, 0]
    kv = shifted * (x @ value.T)
    return ((x @ query.T) * (diagonal_ssm(kv, log_rates, weights) + skip[0] * kv)) @ output.T


def s4d(x: Tensor, *, value: Tensor, log_rates: Tensor, weights: Tensor, skip: Tensor, output: Tensor) -> Tensor:
    """Gu et al. 2022, eq. 2: gelu(SSM(u) + D u), then a linear map. Real states (`diagonal_ssm`).

    Departures: a projection before it, and a linear output map for the paper's gated linear unit.
    """
    u = x @ value.T
    return gelu(diagonal_ssm(u, log_rates, weights) + skip[0] * u) @ output.T


def implicit_convolution(u: Tensor, taps: list[Tensor]) -> Tensor:
    """sum over lags of h_{t-s} u_s; u [T, C]."""
    return torch.stack([torch.stack([taps[t - s] * u[s] for s in range(t + 1)]).sum(0) for t in range(len(u))])


def long_conv(
    x: Tensor,
    *,
    length: int,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
    value: Tensor,
    skip: Tensor,
    output: Tensor,
) -> Tensor:
    """h * u + D u with a filter written by a sine network of the lag, between projections.

    The filter is Hyena's (`hyena_filter`): CKConv's network is of sines too, without the exponential window.
    """
    u = x @ value.T
    taps = hyena_filter(
        length, len(x), first=first, first_bias=first_bias, second=second, second_bias=second_bias, last=last
    )
    return (implicit_convolution(u, taps) + skip[0] * u) @ output.T


def gated_convolution(
    x: Tensor,
    *,
    length: int,
    first: Tensor,
    first_bias: Tensor,
    second: Tensor,
    second_bias: Tensor,
    last: Tensor,
    gate: Tensor,
    value: Tensor,
    output: Tensor,
) -> Tensor:
    """Arora et al. 2024, section 4: (u W) . (h * u). Departures: u is projected before the convolution and the product
    after it, no biases, and h is written by Hyena's network rather than stored tap by tap."""
    taps = hyena_filter(
        length, len(x), first=first, first_bias=first_bias, second=second, second_bias=second_bias, last=last
    )
    return ((x @ gate.T) * implicit_convolution(x @ value.T, taps)) @ output.T


def multi_hyena(
    x: Tensor,
    *,
    heads: int,
    query: Tensor,
    query_taps: Tensor,
    key: Tensor,
    key_taps: Tensor,
    value: Tensor,
    value_taps: Tensor,
    log_rates: Tensor,
    weights: Tensor,
    output: Tensor,
) -> Tensor:
    """Massaroli et al. 2023, section 4: each head convolves z = k v^T with one filter h, and y_t = (h * z)_t^T q_t.

    The filter is in the modal form of section 3, h_t = sum_n c_n e^(-lambda_n t), here with real modes: the state of
    mode n is a matrix. Departures: no biases, the kernel scale, and no skip beside the filter.
    """
    q, k, v = (
        short_convolution(project(x, weight, heads), taps)
        for weight, taps in ((query, query_taps), (key, key_taps), (value, value_taps))
    )
    keep = torch.exp(-torch.exp(log_rates))[..., None, None]  # [H, N, 1, 1]
    state, rows = torch.zeros(()), []
    for t in range(len(x)):
        state = keep * state + (k[t][:, :, None] * v[t][:, None, :])[:, None]
        filtered = (weights[..., None, None] * state).sum(1)
        rows.append((filtered * q[t][:, :, None]).sum(1) * kernel_scale(q))
    return join(torch.stack(rows), output)


def along_channels(x: Tensor, taps: Tensor, heads: int) -> Tensor:
    """Channel i of the result is the sum over j of c_{j-i} x_j; taps hold c from the most negative difference on."""
    width = x.shape[1]
    outputs = len(taps) - width + 1
    channels = [sum(taps[j - i + outputs - 1] * x[:, j] for j in range(width)) for i in range(outputs)]
    return torch.stack(channels, 1).reshape(len(x), heads, -1)  # type: ignore[arg-type]


def conv_share(
    x: Tensor, *, heads: int, query_taps: Tensor, key_taps: Tensor, value_taps: Tensor, output: Tensor
) -> Tensor:
    """Softmax attention whose queries, keys and values are convolutions along the embedding, alike for every token.

    Known by the abstract of Ibadulla et al. 2025, which replaces linear layers by depthwise convolutions with shared
    weights. Taps here reach over the whole embedding; W_o and the channel mixer stay linear. Causal, with rotary.
    """
    q, k = (rotary(along_channels(x, taps, heads)) for taps in (query_taps, key_taps))
    return join(masked_softmax(q, k, along_channels(x, value_taps, heads)), output)
