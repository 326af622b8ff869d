# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Kernelised attention with Toeplitz weights as Triton kernels, forward and backward; see README.md.

    q, o [B, T, H, ..], k, v [B, S, H, ..]   the T queries are the last of S positions, P = S - T
    c [H, L]                                 weights by lag, float32
    z [B, T, H]                              the sum that normalises, float32

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index. Sums are float32, and in the same order every time.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation
from archloom.kernels.triton_diagonals import by_lag, diagonal_sums, tile_diagonals


@triton.jit
def _rows(p_x, i_b, i_h, row, STEPS, H, WIDTH: tl.constexpr, BW: tl.constexpr):
    """Where rows of a head of [B, STEPS, H, WIDTH] lie, and which exist."""
    column = tl.arange(0, BW)
    at = ((i_b * STEPS + row) * H + i_h)[:, None] * WIDTH + column[None, :]
    return p_x + at, (row < STEPS)[:, None] & (column < WIDTH)[None, :]


@triton.jit
def _read(p_x, i_b, i_h, row, STEPS, H, WIDTH: tl.constexpr, BW: tl.constexpr):
    p_tile, exists = _rows(p_x, i_b, i_h, row, STEPS, H, WIDTH, BW)
    return tl.load(p_tile, mask=exists, other=0.0)


@triton.jit
def _weights(p_c, i_h, lag, L):
    """c at lags, zero where there are none."""
    return tl.load(p_c + i_h * L + lag, mask=(lag >= 0) & (lag < L), other=0.0)


@triton.jit(do_not_specialize=["P", "L"])
def sum_kernel(
    p_x, p_y, p_w, p_c, p_add, p_z, p_o, ROWS, INNER, P, L, H,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr,
    REVERSE: tl.constexpr,
):  # fmt: skip
    """o_r = sum over i of c (<x_r, y_i> + add) w_i, and z_r, that sum with 1 for w; a program for BR rows of a head.

    c is that of lag P + r - i and `add` is by r; or of P + i - r and by i if REVERSE.
    """
    blocks = tl.cdiv(ROWS, BR)
    i = tl.program_id(0).to(tl.int64)
    i_b, i_h, i_r = i // blocks // H, i // blocks % H, (i % blocks * BR).to(tl.int32)
    if REVERSE:
        low, high = tl.maximum(i_r - P, 0) // BI * BI, tl.minimum(INNER, L - P + i_r + BR - 1)
    else:
        i_r = (blocks - 1) * BR - i_r  # what sums most comes first
        low, high = tl.maximum(P + i_r - L + 1, 0) // BI * BI, tl.minimum(INNER, P + i_r + BR)
    row = i_r + tl.arange(0, BR)
    b_x = _read(p_x, i_b, i_h, row, ROWS, H, K, BK)
    b_o, b_z, b_add = tl.zeros([BR, BV], tl.float32), tl.zeros([BR], tl.float32), tl.zeros([BR], tl.float32)
    if p_add is not None and not REVERSE:
        b_add = tl.load(p_add + (i_b * ROWS + row) * H + i_h, mask=row < ROWS, other=0.0)
    for i_i in range(low, high, BI):
        at = i_i + tl.arange(0, BI)
        b_y = _read(p_y, i_b, i_h, at, INNER, H, K, BK)
        b_w = _read(p_w, i_b, i_h, at, INNER, H, V, BV)
        lag = P + at[None, :] - row[:, None] if REVERSE else P + row[:, None] - at[None, :]
        b_s = tl.dot(b_x, tl.trans(b_y), input_precision="ieee")
        if p_add is not None:
            if REVERSE:
                b_s += tl.load(p_add + (i_b * INNER + at) * H + i_h, mask=at < INNER, other=0.0)[None, :]
            else:
                b_s += b_add[:, None]
        b_s *= _weights(p_c, i_h, lag, L)
        if p_z is not None:
            b_z += tl.sum(b_s, 1)
        b_o = tl.dot(b_s.to(b_w.dtype), b_w, b_o, input_precision="ieee")
    p_tile, exists = _rows(p_o, i_b, i_h, row, ROWS, H, V, BV)
    tl.store(p_tile, b_o.to(p_o.dtype.element_ty), mask=exists)
    if p_z is not None:
        tl.store(p_z + (i_b * ROWS + row) * H + i_h, b_z, mask=row < ROWS)


@triton.jit(do_not_specialize=["P", "low", "count"])
def lags_kernel(
    p_q, p_k, p_v, p_do, p_dz, p_parts, T, S, P, H, low, count,
    K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, BR: tl.constexpr,
):  # fmt: skip
    """<q_t, k_s> (<do_t, v_s> + dz_t) of blocks that lie low + i apart, summed along diagonals; a program for each i.

    Parts [B, H, D, 2, BR], of which `kernels.diagonals` makes sums by lag.
    """
    i = tl.program_id(0).to(tl.int64)
    i_b, i_h, apart = i // count // H, i // count % H, (i % count).to(tl.int32) + low
    cell = tl.arange(0, BR)
    b_g = tl.zeros([BR, BR], tl.float32)
    for block in range(tl.maximum(apart, 0), tl.minimum(tl.cdiv(T, BR), tl.cdiv(S, BR) + apart)):
        t, s = block * BR + cell, (block - apart) * BR + cell
        b_q, b_do = _read(p_q, i_b, i_h, t, T, H, K, BK), _read(p_do, i_b, i_h, t, T, H, V, BV)
        b_k, b_v = _read(p_k, i_b, i_h, s, S, H, K, BK), _read(p_v, i_b, i_h, s, S, H, V, BV)
        b_d = tl.dot(b_do, tl.trans(b_v), input_precision="ieee")
        if p_dz is not None:
            b_d += tl.load(p_dz + (i_b * T + t) * H + i_h, mask=t < T, other=0.0)[:, None]
        b_g += tl.dot(b_q, tl.trans(b_k), input_precision="ieee") * b_d
    here, before = diagonal_sums(b_g, BR)
    p_sums = p_parts + i * (2 * BR) + cell
    tl.store(p_sums, here)
    tl.store(p_sums + BR, before)


class _Tiles(NamedTuple):
    """Rows of a program, and those that it sums over at a time; its warps, and the stages of loads ahead."""

    BR: int
    BI: int
    num_warps: int
    num_stages: int


WIDEST = 256
TILES = {
    (2, 64): _Tiles(64, 64, 4, 2),
    (2, 128): _Tiles(64, 64, 8, 2),
    (2, 256): _Tiles(64, 32, 8, 2),
    (4, 64): _Tiles(32, 32, 8, 1),
    (4, 128): _Tiles(32, 32, 8, 1),
    (4, 256): _Tiles(32, 16, 8, 1),
}
"""By bytes of an element and the wider of K and V."""
LAGS = {(2, 64): 64, (2, 128): 64, (2, 256): 32, (4, 64): 32, (4, 128): 32, (4, 256): 16}
"""Rows and columns of the tiles that are summed along diagonals."""


def _padded(width: int) -> int:
    """What tl.dot takes: a power of two of at least 16."""
    return max(16, 1 << (width - 1).bit_length())


def _constants(key: int, value: int) -> dict[str, int]:
    return {"K": key, "V": value, "BK": _padded(key), "BV": _padded(value)}


def _kind(dtype: torch.dtype, key: int, value: int) -> tuple[int, int]:
    return dtype.itemsize, max(64, _padded(key), _padded(value))


def _sum(
    x: Tensor, y: Tensor, w: Tensor, taps: Tensor, add: Tensor | None, *,
    dtype: torch.dtype, reverse: bool = False, total: Tensor | None = None,
) -> Tensor:  # fmt: skip
    (batch, rows, heads, key), (inner, value) = x.shape, (w.shape[1], w.shape[3])
    out = torch.empty(batch, rows, heads, value, dtype=dtype, device=x.device)
    tiles, past = TILES[_kind(x.dtype, key, value)], abs(inner - rows)
    sum_kernel[(batch * heads * triton.cdiv(rows, tiles.BR),)](
        x, y, w, taps, add, total, out, rows, inner, past, taps.shape[1], heads, **_constants(key, value),
        REVERSE=reverse, **tiles._asdict(),
    )  # fmt: skip
    return out


def _lags(q: Tensor, k: Tensor, v: Tensor, grad: Tensor, add: Tensor | None, entries: int) -> Tensor:
    """[H, L], float32."""
    (batch, steps, heads, key), (sources, value) = q.shape, (v.shape[1], v.shape[3])
    kind = _kind(q.dtype, key, value)
    size = LAGS[kind]
    low, high = tile_diagonals(steps, sources, entries, size)
    count = high + 1 - low
    parts = torch.empty(batch, heads, count, 2, size, dtype=torch.float32, device=q.device)
    lags_kernel[(batch * heads * count,)](
        q, k, v, grad, add, parts, steps, sources, sources - steps, heads, low, count, **_constants(key, value),
        BR=size, num_warps=8, num_stages=1,
    )  # fmt: skip
    return by_lag(parts.sum(0), sources - steps + low * size, entries)


class _FeatureToeplitz(torch.autograd.Function):
    """Output and, if `normalise`, z beside it; keeps its arguments only."""

    @staticmethod
    def forward(ctx, q, k, v, taps, normalise):
        q, k, v = (x.contiguous() for x in (q, k, v))
        weights, total = taps.float().contiguous(), None
        if normalise:
            total = torch.empty(q.shape[:3], dtype=torch.float32, device=q.device)
        out = _sum(q, k, v, weights, None, dtype=torch.float32 if normalise else q.dtype, total=total)
        ctx.save_for_backward(q, k, v, weights)
        ctx.dtype = taps.dtype
        return out, total

    @staticmethod
    @once_differentiable
    def backward(ctx, grad, add):
        q, k, v, taps = ctx.saved_tensors
        grad = grad.to(q.dtype).contiguous()
        add = None if add is None else add.contiguous()
        wanted, dq, dk, dv, dtaps = ctx.needs_input_grad, None, None, None, None
        if wanted[0]:
            dq = _sum(grad, v, k, taps, add, dtype=q.dtype)
        if wanted[1]:
            dk = _sum(v, grad, q, taps, add, dtype=q.dtype, reverse=True)
        if wanted[2]:
            dv = _sum(k, q, grad, taps, None, dtype=q.dtype, reverse=True)
        if wanted[3]:
            dtaps = _lags(q, k, v, grad, add, taps.shape[1]).to(ctx.dtype)
        return dq, dk, dv, dtaps, None


def feature_toeplitz(q: Tensor, k: Tensor, v: Tensor, taps: Tensor, normalise: bool) -> Tensor:
    """[B, T, H, V] in the dtype of q; if `normalise`, [B, T, H, V+1] in float32, the last column that of v = 1."""
    if q.dtype == torch.float64:
        raise ValueError('q has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    if max(q.shape[3], v.shape[3]) > WIDEST:
        raise ValueError(
            f'K = {q.shape[3]}, V = {v.shape[3]}; backend="triton" takes up to {WIDEST}, backend="chunked" any'
        )
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out, total = _FeatureToeplitz.apply(  # type: ignore[no-untyped-call]
            q, k, v, taps[:, : k.shape[1]], normalise
        )
    whole: Tensor = out if total is None else torch.cat([out, total.unsqueeze(-1)], -1)
    return whole


def _specialised(
    kernel: Any, dtype: torch.dtype, width: int, *, normalised: bool = False, sizes: dict[str, int], **switches: bool
) -> Specialisation:
    """A launch with K = V = width and some `sizes` known: to Triton 1 is a constant."""
    kind = _kind(dtype, width, width)
    tiles = TILES[kind]._asdict() if kernel is sum_kernel else {"BR": LAGS[kind], "num_warps": 8, "num_stages": 1}
    constants = _constants(width, width) | tiles | sizes | switches
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = dict.fromkeys(("p_c", "p_z", "p_add", "p_dz", "p_parts"), "*fp32")
    absent = () if normalised else ("p_z", "p_add", "p_dz")
    names = [name for name in kernel.arg_names if name not in constants and name not in absent]
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, own if name[:2] == "p_" else "i32") for name in names},
        constants={name: constants.get(name) for name in kernel.arg_names if name not in names},
        warps=tiles["num_warps"],
        stages=tiles["num_stages"],
    )


LOW, FULL = torch.bfloat16, torch.float32
SPECIALISATIONS = (
    *(
        _specialised(sum_kernel, dtype, width, normalised=True, sizes={}, REVERSE=reverse)
        for dtype, width in ((LOW, 64), (LOW, 128), (LOW, 256), (FULL, 64), (FULL, 256))
        for reverse in (False, True)
    ),
    _specialised(sum_kernel, LOW, 64, sizes={"ROWS": 1, "H": 1}, REVERSE=False),
    _specialised(sum_kernel, LOW, 64, sizes={"INNER": 1}, REVERSE=True),
    *(
        _specialised(lags_kernel, dtype, width, normalised=True, sizes={})
        for dtype, width in ((LOW, 128), (LOW, 256), (FULL, 64), (FULL, 256))
    ),
    _specialised(lags_kernel, LOW, 64, sizes={"T": 1, "H": 1}),
)
