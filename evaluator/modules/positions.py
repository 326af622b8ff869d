"""Positions: how scores and features know where tokens stand. Shapes are those of `scores`."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.kernels import DenseKernel
from archloom.evaluator.modules.masks import positions
from archloom.evaluator.modules.scores import lags, widen
from archloom.kernels.arguments import accumulator
from archloom.search_space.operations.positions import lag_count

SINUSOID_BASE = 10_000.0
LEAK = 0.2


class Angle(Operator):
    """1 / (1 + softplus(w x)) for each head, without bias; [B, T, H]."""

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.shape.heads, bias=False)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return 1 / (1 + functional.softplus(self.linear(arguments[0])))


class Turn(Operator):
    """Pairs (i, i + K/2) turned by the running sum of rate^(i + 1); an odd last channel is left alone.

    Carries the sums [B, 1, H, K/2] from segment to segment.
    """

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        x, rate = spread(arguments[0], self.heads), arguments[1].unsqueeze(-1)
        half = x.shape[-1] // 2
        powers = torch.arange(1, half + 1, device=x.device)
        angle = (rate.to(accumulator(x.dtype)) ** powers).cumsum(1)  # [B, T, H, K/2]
        if flow.cache is not None:
            angle = angle + flow.cache.get(self, torch.zeros_like(angle[:, :1]))
            flow.cache[self] = angle[:, -1:]
        a, b, rest = x[..., :half], x[..., half : 2 * half], x[..., 2 * half :]
        cos, sin = angle.cos().to(x.dtype), angle.sin().to(x.dtype)
        return torch.cat([a * cos - b * sin, a * sin + b * cos, rest], -1)


class Sinusoid(Operator):
    """W p_t, the sines and cosines of Vaswani et al. 2017 (section 3.5) as D channels, sines first."""

    rates: Tensor

    def prepare(self) -> None:
        width = self.shape.width
        self.linear = nn.Linear(width, self.heads * self.channels, bias=False)
        pairs = (width + 1) // 2
        self.register_buffer("rates", SINUSOID_BASE ** -(torch.arange(pairs) / pairs), persistent=False)

    def forward(self, flow: Flow) -> Tensor:
        steps = flow.x.shape[1]
        angle = torch.arange(flow.past, flow.past + steps, device=flow.x.device)[:, None] * self.rates
        waves = torch.cat([angle.sin(), angle.cos()], -1)[:, : self.shape.width].to(flow.x.dtype)
        joined: Tensor = self.linear(waves)
        return joined.view(1, steps, self.heads, self.channels).expand(len(flow.x), -1, -1, -1)


class Slopes(Operator):
    """-2^(-8h/H) of head h = 1..H for every token (Press et al. 2022, section 3); [B, T, H]."""

    def forward(self, flow: Flow) -> Tensor:
        heads = torch.arange(1, self.shape.heads + 1, device=flow.x.device, dtype=flow.x.dtype)
        return -(2 ** (-8 * heads / self.shape.heads)).expand(*flow.x.shape[:2], -1)


def clipped_lags(flow: Flow, reach: int) -> Tensor:
    """Index of the lag t - s, [T, S]: 0..reach where causal, from -reach on where not."""
    lag = lags(flow)
    return lag.clamp(0, reach) if flow.pattern.causal else lag.clamp(-reach, reach) + reach


class ScoreBias(Operator):
    """Scores times e^b, where b [H, N] is looked up by `index` [T, S]; it starts near 0."""

    def prepare(self) -> None:
        self.bias = nn.Parameter(0.1 * torch.randn(self.heads, self.entries))

    @property
    def entries(self) -> int:
        raise NotImplementedError(type(self).__name__)

    def index(self, flow: Flow) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    def forward(self, flow: Flow) -> Tensor:
        return widen(self.inputs[0](flow), self.heads) * self.bias[:, self.index(flow)].exp()

    @property
    def has_log_scores(self) -> bool:
        return self.inputs[0].has_log_scores

    def log_scores(self, flow: Flow) -> Tensor | None:
        inside = self.inputs[0].log_scores(flow)
        return None if inside is None else widen(inside, self.heads) + self.bias[:, self.index(flow)]


class Relative(ScoreBias):
    @property
    def entries(self) -> int:
        return lag_count(self.term, self.shape)

    def index(self, flow: Flow) -> Tensor:
        return clipped_lags(flow, self.term.integer("reach"))


class GraphBias(ScoreBias):
    @property
    def entries(self) -> int:
        return self.term.integer("reach") + 1

    def index(self, flow: Flow) -> Tensor:
        t, s = positions(flow)
        return tree_distance(t, s).clamp(max=self.term.integer("reach"))


def tree_distance(t: Tensor, s: Tensor) -> Tensor:
    """Edges between nodes of the binary tree in which node n has the children 2n + 1 and 2n + 2; t [T, 1], s [1, S]."""
    a, b = (t + 1).expand(-1, s.shape[-1]), (s + 1).expand(len(t), -1)
    distance = torch.zeros_like(a)
    for _ in range(2 * s.shape[-1].bit_length()):  # each step, the later of the two climbs to its parent
        distance = distance + (a != b)
        a, b = torch.where(a > b, a // 2, a), torch.where(b > a, b // 2, b)
    return distance


class RelativeKeys(Operator):
    """K^-1/2 <q_t, k_s + r> (Shaw et al. 2018, eq. 4), r [N, K] looked up by the clipped lag."""

    def prepare(self) -> None:
        count = lag_count(self.term, self.shape)
        self.vectors = nn.Parameter(torch.randn(count, self.shape.key) / math.sqrt(self.shape.key))

    def forward(self, flow: Flow) -> Tensor:
        q = spread(self.inputs[0](flow), self.heads)
        k = spread(flow.history(self, self.inputs[1](flow)), self.heads)
        by_lag = torch.einsum("bthk,nk->bhtn", q, self.vectors)
        index = clipped_lags(flow, self.term.integer("reach")).expand(*by_lag.shape[:2], -1, -1)
        return (torch.einsum("bthk,bshk->bhts", q, k) + by_lag.gather(-1, index)) / math.sqrt(q.shape[-1])


class Additive(Operator):
    """LeakyReLU(a q_t + b k_s) (Velickovic et al. 2018, eq. 3); of the keys one number a head is kept."""

    def prepare(self) -> None:
        size = (self.heads, self.shape.key)
        self.query, self.key = (nn.Parameter(torch.randn(size) / math.sqrt(size[1])) for _ in range(2))

    def forward(self, flow: Flow) -> Tensor:
        of_query = (spread(self.inputs[0](flow), self.heads) * self.query).sum(-1)  # [B, T, H]
        of_key = (spread(self.inputs[1](flow.keys), self.heads) * self.key).sum(-1)
        before = flow.keys.history(self, of_key)
        joined = of_query.transpose(1, 2).unsqueeze(-1) + before.transpose(1, 2).unsqueeze(-2)
        return functional.leaky_relu(joined, LEAK)


MODULES: dict[str, type[Operator]] = {
    "angle": Angle,
    "turn": Turn,
    "sinusoid": Sinusoid,
    "slopes": Slopes,
    "relative": Relative,
    "graph_bias": GraphBias,
    "relative_keys": RelativeKeys,
    "additive": Additive,
    "table": DenseKernel,
}
