"""Kernels written out densely, [B, H, T, S]: masked scores, their normalisation, and operators that need no scores.

A kernel is zero where its mask hides; `mask` says where that is, for normalisers that act on scores of any sign.
"""

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import Flow, Operator
from archloom.evaluator.modules.masks import positions, shown
from archloom.evaluator.modules.scores import widen

SMALLEST_ROW_SUM = 1e-6


class Kernel(Operator):
    """A kernel that shows what its first input shows, or all that the pattern does."""

    def mask(self, flow: Flow) -> Tensor:
        inside = self.inputs[0] if len(self.inputs) else None
        return inside.mask(flow) if isinstance(inside, Kernel) else shown(flow)

    def masked_logits(self, flow: Flow) -> Tensor:
        """The kernel of the first input, -inf where its mask hides."""
        return self.inputs[0](flow).masked_fill(~self.mask(flow), -torch.inf)


class Masked(Kernel):
    def mask(self, flow: Flow) -> Tensor:
        return self.inputs[1](flow)

    def forward(self, flow: Flow) -> Tensor:
        return self.inputs[0](flow).masked_fill(~self.mask(flow), 0)

    def log_scores(self, flow: Flow) -> Tensor | None:
        inside = self.inputs[0].log_scores(flow)
        return None if inside is None else inside.masked_fill(~self.mask(flow), -torch.inf)


class Strict(Kernel):
    def mask(self, flow: Flow) -> Tensor:
        t, s = positions(flow)
        return super().mask(flow) & (t != s)

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        return arguments[0].masked_fill(~self.mask(flow), 0)

    def log_scores(self, flow: Flow) -> Tensor | None:
        inside = self.inputs[0].log_scores(flow)
        return None if inside is None else inside.masked_fill(~self.mask(flow), -torch.inf)


def softmax(logits: Tensor) -> Tensor:
    """Over the last axis; a row of -inf alone gives zeros, and no NaN backward."""
    empty = logits.isneginf().all(-1, keepdim=True)
    return torch.softmax(logits.masked_fill(empty, 0), -1).masked_fill(empty, 0)


class RowNorm(Kernel):
    def forward(self, flow: Flow) -> Tensor:
        logits = self.inputs[0].log_scores(flow)
        if logits is not None:
            return softmax(logits)
        kernel = self.inputs[0](flow)
        return kernel / kernel.sum(-1, keepdim=True).clamp(min=SMALLEST_ROW_SUM)


class Damp(Kernel):
    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        kernel, gate = arguments
        return widen(kernel, self.heads) * gate.transpose(1, 2).unsqueeze(-1)


class DenseKernel(Kernel):
    """A learned matrix per head, lower-triangular where causal and stored without its empty half.

    Rows start as a noisy average.
    """

    rows: Tensor
    columns: Tensor

    def prepare(self) -> None:
        length = self.shape.length
        if self.shape.pattern.causal:
            rows, columns = torch.tril_indices(length, length)
            scale = 1 / (rows + 1).sqrt()
        else:
            rows, columns = torch.ones(length, length).nonzero().unbind(1)
            scale = torch.full((rows.numel(),), length**-0.5)
        self.register_buffer("rows", rows, persistent=False)
        self.register_buffer("columns", columns, persistent=False)
        self.entries = nn.Parameter(torch.randn(self.shape.heads, rows.numel()) * scale)

    def forward(self, flow: Flow) -> Tensor:
        end = flow.past + flow.x.shape[1]
        if end > self.shape.length:
            raise ValueError(f"a dense kernel of length {self.shape.length} cannot be extended to {end} tokens")
        matrix = self.entries.new_zeros(self.shape.heads, self.shape.length, self.shape.length)
        matrix = matrix.index_put((torch.arange(len(matrix))[:, None], self.rows, self.columns), self.entries)
        return matrix[None, :, flow.past : end, :end].expand(len(flow.x), -1, -1, -1)


MODULES: dict[str, type[Operator]] = {
    "masked": Masked,
    "strict": Strict,
    "rownorm": RowNorm,
    "damp": Damp,
    "dense": DenseKernel,
}
