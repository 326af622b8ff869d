"""Scores written out densely: the literal operator, for what no pass can serve and as oracle of the rest.

Shapes: features [B, T, H, K]; scores [B, H, T, S] with S = past + T, or the source's tokens. Entries that a mask hides
are never read, so a score may hold anything there. A score that is the exponential of something also offers its
logarithm (`log_scores`), in which row normalisation is a stable softmax.
"""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.types import Type


def lags(flow: Flow) -> Tensor:
    """t - s of the new tokens against all sources; [T, S]."""
    steps = flow.x.shape[1]
    now = torch.arange(flow.past, flow.past + steps, device=flow.x.device)
    return now[:, None] - torch.arange(flow.past + steps, device=flow.x.device)


def log_lag(flow: Flow, owner: nn.Module, log_decay: Tensor) -> Tensor:
    """The summed log decay between source and query, [B, T, H, ...] -> [B, H, T, S, ...].

    Causal: over (s, t], and 0 where s > t. Noncausal: over [t, s) where s > t, what the reversed sequence would give.
    Cross: over all that follow s in the source.
    """
    return summed_lag(flow, flow.keys.history(owner, log_decay))


def summed_lag(flow: Flow, log_decay: Tensor) -> Tensor:
    """`log_lag` of a whole history [B, S, H, ...]."""
    total = log_decay.cumsum(1).transpose(1, 2)  # [B, H, S, ...]
    if flow.pattern.cross:
        lag = (total[:, :, -1:] - total).unsqueeze(2)
        return lag.expand(-1, -1, flow.x.shape[1], *lag.shape[3:])
    lag = total[:, :, flow.past :].unsqueeze(3) - total.unsqueeze(2)
    if flow.pattern.causal:
        return lag.clamp(max=0)
    before = total - log_decay.transpose(1, 2)
    back = before.unsqueeze(2) - before.unsqueeze(3)
    return torch.minimum(lag, back)  # of the two, the one that is not positive


def visible_count(flow: Flow) -> Tensor:
    """How many tokens the pattern lets each new token see, [T]."""
    steps = flow.x.shape[1]
    if flow.pattern == CAUSAL:
        return torch.arange(flow.past + 1, flow.past + steps + 1, device=flow.x.device)
    return torch.full((steps,), flow.keys.x.shape[1], device=flow.x.device)


def widen(score: Tensor, heads: int) -> Tensor:
    """[B, G, T, S] -> [B, heads, T, S]: head h reads group floor(h * G / heads)."""
    return score if score.shape[1] == heads else score.repeat_interleave(heads // score.shape[1], 1)


class Dot(Operator):
    """K^-1/2 <q_t, k_s>."""

    def forward(self, flow: Flow) -> Tensor:
        q = spread(self.inputs[0](flow), self.heads)
        k = spread(flow.keys.history(self, self.inputs[1](flow.keys)), self.heads)
        return torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])


class Decayed(Operator):
    """A score that keeps its decays apart from its keys: a module owns only one entry of the cache."""

    def prepare(self) -> None:
        self.decays = nn.Identity()


class DecayedDot(Decayed):
    def forward(self, flow: Flow) -> Tensor:
        q = spread(self.inputs[0](flow), self.heads)
        k = spread(flow.keys.history(self, self.inputs[1](flow.keys)), self.heads)
        decay = log_lag(flow, self.decays, self.inputs[2](flow.keys)).exp()  # [B, H, T, S, K]
        return torch.einsum("bthk,bshk,bhtsk->bhts", q, k, decay) / math.sqrt(q.shape[-1])


def both_sides(module: Operator, flow: Flow) -> tuple[Tensor, Tensor]:
    """Keys as queries read them, and those of the key side; one tensor where both are the same sequence."""
    now = module.inputs[0](flow)
    behind = now if flow.keys is flow else module.inputs[0](flow.keys)
    return spread(now, module.heads), spread(flow.keys.history(module, behind), module.heads)


class Gram(Operator):
    """beta_t <k_t, k_s>."""

    def forward(self, flow: Flow) -> Tensor:
        k, before = both_sides(self, flow)
        return torch.einsum("bthk,bth,bshk->bhts", k, self.inputs[1](flow), before)


class DecayedGram(Decayed):
    def forward(self, flow: Flow) -> Tensor:
        k, before = both_sides(self, flow)
        decay = log_lag(flow, self.decays, self.inputs[2](flow.keys)).exp()
        return torch.einsum("bthk,bth,bshk,bhtsk->bhts", k, self.inputs[1](flow), before, decay)


class Decay(Operator):
    def forward(self, flow: Flow) -> Tensor:
        return widen(self.inputs[0](flow), self.heads) * log_lag(flow, self, self.inputs[1](flow.keys)).exp()

    def log_scores(self, flow: Flow) -> Tensor | None:
        inside = self.inputs[0].log_scores(flow)
        return None if inside is None else widen(inside, self.heads) + log_lag(flow, self, self.inputs[1](flow.keys))

    @property
    def has_log_scores(self) -> bool:
        return self.inputs[0].has_log_scores


class Exp(Operator):
    """Of scores, and of features, which end at e^3 so that exponentials of what is made of them stay finite."""

    LARGEST = 3.0

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        return x.exp() if self.term.type is Type.POSITIVE_SCORE else x.clamp(max=self.LARGEST).exp()

    def log_scores(self, flow: Flow) -> Tensor | None:
        return self.inputs[0](flow)

    @property
    def has_log_scores(self) -> bool:
        return True


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


class Plus(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        left, right = (widen(each, self.heads) for each in arguments)
        return left + right

    def log_scores(self, flow: Flow) -> Tensor | None:
        if not self.has_log_scores:
            return None
        left, right = (each.log_scores(flow) for each in self.inputs)
        assert left is not None
        assert right is not None
        return torch.logaddexp(widen(left, self.heads), widen(right, self.heads))

    @property
    def has_log_scores(self) -> bool:
        return all(each.has_log_scores for each in self.inputs)


class Ones(Operator):
    def forward(self, flow: Flow) -> Tensor:
        sources = flow.keys.x.shape[1] if flow.pattern.cross else flow.past + flow.x.shape[1]
        return flow.x.new_ones(len(flow.x), self.heads, flow.x.shape[1], sources)

    def log_scores(self, flow: Flow) -> Tensor | None:
        return torch.zeros_like(self(flow))

    @property
    def has_log_scores(self) -> bool:
        return True


class Quad(Operator):
    """(s + c)^2; c starts at 5, where Li et al. (2023, arXiv:2211.01452, 2Quad) keep it."""

    START = 5.0

    def prepare(self) -> None:
        self.shift = nn.Parameter(torch.full((self.heads,), self.START))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return (arguments[0] + self.shift[:, None, None]).square()


class Cap(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        limit = self.term.integer("limit")
        return limit * torch.tanh(arguments[0] / limit)


class Temper(Operator):
    def prepare(self) -> None:
        self.log_gain = nn.Parameter(torch.zeros(self.heads))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0] * self.log_gain.exp()[:, None, None]


class Fourier(Operator):
    """Coefficients [heads, order] start so that the function has variance 1 over a period, whatever the order."""

    def prepare(self) -> None:
        order = self.term.integer("order")
        self.cosines = nn.Parameter(torch.randn(self.heads, order) / math.sqrt(order))
        self.sines = nn.Parameter(torch.randn(self.heads, order) / math.sqrt(order))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        terms = []
        for m, (a, b) in enumerate(zip(self.cosines.unbind(1), self.sines.unbind(1), strict=True), start=1):
            angle = m * arguments[0]
            terms.append(a[:, None, None] * (angle.cos() - 1) + b[:, None, None] * angle.sin())
        return torch.stack(terms).sum(0)


class Dilute(Operator):
    """Ramapuram et al. 2024 (arXiv:2409.04431): a sigmoid with the bias -log n."""

    def lowered(self, flow: Flow) -> Tensor:
        scores = self.inputs[0](flow)
        return scores - visible_count(flow).to(scores.dtype).log()[:, None]

    def forward(self, flow: Flow) -> Tensor:
        return torch.sigmoid(self.lowered(flow))

    def log_scores(self, flow: Flow) -> Tensor | None:
        return functional.logsigmoid(self.lowered(flow))

    @property
    def has_log_scores(self) -> bool:
        return True


def taylor_features(x: Tensor) -> Tensor:
    """[..., K] -> [..., 1 + K + K^2] with <f(q), f(k)> = 1 + s + s^2 / 2 at s = <q, k>."""
    square = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x[..., :1]), x, square], -1)


def quad_features(q: Tensor, k: Tensor, shift: Tensor) -> tuple[Tensor, Tensor]:
    """[..., K] -> [..., 1 + K + K^2] with <f(q), g(k)> = (s + c)^2 at s = <q, k>; `shift` c broadcasts over q."""
    squares = [(x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) for x in (q, k)]
    constant = shift.square().expand(*q.shape[:-1], 1)
    return torch.cat([constant, 2 * shift * q, squares[0]], -1), torch.cat(
        [torch.ones_like(k[..., :1]), k, squares[1]], -1
    )


MODULES: dict[str, type[Operator]] = {
    "dot": Dot,
    "decayed_dot": DecayedDot,
    "gram": Gram,
    "decayed_gram": DecayedGram,
    "decay": Decay,
    "exp": Exp,
    "taylor2": Taylor2,
    "relu2": Relu2,
    "times": Times,
    "plus": Plus,
    "ones": Ones,
    "quad": Quad,
    "cap": Cap,
    "temper": Temper,
    "fourier": Fourier,
    "dilute": Dilute,
}
