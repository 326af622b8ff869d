"""Kernels and scores of recurrences that are more than a masked inner product with a decay, written out densely.

What their passes need of them stands here too: `Lrpe.turn`, and `over_slots` and `slot_decay` for routes.
"""

import math

import torch
from torch import Tensor, nn

from archloom.evaluator.modules import memories
from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.kernels import Kernel
from archloom.evaluator.modules.masks import shown
from archloom.evaluator.modules.scores import lags, summed_lag
from archloom.kernels.arguments import accumulator

STRONGEST_DECAY = -20.0
"""Least log decay of a token under `rated_gram`: its pass takes a token's own decay back without overflow."""


class Exclusive(Kernel):
    """<q_t, k_s> over other tokens, decayed by those strictly in between."""

    def prepare(self) -> None:
        self.decays = nn.Identity()  # owns the history of the decays

    def mask(self, flow: Flow) -> Tensor:
        return shown(flow) & (lags(flow) != 0)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, k, log_decay = arguments
        return self.scores(flow, q, k, log_decay)

    def scores(self, flow: Flow, q: Tensor, k: Tensor, log_decay: Tensor) -> Tensor:
        q, k = spread(q, self.heads), spread(flow.history(self, k), self.heads)
        log_decay = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
        between = log_lag_between(flow, flow.history(self.decays, log_decay)).exp()  # [B, H, T, S, 1 or K]
        kernel = torch.einsum("bthk,bshk,bhtsk->bhts", q, k, between.expand(*between.shape[:4], q.shape[-1]))
        return kernel.masked_fill(~self.mask(flow), 0)


class RatedGram(Exclusive):
    """<k_t, eta_s k_s> over earlier tokens, decayed by those strictly in between, no token by more than e^-20."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        k, rate, log_decay = arguments
        k, rate = spread(k, self.heads), spread(rate, self.heads)
        return self.scores(flow, k, k * rate, log_decay.clamp(min=STRONGEST_DECAY))


def log_lag_between(flow: Flow, log_decay: Tensor) -> Tensor:
    """The log decay summed over the tokens strictly between query and source; [B, S, H, C] -> [B, H, T, S, C]."""
    upto = log_decay.cumsum(1).transpose(1, 2)
    before = upto - log_decay.transpose(1, 2)
    lag = before[:, :, flow.past :].unsqueeze(3) - upto.unsqueeze(2)  # where s < t
    if not flow.pattern.causal:
        lag = torch.where(lags(flow).unsqueeze(-1) > 0, lag, before.unsqueeze(2) - upto.unsqueeze(3))
    return lag.clamp(max=0)


class Bonus(Operator):
    """<q_t, u k_t> v_t, the weight of the present token in RWKV-6 (Peng et al. 2024, arXiv:2404.05892)."""

    def prepare(self) -> None:
        self.gain = nn.Parameter(torch.ones(self.heads, self.shape.key))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, k, value = (spread(each, self.heads) for each in arguments)
        return (q * self.gain * k).sum(-1, keepdim=True) * value


class InitialState(Operator):
    """K^-1/2 (e^{G_t} q_t)^T S_0, what a decayed linear attention that starts at S_0 reads more than one that starts at
    zero: initial-state tuning (Lemerle et al. 2024, arXiv:2410.23320).

    Carries the summed decay [B, 1, H, 1 or K] from segment to segment.
    """

    START = 0.1

    def prepare(self) -> None:
        self.state = nn.Parameter(self.START * torch.randn(self.heads, self.shape.key, self.shape.value))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, log_decay = spread(arguments[0], self.heads), arguments[1]
        log_decay = log_decay if log_decay.dim() == 4 else log_decay.unsqueeze(-1)
        total = log_decay.to(accumulator(q.dtype)).cumsum(1)
        if flow.cache is not None:
            total = total + flow.cache.get(self, torch.zeros_like(total[:, :1]))
            flow.cache[self] = total[:, -1:]
        left = q * total.exp().to(q.dtype)
        return torch.einsum("bthk,hkv->bthv", left, self.state) / math.sqrt(q.shape[-1])


class Partitioned(Operator):
    """Inner products through slots, each with the decays of the tokens that are routed to it."""

    def prepare(self) -> None:
        self.decays, self.routes = nn.Identity(), nn.Identity()  # own a history each

    def forward(self, flow: Flow) -> Tensor:
        q, k = self.inputs[0](flow), self.inputs[1](flow.keys)
        reading, writing = self.inputs[2](flow), self.inputs[2](flow.keys)
        k = spread(flow.keys.history(self, k), self.heads)
        written = flow.keys.history(self.routes, writing)
        log_decay = flow.keys.history(self.decays, self.inputs[3](flow.keys))
        lag = summed_lag(flow, slot_decay(log_decay, written, 1))  # [B, H, T, S, N]
        through = torch.einsum("btn,bsn,bhtsn->bhts", reading, written, lag.exp())
        return torch.einsum("bthk,bshk->bhts", spread(q, self.heads), k) / math.sqrt(q.shape[-1]) * through


def over_slots(x: Tensor, route: Tensor) -> Tensor:
    """A feature once for every slot, times the slot's weight; [B, T, H, K], [B, T, N] -> [B, T, H, N K]."""
    return (route[:, :, None, :, None] * x.unsqueeze(-2)).flatten(-2)


def slot_decay(log_decay: Tensor, route: Tensor, width: int) -> Tensor:
    """The decay of every slot, that of a head where it is used and 0 elsewhere; [B, T, H] -> [B, T, H, N width]."""
    return (log_decay.unsqueeze(-1) * (route > 0).unsqueeze(2)).repeat_interleave(width, -1)


class Lrpe(Operator):
    """sum_i q_i k_i cos(theta_i (t - s)) = <turn(q), turn(k)> with turn(x) = [x cos(theta t), x sin(theta t)].

    Linearised relative position encoding (Qin et al. 2023, arXiv:2307.14995). It is not a rotation of pairs at learned
    rates: that adds sine terms between the two channels of a pair. Rates start as those of rotary.
    """

    def prepare(self) -> None:
        rates = 10_000.0 ** -(torch.arange(self.shape.key) / self.shape.key)
        self.rates = nn.Parameter(rates.repeat(self.heads, 1))

    def turn(self, x: Tensor, first: int) -> Tensor:
        """[B, T, H, K] -> [B, T, H, 2 K] for tokens from number `first` on."""
        steps = torch.arange(first, first + x.shape[1], device=x.device, dtype=x.dtype)
        angle = steps[:, None, None] * self.rates.repeat_interleave(x.shape[2] // self.heads, 0)
        return torch.cat([x * angle.cos(), x * angle.sin()], -1)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, k = arguments
        q = self.turn(spread(q, self.heads), flow.past) / math.sqrt(q.shape[-1])
        k = self.turn(spread(flow.history(self, k), self.heads), 0)
        return torch.einsum("bthk,bshk->bhts", q, k)


class Reweight(Operator):
    """cosFormer's distance weights (Qin et al. 2022, arXiv:2202.08791), with 0 where the cosine would be negative.

    The paper splits the cosine into features of twice the width, which is exact up to the reach alone: no pass serves
    scores that end there, so they are written out.
    """

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (score,) = arguments
        nearness = 1 - lags(flow).abs().to(score.dtype) / self.term.integer("reach")
        return score * torch.sin(math.pi / 2 * nearness.clamp(min=0))


MODULES: dict[str, type[Operator]] = {
    "exclusive": Exclusive,
    "bonus": Bonus,
    "initial_state": InitialState,
    "rated_gram": RatedGram,
    "partitioned": Partitioned,
    "lrpe": Lrpe,
    "reweight": Reweight,
    **memories.MODULES,
}
