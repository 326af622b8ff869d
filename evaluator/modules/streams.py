"""Streams: what the mixer reads."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator


class Input(Operator):
    def forward(self, flow: Flow) -> Tensor:
        return flow.x


class Earlier(Operator):
    def forward(self, flow: Flow) -> Tensor:
        return flow.x if flow.earlier is None else flow.earlier


class Shift(Operator):
    """A blend with the token before, or with the mean of both neighbours where causality is not asked."""

    def prepare(self) -> None:
        self.blend = nn.Parameter(torch.full((self.shape.width,), 0.5))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        if not flow.pattern.causal:
            padded = functional.pad(x, (0, 0, 1, 1))
            return torch.lerp(x, (padded[:, :-2] + padded[:, 2:]) / 2, self.blend)
        before = None if flow.cache is None else flow.cache.get(self)
        first = torch.zeros_like(x[:, :1]) if before is None else before
        if flow.cache is not None:
            flow.cache[self] = x[:, -1:]
        return torch.lerp(x, torch.cat([first, x[:, :-1]], 1), self.blend)


class Pool(Operator):
    """A moving mean over the tokens there are. Where causality is not asked it reaches to both sides, as `conv` does.

    x: [B, T, ...].
    """

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        width = self.term.integer("width")
        ahead = 0 if flow.pattern.causal else width // 2
        known = flow.history(self, x, keep=width - 1)
        missing = width - 1 - ahead - (known.shape[1] - x.shape[1])  # tokens before the first
        padded = functional.pad(known, (*[0, 0] * (x.dim() - 2), missing, ahead))
        there = functional.pad(torch.ones(known.shape[1], dtype=x.dtype, device=x.device), (missing, ahead))
        count = there.unfold(0, width, 1).sum(-1).view(-1, *[1] * (x.dim() - 2))
        return padded.unfold(1, width, 1).sum(-1) / count


MODULES: dict[str, type[Operator]] = {"x": Input, "earlier": Earlier, "shift": Shift, "pool": Pool}
