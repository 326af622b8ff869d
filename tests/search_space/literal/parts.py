"""What the published equations share, written entry by entry. One sequence at a time: x [T, D], heads [T, H, C].

Conventions that hold for every literal, and where they leave the papers:

- Linear maps have no bias unless a `..._bias` is passed.
- `kernel_scale` is the K^-1/2 that the algebra puts into every inner product of a query and a key. Papers on softmax
  attention have it; papers on recurrences write o = S^T q without it. It is the same as a smaller start of W_q.
- Output norms act on each head with one gain shared by the heads, and are RMS norms where a paper has a group norm or
  a layer norm.
- The epsilons 1e-6 of norms are those of the compiled modules; papers leave them open.
- How weights start is no part of an equation: the tests draw every weight anew.
"""

import math

import torch
from torch import Tensor


def project(x: Tensor, weight: Tensor, heads: int) -> Tensor:
    """W x_t, its rows dealt to the heads in order: [T, D] -> [T, H, C]."""
    return torch.stack([x @ rows.T for rows in weight.chunk(heads)], 1)


def join(heads: Tensor, output: Tensor) -> Tensor:
    """W_o of the concatenated heads: [T, H, V] -> [T, D]."""
    return torch.cat(heads.unbind(1), -1) @ output.T


def kernel_scale(query: Tensor) -> float:
    return 1 / math.sqrt(query.shape[-1])


def sigmoid(x: Tensor) -> Tensor:
    return 1 / (1 + torch.exp(-x))


def silu(x: Tensor) -> Tensor:
    return x * sigmoid(x)


def softplus(x: Tensor) -> Tensor:
    return torch.log(1 + torch.exp(x))


def unit(x: Tensor) -> Tensor:
    return x / torch.sqrt((x * x).sum(-1, keepdim=True) + 1e-6)


def rms_norm(x: Tensor, gain: Tensor) -> Tensor:
    return gain * x / torch.sqrt((x * x).mean(-1, keepdim=True) + 1e-6)


def short_convolution(x: Tensor, taps: Tensor) -> Tensor:
    """y_t = sum over j of c_j x_{t-j}, zero before the first token; x [T, H, C], taps [H * C, width]."""
    _, heads, channels = x.shape
    steps = x.unbind(0)
    lags = [each.reshape(heads, channels) for each in taps.unbind(1)]
    reached = [[c * steps[t - j] for j, c in enumerate(lags) if j <= t] for t in range(len(steps))]
    return torch.stack([torch.stack(terms).sum(0) for terms in reached])


def rotary(x: Tensor) -> Tensor:
    """Su et al. 2021, eq. 34: pair i of token t turns by t 10000^(-2i/K).

    A pair is (i, i + K/2) rather than the paper's neighbours (2i, 2i + 1): the same up to the order of W's rows. An odd
    last channel does not turn.
    """
    pairs = x.shape[-1] // 2
    turned = []
    for t, now in enumerate(x.unbind(0)):
        angles = torch.tensor([t * 10_000 ** (-2 * i / (2 * pairs)) for i in range(pairs)], dtype=x.dtype)
        point = torch.complex(now[:, :pairs], now[:, pairs : 2 * pairs])
        point = point * torch.polar(torch.ones_like(angles), angles)
        turned.append(torch.cat([point.real, point.imag, now[:, 2 * pairs :]], -1))
    return torch.stack(turned)
