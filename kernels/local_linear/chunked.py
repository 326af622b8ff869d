"""Local linear attention as softmax attention with a correction, in blocks of queries, with its own backward.

With p the softmax weights of a query, m = sum p k the mean key it sees and C = sum p (k - m)(k - m)^T + ridge I,

    x = C^-1 (m - q),    c_s = <k_s - m, x>,    o = sum_s p_s (1 - c_s) v_s

which is the definition after Sherman and Morrison (README.md). Nothing is divided by a difference. The batch and the
heads are one dimension N: queries [N, T, K], keys [N, S, K].
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from archloom.kernels.arguments import accumulator

QUERIES = 64
"""Queries whose weights exist at once."""
PRODUCTS = 1 << 22
"""Entries of the products k_i k_j that exist at once."""
GUARD = 16
"""Units of rounding of |k|^2 by which the ridge is raised, since the covariance is a difference of that size."""


def local_linear(
    q: Tensor, k: Tensor, v: Tensor, ridge: Tensor, scale: float, window: int | None, mask: Tensor | None
) -> Tensor:
    """[B, T, H, V] in the dtype of q; ridge [H]."""
    batch, heads = q.shape[0], q.shape[2]
    query, key, value = (x.to(accumulator(q.dtype)).transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    # only differences of keys matter, so that an offset common to all may go; the first is in the past of every query
    centre = key[:, :1].detach()
    key = key - centre
    most = max(1, PRODUCTS // (k.shape[1] * k.shape[3] ** 2))
    parts = zip(*(torch.split(x, most) for x in (query, key, value, ridge.repeat(batch), centre)), strict=True)
    outs = [_LocalLinear.apply(*part, scale, window, mask)[0] for part in parts]  # type: ignore[no-untyped-call]
    return torch.unflatten(torch.cat(outs), 0, (batch, heads)).transpose(1, 2).to(q.dtype)


class _Block(NamedTuple):
    """A range of queries, the range of keys that any of them sees, and which of them see which."""

    queries: slice
    keys: slice
    kept: Tensor


def _blocks(
    steps: int, sources: int, window: int | None, mask: Tensor | None, device: torch.device
) -> Iterator[_Block]:
    past = sources - steps
    for start in range(0, steps, QUERIES):
        end = min(start + QUERIES, steps)
        if mask is not None:
            yield _Block(slice(start, end), slice(0, sources), mask[start:end])
            continue
        first = 0 if window is None else max(0, past + start - window + 1)
        kept = torch.ones(end - start, past + end - first, dtype=torch.bool, device=device).tril_(past + start - first)
        if window is not None:
            kept.triu_(past + start - first - window + 1)
        yield _Block(slice(start, end), slice(first, past + end), kept)


class _LocalLinear(torch.autograd.Function):
    """The output, and the factors of C and the x that the backward keeps; differentiable once.

    The keys are k - centre. The sums of their weights' slopes vanish, so that `centre` has no gradient.
    """

    @staticmethod
    def forward(
        ctx: FunctionCtx,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        ridge: Tensor,
        centre: Tensor,
        scale: float,
        window: int | None,
        mask: Tensor | None,
    ) -> tuple[Tensor, ...]:
        products = (k.unsqueeze(-1) * k.unsqueeze(-2)).flatten(2)  # [N, S, K K]
        ctx.blocks = list(_blocks(q.shape[1], k.shape[1], window, mask, q.device))  # type: ignore[attr-defined]
        ctx.scale = scale  # type: ignore[attr-defined]
        outs, factors, solutions = [], [], []
        for block in ctx.blocks:  # type: ignore[attr-defined]
            query, key, value = q[:, block.queries], k[:, block.keys], v[:, block.keys]
            weights = _weights(query, key, scale, block.kept)
            mean = weights @ key
            factor = _factor(weights @ products[:, block.keys], mean, ridge)
            solution = _solve(factor, mean + centre - query)
            outs.append((weights * (1 - _inner(solution, key, mean))) @ value)
            factors.append(factor)
            solutions.append(solution)
        saved = torch.cat(factors, 1), torch.cat(solutions, 1)
        ctx.mark_non_differentiable(*saved)
        ctx.save_for_backward(q, k, v, *saved)
        return torch.cat(outs, 1), *saved

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, factors, solutions = ctx.saved_tensors  # type: ignore[attr-defined]
        scale = ctx.scale  # type: ignore[attr-defined]
        for_q, for_k, for_v = (torch.zeros_like(x) for x in (q, k, v))
        for_ridge = q.new_zeros(q.shape[0])
        for rows, columns, kept in ctx.blocks:  # type: ignore[attr-defined]
            query, key, solution = q[:, rows], k[:, columns], solutions[:, rows]
            weights = _weights(query, key, scale, kept)
            mean = weights @ key
            along = _inner(solution, key, mean)
            output_slope = grad[:, rows] @ v[:, columns].transpose(-1, -2)
            for_along = -weights * output_slope
            for_v[:, columns] += (weights * (1 - along)).transpose(-1, -2) @ grad[:, rows]

            total = for_along.sum(-1, keepdim=True)
            adjoint = _solve(factors[:, rows], for_along @ key - total * mean)
            across, for_mean = _inner(adjoint, key, mean), adjoint - total * solution
            slope = (1 - along) * output_slope - across * along + for_mean @ key.transpose(-1, -2)
            slope = scale * weights * (slope - (weights * slope).sum(-1, keepdim=True))  # of the logits

            for_ridge -= (adjoint * solution).sum((-1, -2))
            for_q[:, rows] = slope @ key - adjoint
            by_row = torch.cat([slope, for_along - weights * across, weights, -weights * along], 1)
            for_k[:, columns] += by_row.transpose(-1, -2) @ torch.cat([query, solution, for_mean, adjoint], 1)
        return for_q, for_k, for_v, for_ridge, None, None, None, None


def _weights(q: Tensor, k: Tensor, scale: float, kept: Tensor) -> Tensor:
    """Softmax over the keys that are seen, zeros where none is; [N, T, S]."""
    logits = torch.baddbmm(q.new_zeros(()), q, k.transpose(-1, -2), beta=0, alpha=scale)
    blind = ~kept.any(-1, keepdim=True)
    return logits.masked_fill_(~(kept | blind), -torch.inf).softmax(-1).masked_fill_(blind, 0)


def _factor(moment: Tensor, mean: Tensor, ridge: Tensor) -> Tensor:
    """Cholesky factor of C, [N, T, K, K], from sum p k k^T [N, T, K K]."""
    covariance = torch.unflatten(moment, -1, (mean.shape[-1], -1))
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    guard = GUARD * torch.finfo(mean.dtype).eps * diagonal.sum(-1, keepdim=True)
    diagonal += ridge[:, None, None] + guard
    covariance -= mean.unsqueeze(-1) * mean.unsqueeze(-2)
    factor: Tensor = torch.linalg.cholesky_ex(covariance).L
    return factor


def _solve(factor: Tensor, right: Tensor) -> Tensor:
    """C^-1 of vectors [N, T, K]."""
    return torch.cholesky_solve(right.unsqueeze(-1), factor).squeeze(-1)


def _inner(x: Tensor, k: Tensor, mean: Tensor) -> Tensor:
    """<k_s - m_t, x_t>, [N, T, S]."""
    return x @ k.transpose(-1, -2) - (x * mean).sum(-1, keepdim=True)
