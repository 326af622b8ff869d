"""The Triton form of attention: launches of the forward and backward kernels, and their gradients; see README.md."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from archloom.kernels.attention.blocks import Blocks, blocks_for
from archloom.kernels.attention.launch import (
    NUMBERS,
    by_lag,
    check_type,
    decay_gradient,
    decay_parts,
    diagonals,
    listed_blocks,
    scales,
    switches,
    unit,
)
from archloom.kernels.attention.rule import Rule
from archloom.kernels.attention.specialisations import SPECIALISATIONS
from archloom.kernels.attention.triton_backward import backward_keys, backward_queries
from archloom.kernels.attention.triton_forward import forward
from archloom.kernels.attention.triton_lags import backward_lags

__all__ = ["SPECIALISATIONS", "attention"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    bias: Tensor | None,
    lag_bias: Tensor | None,
    mask: Tensor | None,
    rule: Rule,
) -> Tensor:
    """[B, T, H, V] in the dtype of q."""
    if rule.normaliser not in NUMBERS:
        raise ValueError(f'normaliser "{rule.normaliser}" has no Triton kernel; backend="chunked" serves it')
    if rule.top_k is not None:
        raise ValueError(f'top_k is {rule.top_k}, which has no Triton kernel; backend="chunked" serves it')
    if bias is not None:
        raise ValueError('bias [H, T, S] has no Triton kernel; give lag_bias, or backend="chunked" serves it')
    check_type(q, v)
    out: Tensor = _Attention.apply(q, k, v, log_decay, lag_bias, mask, rule)  # type: ignore[no-untyped-call]
    return out


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sides:
    """What the kernels read beside q, k and v; the places of what is absent are taken by q, and not read."""

    decay: Tensor | None  # [B, H, 2, S], in powers of two
    table: Tensor | None  # [H, L]
    mask: Tensor | None  # [T, S] of bytes


class _Attention(Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        v: Tensor,
        log_decay: Tensor | None,
        lag_bias: Tensor | None,
        mask: Tensor | None,
        rule: Rule,
    ) -> Tensor:
        q, k, v = (x.contiguous() for x in (q, k, v))
        sides = _Sides(
            decay=None if log_decay is None else decay_parts(log_decay),
            table=None if lag_bias is None else (lag_bias.float() * unit(rule)).contiguous(),
            mask=None if mask is None else mask.to(torch.uint8).contiguous(),
        )
        out, log_sum = _forward(q, k, v, sides, rule)
        ctx.save_for_backward(q, k, v, out, log_sum, sides.decay, sides.table, sides.mask)
        ctx.rule = rule
        ctx.dtypes = [None if each is None else each.dtype for each in (log_decay, lag_bias)]
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_out: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum, decay, table, mask = ctx.saved_tensors
        sides = _Sides(decay=decay, table=table, mask=mask)
        d_out = d_out.contiguous()
        d_q, d_row, delta = _backward_queries(q, k, v, out, d_out, log_sum, sides, ctx.rule)
        d_k, d_v, d_column = _backward_keys(q, k, v, d_out, log_sum, delta, sides, ctx.rule)
        d_decay = d_table = None
        if ctx.needs_input_grad[3]:
            d_decay = decay_gradient(d_row, d_column).to(ctx.dtypes[0])
        if ctx.needs_input_grad[4]:
            d_table = _backward_lags(q, k, v, d_out, log_sum, delta, sides, ctx.rule).to(ctx.dtypes[1])
        return d_q, d_k, d_v, d_decay, d_table, None, None


def _lists(sides: _Sides, blocks: Blocks, q: Tensor, *, by_keys: bool) -> tuple[Tensor, Tensor]:
    if sides.mask is None:
        return q, q
    if by_keys:
        return listed_blocks(sides.mask.bool().T, blocks.keys, blocks.queries)
    return listed_blocks(sides.mask.bool(), blocks.queries, blocks.keys)


def _places(sides: _Sides, q: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    decay, table, mask = (q if each is None else each for each in (sides.decay, sides.table, sides.mask))
    return decay, table, mask


def _sizes(q: Tensor, k: Tensor, sides: _Sides) -> tuple[int, int, int, int, int]:
    return q.shape[1], k.shape[1], q.shape[2], k.shape[2], 1 if sides.table is None else sides.table.shape[1]


def _constants(q: Tensor, v: Tensor, sides: _Sides, rule: Rule) -> dict[str, Any]:
    return switches(
        rule,
        q.shape[3],
        v.shape[3],
        decayed=sides.decay is not None,
        biased=sides.table is not None,
        masked=sides.mask is not None,
    )


def _forward(q: Tensor, k: Tensor, v: Tensor, sides: _Sides, rule: Rule) -> tuple[Tensor, Tensor]:
    batch, steps, heads, width = q.shape
    blocks = blocks_for("forward", q, max(width, v.shape[3]))
    out = torch.empty(batch, steps, heads, v.shape[3], dtype=q.dtype, device=q.device)
    log_sum = torch.empty(batch, heads, steps, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        forward[(-(-steps // blocks.queries) * batch * heads,)](
            q, k, v, out, log_sum, *_places(sides, q), *_lists(sides, blocks, q, by_keys=False), *scales(rule),
            *_sizes(q, k, sides), **_constants(q, v, sides, rule),
            M=blocks.queries, N=blocks.keys, num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return out, log_sum


def _backward_queries(
    q: Tensor, k: Tensor, v: Tensor, out: Tensor, d_out: Tensor, log_sum: Tensor, sides: _Sides, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    batch, steps, heads, width = q.shape
    blocks = blocks_for("queries", q, max(width, v.shape[3]))
    d_q, d_row, delta = torch.empty_like(q), torch.empty_like(log_sum), torch.empty_like(log_sum)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        backward_queries[(-(-steps // blocks.queries) * batch * heads,)](
            q, k, v, out, d_out, log_sum, delta, d_q, d_row, *_places(sides, q),
            *_lists(sides, blocks, q, by_keys=False), *scales(rule), rule.scale,
            *_sizes(q, k, sides), **_constants(q, v, sides, rule),
            M=blocks.queries, N=blocks.keys, num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return d_q, d_row, delta


def _backward_keys(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, log_sum: Tensor, delta: Tensor, sides: _Sides, rule: Rule
) -> tuple[Tensor, Tensor, Tensor]:
    batch, sources, groups, width = k.shape
    blocks = blocks_for("keys", q, max(width, v.shape[3]))
    d_k, d_v = torch.empty_like(k), torch.empty_like(v)
    d_column = torch.empty(batch, q.shape[2], sources, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        backward_keys[(-(-sources // blocks.keys) * batch * groups,)](
            q, k, v, d_out, log_sum, delta, d_k, d_v, d_column, *_places(sides, q),
            *_lists(sides, blocks, q, by_keys=True), *scales(rule), rule.scale,
            *_sizes(q, k, sides), **_constants(q, v, sides, rule),
            M=blocks.queries, N=blocks.keys, num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return d_k, d_v, d_column


def _backward_lags(
    q: Tensor, k: Tensor, v: Tensor, d_out: Tensor, log_sum: Tensor, delta: Tensor, sides: _Sides, rule: Rule
) -> Tensor:
    """[H, L]."""
    assert sides.table is not None
    (batch, steps, heads, width), sources = q.shape, k.shape[1]
    blocks = blocks_for("lags", q, max(width, v.shape[3]))
    size = blocks.queries
    low, high = diagonals(steps, sources, size, rule)
    tiles = torch.empty(batch, heads, high - low, size, size, dtype=torch.float32, device=q.device)
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        backward_lags[((high - low) * batch * heads,)](
            q, k, v, d_out, log_sum, delta, tiles, *_places(sides, q), *scales(rule), *_sizes(q, k, sides),
            low, high - low, **_constants(q, v, sides, rule),
            M=size, num_warps=blocks.warps, num_stages=blocks.stages,
        )  # fmt: skip
    return by_lag(tiles.sum(0), sources - steps + low * size, sides.table.shape[1], rule)
