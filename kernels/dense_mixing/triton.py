# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Mixing by a learned matrix as Triton kernels, forward and backward; see README.md.

    M [H, T, S]        rows of the matrix, those of the last T of S positions
    x [B, R, H, V]     R steps of a head as a matrix [R, N], N = B V

In kernels `p_` is a pointer, `b_` a block of values, `i_` an index. A tile lies either way round: t and s are steps
and positions that broadcast against each other. Sums are float32, and in the same order every time.
"""

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation


@triton.jit
def _weights(p_m, i_h, t, s, T, S, CAUSAL: tl.constexpr):
    """Where a tile of M lies, and which of it exists."""
    exists = (t < T) & (s < S)
    if CAUSAL:
        exists = exists & (s <= t + (S - T))
    return p_m + (i_h * T + t) * S + s, exists


@triton.jit
def _columns(p_x, i_h, row, n, R, N, H, V: tl.constexpr):
    """Where a tile of a head of x lies, and which of it exists."""
    return p_x + ((n // V * R + row) * H + i_h) * V + n % V, (row < R) & (n < N)


@triton.jit
def product_kernel(
    p_m, p_x, p_o, T, S, N, H,
    V: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr, BN: tl.constexpr,
    CAUSAL: tl.constexpr, TRANSPOSED: tl.constexpr,
):  # fmt: skip
    """M x of T steps from S, or M^T x of S steps from T if TRANSPOSED; a program for BR steps and BN columns of a head.

    The steps that read most come first.
    """
    tiles = tl.cdiv(N, BN)
    rows, inner = (S, T) if TRANSPOSED else (T, S)
    blocks = tl.cdiv(rows, BR)
    i = tl.program_id(0).to(tl.int64)
    i_h, i_r, i_n = i // (tiles * blocks), i // tiles % blocks * BR, i % tiles * BN
    low, high = i_n * 0, i_n * 0 + inner
    if CAUSAL:
        if TRANSPOSED:
            low = tl.maximum(i_r - (S - T), 0) // BI * BI
        else:
            i_r = (blocks - 1) * BR - i_r
            high = tl.minimum(i_r + BR + (S - T), S)
    row, n = i_r + tl.arange(0, BR), (i_n + tl.arange(0, BN))[None, :]
    b_o = tl.zeros([BR, BN], tl.float32)
    for i_i in range(low, high, BI):
        at = i_i + tl.arange(0, BI)
        t, s = (at[None, :], row[:, None]) if TRANSPOSED else (row[:, None], at[None, :])
        p_w, shown = _weights(p_m, i_h, t, s, T, S, CAUSAL)
        p_c, exists = _columns(p_x, i_h, at[:, None], n, inner, N, H, V)
        b_w, b_x = tl.load(p_w, mask=shown, other=0.0), tl.load(p_c, mask=exists, other=0.0)
        b_o = tl.dot(b_w, b_x, b_o, input_precision="ieee")
    p_c, exists = _columns(p_o, i_h, row[:, None], n, rows, N, H, V)
    tl.store(p_c, b_o.to(p_o.dtype.element_ty), mask=exists)


@triton.jit
def matrix_kernel(
    p_do, p_x, p_dm, T, S, N, H,
    V: tl.constexpr, BR: tl.constexpr, BI: tl.constexpr, BN: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    """do x^T, the gradient of M; a program for BR steps and BN positions, zeros where nothing is seen."""
    tiles, blocks = tl.cdiv(S, BN), tl.cdiv(T, BR)
    i = tl.program_id(0).to(tl.int64)
    i_h, i_t, i_s = i // (tiles * blocks), i // tiles % blocks * BR, i % tiles * BN
    high = i_t * 0 + N
    if CAUSAL:
        high = tl.where(i_s < i_t + BR + (S - T), high, 0)
    t, s = i_t + tl.arange(0, BR), i_s + tl.arange(0, BN)
    b_dm = tl.zeros([BR, BN], tl.float32)
    for i_n in range(0, high, BI):
        n = i_n + tl.arange(0, BI)
        p_c, exists = _columns(p_do, i_h, t[:, None], n[None, :], T, N, H, V)
        b_do = tl.load(p_c, mask=exists, other=0.0)
        p_c, exists = _columns(p_x, i_h, s[None, :], n[:, None], S, N, H, V)
        b_x = tl.load(p_c, mask=exists, other=0.0)
        b_dm = tl.dot(b_do, b_x, b_dm, input_precision="ieee")
    p_w, shown = _weights(p_dm, i_h, t[:, None], s[None, :], T, S, CAUSAL)
    exists = (t < T)[:, None] & (s < S)[None, :]
    tl.store(p_w, tl.where(shown, b_dm, 0.0).to(p_dm.dtype.element_ty), mask=exists)


class _Tiles(NamedTuple):
    """Rows, columns and terms of a tile of products, at most; its warps, and the stages of loads ahead."""

    BR: int
    BN: int
    BI: int
    num_warps: int
    num_stages: int


TILES = {2: _Tiles(128, 128, 64, 8, 3), 4: _Tiles(64, 64, 32, 8, 2)}
"""By bytes of an element; products of float32 do not run on tensor cores."""


def _tiles(dtype: torch.dtype, rows: int, columns: int) -> _Tiles:
    """Tiles of a product with `rows` by `columns` results."""
    most = TILES[dtype.itemsize]
    fits = [max(16, min(size, triton.next_power_of_2(each))) for size, each in zip(most, (rows, columns), strict=False)]
    return most._replace(BR=fits[0], BN=fits[1])


def _product(x: Tensor, matrix: Tensor, causal: bool, *, transposed: bool = False) -> Tensor:
    batch, _, heads, width = x.shape
    steps, sources = matrix.shape[1:]
    rows, columns = sources if transposed else steps, batch * width
    out = torch.empty(batch, rows, heads, width, dtype=x.dtype, device=x.device)
    tiles = _tiles(x.dtype, rows, columns)
    programs = heads * triton.cdiv(rows, tiles.BR) * triton.cdiv(columns, tiles.BN)
    product_kernel[(programs,)](
        matrix, x, out, steps, sources, columns, heads, width,
        CAUSAL=causal, TRANSPOSED=transposed, **tiles._asdict(),
    )  # fmt: skip
    return out


def _matrix_gradient(grad: Tensor, v: Tensor, matrix: Tensor, causal: bool, dtype: torch.dtype) -> Tensor:
    slopes = torch.empty_like(matrix, dtype=dtype)
    heads, steps, sources = matrix.shape
    tiles = _tiles(v.dtype, steps, sources)
    programs = heads * triton.cdiv(steps, tiles.BR) * triton.cdiv(sources, tiles.BN)
    matrix_kernel[(programs,)](
        grad, v, slopes, steps, sources, v.shape[0] * v.shape[3], heads, v.shape[3], CAUSAL=causal, **tiles._asdict()
    )
    return slopes


class _DenseMixing(torch.autograd.Function):
    """Keeps v and the matrix, rounded to the type of v."""

    @staticmethod
    def forward(ctx, v, matrix, causal):
        v, rounded = v.contiguous(), matrix.to(v.dtype).contiguous()
        ctx.save_for_backward(v, rounded)
        ctx.causal, ctx.dtype = causal, matrix.dtype
        return _product(v, rounded, causal)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        v, matrix = ctx.saved_tensors
        grad, (for_v, for_matrix, _) = grad.contiguous(), ctx.needs_input_grad
        dv = _product(grad, matrix, ctx.causal, transposed=True) if for_v else None
        dm = _matrix_gradient(grad, v, matrix, ctx.causal, ctx.dtype) if for_matrix else None
        return dv, dm, None


def dense_mixing(v: Tensor, matrix: Tensor, causal: bool) -> Tensor:
    """[B, T, H, V] in the dtype of v; matrix [H, T, S], its rows those of the last T of S positions."""
    if v.dtype == torch.float64:
        raise ValueError('v has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    with torch.cuda.device_of(v):  # type: ignore[no-untyped-call]
        out: Tensor = _DenseMixing.apply(v, matrix, causal)  # type: ignore[no-untyped-call]
    return out


def _specialised(
    kernel: Any, dtype: torch.dtype, *, width: int = 64, slopes: str = "", sizes: dict[str, int], **switches: bool
) -> Specialisation:
    """A launch with some `sizes` known: 1 is a constant to Triton, and multiples of 16 let it load ahead."""
    tiles = _tiles(dtype, sizes.get("T", 4096), 4096)
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    constants = {"V": width, "BR": tiles.BR, "BI": tiles.BI, "BN": tiles.BN, **switches, **sizes}
    names = [name for name in kernel.arg_names if name not in constants]
    return Specialisation(
        kernel=kernel,
        types={name: (slopes or own) if name == "p_dm" else own if name[:2] == "p_" else "i32" for name in names},
        constants=constants,
        warps=tiles.num_warps,
        stages=tiles.num_stages,
    )


LOW, FULL = torch.bfloat16, torch.float32
EVEN = {"T": 4096, "S": 4096, "N": 4096, "H": 16}
SPECIALISATIONS = (
    *(
        _specialised(product_kernel, dtype, sizes=sizes, CAUSAL=True, TRANSPOSED=transposed)
        for dtype, sizes in ((LOW, EVEN), (LOW, {}), (LOW, {"T": 1}), (FULL, EVEN))
        for transposed in (False, True)
    ),
    _specialised(product_kernel, LOW, width=80, sizes={"T": 1, "S": 1, "H": 1}, CAUSAL=False, TRANSPOSED=False),
    _specialised(matrix_kernel, LOW, sizes=EVEN, slopes="*fp32", CAUSAL=True),
    _specialised(matrix_kernel, LOW, width=80, sizes={"T": 1}, CAUSAL=False),
    _specialised(matrix_kernel, FULL, sizes=EVEN, CAUSAL=True),
)
