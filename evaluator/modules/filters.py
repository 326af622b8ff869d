"""Filters of long convolutions: what a Toeplitz kernel is made of."""

import math

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import Operator


class Filter(Operator):
    """`taps(n)` gives the filter's first n taps, [H * V, n]."""

    def taps(self, count: int) -> Tensor:
        raise NotImplementedError(type(self).__name__)


class ImplicitFilter(Filter):
    """Hyena's filter (Poli et al. 2023, eq. 7): a sine network of the position under an exponential window.

    Positions are counted in units of the protocol's length, so the filter at a lag does not depend on the sequence.
    """

    WIDTH = 16
    FREQUENCY = 10.0
    SHIFT = 0.01

    rates: Tensor

    def prepare(self) -> None:
        channels = self.shape.heads * self.shape.value
        self.first, self.second = nn.Linear(5, self.WIDTH), nn.Linear(self.WIDTH, self.WIDTH)
        self.last = nn.Linear(self.WIDTH, channels, bias=False)
        rates = torch.linspace(math.log(100) / 1.5, math.log(100) / 0.3, channels)
        self.register_buffer("rates", rates, persistent=False)

    def taps(self, count: int) -> Tensor:
        time = torch.arange(count, device=self.rates.device, dtype=self.last.weight.dtype)[:, None] / self.shape.length
        angles = 2 * math.pi * time * torch.tensor([1.0, 2.0], device=time.device, dtype=time.dtype)
        features = torch.cat([time, angles.cos(), angles.sin()], -1)
        hidden = torch.sin(self.FREQUENCY * self.first(features))
        hidden = torch.sin(self.second(hidden))
        taps: Tensor = self.last(hidden) * (torch.exp(-time * self.rates) + self.SHIFT)
        return taps.T


class ExponentialFilter(Filter):
    """sum over n of c_n exp(-lambda_n tau); time constants start log-uniform from 1 to 64 tokens."""

    def prepare(self) -> None:
        size = (self.shape.heads * self.shape.value, self.term.integer("order"))
        self.log_rates = nn.Parameter(torch.empty(size).uniform_(-math.log(64), 0))
        self.weights = nn.Parameter(torch.randn(size) / size[1])

    def taps(self, count: int) -> Tensor:
        time = torch.arange(count, device=self.weights.device, dtype=self.weights.dtype)
        return torch.einsum("cn,cnt->ct", self.weights, torch.exp(-self.log_rates.exp()[..., None] * time))


MODULES: dict[str, type[Operator]] = {"implicit": ImplicitFilter, "exponential": ExponentialFilter}
