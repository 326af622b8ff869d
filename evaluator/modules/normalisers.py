"""Normalisers written out densely, [B, H, T, S]: what makes rows of a kernel comparable.

A choice among scores that are equal would hang on rounding, so entries within a small margin of the chosen one are
chosen with it: a sequence in segments and the whole one choose alike.
"""

import math

import torch
from torch import Tensor

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.kernels import Kernel, softmax
from archloom.evaluator.modules.scores import widen


def margin(x: Tensor) -> float:
    """How close two numbers must be to count as equal: half of the digits."""
    return float(torch.finfo(x.dtype).eps ** 0.5)


class RowNormPlusOne(Kernel):
    """The softmax with an extra logit of zero where logarithms are known."""

    def forward(self, flow: Flow) -> Tensor:
        logits = self.inputs[0].log_scores(flow)
        if logits is None:
            kernel = self.inputs[0](flow)
            return kernel / (1 + kernel.sum(-1, keepdim=True))
        return torch.softmax(torch.cat([logits, torch.zeros_like(logits[..., :1])], -1), -1)[..., :-1]


class RowMean(Kernel):
    def counts(self, flow: Flow) -> Tensor:
        return self.mask(flow).sum(-1, keepdim=True).clamp(min=1)

    def forward(self, flow: Flow) -> Tensor:
        kernel = self.inputs[0](flow)
        return kernel / self.counts(flow).to(kernel.dtype)

    def log_scores(self, flow: Flow) -> Tensor | None:
        logits = self.inputs[0].log_scores(flow)
        return None if logits is None else logits - self.counts(flow).to(logits.dtype).log()


def sparsemax(logits: Tensor) -> Tensor:
    """Martins and Astudillo 2016 (arXiv:1602.02068), algorithm 1, over the last axis; a row of -inf alone gives zeros.

    Logits are taken relative to the largest: only those within 1 of it can be above the threshold, so the others, and
    what is hidden, may stand at -2.
    """
    empty = logits.isneginf().all(-1, keepdim=True)
    top = logits.detach().amax(-1, keepdim=True).masked_fill(empty, 0)
    z = (logits - top).masked_fill(logits <= top - 2, -2)
    falling = z.sort(-1, descending=True).values
    sums = falling.cumsum(-1) - 1
    ranks = torch.arange(1, z.shape[-1] + 1, device=z.device, dtype=z.dtype)
    size = (ranks * falling > sums).sum(-1, keepdim=True).clamp(min=1)
    threshold = sums.gather(-1, size - 1) / size.to(z.dtype)
    return (z - threshold).clamp(min=0).masked_fill(empty, 0)


class Sparsemax(Kernel):
    def forward(self, flow: Flow) -> Tensor:
        return sparsemax(self.masked_logits(flow))


def among_largest(x: Tensor, k: int, tolerance: Tensor | float) -> Tensor:
    """Where an entry is one of the k largest of its row, or within `tolerance` of the last of them; boolean."""
    x = x.detach()
    last = x.topk(min(k, x.shape[-1]), -1).values[..., -1:]
    return x >= last - tolerance


class TopK(Kernel):
    def kept(self, logits: Tensor) -> Tensor:
        return among_largest(logits, self.term.integer("k"), margin(logits))

    def forward(self, flow: Flow) -> Tensor:
        logits = self.log_scores(flow)
        if logits is not None:
            return logits.exp()
        kernel = self.inputs[0](flow)
        equal = margin(kernel) * kernel.detach().amax(-1, keepdim=True)
        return kernel.masked_fill(~among_largest(kernel, self.term.integer("k"), equal), 0)

    def log_scores(self, flow: Flow) -> Tensor | None:
        logits = self.inputs[0].log_scores(flow)
        return None if logits is None else logits.masked_fill(~self.kept(logits), -torch.inf)


class Picked(Kernel):
    """A kernel where K^-1/2 <q_t, k_s> is among the k largest that its mask shows (Yang et al. 2024, arXiv:2410.05076).

    Nothing is learned through the choice: q and k have no gradient.
    """

    def kept(self, flow: Flow) -> Tensor:
        q = spread(self.inputs[1](flow), self.heads)
        k = spread(flow.keys.history(self, self.inputs[2](flow.keys)), self.heads)
        products = torch.einsum("bthk,bshk->bhts", q.detach(), k.detach()) / math.sqrt(q.shape[-1])
        products = products.masked_fill(~self.mask(flow), -torch.inf)
        return among_largest(products, self.term.integer("k"), margin(products))

    def forward(self, flow: Flow) -> Tensor:
        return widen(self.inputs[0](flow), self.heads).masked_fill(~self.kept(flow), 0)

    def log_scores(self, flow: Flow) -> Tensor | None:
        logits = self.inputs[0].log_scores(flow)
        return None if logits is None else widen(logits, self.heads).masked_fill(~self.kept(flow), -torch.inf)


def straight_through(logits: Tensor) -> Tensor:
    """One at the largest logit of the last axis, shared by equals, with the gradient of the softmax; zeros for a row of
    -inf alone (Bengio et al. 2013, arXiv:1308.3432)."""
    soft = softmax(logits)
    finite = logits.detach().masked_fill(logits.isneginf(), torch.finfo(logits.dtype).min)
    chosen = among_largest(finite, 1, margin(logits)) & ~logits.isneginf()
    hard = chosen.to(soft.dtype)
    return hard / hard.sum(-1, keepdim=True).clamp(min=1) + (soft - soft.detach())


class Hard(Kernel):
    def forward(self, flow: Flow) -> Tensor:
        return straight_through(self.masked_logits(flow))


class Assign(Kernel):
    """Over targets: every source gives itself to one of those that see it."""

    def forward(self, flow: Flow) -> Tensor:
        return straight_through(self.masked_logits(flow).transpose(-1, -2)).transpose(-1, -2)


MODULES: dict[str, type[Operator]] = {
    "rownorm_plus_one": RowNormPlusOne,
    "rowmean": RowMean,
    "sparsemax": Sparsemax,
    "topk": TopK,
    "picked": Picked,
    "hard": Hard,
    "assign": Assign,
}
