"""Values: how they are scaled, joined and gated."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.features import Projection
from archloom.search_space.types import Type


class Scale(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        value, gate = arguments
        return spread(value, self.heads) * gate.unsqueeze(-1)


class Weigh(Operator):
    def prepare(self) -> None:
        self.gain = nn.Parameter(torch.ones(self.heads, self.channels))

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


class Subtract(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        left, right = (spread(each, self.heads) for each in arguments)
        return left - right


class Sigmoid(Operator):
    """Of features and values, or of scores when one is written densely."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return torch.sigmoid(arguments[0])

    def log_scores(self, flow: Flow) -> Tensor | None:
        return functional.logsigmoid(self.inputs[0](flow)) if self.has_log_scores else None

    @property
    def has_log_scores(self) -> bool:
        return self.term.type is Type.POSITIVE_SCORE


class Blend(Operator):
    """W_h v_t, starting at random as a projection does."""

    def prepare(self) -> None:
        size = (self.heads, self.shape.value, self.shape.value)
        self.matrices = nn.Parameter(torch.empty(size).uniform_(-1, 1) / math.sqrt(self.shape.value))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return torch.einsum("hij,bthj->bthi", self.matrices, arguments[0])


class Gelu(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return functional.gelu(arguments[0])


class Tanh(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return torch.tanh(arguments[0])


class Square(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0].square()


class Squash(Operator):
    """(1 - e^-|v|) v / |v| (Mazzia et al. 2021, arXiv:2101.12491); a zero row stays zero.

    Unlike the first form, |v| v / (1 + |v|^2) of Sabour et al. 2017, it does not square what is small, so that chains
    of capsules do not vanish.
    """

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        length = torch.sqrt(x.square().sum(-1, keepdim=True) + 1e-6)
        return -torch.expm1(-length) / length * x


MODULES: dict[str, type[Operator]] = {
    "value": Projection,
    "scale": Scale,
    "weigh": Weigh,
    "mul": Multiply,
    "add": Add,
    "subtract": Subtract,
    "sigmoid": Sigmoid,
    "blend": Blend,
    "gelu": Gelu,
    "tanh": Tanh,
    "square": Square,
    "squash": Squash,
}
