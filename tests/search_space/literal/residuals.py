"""Blocks around a mixer and a channel mixer, blocks made of stacks, and mixers made of mixers. x [T, D]."""

import torch
from torch import Tensor

from .channels import relu
from .parts import rms_norm, sigmoid
from .whole import Layer, Weights, under


def residual(mixer: Layer, channel: Layer) -> Layer:
    """x + mixer(norm x), then the same with the channel mixer."""

    def block(x: Tensor, w: Weights) -> Tensor:
        x = x + mixer(rms_norm(x, w["mixer_norm.weight"]), under(w, "mixer"))
        return x + channel(rms_norm(x, w["channel_norm.weight"]), under(w, "channel"))

    return block


def parallel(mixer: Layer, channel: Layer) -> Layer:
    """Both read one norm (BAM's parallel attention transformer)."""

    def block(x: Tensor, w: Weights) -> Tensor:
        normed = rms_norm(x, w["mixer_norm.weight"])
        return x + mixer(normed, under(w, "mixer")) + channel(normed, under(w, "channel"))

    return block


def gated_transformer(mixer: Layer, channel: Layer) -> Layer:
    """Parisotto et al. 2019, section 3: y = relu(sublayer(norm x)) and then x' = (1 - z) x + z h with

    r = sigmoid(W_r y + U_r x), z = sigmoid(W_z y + U_z x - b), h = tanh(W_h y + U_h (r x)). RMS norms.
    """

    def gate(x: Tensor, y: Tensor, w: Weights) -> Tensor:
        w_reset, w_update, w_new = w["of_input.weight"].chunk(3)
        u_reset, u_update = w["of_stream.weight"].chunk(2)
        reset = sigmoid(y @ w_reset.T + x @ u_reset.T)
        update = sigmoid(y @ w_update.T + x @ u_update.T - w["bias"])
        new = torch.tanh(y @ w_new.T + (reset * x) @ w["of_reset.weight"].T)
        return (1 - update) * x + update * new

    def block(x: Tensor, w: Weights) -> Tensor:
        said = relu(mixer(rms_norm(x, w["mixer_norm.weight"]), under(w, "mixer")))
        x = gate(x, said, under(w, "gates.0"))
        said = relu(channel(rms_norm(x, w["channel_norm.weight"]), under(w, "channel")))
        return gate(x, said, under(w, "gates.1"))

    return block


def layer_scale(mixer: Layer, channel: Layer) -> Layer:
    """Touvron et al. 2021: x + diag(lambda) sublayer(norm x). RMS norms."""

    def block(x: Tensor, w: Weights) -> Tensor:
        x = x + mixer(rms_norm(x, w["mixer_norm.weight"]), under(w, "mixer")) @ torch.diag(w["scales.0"])
        return x + channel(rms_norm(x, w["channel_norm.weight"]), under(w, "channel")) @ torch.diag(w["scales.1"])

    return block


def replacing(mixer: Layer, channel: Layer) -> Layer:
    """Yu et al. 2023: z' = z + MSSA(norm z), and the ISTA step of norm z' is the stream. RMS norms."""

    def block(x: Tensor, w: Weights) -> Tensor:
        x = x + mixer(rms_norm(x, w["mixer_norm.weight"]), under(w, "mixer"))
        return channel(rms_norm(x, w["channel_norm.weight"]), under(w, "channel"))

    return block


def conditioned(mixer: Layer, channel: Layer) -> Layer:
    """DiMR 2024: the gain of a norm is s p_1 + (1 - s) p_2, s = sigmoid(w t + b) of the time t.

    Here the normed token stands for the time, w is a vector, and there is no shift to blend.
    """

    def norm(x: Tensor, w: Weights) -> Tensor:
        normed = rms_norm(x, torch.ones(x.shape[1]))
        s = sigmoid(normed @ w["switch.weight"].T + w["switch.bias"])
        return (s * w["gains"][0] + (1 - s) * w["gains"][1]) * normed

    def block(x: Tensor, w: Weights) -> Tensor:
        x = x + mixer(norm(x, under(w, "mixer_norm")), under(w, "mixer"))
        return x + channel(norm(x, under(w, "channel_norm")), under(w, "channel"))

    return block


def re_parameterised(mixer: Layer, channel: Layer) -> Layer:
    """Guo et al. 2024: PRepBN(x) = lambda LN(x) + (1 - lambda) RepBN(x), RepBN(x) = BN(x) + eta x.

    BN is in the form of inference, gamma (x - mu) / sigma + beta with fixed mu and sigma, and eta one number: an affine
    map a x + b with a = gamma / sigma + eta and b = beta - gamma mu / sigma. The weights are a and b, which gamma and
    beta are found from here. Departures: statistics of a batch would look at later tokens, so a and b are learned from
    the start; lambda = sigmoid(l) is learned, one number for each norm, where the paper lets it fall linearly from 1 to
    0; RMS norms.
    """

    def norm(x: Tensor, w: Weights) -> Tensor:
        channels, eta = torch.arange(x.shape[1], dtype=x.dtype), 0.7
        mu, sigma = torch.sin(channels), 1.5 + torch.cos(channels)
        gamma = (w["slope"] - eta) * sigma
        beta = w["offset"] + gamma * mu / sigma
        batch_norm = gamma * (x - mu) / sigma + beta
        share = sigmoid(w["share"])
        return share * rms_norm(x, w["gain"]) + (1 - share) * (batch_norm + eta * x)

    def block(x: Tensor, w: Weights) -> Tensor:
        x = x + mixer(norm(x, under(w, "mixer_norm")), under(w, "mixer"))
        return x + channel(norm(x, under(w, "channel_norm")), under(w, "channel"))

    return block


def averaged(*kinds: Layer) -> Layer:
    """Pagliardini et al. 2024: what block l reads is sum over j < l of alpha_lj y_j, y_0 being the input.

    The average behind the last block is left out; MambaMixer averages token and channel mixers apart.
    """

    def block(x: Tensor, w: Weights) -> Tensor:
        outputs = [x]
        for number, kind in enumerate(kinds):
            if number:
                alphas = w[f"averages.{number - 1}"]
                x = sum(alpha * y for alpha, y in zip(alphas, outputs, strict=True))
            outputs.append(kind(x, under(w, f"blocks.{number}")))
        return outputs[-1]

    return block


def temporal_unet(inner: Layer) -> Layer:
    """Kim et al. 2022: a depthwise convolution with stride 2, the blocks, every output twice, and the skip added.

    The kernel is of width 2 instead of 3, and no point-wise convolution follows; an odd last token has no partner.
    """

    def block(x: Tensor, w: Weights) -> Tensor:
        first, second = w["taps"]
        steps = [first * x[t] + (second * x[t + 1] if t + 1 < len(x) else 0) for t in range(0, len(x), 2)]
        said = inner(torch.stack(steps), under(w, "layers"))
        return torch.stack([x[t] + said[t // 2] for t in range(len(x))])

    return block


def summed(one: Layer, other: Layer) -> Layer:
    """Two mixers side by side."""
    return lambda x, w: one(x, under(w, "parts.0")) + other(x, under(w, "parts.1"))


def soft_mixture(one: Layer, other: Layer) -> Layer:
    """Zhang et al. 2024, section 3: every token goes to all attention experts, weighed by softmax(W_r x)."""

    def mixed(x: Tensor, w: Weights) -> Tensor:
        logits = torch.exp(x @ w["router.weight"].T)
        shares = logits / logits.sum(-1, keepdim=True)
        return shares[:, :1] * one(x, under(w, "parts.0")) + shares[:, 1:] * other(x, under(w, "parts.1"))

    return mixed
