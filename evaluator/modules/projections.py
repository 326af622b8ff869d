"""Other ways from the stream to queries, keys and values: through a latent, under a bounded norm, by position."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator
from archloom.search_space.operations import inner


class Latent(Operator):
    """W x under an RMS norm; [B, T, D] -> [B, T, R]."""

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.channels, bias=False)
        self.gain = nn.Parameter(torch.ones(self.channels))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.rms_norm(self.linear(arguments[0]), (self.channels,), self.gain, eps=1e-6)


class Expand(Operator):
    """A latent [B, T, R] -> [B, T, heads, channels]; it reads one token at a time, so a decoder may keep latents."""

    def prepare(self) -> None:
        rank = inner(self.term.arguments[0], self.shape)
        self.linear = nn.Linear(rank, self.heads * self.channels, bias=False)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        joined: Tensor = self.linear(arguments[0])
        return joined.view(*joined.shape[:2], self.heads, self.channels)


class Spectral(Operator):
    """gamma / sigma(W) W x with sigma(W) the largest singular value (Zhai et al. 2023, eq. 3), found exactly.

    The authors follow it by one step of power iteration for each training step.
    """

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.heads * self.channels, bias=False)
        self.gain = nn.Parameter(torch.ones(1))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        largest = torch.linalg.matrix_norm(self.linear.weight, ord=2)
        joined: Tensor = self.linear(arguments[0]) * (self.gain / largest)
        return joined.view(*joined.shape[:2], self.heads, self.channels)


class ByPosition(Operator):
    """W_(t mod period) x_t; weights [period, heads * channels, D]."""

    def prepare(self) -> None:
        width = self.shape.width
        size = (self.term.integer("period"), self.heads * self.channels, width)
        self.weights = nn.Parameter(torch.empty(size).uniform_(-1, 1) / math.sqrt(width))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        (batch, steps, width), period = x.shape, len(self.weights)
        ahead = flow.past % period
        turns = functional.pad(x, (0, 0, ahead, -(ahead + steps) % period)).view(batch, -1, period, width)
        joined = torch.einsum("bnpd,pcd->bnpc", turns, self.weights).flatten(1, 2)[:, ahead : ahead + steps]
        return joined.reshape(batch, steps, self.heads, self.channels)


MODULES: dict[str, type[Operator]] = {
    "latent": Latent,
    "expand": Expand,
    "expand_value": Expand,
    "spectral": Spectral,
    "by_position": ByPosition,
    "value_by_position": ByPosition,
}
