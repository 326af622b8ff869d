"""Scores and kernels written out densely: the literal operator, for what no pass can serve and as oracle of the rest.

Shapes: features [B, T, H, K]; scores and kernels [B, H, T, S] with S = past + T. Entries s > t are never read, so a
score may hold anything there. A score that is the exponential of something also offers its logarithm (`log_scores`), in
which row normalisation is a stable softmax.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread

SMALLEST_ROW_SUM = 1e-6


def lags(flow: Flow) -> Tensor:
    """t - s of the new tokens against all sources; [T, S]."""
    steps = flow.x.shape[1]
    now = torch.arange(flow.past, flow.past + steps, device=flow.x.device)
    return now[:, None] - torch.arange(flow.past + steps, device=flow.x.device)


def log_lag(flow: Flow, owner: nn.Module, log_decay: Tensor) -> Tensor:
    """Sum of the log decay over (s, t], 0 where s > t; log_decay [B, T, H, ...] -> [B, H, T, S, ...]."""
    total = flow.history(owner, log_decay).cumsum(1).transpose(1, 2)  # [B, H, S, ...]
    now = total[:, :, flow.past :].unsqueeze(3)
    return (now - total.unsqueeze(2)).clamp(max=0)


def widen(score: Tensor, heads: int) -> Tensor:
    """[B, G, T, S] -> [B, heads, T, S]: head h reads group floor(h * G / heads)."""
    return score if score.shape[1] == heads else score.repeat_interleave(heads // score.shape[1], 1)


class Dot(Operator):
    """K^-1/2 <q_t, k_s>."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, k = spread(arguments[0], self.heads), spread(flow.history(self, arguments[1]), self.heads)
        return torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])


class Decayed(Operator):
    """A score that keeps its decays apart from its keys: a module owns only one entry of the cache."""

    def prepare(self) -> None:
        self.decays = nn.Identity()


class DecayedDot(Decayed):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, k = spread(arguments[0], self.heads), spread(flow.history(self, arguments[1]), self.heads)
        decay = log_lag(flow, self.decays, arguments[2]).exp()  # [B, H, T, S, K]
        return torch.einsum("bthk,bshk,bhtsk->bhts", q, k, decay) / math.sqrt(q.shape[-1])


class Gram(Operator):
    """beta_t <k_t, k_s>."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        k = spread(arguments[0], self.heads)
        before = spread(flow.history(self, arguments[0]), self.heads)
        return torch.einsum("bthk,bth,bshk->bhts", k, arguments[1], before)


class DecayedGram(Decayed):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        k = spread(arguments[0], self.heads)
        before = spread(flow.history(self, arguments[0]), self.heads)
        decay = log_lag(flow, self.decays, arguments[2]).exp()
        return torch.einsum("bthk,bth,bshk,bhtsk->bhts", k, arguments[1], before, decay)


class Decay(Operator):
    def forward(self, flow: Flow) -> Tensor:
        return widen(self.inputs[0](flow), self.heads) * log_lag(flow, self, self.inputs[1](flow)).exp()

    def log_scores(self, flow: Flow) -> Tensor | None:
        inside = self.inputs[0].log_scores(flow)
        return None if inside is None else widen(inside, self.heads) + log_lag(flow, self, self.inputs[1](flow))


class Exp(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0].exp()

    def log_scores(self, flow: Flow) -> Tensor | None:
        return self.inputs[0](flow)


class Taylor2(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return 1 + arguments[0] + arguments[0].square() / 2


class Relu2(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.relu(arguments[0]).square()


class Times(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        left, right = (widen(each, self.heads) for each in arguments)
        return left * right


class Mask(Operator):
    """Causal, or a causal window."""

    def mask(self, flow: Flow) -> Tensor:
        lag = lags(flow)
        if "width" not in self.term.operation.position:
            return lag >= 0
        return (lag >= 0) & (lag < self.term.integer("width"))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0].masked_fill(~self.mask(flow), 0)

    def log_scores(self, flow: Flow) -> Tensor | None:
        inside = self.inputs[0].log_scores(flow)
        return None if inside is None else inside.masked_fill(~self.mask(flow), -torch.inf)


class RowNorm(Operator):
    def forward(self, flow: Flow) -> Tensor:
        logits = self.inputs[0].log_scores(flow)
        if logits is not None:
            return torch.softmax(logits, -1)
        kernel = self.inputs[0](flow)
        return kernel / kernel.sum(-1, keepdim=True).clamp(min=SMALLEST_ROW_SUM)


class Damp(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        kernel, gate = arguments
        return widen(kernel, self.heads) * gate.transpose(1, 2).unsqueeze(-1)


class DenseKernel(Operator):
    """A learned lower-triangular matrix per head, stored without its empty half; rows start as a noisy average."""

    rows: Tensor
    columns: Tensor

    def prepare(self) -> None:
        length = self.shape.length
        rows, columns = torch.tril_indices(length, length)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        scale = 1 / (rows + 1).sqrt()
        self.entries = nn.Parameter(torch.randn(self.shape.heads, rows.numel()) * scale)

    def forward(self, flow: Flow) -> Tensor:
        end = flow.past + flow.x.shape[1]
        if end > self.shape.length:
            raise ValueError(f"a dense kernel of length {self.shape.length} cannot be extended to {end} tokens")
        matrix = self.entries.new_zeros(self.shape.heads, self.shape.length, self.shape.length)
        matrix = matrix.index_put((torch.arange(len(matrix))[:, None], self.rows, self.columns), self.entries)
        return matrix[None, :, flow.past : end, :end].expand(len(flow.x), -1, -1, -1)


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
