"""Values read off features, [B, T, H, K] -> [B, T, H, V]: from learned memory slots, or the features themselves."""

import math

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import Flow, Operator


class Recall(Operator):
    """softmax(<q, k_m> / sqrt(K)) over the slots, of values v_m. Slots start normal, with entries of size one."""

    def prepare(self) -> None:
        slots = self.term.integer("slots")
        self.keys = nn.Parameter(torch.randn(self.heads, slots, self.shape.key))
        self.values = nn.Parameter(torch.randn(self.heads, slots, self.shape.value))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        scores = torch.einsum("bthk,hmk->bthm", arguments[0], self.keys) / math.sqrt(self.shape.key)
        return torch.einsum("bthm,hmv->bthv", torch.softmax(scores, -1), self.values)


class Carry(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        channels = torch.arange(self.shape.value, device=x.device) % x.shape[-1]
        return x[..., channels]


MODULES: dict[str, type[Operator]] = {"recall": Recall, "carry": Carry}
