"""Masks as booleans [T, S]: what each new token looks at. Every mask shows a token itself.

A range reaches back in the causal pattern. In the noncausal one it is a neighbourhood: centred, and shifted at the
borders so that it keeps its size (Hassani et al. 2023, arXiv:2204.07143; dilated: arXiv:2209.15001).
"""

import torch
from torch import Tensor

from archloom.evaluator.modules.base import Flow, Operator
from archloom.evaluator.modules.scores import lags


def shown(flow: Flow) -> Tensor:
    """What the pattern lets the new tokens see, [T, S]."""
    if flow.pattern.cross:
        return torch.ones(flow.x.shape[1], flow.keys.x.shape[1], dtype=torch.bool, device=flow.x.device)
    lag = lags(flow)
    return lag >= 0 if flow.pattern.causal else torch.ones_like(lag, dtype=torch.bool)


def positions(flow: Flow) -> tuple[Tensor, Tensor]:
    """t [T, 1] and s [1, S]."""
    end = flow.past + flow.x.shape[1]
    return (
        torch.arange(flow.past, end, device=flow.x.device)[:, None],
        torch.arange(end, device=flow.x.device)[None],
    )


class Visible(Operator):
    def forward(self, flow: Flow) -> Tensor:
        return shown(flow)


class Mask(Operator):
    """A mask given by positions; what the pattern hides stays hidden, and a token always sees itself."""

    def forward(self, flow: Flow) -> Tensor:
        t, s = positions(flow)
        return (self.between(flow, t, s) & shown(flow)) | (t == s)

    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        raise NotImplementedError(type(self).__name__)


def neighbourhood(flow: Flow, t: Tensor, s: Tensor, *, width: int, dilation: int) -> Tensor:
    """The `width` tokens nearest to t in its residue class modulo `dilation`; the last ones where causal."""
    same_class = (t - s) % dilation == 0
    if flow.pattern.causal:
        return same_class & (t - s < width * dilation)
    length = flow.x.shape[1]
    inside = (length - t % dilation + dilation - 1) // dilation  # tokens of the class of t
    first = (t // dilation - (width - 1) // 2).clamp(min=0).minimum((inside - width).clamp(min=0))
    return same_class & (s // dilation >= first) & (s // dilation < first + width)


class Window(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        return neighbourhood(flow, t, s, width=self.term.integer("width"), dilation=1)


class Dilated(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        return neighbourhood(flow, t, s, width=self.term.integer("width"), dilation=self.term.integer("dilation"))


class SameChunk(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        size = self.term.integer("size")
        return t // size == s // size


class AcrossChunks(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        size = self.term.integer("size")
        return t // size != s // size


class First(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        return (s < self.term.integer("count")).expand(len(t), -1)


class Strided(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        stride = self.term.integer("stride")
        return (s % stride == stride - 1).expand(len(t), -1)


class Random(Mask):
    """Pairs chosen by a hash of their positions, so that they are the same in every model and at every length."""

    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        mixed = ((t * 73_856_093) ^ (s * 19_349_663)) * 83_492_791 & 0x7FFF_FFFF
        return (mixed >> 8) % self.term.integer("one_in") == 0


class Blind(Mask):
    def between(self, flow: Flow, t: Tensor, s: Tensor) -> Tensor:
        return (t >= self.term.integer("prefix")).expand(-1, s.shape[1])


class Either(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0] | arguments[1]


class Both(Operator):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0] & arguments[1]


MODULES: dict[str, type[Operator]] = {
    "visible": Visible,
    "window": Window,
    "chunk": SameChunk,
    "across": AcrossChunks,
    "dilated": Dilated,
    "first": First,
    "strided": Strided,
    "random": Random,
    "blind": Blind,
    "either": Either,
    "both": Both,
}
