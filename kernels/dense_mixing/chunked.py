"""Mixing by a learned matrix, block by block: what lies above the diagonal is neither read nor multiplied.

N = B V columns of a head are mixed by one product, [H, T, S] by [H, S, N].
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from archloom.kernels.arguments import accumulator

BLOCK = 128
"""Queries of a block; half of its square on the diagonal is multiplied in vain."""


def dense_mixing(v: Tensor, matrix: Tensor, causal: bool) -> Tensor:
    """[B, T, H, V] in the dtype of v; matrix [H, T, S], its rows those of the last T of S positions."""
    dtype, (batch, sources, heads, width) = accumulator(v.dtype), v.shape
    columns = v.to(dtype).permute(2, 1, 0, 3).reshape(heads, sources, batch * width)
    weights = matrix.to(dtype)
    mixed: Tensor = _Triangle.apply(weights, columns) if causal else weights @ columns  # type: ignore[no-untyped-call]
    return mixed.view(heads, -1, batch, width).permute(2, 1, 0, 3).to(v.dtype)


def _blocks(matrix: Tensor) -> Iterator[tuple[slice, slice]]:
    """Blocks of queries, and their positions among the sources."""
    steps, sources = matrix.shape[-2:]
    past = sources - steps
    for start in range(0, steps, BLOCK):
        end = min(start + BLOCK, steps)
        yield slice(start, end), slice(past + start, past + end)


class _Triangle(torch.autograd.Function):
    """The lower triangle of [H, T, S], which ends in its last column, by [H, S, N]."""

    generate_vmap_rule = True

    @staticmethod
    def forward(matrix: Tensor, x: Tensor) -> Tensor:
        outs = []
        for rows, own in _blocks(matrix):
            out = matrix[:, rows, own].tril() @ x[:, own]
            if own.start > 0:
                out = torch.baddbmm(out, matrix[:, rows, : own.start], x[:, : own.start])
            outs.append(out)
        return torch.cat(outs, 1)

    @staticmethod
    def setup_context(ctx: FunctionCtx, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        matrix, x = ctx.saved_tensors  # type: ignore[attr-defined]
        wanted = ctx.needs_input_grad  # type: ignore[attr-defined]
        return (
            _matrix_gradient(matrix, x, grad) if wanted[0] else None,
            _input_gradient(matrix, x, grad) if wanted[1] else None,
        )


def _matrix_gradient(matrix: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    slopes = grad.new_zeros(matrix.shape)
    for rows, own in _blocks(matrix):
        slopes[:, rows, own] = (grad[:, rows] @ x[:, own].transpose(1, 2)).tril()
        if own.start > 0:
            slopes[:, rows, : own.start] = grad[:, rows] @ x[:, : own.start].transpose(1, 2)
    return slopes


def _input_gradient(matrix: Tensor, x: Tensor, grad: Tensor) -> Tensor:
    past = x.shape[1] - grad.shape[1]
    parts = [matrix[:, :, :past].transpose(1, 2) @ grad]  # sources that every query sees; none where past is 0
    for rows, own in _blocks(matrix):
        part = matrix[:, rows, own].tril().transpose(1, 2) @ grad[:, rows]
        if rows.stop < grad.shape[1]:
            part = torch.baddbmm(part, matrix[:, rows.stop :, own].transpose(1, 2), grad[:, rows.stop :])
        parts.append(part)
    return torch.cat(parts, 1)
