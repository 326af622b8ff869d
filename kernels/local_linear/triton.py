# mypy: disallow-incomplete-defs=False
"""Local linear attention as Triton kernels, forward and backward; see README.md for the equations.

    B batch, T queries, S keys, H heads, K key channels, V value channels
    lse [B, T, H]                   log2 of the sum of 2^logits, 0 for a query that sees nothing
    mean, x, adjoint [B, T, H, K]   m, x = C^-1 (m - q) and C^-1 sum_s a_s (k_s - m), a the slope of the output's c

Only differences of keys matter, to the logits of a query too, so that the first key is subtracted from all of them as
they are read; m and the logits are those of what is left.

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index; `i_r` is a row of [B * T * H]. One program has one
query and its system C [K, K], made of differences k_s - m and so positive definite whatever is rounded, or a block of
keys. All is float32, and summed in the same order every time.
"""

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation

KEYS = 32
"""Keys of a block."""
QUERIES = 16
"""Queries of a block where a program has keys."""
WIDEST_KEY, WIDEST_VALUE = 64, 128
"""The most channels: a system of all key channels is held by one program, and so are all value channels."""
LOG2_E = tl.constexpr(1.4426950408889634)
GUARD = tl.constexpr(2 * 1.1920929e-07)
"""The part of its trace by which C is raised, so that elimination in float32 meets positive pivots."""


@triton.jit
def _rows(p_x, i_b, i_h, i_x, X, H, WIDTH: tl.constexpr, BX: tl.constexpr, BC: tl.constexpr):
    """Where BX rows of a head from i_x on of [B, X, H, WIDTH] lie, and which exist."""
    row, column = i_x + tl.arange(0, BX), tl.arange(0, BC)
    p_tile = p_x + ((i_b * X + row)[:, None] * H + i_h) * WIDTH + column[None, :]
    return p_tile, (row < X)[:, None] & (column < WIDTH)[None, :]


@triton.jit
def _read(p_x, i_b, i_h, i_x, X, H, WIDTH: tl.constexpr, BX: tl.constexpr, BC: tl.constexpr):
    p_tile, exists = _rows(p_x, i_b, i_h, i_x, X, H, WIDTH, BX, BC)
    return tl.load(p_tile, mask=exists, other=0.0).to(tl.float32)


@triton.jit
def _write(p_x, b_x, i_b, i_h, i_x, X, H, WIDTH: tl.constexpr, BX: tl.constexpr, BC: tl.constexpr):
    p_tile, exists = _rows(p_x, i_b, i_h, i_x, X, H, WIDTH, BX, BC)
    tl.store(p_tile, b_x.to(p_x.dtype.element_ty), mask=exists)


@triton.jit
def _read_row(p_x, i_r, WIDTH: tl.constexpr, BC: tl.constexpr):
    column = tl.arange(0, BC)
    return tl.load(p_x + i_r * WIDTH + column, mask=column < WIDTH, other=0.0).to(tl.float32)


@triton.jit
def _write_row(p_x, b_x, i_r, WIDTH: tl.constexpr, BC: tl.constexpr):
    column = tl.arange(0, BC)
    tl.store(p_x + i_r * WIDTH + column, b_x.to(p_x.dtype.element_ty), mask=column < WIDTH)


@triton.jit
def _query(T, H):
    """The batch, step and head of a program, and its row; late queries, which see most keys, come first."""
    i = tl.program_id(0).to(tl.int64)
    i_t, i_h, i_b = T - 1 - i % T, i // T % H, i // T // H
    return i_b, i_t.to(tl.int32), i_h, (i_b * T + i_t) * H + i_h


@triton.jit
def _span(p_mask, i_t, T, S, window):
    """The first key that a query sees, and the one behind the last."""
    first, end = 0, S
    if p_mask is None:
        first, end = tl.maximum(0, S - T + i_t - window + 1), S - T + i_t + 1
    return first, end


@triton.jit
def _kept(p_mask, i_t, i_s, T, S, window):
    """Which of the queries i_t see which of the keys i_s; they are shaped to be compared."""
    i_t += tl.zeros_like(i_s)
    if p_mask is None:
        lag = S - T + i_t - i_s
        kept = (lag >= 0) & (lag < window) & (i_t < T)
    else:
        at, exists = i_t.to(tl.int64) * S + i_s, (i_t < T) & (i_s < S)
        kept = tl.load(p_mask + at, mask=exists, other=0) != 0
    return kept


@triton.jit
def _logits(b_q, b_k, scale):
    """Of a query and keys less the first key, in units of log 2, [BS]."""
    return tl.sum(b_k * b_q[None, :], 1) * (scale * LOG2_E)


@triton.jit
def _inverse(b_c, b_ridge, K: tl.constexpr, BK: tl.constexpr):
    """(C + ridge I)^-1 by sweeping its pivots in order: the inverse grows in its place, and it is symmetric always."""
    row = tl.arange(0, BK)
    diagonal = row[:, None] == row[None, :]
    b_raise = b_ridge + GUARD * tl.sum(tl.sum(tl.where(diagonal, b_c, 0.0), 1), 0)
    b_c += tl.where(diagonal, b_raise, 0.0)
    for j in range(K):
        b_u = tl.sum(tl.where(row[:, None] == j, b_c, 0.0), 0)
        b_pivot = tl.sum(tl.where(row == j, b_u, 0.0), 0)
        b_u = tl.where(row == j, -1.0, b_u)  # -u u^T / pivot then has what row and column j become
        b_rest = tl.where((row[:, None] == j) | (row[None, :] == j), 0.0, b_c)
        b_c = b_rest - b_u[:, None] * (b_u / b_pivot)[None, :]
    return -b_c


@triton.jit
def _times(b_matrix, b_x):
    """A symmetric matrix times a vector."""
    return tl.sum(b_matrix * b_x[:, None], 0)


@triton.jit
def forward_kernel(
    p_q, p_k, p_v, p_ridge, p_mask, p_o, p_lse, p_mean, p_x, T, S, H, window, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """o of one query, and what the backward keeps of it."""
    i_b, i_t, i_h, i_r = _query(T, H)
    first, end = _span(p_mask, i_t, T, S, window)
    b_first = _read_row(p_k, i_b * S * H + i_h, K, BK)[None, :]
    b_q = _read_row(p_q, i_r, K, BK)

    b_max, b_sum = -1.0e30, 0.0  # below every logit, and finite: nothing may be seen
    b_mean = tl.zeros([BK], tl.float32)
    for i_s in range(first, end, BS):
        b_k = _read(p_k, i_b, i_h, i_s, S, H, K, BS, BK) - b_first
        kept = _kept(p_mask, i_t, i_s + tl.arange(0, BS), T, S, window)
        b_l = tl.where(kept, _logits(b_q, b_k, scale), float("-inf"))
        b_most = tl.maximum(b_max, tl.max(b_l, 0))
        b_p, b_less = tl.exp2(b_l - b_most), tl.exp2(b_max - b_most)
        b_sum = b_sum * b_less + tl.sum(b_p, 0)
        b_mean = b_mean * b_less + tl.sum(b_p[:, None] * b_k, 0)
        b_max = b_most
    b_lse = tl.where(b_sum > 0, b_max + tl.log2(tl.where(b_sum > 0, b_sum, 1.0)), 0.0)
    b_mean = b_mean / tl.where(b_sum > 0, b_sum, 1.0)

    b_c = tl.zeros([BK, BK], tl.float32)
    for i_s in range(first, end, BS):
        b_k = _read(p_k, i_b, i_h, i_s, S, H, K, BS, BK) - b_first
        kept = _kept(p_mask, i_t, i_s + tl.arange(0, BS), T, S, window)
        b_p = tl.exp2(tl.where(kept, _logits(b_q, b_k, scale) - b_lse, float("-inf")))
        b_z = tl.sqrt(b_p)[:, None] * (b_k - b_mean[None, :])
        b_c = tl.dot(tl.trans(b_z), b_z, b_c, input_precision=PRECISION)
    b_x = _times(_inverse(b_c, tl.load(p_ridge + i_h), K, BK), b_mean + tl.sum(b_first, 0) - b_q)

    b_o = tl.zeros([BV], tl.float32)
    for i_s in range(first, end, BS):
        b_k = _read(p_k, i_b, i_h, i_s, S, H, K, BS, BK) - b_first
        b_v = _read(p_v, i_b, i_h, i_s, S, H, V, BS, BV)
        kept = _kept(p_mask, i_t, i_s + tl.arange(0, BS), T, S, window)
        b_p = tl.exp2(tl.where(kept, _logits(b_q, b_k, scale) - b_lse, float("-inf")))
        b_p *= 1 - tl.sum((b_k - b_mean[None, :]) * b_x[None, :], 1)
        b_o += tl.sum(b_p[:, None] * b_v, 0)
    _write_row(p_o, b_o, i_r, V, BV)
    _write_row(p_mean, b_mean, i_r, K, BK)
    _write_row(p_x, b_x, i_r, K, BK)
    tl.store(p_lse + i_r, b_lse)


@triton.jit
def query_kernel(
    p_q, p_k, p_v, p_ridge, p_mask, p_lse, p_mean, p_x, p_do, p_dq, p_adjoint, p_pull, p_slope, p_dridge,
    T, S, H, window, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """dq of one query, its part of the ridge's gradient, and what the keys need of it: the adjoint of its system, the
    gradient of its mean (`pull`), and the mean slope of its logits."""
    i_b, i_t, i_h, i_r = _query(T, H)
    first, end = _span(p_mask, i_t, T, S, window)
    b_first = _read_row(p_k, i_b * S * H + i_h, K, BK)[None, :]
    b_q, b_do = _read_row(p_q, i_r, K, BK), _read_row(p_do, i_r, V, BV)
    b_mean, b_x = _read_row(p_mean, i_r, K, BK), _read_row(p_x, i_r, K, BK)
    b_lse = tl.load(p_lse + i_r)

    b_c, b_right, b_total = tl.zeros([BK, BK], tl.float32), tl.zeros([BK], tl.float32), 0.0
    for i_s in range(first, end, BS):
        b_k = _read(p_k, i_b, i_h, i_s, S, H, K, BS, BK) - b_first
        b_v = _read(p_v, i_b, i_h, i_s, S, H, V, BS, BV)
        kept = _kept(p_mask, i_t, i_s + tl.arange(0, BS), T, S, window)
        b_p = tl.exp2(tl.where(kept, _logits(b_q, b_k, scale) - b_lse, float("-inf")))
        b_d = b_k - b_mean[None, :]
        b_z = tl.sqrt(b_p)[:, None] * b_d
        b_c = tl.dot(tl.trans(b_z), b_z, b_c, input_precision=PRECISION)
        b_a = -b_p * tl.sum(b_v * b_do[None, :], 1)
        b_total += tl.sum(b_a, 0)
        b_right += tl.sum(b_a[:, None] * b_d, 0)
    b_adjoint = _times(_inverse(b_c, tl.load(p_ridge + i_h), K, BK), b_right)
    b_pull = b_adjoint - b_total * b_x

    b_dq, b_slope = tl.zeros([BK], tl.float32), 0.0
    for i_s in range(first, end, BS):
        b_k = _read(p_k, i_b, i_h, i_s, S, H, K, BS, BK) - b_first
        b_v = _read(p_v, i_b, i_h, i_s, S, H, V, BS, BV)
        kept = _kept(p_mask, i_t, i_s + tl.arange(0, BS), T, S, window)
        b_p = tl.exp2(tl.where(kept, _logits(b_q, b_k, scale) - b_lse, float("-inf")))
        b_d = b_k - b_mean[None, :]
        b_along, b_across = tl.sum(b_d * b_x[None, :], 1), tl.sum(b_d * b_adjoint[None, :], 1)
        b_u = (1 - b_along) * tl.sum(b_v * b_do[None, :], 1) - b_across * b_along + tl.sum(b_d * b_pull[None, :], 1)
        b_slope += tl.sum(b_p * b_u, 0)
        b_dq += tl.sum((b_p * b_u)[:, None] * b_d, 0)
    _write_row(p_dq, scale * b_dq - b_adjoint, i_r, K, BK)
    _write_row(p_adjoint, b_adjoint, i_r, K, BK)
    _write_row(p_pull, b_pull, i_r, K, BK)
    tl.store(p_slope + i_r, b_slope)
    tl.store(p_dridge + i_r, -tl.sum(b_adjoint * b_x, 0))


@triton.jit
def _along(b_x, b_k, b_mean, PRECISION: tl.constexpr):
    """<k_s - m_t, x_t> of queries and keys, [BT, BS]."""
    return tl.dot(b_x, tl.trans(b_k), input_precision=PRECISION) - tl.sum(b_x * b_mean, 1)[:, None]


@triton.jit
def key_kernel(
    p_q, p_k, p_v, p_mask, p_lse, p_mean, p_x, p_do, p_adjoint, p_pull, p_slope, p_dk, p_dv, T, S, H, window, scale,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BS: tl.constexpr, BT: tl.constexpr,
    PRECISION: tl.constexpr, FINE: tl.constexpr,
):  # fmt: skip
    """dk and dv of a block of keys."""
    blocks = tl.cdiv(S, BS)
    i, i_s = (tl.program_id(0) // blocks).to(tl.int64), tl.program_id(0) % blocks * BS
    i_h, i_b = i % H, i // H
    b_first = _read_row(p_k, i_b * S * H + i_h, K, BK)[None, :]
    b_k = _read(p_k, i_b, i_h, i_s, S, H, K, BS, BK) - b_first
    b_v = _read(p_v, i_b, i_h, i_s, S, H, V, BS, BV)
    b_dk, b_dv = tl.zeros([BS, BK], tl.float32), tl.zeros([BS, BV], tl.float32)
    first, end = 0, T
    if p_mask is None:
        first = tl.maximum(0, i_s - (S - T))
        end = tl.minimum(T, i_s + BS - 1 - (S - T) + window)
    for i_t in range(first, end, BT):
        row = i_t + tl.arange(0, BT)
        at, exists = (i_b * T + row) * H + i_h, row < T
        b_q, b_do = _read(p_q, i_b, i_h, i_t, T, H, K, BT, BK), _read(p_do, i_b, i_h, i_t, T, H, V, BT, BV)
        b_lse, b_slope = tl.load(p_lse + at, mask=exists, other=0.0), tl.load(p_slope + at, mask=exists, other=0.0)
        kept = _kept(p_mask, row[:, None], i_s + tl.arange(0, BS)[None, :], T, S, window)
        b_p = tl.dot(b_q, tl.trans(b_k), input_precision=FINE) * (scale * LOG2_E)
        b_p = tl.exp2(tl.where(kept, b_p - b_lse[:, None], float("-inf")))
        b_mean, b_x = _read(p_mean, i_b, i_h, i_t, T, H, K, BT, BK), _read(p_x, i_b, i_h, i_t, T, H, K, BT, BK)
        b_c, b_g = _along(b_x, b_k, b_mean, FINE), tl.dot(b_do, tl.trans(b_v), input_precision=PRECISION)
        b_dv = tl.dot(tl.trans(b_p * (1 - b_c)), b_do, b_dv, input_precision=PRECISION)
        b_u = (1 - b_c) * b_g - b_slope[:, None]
        b_a = _read(p_adjoint, i_b, i_h, i_t, T, H, K, BT, BK)
        b_across = _along(b_a, b_k, b_mean, FINE)
        b_u -= b_across * b_c
        b_dk = tl.dot(tl.trans(-b_p * b_c), b_a, b_dk, input_precision=PRECISION)
        b_dk = tl.dot(tl.trans(-b_p * (b_g + b_across)), b_x, b_dk, input_precision=PRECISION)
        b_f = _read(p_pull, i_b, i_h, i_t, T, H, K, BT, BK)
        b_u += _along(b_f, b_k, b_mean, FINE)
        b_dk = tl.dot(tl.trans(b_p), b_f, b_dk, input_precision=PRECISION)
        b_dk = tl.dot(tl.trans(scale * b_p * b_u), b_q, b_dk, input_precision=PRECISION)
    _write(p_dk, b_dk, i_b, i_h, i_s, S, H, K, BS, BK)
    _write(p_dv, b_dv, i_b, i_h, i_s, S, H, V, BS, BV)


def _constants(dtype: torch.dtype, key: int, value: int) -> dict[str, Any]:
    """Constants of a launch. Beside 16 bits products are TF32, which rounds less than they do."""
    padded = {name: max(16, triton.next_power_of_2(width)) for name, width in (("BK", key), ("BV", value))}
    return {"K": key, "V": value, **padded, "BS": KEYS, "PRECISION": "ieee" if dtype == torch.float32 else "tf32"}


def _key_constants(dtype: torch.dtype) -> dict[str, Any]:
    """Those of `key_kernel` besides. Products with what a system gives, which may be large, are not rounded to TF32."""
    return {"BT": QUERIES, "FINE": "ieee" if dtype == torch.float32 else "tf32x3"}


def _key_warps(dtype: torch.dtype) -> int:
    return 8 if dtype == torch.float32 else 4


class _LocalLinear(torch.autograd.Function):
    """Keeps its arguments and for each query the sum of its weights, its mean and x; systems are solved again."""

    @staticmethod
    def forward(ctx, q, k, v, ridge, mask, scale, window):
        (batch, steps, heads, key), (sources, value) = q.shape, (k.shape[1], v.shape[-1])
        out = torch.empty(batch, steps, heads, value, dtype=q.dtype, device=q.device)
        lse = torch.empty(batch, steps, heads, dtype=torch.float32, device=q.device)
        mean, x = (torch.empty_like(q, dtype=torch.float32) for _ in range(2))
        forward_kernel[(batch * steps * heads,)](
            q, k, v, ridge, mask, out, lse, mean, x, steps, sources, heads, window, scale,
            **_constants(q.dtype, key, value), num_warps=4, num_stages=2,
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, ridge, mask, lse, mean, x)
        ctx.scale, ctx.window = scale, window
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dout):
        q, k, v, ridge, mask, lse, mean, x = ctx.saved_tensors
        (batch, steps, heads, key), (sources, value) = q.shape, (k.shape[1], v.shape[-1])
        dout, constants = dout.contiguous(), _constants(q.dtype, key, value)
        dq, dk, dv = (torch.empty_like(each) for each in (q, k, v))
        adjoint, pull, slope, dridge = (torch.empty_like(each) for each in (x, x, lse, lse))
        sizes = steps, sources, heads, ctx.window, ctx.scale
        query_kernel[(batch * steps * heads,)](
            q, k, v, ridge, mask, lse, mean, x, dout, dq, adjoint, pull, slope, dridge, *sizes,
            **constants, num_warps=4, num_stages=2,
        )  # fmt: skip
        key_kernel[(batch * heads * triton.cdiv(sources, KEYS),)](
            q, k, v, mask, lse, mean, x, dout, adjoint, pull, slope, dk, dv, *sizes,
            **constants, **_key_constants(q.dtype), num_warps=_key_warps(q.dtype), num_stages=1,
        )  # fmt: skip
        return dq, dk, dv, dridge.sum((0, 1)), None, None, None


def local_linear(
    q: Tensor, k: Tensor, v: Tensor, ridge: Tensor, scale: float, window: int | None, mask: Tensor | None
) -> Tensor:
    """[B, T, H, V] in the dtype of q; ridge [H]."""
    if q.dtype == torch.float64:
        raise ValueError('q has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    key, value = q.shape[-1], v.shape[-1]
    if key > WIDEST_KEY or value > WIDEST_VALUE:
        raise ValueError(
            f"K = {key}, V = {value}; the Triton kernels take up to {WIDEST_KEY} and {WIDEST_VALUE}, and"
            ' backend="chunked" any'
        )
    seen = None if mask is None else mask.contiguous().view(torch.uint8)
    tensors = (x.contiguous() for x in (q, k, v, ridge))
    sources = k.shape[1]
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out: Tensor = _LocalLinear.apply(  # type: ignore[no-untyped-call]
            *tensors, seen, float(scale), sources if window is None else min(window, sources)
        )
    return out


def _specialised(kernel: Any, width: int, value: int, dtype: torch.dtype, *, mask: bool = False) -> Specialisation:
    constants = _constants(dtype, width, value) | _key_constants(dtype) | ({} if mask else {"p_mask": None})
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    given = dict.fromkeys(("p_q", "p_k", "p_v", "p_o", "p_do", "p_dq", "p_dk", "p_dv"), own) | {"p_mask": "*u8"}
    given |= dict.fromkeys(("T", "S", "H", "window"), "i32") | {"scale": "fp32"}
    return Specialisation(
        kernel=kernel,
        types={name: given.get(name, "*fp32") for name in kernel.arg_names if name not in constants},
        constants={name: constants[name] for name in kernel.arg_names if name in constants},
        warps=_key_warps(dtype) if kernel is key_kernel else 4,
        stages=1 if kernel is key_kernel else 2,
    )


KERNELS = (forward_kernel, query_kernel, key_kernel)
SPECIALISATIONS = (
    *(_specialised(each, 64, 64, torch.bfloat16) for each in KERNELS),
    *(_specialised(each, 64, 128, torch.bfloat16, mask=True) for each in KERNELS),
    *(_specialised(each, 64, 64, torch.float32) for each in KERNELS),
)
