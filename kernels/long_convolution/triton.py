# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False
"""Long convolution as Triton kernels, forward and backward; see README.md.

    f [C, L]           filters
    x [C, B, S]        inputs by channel, P = S - T of them before the first output
    y [C, B, T]        outputs

Steps are cut into blocks of BT. A column is one block of one batch row, column n being block n div B of row n mod B:
pairs of blocks that lie as far apart share one Toeplitz tile, which multiplies the columns of many blocks and rows.

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
def _columns(p_x, i_c, step, n, columns, LENGTH, B):
    """Where a tile of [C, B, LENGTH] lies, and which of it exists; steps and columns broadcast against each other."""
    exists = (step >= 0) & (step < LENGTH) & (n < columns)
    return p_x + i_c * B * LENGTH + (n % B * LENGTH + step), exists


@triton.jit(do_not_specialize=["L", "P", "B", "low", "high"])
def toeplitz_kernel(
    p_f, p_x, p_y, INS, OUTS, L, P, B, low, high, BT: tl.constexpr, BN: tl.constexpr, REVERSE: tl.constexpr
):
    """y_t = sum_s f_(P + t - s) x_s over INS steps s for OUTS steps t, or with f_(P - t + s) if REVERSE.

    A program for BN columns of a channel. Blocks of s that matter lie from `low` to `high` before those of t.
    """
    columns = tl.cdiv(OUTS, BT) * B
    tiles = tl.cdiv(columns, BN)
    i_c, i_n = (tl.program_id(0) // tiles).to(tl.int64), tl.program_id(0) % tiles * BN
    if not REVERSE:
        i_n = (tiles - 1) * BN - i_n  # what sums most comes first
    n, row = i_n + tl.arange(0, BN), tl.arange(0, BT)
    block = n // B
    first = tl.maximum(low, i_n // B + 1 - tl.cdiv(INS, BT))
    last = tl.minimum(high, (tl.minimum(i_n + BN, columns) - 1) // B)
    b_y = tl.zeros([BT, BN], tl.float32)
    for apart in range(first, last + 1):
        between = apart * BT + row[:, None] - row[None, :]
        lag = P - between if REVERSE else P + between
        b_f = tl.load(p_f + i_c * L + lag, mask=(lag >= 0) & (lag < L), other=0.0)
        step = (block - apart)[None, :] * BT + row[:, None]
        p_c, exists = _columns(p_x, i_c, step, n[None, :], columns, INS, B)
        b_x = tl.load(p_c, mask=exists, other=0.0)
        b_y = tl.dot(b_f, b_x, b_y, input_precision="ieee")
    p_c, exists = _columns(p_y, i_c, block[None, :] * BT + row[:, None], n[None, :], columns, OUTS, B)
    tl.store(p_c, b_y.to(p_y.dtype.element_ty), mask=exists)


@triton.jit(do_not_specialize=["B", "low", "count"])
def filter_kernel(p_dy, p_x, p_parts, S, T, B, low, count, BT: tl.constexpr, BN: tl.constexpr):
    """dy x^T of blocks that lie low + i apart, summed along diagonals to parts [C, D, 2, BT]; a program for each i."""
    i_c, apart = (tl.program_id(0) // count).to(tl.int64), tl.program_id(0) % count + low
    first = tl.maximum(apart, 0)
    last = tl.minimum(tl.cdiv(T, BT), tl.cdiv(S, BT) + apart)
    row = tl.arange(0, BT)
    b_g = tl.zeros([BT, BT], tl.float32)
    for i_n in range(first * B, last * B, BN):
        n = i_n + tl.arange(0, BN)
        block = n // B
        p_c, exists = _columns(p_dy, i_c, block[None, :] * BT + row[:, None], n[None, :], last * B, T, B)
        b_dy = tl.load(p_c, mask=exists, other=0.0)
        p_c, exists = _columns(p_x, i_c, (block - apart)[:, None] * BT + row[None, :], n[:, None], last * B, S, B)
        b_x = tl.load(p_c, mask=exists, other=0.0)
        b_g = tl.dot(b_dy, b_x, b_g, input_precision="ieee")
    here, before = diagonal_sums(b_g, BT)
    p_sums = p_parts + tl.program_id(0).to(tl.int64) * (2 * BT) + row
    tl.store(p_sums, here)
    tl.store(p_sums + BT, before)


LARGEST = 2**31 - 2**14
"""The most steps of a channel, those of all batch rows together: offsets inside a channel are of 32 bits."""


class _Tiles(NamedTuple):
    """Steps of a block, columns of a tile at most; warps of a program, and the stages of loads ahead."""

    BT: int
    BN: int
    num_warps: int
    num_stages: int


TILES = {2: _Tiles(64, 128, 8, 2), 4: _Tiles(32, 64, 4, 2)}
"""By bytes of an element; products of float32 do not run on tensor cores."""
FEW = 16
"""Steps of a block where there are no more outputs."""


def _tiles(dtype: torch.dtype, steps: int, rows: int) -> _Tiles:
    """Tiles for T steps, and columns of `rows` steps of all batch rows."""
    most = TILES[dtype.itemsize]
    size = FEW if steps <= FEW else most.BT
    columns = triton.next_power_of_2(triton.cdiv(rows, size))
    return most._replace(BT=size, BN=max(16, min(most.BN, columns)))


def _outputs(x: Tensor, filters: Tensor, steps: int) -> Tensor:
    (channels, batch, sources), entries = x.shape, filters.shape[1]
    tiles = _tiles(x.dtype, steps, batch * steps)
    low, high = tile_diagonals(steps, sources, entries, tiles.BT)
    out = torch.empty(channels, batch, steps, dtype=x.dtype, device=x.device)
    programs = channels * triton.cdiv(triton.cdiv(steps, tiles.BT) * batch, tiles.BN)
    toeplitz_kernel[(programs,)](
        filters, x, out, sources, steps, entries, sources - steps, batch, low, high, REVERSE=False, **tiles._asdict()
    )
    return out


def _input_gradient(grad: Tensor, filters: Tensor, sources: int) -> Tensor:
    (channels, batch, steps), entries = grad.shape, filters.shape[1]
    tiles = _tiles(grad.dtype, steps, batch * sources)
    low, high = tile_diagonals(steps, sources, entries, tiles.BT)
    slopes = torch.empty(channels, batch, sources, dtype=grad.dtype, device=grad.device)
    programs = channels * triton.cdiv(triton.cdiv(sources, tiles.BT) * batch, tiles.BN)
    toeplitz_kernel[(programs,)](
        filters, grad, slopes, steps, sources, entries, sources - steps, batch, -high, -low,
        REVERSE=True, **tiles._asdict(),
    )  # fmt: skip
    return slopes


def _filter_gradient(grad: Tensor, x: Tensor, entries: int) -> Tensor:
    """[C, L], float32."""
    (channels, batch, steps), sources = grad.shape, x.shape[2]
    tiles = _tiles(grad.dtype, steps, batch * steps)
    low, high = tile_diagonals(steps, sources, entries, tiles.BT)
    count = high + 1 - low
    parts = torch.empty(channels, count, 2, tiles.BT, dtype=torch.float32, device=x.device)
    filter_kernel[(channels * count,)](grad, x, parts, sources, steps, batch, low, count, **tiles._asdict())
    return by_lag(parts, sources - steps + low * tiles.BT, entries)


class _LongConvolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, filters, steps):
        x, filters = x.contiguous(), filters.contiguous()
        ctx.save_for_backward(x, filters)
        return _outputs(x, filters, steps)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, filters = ctx.saved_tensors
        grad, (for_x, for_filters, _) = grad.contiguous(), ctx.needs_input_grad
        dx = _input_gradient(grad, filters, x.shape[2]) if for_x else None
        df = _filter_gradient(grad, x, filters.shape[1]).to(filters.dtype) if for_filters else None
        return dx, df, None


def long_convolution(x: Tensor, filter: Tensor, history: Tensor | None) -> Tensor:
    """y [B, T, C] in the dtype of x."""
    if x.dtype == torch.float64:
        raise ValueError('x has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    steps, length = x.shape[1], filter.shape[1]
    inputs = x
    if history is not None and length > 1:
        inputs = torch.cat([history[:, -(length - 1) :], x], 1)
    if inputs[..., 0].numel() > LARGEST:
        raise ValueError(
            f'B = {x.shape[0]} rows of {inputs.shape[1]} steps; backend="triton" takes up to {LARGEST} in all, '
            'fewer rows at a time, or backend="chunked" any'
        )
    with torch.cuda.device_of(x):  # type: ignore[no-untyped-call]
        out: Tensor = _LongConvolution.apply(  # type: ignore[no-untyped-call]
            inputs.permute(2, 0, 1), filter[:, : inputs.shape[1]], steps
        )
    return out.permute(1, 2, 0)


def _specialised(kernel: Any, dtype: torch.dtype, *, sizes: dict[str, int], **switches: bool) -> Specialisation:
    """A launch with some `sizes` known: 1 is a constant to Triton, and multiples of 16 let it load ahead."""
    tiles = _tiles(dtype, min(sizes.values(), default=4096), 1 << 20)
    constants = {"BT": tiles.BT, "BN": tiles.BN, **switches, **sizes}
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    types = {"p_parts": "*fp32"} | dict.fromkeys(("p_f", "p_x", "p_y", "p_dy"), own)
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, "i32") for name in kernel.arg_names if name not in constants},
        constants=constants,
        warps=tiles.num_warps,
        stages=tiles.num_stages,
    )


LOW, FULL = torch.bfloat16, torch.float32
SPECIALISATIONS = (
    *(
        _specialised(toeplitz_kernel, dtype, sizes=sizes, REVERSE=reverse)
        for dtype, sizes in ((LOW, {"INS": 4096, "OUTS": 4096}), (LOW, {}), (FULL, {"INS": 4096, "OUTS": 4096}))
        for reverse in (False, True)
    ),
    _specialised(toeplitz_kernel, LOW, sizes={"OUTS": 1}, REVERSE=False),
    _specialised(toeplitz_kernel, LOW, sizes={"INS": 1}, REVERSE=True),
    _specialised(filter_kernel, LOW, sizes={"S": 4096, "T": 4096}),
    _specialised(filter_kernel, LOW, sizes={"T": 1}),
    _specialised(filter_kernel, FULL, sizes={"S": 4096, "T": 4096}),
)
