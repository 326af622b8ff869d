"""Gates, step sizes, routes and log decays."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread

GLA_TEMPERATURE = 16.0
FORGET_BIAS = 4.0


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


class ConstantDecay(Operator):
    """-e^a, starting at 2^-5, 2^-6, ... from head to head as RetNet's."""

    def prepare(self) -> None:
        self.rate = nn.Parameter(-math.log(2) * torch.arange(5, 5 + self.shape.heads))

    def forward(self, flow: Flow) -> Tensor:
        return -self.rate.exp().expand(*flow.x.shape[:2], -1)


class FadeChannels(LowRank):
    """-e^y (RWKV-6, Peng et al. 2024) or -e^-1/2 sigmoid(y), never below -0.61 (RWKV-7, Peng et al. 2025).

    y = W_2 tanh(W_1 x) + b; b starts between slow and fast channels.
    """

    def prepare(self) -> None:
        super().prepare()
        self.up.bias.data.uniform_(-6, -1)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        y = self.up(torch.tanh(self.down(arguments[0]))).view(*flow.x.shape[:2], self.shape.heads, self.shape.key)
        return -y.exp() if self.term.value("law") == "exp" else -math.exp(-0.5) * torch.sigmoid(y)


class Log(Operator):
    SMALLEST = 1e-6

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return spread(arguments[0], self.shape.heads).clamp(min=self.SMALLEST).log()


class StepChannels(Operator):
    """softplus(W_2 W_1 x + b) as [B, T, H, V], with steps that start log-uniformly in [0.001, 0.1] (Mamba)."""

    def prepare(self) -> None:
        rank, width = self.term.integer("rank"), self.shape.heads * self.shape.value
        self.down = nn.Linear(self.shape.width, rank, bias=False)
        self.up = nn.Linear(rank, width)
        self.up.bias.data.copy_(step_bias(width))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        steps = functional.softplus(self.up(self.down(arguments[0])))
        return steps.view(*steps.shape[:2], self.shape.heads, self.shape.value)


class Routes(Operator):
    """softmax(W x) over slots, zero but for the `keep` largest. Computed once in a pass: key and decay read it too."""

    def prepare(self) -> None:
        self.linear = nn.Linear(self.shape.width, self.term.integer("slots"), bias=False)

    def forward(self, flow: Flow) -> Tensor:
        if self not in flow.memo:
            flow.memo[self] = super().forward(flow)
        return flow.memo[self]

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        weights = torch.softmax(self.linear(arguments[0]), -1)
        kept = weights.topk(self.term.integer("keep"), -1).indices
        return weights * torch.zeros_like(weights).scatter(-1, kept, 1.0)


MODULES: dict[str, type[Operator]] = {
    "beta": Beta,
    "double": Double,
    "step": Step,
    "retention": Retention,
    "forget": Forget,
    "selective": Selective,
    "forget_channels": ForgetChannels,
    "selective_channels": SelectiveChannels,
    "constant_decay": ConstantDecay,
    "fade_channels": FadeChannels,
    "log": Log,
    "step_channels": StepChannels,
    "routes": Routes,
}
