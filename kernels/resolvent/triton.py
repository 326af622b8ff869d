# mypy: disallow-untyped-defs=False, disallow-incomplete-defs=False, disallow-untyped-calls=False
# mypy: disable-error-code="union-attr,index"
"""Resolvent and delta rule as Triton kernels, forward and backward; see README.md for the equations.

The chunkwise delta rule is that of Yang et al. 2024, arXiv:2406.06484. `triton_tiles` and `triton_chunks` have the
layouts and letters, `triton_forward` and `triton_backward` the kernels; launches are here.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation
from archloom.kernels.resolvent.triton_backward import adjoint_kernel, dstates_kernel, gradient_kernel
from archloom.kernels.resolvent.triton_forward import output_kernel, solve_kernel, states_kernel
from archloom.kernels.triton_chunks import C, decay_kernel, decay_sums

LARGEST = 256
"""The most key channels, and the most value channels."""


class _Tiles(NamedTuple):
    """The most columns of K and of V that a program holds at once, its warps, and its stages of loads ahead."""

    key: int
    value: int
    warps: int
    stages: int


_SMALL = {
    ("chunk", 2): (_Tiles(64, 64, 4, 1),),
    ("chunk", 4): (_Tiles(32, 32, 8, 1),),
    ("channel chunk", 2): (_Tiles(32, 64, 4, 1),),
    ("channel chunk", 4): (_Tiles(32, 32, 8, 1),),
    ("walk", 2): (_Tiles(128, 64, 4, 1), _Tiles(128, 32, 4, 1)),
    ("walk", 4): (_Tiles(128, 16, 8, 1),),
    ("wide walk", 2): (_Tiles(256, 32, 4, 1),),
    ("wide walk", 4): (_Tiles(256, 16, 8, 1),),
    ("output", 2): (_Tiles(64, 128, 4, 2),),
    ("output", 4): (_Tiles(32, 64, 4, 1),),
    ("gradient", 2): (_Tiles(32, 64, 4, 1),),
    ("gradient", 4): (_Tiles(32, 32, 8, 1),),
}
_LARGE = _SMALL | {("walk", 2): (_Tiles(128, 64, 4, 2), _Tiles(128, 32, 4, 2))}
TILES = {8: _SMALL, 9: _LARGE, 10: _LARGE}
"""Tiles by the first number of the compute capability (8 for all others), kernel and bytes of an element.

Of several the first is taken that makes PROGRAMS programs, or else the last.
"""
PROGRAMS = 96


def _tiles(kernel: str, size: int, width: int, columns: int, value: int, heads: int, major: int) -> _Tiles:
    """Tiles of a kernel for elements of `size` bytes, `width` key and `value` value channels, and B * H = `heads`."""
    if kernel == "chunk" and columns > 1:
        kernel = "channel chunk"
    if kernel == "walk" and width > 128:
        kernel = "wide walk"
    rows = TILES.get(major, TILES[8])[kernel, size]
    row = next((each for each in rows if heads * triton.cdiv(value, each.value) >= PROGRAMS), rows[-1])
    width, value = (max(16, triton.next_power_of_2(each)) for each in (width, value))
    return row._replace(key=min(width, row.key), value=min(value, row.value))


def _launch(kernel, name: str, arguments: Sequence[object], k: Tensor, value: int, columns: int) -> None:
    """Run a kernel: by chunk of a head, or for tiles of V of each head (walk) or of each chunk of a head (output)."""
    batch, steps, heads, width = k.shape
    major = torch.cuda.get_device_capability(k.device)[0] if k.is_cuda else 9
    tiles = _tiles(name, k.element_size(), width, columns, value, batch * heads, major)
    programs = batch * heads * (1 if name == "walk" else triton.cdiv(steps, C.value))
    if name in ("walk", "output"):
        programs *= triton.cdiv(value, tiles.value)
    constants = {"K": width, "V": value, "W": columns, "BK": tiles.key, "BV": tiles.value}
    kernel[(programs,)](*arguments, **constants, num_warps=tiles.warps, num_stages=tiles.stages)


def _room(*sizes: int, like: Tensor, single: bool = False) -> Tensor:
    return torch.empty(*sizes, dtype=torch.float32 if single else like.dtype, device=like.device)


class _Solve(torch.autograd.Function):
    """Keeps q, b, k, G, z and the states before each chunk; what the chunks solve is made again in the backward."""

    @staticmethod
    def forward(ctx, q, b, k, x, log_decay, initial_state, return_state, scale):
        (batch, steps, heads, width), value = k.shape, x.shape[-1]
        columns, chunks = 0 if log_decay is None else log_decay[0, 0, 0].numel(), triton.cdiv(steps, C.value)
        sums = None if log_decay is None else decay_sums(log_decay)
        scores = None if q is None else _room(batch, steps, heads, C.value, like=k)
        response, z, kept = torch.empty_like(k), torch.empty_like(x), torch.empty_like(k) if columns > 1 else k
        sizes = {"k": k, "value": value, "columns": columns}
        _launch(solve_kernel, "chunk", (q, b, k, x, sums, scores, response, z, kept, steps, heads), **sizes)
        states = _room(batch, heads, chunks, width, value, like=k, single=k.dtype != torch.bfloat16)
        last = _room(batch, heads, width, value, like=k, single=True) if return_state else None
        walked = (response, z, kept, sums, initial_state, states, last, steps, heads)
        _launch(states_kernel, "walk", walked, **sizes)
        out = z if q is None else torch.empty_like(x)
        if q is not None:
            _launch(output_kernel, "output", (q, scores, z, sums, states, out, steps, heads, scale), **sizes)
        ctx.save_for_backward(q, b, k, sums, z, states)
        ctx.columns, ctx.scale, ctx.started = columns, scale, initial_state is not None
        ctx.decay_dtype = None if log_decay is None else log_decay.dtype
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        q, b, k, sums, z, states = ctx.saved_tensors
        (batch, steps, heads, width), value, scale = k.shape, z.shape[-1], ctx.scale
        dout, dlast = dout.contiguous(), None if dlast is None else dlast.contiguous()
        sizes = {"k": k, "value": value, "columns": ctx.columns}
        r, j = _room(batch, steps, heads, C.value, like=k), torch.empty_like(k)
        query, writer = (each if each is None or ctx.columns < 2 else torch.empty_like(each) for each in (q, b))
        _launch(adjoint_kernel, "chunk", (q, b, k, sums, r, j, query, writer, steps, heads, scale), **sizes)
        dx, dstates = torch.empty_like(z), torch.empty_like(states)
        dstart = _room(batch, heads, width, value, like=k, single=True) if ctx.started else None
        walked = (query, writer, sums, r, j, dout, dlast, dx, dstates, dstart, steps, heads, scale)
        _launch(dstates_kernel, "walk", walked, **sizes)
        dq, db, dk = (None if each is None else torch.empty_like(each) for each in (q, b, k))
        ddecay = None if sums is None else torch.empty_like(sums, dtype=ctx.decay_dtype)
        given = (q, b, k, sums, z, states, dout, dx, dstates, dq, db, dk, ddecay, steps, heads, scale)
        _launch(gradient_kernel, "gradient", given, **sizes)
        return dq, db, dk, dx, ddecay, dstart, None, None


def delta_rule(
    q: Tensor | None,
    b: Tensor,
    k: Tensor,
    x: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """scale S_t^T q_t, or z without q, [B, T, H, V] like x, and the last state [B, H, K, V] if it is asked for."""
    if k.dtype == torch.float64:
        raise ValueError('k has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    for name, tensor in (("k", k), ("x", x)):
        if tensor.shape[-1] > LARGEST:
            raise ValueError(
                f'{name} has {tensor.shape[-1]} channels; backend="triton" takes up to {LARGEST}, backend="chunked" any'
            )
    tensors = (None if each is None else each.contiguous() for each in (q, b, k, x, log_decay, initial_state))
    with torch.cuda.device_of(k):
        out: tuple[Tensor, Tensor | None] = _Solve.apply(*tensors, return_state, scale)
    return out


def _specialised(kernel, name: str, width: int, columns: int, element: str, absent: tuple[str, ...]) -> Specialisation:
    """A launch on a Hopper GPU with K = V = width and many heads, with None for the arguments in `absent`."""
    tiles = _tiles(name, 4 if element == "fp32" else 2, width, columns, width, 1024, 9)
    types = {each: element for each in kernel.arg_names if each.startswith("p_")}
    types |= dict.fromkeys(("p_g", "p_start", "p_last", "p_dlast", "p_dstart", "p_dg"), "fp32")
    types = {each: f"*{kind}" for each, kind in types.items()} | {"T": "i32", "H": "i32", "scale": "fp32"}
    constants = {"K": width, "V": width, "W": columns, "BK": tiles.key, "BV": tiles.value} | dict.fromkeys(absent)
    return Specialisation(
        kernel=kernel,
        types={each: types[each] for each in kernel.arg_names if each in types and each not in constants},
        constants={each: constants[each] for each in kernel.arg_names if each in constants},
        warps=tiles.warps,
        stages=tiles.stages,
    )


_KERNELS = {
    solve_kernel: "chunk",
    states_kernel: "walk",
    output_kernel: "output",
    adjoint_kernel: "chunk",
    dstates_kernel: "walk",
    gradient_kernel: "gradient",
}
_ALONE = ("p_q", "p_a", "p_qstart", "p_dq", "p_start", "p_last", "p_dlast", "p_dstart")
"""What the resolvent lacks, without states given or asked for."""
SPECIALISATIONS = (
    Specialisation(
        kernel=decay_kernel,
        types={"p_log_decay": "*bf16", "p_g": "*fp32", "T": "i32", "WIDTH": "i32"},
        constants={"BW": 64},
    ),
    *(
        _specialised(kernel, name, width, columns, "bf16", () if columns else ("p_g", "p_dg"))
        for width, columns in ((64, 0), (128, 1), (64, 64), (128, 128))
        for kernel, name in _KERNELS.items()
    ),
    *(
        _specialised(kernel, name, 64, 1, "bf16", _ALONE)
        for kernel, name in _KERNELS.items()
        if kernel is not output_kernel
    ),
    _specialised(states_kernel, "walk", 64, 1, "fp32", ()),
    _specialised(gradient_kernel, "gradient", 64, 64, "fp32", ()),
)
