"""Features: queries and keys, and what is made of them token by token."""

import math
import random
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator
from archloom.evaluator.modules.served import short_convolution

ROTARY_BASE = 10_000.0


class Projection(Operator):
    """x [B, T, D] -> [B, T, heads, channels], without bias."""

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.heads * self.channels, bias=False)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        joined: Tensor = self.linear(arguments[0])
        return joined.view(*joined.shape[:2], self.heads, self.channels)


class ShortConvolution(Operator):
    """Depthwise; taps start uniform in +-1/sqrt(width). Where causality is not asked they reach to both sides."""

    def prepare(self) -> None:
        width = self.term.integer("width")
        taps = torch.empty(self.heads * self.channels, width).uniform_(-1, 1) / math.sqrt(width)
        self.taps = nn.Parameter(taps)

    def filter(self) -> Tensor:
        """One row of taps a channel; the first multiplies the present."""
        return self.taps

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        taps = self.filter()
        ahead = 0 if flow.pattern.causal else taps.shape[1] // 2
        flat = functional.pad(x.flatten(2), (0, 0, 0, ahead))
        backend: Literal["chunked", "reference"] = "reference" if flow.dense else "chunked"
        if flow.cache is None:
            mixed = short_convolution(flat, taps, backend=backend)
            assert isinstance(mixed, Tensor)
        else:
            mixed, flow.cache[self] = short_convolution(
                flat, taps, initial_state=flow.cache.get(self), return_state=True, backend=backend
            )
        return mixed[:, ahead:].view_as(x)


class Silu(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.silu(arguments[0])


class EluPlusOne(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.elu(arguments[0]) + 1


class Relu(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.relu(arguments[0])


class ChannelSoftmax(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return torch.softmax(arguments[0], -1)


class Unit(Operator):
    """l2 normalisation; a zero row stays zero and has a finite gradient."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        return x * torch.rsqrt(x.square().sum(-1, keepdim=True) + 1e-6)


class Rotary(Operator):
    """Rotary embedding (Su et al. 2021, eq. 34) of channel pairs (i, i + K/2); an odd last channel is left alone."""

    rates: Tensor

    def prepare(self) -> None:
        half = self.channels // 2
        self.register_buffer("rates", ROTARY_BASE ** -(torch.arange(half) / max(1, half)), persistent=False)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        steps = torch.arange(flow.past, flow.past + x.shape[1], device=x.device)
        angle = (steps[:, None] * self.rates).to(x.dtype)[:, None]  # [T, 1, K/2]
        half = angle.shape[-1]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class HeadNorm(Operator):
    def prepare(self) -> None:
        self.gain = nn.Parameter(torch.ones(self.channels))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.rms_norm(arguments[0], (self.channels,), self.gain, eps=1e-6)


class Rms(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.rms_norm(arguments[0], (self.channels,), eps=1e-6)


class Complement(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return 1 - arguments[0]


class Floor(Operator):
    """b + (1 - b) f with a bound b = sigmoid(a) by channel that starts at 0.12."""

    def prepare(self) -> None:
        self.bound = nn.Parameter(torch.full((self.heads, self.channels), -2.0))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        bound = torch.sigmoid(self.bound)
        return bound + (1 - bound) * arguments[0]


class Affine(Operator):
    def prepare(self) -> None:
        self.gain = nn.Parameter(torch.ones(self.heads, self.channels))
        self.offset = nn.Parameter(torch.zeros(self.heads, self.channels))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0] * self.gain + self.offset


class Hedgehog(Operator):
    """softmax of [W x, -W x], the first K channels if K is odd (Zhang et al. 2024, arXiv:2402.04347)."""

    def prepare(self) -> None:
        rows = (self.channels + 1) // 2
        bound = 1 / math.sqrt(self.channels)
        self.map = nn.Parameter(torch.empty(self.heads, rows, self.channels).uniform_(-bound, bound))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        mapped = torch.einsum("bthk,hrk->bthr", arguments[0], self.map)
        return torch.softmax(torch.cat([mapped, -mapped], -1)[..., : self.channels], -1)


class RandomFeatures(Operator):
    """Positive orthogonal random features (Choromanski et al. 2021, lemma 1): K^-1/2 exp(omega y - |y|^2 / 2) with K
    directions omega and y = x K^-1/4, so that inner products estimate exp(<q, k> K^-1/2) without bias.

    The directions are the same in every model: for each head K vectors of K normal numbers, from `random.Random(0)`,
    made orthogonal one after the other, each keeping its length. Entries are at most exp(|omega|^2 / 2).
    """

    directions: Tensor

    def prepare(self) -> None:
        source, size = random.Random(0), self.channels
        drawn = [[[source.gauss(0, 1) for _ in range(size)] for _ in range(size)] for _ in range(self.heads)]
        normal = torch.tensor(drawn, dtype=torch.float64)
        axes, triangle = torch.linalg.qr(normal.transpose(1, 2))  # axes are columns
        axes = axes * triangle.diagonal(dim1=1, dim2=2).sign().unsqueeze(1)
        directions = axes.transpose(1, 2) * normal.norm(dim=2, keepdim=True)
        self.register_buffer("directions", directions.to(torch.get_default_dtype()), persistent=False)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        x = arguments[0] / self.channels**0.25
        exponent = torch.einsum("bthk,hmk->bthm", x, self.directions) - x.square().sum(-1, keepdim=True) / 2
        features: Tensor = exponent.exp() / math.sqrt(self.channels)
        return features


class Spike(Operator):
    """Whole numbers of spikes of a size set by the token itself (SpikingBrain, Pan et al. 2025, arXiv:2509.05276): the
    threshold is mean |x| / count over the channels of a head. Backward it is the identity.

    Thresholds are larger by a part in 700, and that irrational: among whole numbers of spikes half a threshold is
    common, and would be rounded up or down by chance.
    """

    MARGIN = 1 + math.sqrt(2) / 1000

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        now = x.detach()
        threshold = now.abs().mean(-1, keepdim=True).clamp(min=1e-6) * self.MARGIN / self.term.integer("count")
        return x + (threshold * torch.round(now / threshold) - now)


class TopChannels(Operator):
    """Channels as large as the last one kept, within rounding, stay too, so that equal ones are treated alike."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        size = x.detach().abs()
        least = size.topk(-(-self.channels // self.term.integer("one_in")), -1).values[..., -1:]
        return x * (size >= least * (1 - 1e-6))


MODULES: dict[str, type[Operator]] = {
    "project": Projection,
    "conv": ShortConvolution,
    "silu": Silu,
    "elu1": EluPlusOne,
    "relu": Relu,
    "channel_softmax": ChannelSoftmax,
    "unit": Unit,
    "rotary": Rotary,
    "norm": HeadNorm,
    "rms": Rms,
    "complement": Complement,
    "floor": Floor,
    "affine": Affine,
    "hedgehog": Hedgehog,
    "random_features": RandomFeatures,
    "spike": Spike,
    "topk_channels": TopChannels,
}
