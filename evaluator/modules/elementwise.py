"""Operations that act token by token or over a few tokens: streams, features, values, gates and decays."""

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.kernels.short_convolution import short_convolution
from archloom.search_space.types import Type

GLA_TEMPERATURE = 16.0
ROTARY_BASE = 10_000.0
FORGET_BIAS = 4.0


class Input(Operator):
    def forward(self, flow: Flow) -> Tensor:
        return flow.x


class Shift(Operator):
    def prepare(self) -> None:
        self.blend = nn.Parameter(torch.full((self.shape.width,), 0.5))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        before = None if flow.cache is None else flow.cache.get(self)
        first = torch.zeros_like(x[:, :1]) if before is None else before
        if flow.cache is not None:
            flow.cache[self] = x[:, -1:]
        return torch.lerp(x, torch.cat([first, x[:, :-1]], 1), self.blend)


class Projection(Operator):
    """x [B, T, D] -> [B, T, heads, channels], without bias."""

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.heads * self.channels, bias=False)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        joined: Tensor = self.linear(arguments[0])
        return joined.view(*joined.shape[:2], self.heads, self.channels)


class ShortConvolution(Operator):
    """Depthwise, causal; taps start uniform in +-1/sqrt(width)."""

    def prepare(self) -> None:
        width = self.term.integer("width")
        taps = torch.empty(self.heads * self.channels, width).uniform_(-1, 1) / math.sqrt(width)
        self.taps = nn.Parameter(taps)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        flat = x.flatten(2)
        backend: Literal["chunked", "reference"] = "reference" if flow.dense else "chunked"
        if flow.cache is None:
            mixed = short_convolution(flat, self.taps, backend=backend)
            assert isinstance(mixed, Tensor)
        else:
            mixed, flow.cache[self] = short_convolution(
                flat, self.taps, initial_state=flow.cache.get(self), return_state=True, backend=backend
            )
        return mixed.view_as(x)


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


class Scale(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        value, gate = arguments
        return spread(value, self.heads) * gate.unsqueeze(-1)


class Weigh(Operator):
    def prepare(self) -> None:
        self.gain = nn.Parameter(torch.ones(self.heads, self.shape.value))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0] * self.gain


class Multiply(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        left, right = (spread(each, self.heads) for each in arguments)
        return left * right


class Add(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        left, right = (spread(each, self.heads) for each in arguments)
        return left + right


class Beta(Operator):
    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.shape.heads)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return torch.sigmoid(self.linear(arguments[0]))


class Double(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return 2 * arguments[0]


class Step(Operator):
    """softplus with a bias that starts steps log-uniformly in [0.001, 0.1] (Mamba)."""

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.shape.heads)
        self.linear.bias.data.copy_(step_bias(self.shape.heads))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.softplus(self.linear(arguments[0]))


def step_bias(*shape: int) -> Tensor:
    """The bias b with softplus(b) log-uniform in [0.001, 0.1]."""
    step = torch.exp(torch.empty(*shape).uniform_(math.log(1e-3), math.log(1e-1)))
    return step + torch.log(-torch.expm1(-step))


def log_rates(heads: int) -> Tensor:
    """log of rates uniform in [1, 16] (Mamba-2)."""
    return torch.empty(heads).uniform_(1, 16).log()


class Retention(Operator):
    """log(1 - 2^(-5-h)) for every token; [B, T, H]."""

    def forward(self, flow: Flow) -> Tensor:
        heads = torch.arange(self.shape.heads, device=flow.x.device, dtype=flow.x.dtype)
        return torch.log1p(-(2 ** (-5 - heads))).expand(*flow.x.shape[:2], -1)


class Forget(Operator):
    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.shape.heads)
        nn.init.constant_(self.linear.bias, FORGET_BIAS)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.logsigmoid(self.linear(arguments[0]))


class Selective(Operator):
    def prepare(self) -> None:
        self.rate = nn.Parameter(log_rates(self.shape.heads))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return -self.rate.exp() * arguments[0]


class LowRank(Operator):
    """W_2 W_1 x + b as [B, T, H, K]."""

    def prepare(self) -> None:
        rank = self.term.integer("rank")
        self.down = nn.Linear(self.shape.width, rank, bias=False)
        self.up = nn.Linear(rank, self.shape.heads * self.shape.key)

    def low_rank(self, x: Tensor) -> Tensor:
        joined: Tensor = self.up(self.down(x))
        return joined.view(*joined.shape[:2], self.shape.heads, self.shape.key)


class ForgetChannels(LowRank):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.logsigmoid(self.low_rank(arguments[0])) / GLA_TEMPERATURE


class SelectiveChannels(LowRank):
    def prepare(self) -> None:
        super().prepare()
        self.rate = nn.Parameter(log_rates(self.shape.heads))
        self.up.bias.data.copy_(step_bias(self.shape.heads * self.shape.key))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return -self.rate.exp()[:, None] * functional.softplus(self.low_rank(arguments[0]))


class Sigmoid(Operator):
    """Of values, or of scores when one is written densely."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return torch.sigmoid(arguments[0])

    def log_scores(self, flow: Flow) -> Tensor | None:
        return functional.logsigmoid(self.inputs[0](flow)) if self.term.type is Type.POSITIVE_SCORE else None
