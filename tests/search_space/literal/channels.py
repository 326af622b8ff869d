"""Channel mixers, token by token. x [T, D] and the weights by name; no linear map has a bias."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .parts import silu, softplus
from .whole import Layer, Weights

Activation = Callable[[Tensor], Tensor]


def relu(x: Tensor) -> Tensor:
    return torch.where(x > 0, x, torch.zeros_like(x))


def gelu(x: Tensor) -> Tensor:
    """x times the normal distribution function of x."""
    return x * (1 + torch.erf(x / math.sqrt(2))) / 2


def largest(values: Tensor, count: int) -> list[int]:
    """Where the largest entries stand."""
    listed = values.tolist()
    return sorted(range(len(listed)), key=lambda i: -listed[i])[:count]


def largest_quarter(x: Tensor) -> Tensor:
    """DiSRT 2025: Top-K sparsity; the ceil(M / 4) largest of M units are kept, whatever their sign, as they are.

    Its abstract leaves open how many survive: a quarter is the algebra's choice.
    """
    rows = []
    for token in x.unbind(0):
        kept = largest(token, math.ceil(len(token) / 4))
        rows.append(torch.stack([unit if i in kept else 0 * unit for i, unit in enumerate(token.unbind())]))
    return torch.stack(rows)


def spikes(x: Tensor) -> Tensor:
    """SpikingBrain 2025: V_th = mean |x| / k, s = round(x / V_th), passed on as V_th s. Signed counts, k = 1.

    Rounding has no gradient of its own: backward it counts as the identity, the threshold as a constant.
    """
    counted = []
    for token in x.detach().unbind(0):
        threshold = token.abs().mean()
        counted.append(torch.stack([threshold * round(float(unit / threshold)) for unit in token]))
    return x + (torch.stack(counted) - x.detach())


def two_layer(activation: Activation) -> Layer:
    """W_2 phi(W_1 x)."""
    return lambda x, w: activation(x @ w["up.weight"].T) @ w["down.weight"].T


def gated(x: Tensor, w: Weights) -> Tensor:
    """Shazeer 2020, SwiGLU: W_3 (silu(W_1 x) * W_2 x)."""
    return (silu(x @ w["gate.weight"].T) * (x @ w["up.weight"].T)) @ w["down.weight"].T


def expert_outputs(token: Tensor, w: Weights) -> list[Tensor]:
    """Every expert is a gated unit; token [D]."""
    return [
        down @ (silu(gate @ token) * (up @ token)) for gate, up, down in zip(w["gate"], w["up"], w["down"], strict=True)
    ]


def shares_of(token: Tensor, w: Weights) -> Tensor:
    logits = torch.exp(w["router.weight"] @ token)
    return logits / logits.sum()


def mixture_of_experts(active: int) -> Layer:
    """Fedus et al. 2021, eqs. 1 and 2: y = sum of p_i E_i over the `active` experts of largest p = softmax(W_r x).

    Neither capacity nor load-balancing loss; shares are not renormalised over the chosen. Forward this is the published
    mixture. Backward it is not: the experts a token leaves out get the gradient of the mixture without the choice.
    """

    def mixed(x: Tensor, w: Weights) -> Tensor:
        rows = []
        for token in x.unbind(0):
            shares, outputs = shares_of(token, w), expert_outputs(token, w)
            best = largest(shares, active)
            row = torch.stack([shares[i] * outputs[i] for i in best]).sum(0)
            for i in set(range(len(outputs))) - set(best):
                ghost = shares[i] * outputs[i]
                row = row + (ghost - ghost.detach())
            rows.append(row)
        return torch.stack(rows)

    return mixed


def grouped_experts(x: Tensor, w: Weights) -> Tensor:
    """MIGA 2024: experts of a group exchange what they found by attention, then the router weighs all of them.

    The abstract states the mechanism. Chosen here: two groups, queries and keys of 16 channels, the outputs themselves
    as values (an expert ends in a linear map of its own), a softmax router over all experts and no choice of a few.
    """
    rows = []
    for token in x.unbind(0):
        shares, outputs = shares_of(token, w), expert_outputs(token, w)
        half = len(outputs) // 2
        agreed = []
        for group in (outputs[:half], outputs[half:]):
            for one in group:
                query = w["query.weight"] @ one
                scores = torch.stack([torch.exp(query @ (w["key.weight"] @ each) / math.sqrt(16)) for each in group])
                agreed.append(sum(share * each for share, each in zip(scores / scores.sum(), group, strict=True)))
        rows.append(sum(share * each for share, each in zip(shares, agreed, strict=True)))
    return torch.stack(rows)


def kolmogorov_arnold(x: Tensor, w: Weights) -> Tensor:
    """Liu et al. 2024, eqs. 2.3 and 2.10: y_j = sum_i phi_ji(x_i), phi(u) = w silu(u) + sum_k c_k b_k(u), two layers.

    b_k(u) = exp(-((u - g_k) / d)^2) at four centres g_k over [-2, 2], d apart, stands in for splines (Li 2024, FastKAN,
    which norms its inputs; the block's norm does it for the first layer). The scale of the splines is in c.
    """

    def layer(u: Tensor, weight: Tensor) -> Tensor:
        edges = weight.reshape(len(weight), u.shape[1], 5)
        total = silu(u) @ edges[:, :, 0].T
        for k, centre in enumerate((-2.0, -2 / 3, 2 / 3, 2.0), 1):
            total = total + torch.exp(-(((u - centre) / (4 / 3)) ** 2)) @ edges[:, :, k].T
        return total

    return layer(layer(x, w["up.weight"]), w["down.weight"])


def ista(x: Tensor, w: Weights) -> Tensor:
    """Yu et al. 2023, the ISTA block: relu(z + eta D^T (z - D z) - eta lambda), eta = lambda = 0.1, D square."""
    dictionary = w["dictionary.weight"]
    rows = [relu(z + 0.1 * (dictionary.T @ (z - dictionary @ z)) - 0.1 * 0.1) for z in x.unbind(0)]
    return torch.stack(rows)


def batch_ensemble(x: Tensor, w: Weights) -> Tensor:
    """Gorishniy et al. 2024: member i computes s_i * W (r_i * x) in each of two layers, ReLU between; the mean of all.

    Departures: no biases, and the mean is taken in every block instead of over the predictions.
    """
    adapters = zip(*(w[name] for name in ("into_up", "out_of_up", "into_down", "out_of_down")), strict=True)
    members = []
    for r_up, s_up, r_down, s_down in adapters:
        hidden = relu(s_up * ((r_up * x) @ w["up.weight"].T))
        members.append(s_down * ((r_down * hidden) @ w["down.weight"].T))
    return torch.stack(members).mean(0)


def selective_channel_scan(x: Tensor, w: Weights) -> Tensor:
    """Behrouz et al. 2024: the selective channel mixer, S6 along the channels from both ends, gated.

    For each direction h_c = A_c h_{c-1} + (1 - A_c) B_c u_c and y_c = <C_c, h_c>, with A_c = exp(-e^a Delta_c) for four
    numbers a, Delta = softplus, B and C depending on the channel.

    Departures: u is a token's hidden channels, so that nothing depends on other tokens or on the length; in the paper a
    channel holds its values at all tokens. Each channel has a weight of its own for Delta, B and C, which both
    directions share. B and C pass a tanh, and B u is weighed by 1 - A instead of Delta, which keeps the state within
    the largest |u|. No convolution stands before the scan.
    """
    u = silu(x @ w["up.weight"].T)  # [T, M]
    channels = u.unbind(1)
    y = [skip * channel for skip, channel in zip(w["skip"], channels, strict=True)]
    for direction, order in ((0, range(len(channels))), (1, range(len(channels) - 1, -1, -1))):
        state = torch.zeros(len(x), 4)
        for c in order:
            step = softplus(w["step"][c] * channels[c] + w["step_bias"][c])
            kept = torch.exp(-step[:, None] * torch.exp(w["rate"][direction]))
            write, read = (torch.tanh(channels[c][:, None] * w[name][c]) for name in ("write", "read"))
            state = kept * state + (1 - kept) * write * channels[c][:, None]
            y[c] = y[c] + (read * state).sum(1)
    return (torch.stack(y, 1) * silu(x @ w["gate.weight"].T)) @ w["down.weight"].T
