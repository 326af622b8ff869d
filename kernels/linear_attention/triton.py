# mypy: disallow-incomplete-defs=False
"""Linear attention as Triton kernels, forward and backward; see README.md for the equations.

`triton_chunks` has the layouts and letters, `triton_forward` and `triton_backward` the kernels; launches are here.
"""

from functools import cache
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation
from archloom.kernels.linear_attention.triton_backward import both_states_kernel, gradient_kernel
from archloom.kernels.linear_attention.triton_forward import output_kernel, states_kernel
from archloom.kernels.triton_chunks import C, decay_kernel, decay_sums


class _Tiles(NamedTuple):
    """Key and value columns of a program, at most; its warps, and the stages of loads ahead."""

    BK: int
    BV: int
    num_warps: int
    num_stages: int


TILES = {
    80: {
        "walk": (_Tiles(64, 64, 4, 3), _Tiles(64, 64, 4, 3)),
        "output": (_Tiles(64, 64, 4, 1), _Tiles(64, 128, 8, 1)),
        "output by channel": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 8, 1)),
        "gradient": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 8, 1)),
        "gradient by channel": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 8, 1)),
    },
    90: {
        "walk": (_Tiles(64, 64, 4, 3), _Tiles(64, 64, 4, 3)),
        "output": (_Tiles(64, 64, 4, 1), _Tiles(64, 128, 4, 1)),
        "output by channel": (_Tiles(64, 64, 4, 1), _Tiles(32, 128, 4, 1)),
        "gradient": (_Tiles(64, 64, 4, 1), _Tiles(32, 128, 4, 1)),
        "gradient by channel": (_Tiles(32, 64, 4, 1), _Tiles(32, 128, 4, 1)),
    },
}
"""Tiles by least compute capability, for 16 bits: up to 64 value channels, and beyond."""
SINGLE = {"walk": _Tiles(32, 32, 4, 1), "output": _Tiles(32, 64, 8, 1), "gradient": _Tiles(32, 32, 8, 1)}
"""Tiles for float32, whose products do not run on tensor cores."""


def _tiles(kernel: str, dtype: torch.dtype, capability: int, key: int, value: int, columns: int) -> _Tiles:
    """Tiles of a kernel for `key` and `value` channels and W = `columns`."""
    if dtype == torch.float32:
        most = SINGLE[kernel]
    else:
        rows = TILES[max(each for each in TILES if each <= max(capability, min(TILES)))]
        most = rows.get(f"{kernel} by channel" if columns > 1 else kernel, rows[kernel])[value > 64]
    padded = (max(16, triton.next_power_of_2(each)) for each in (key, value))
    return most._replace(**dict(zip(("BK", "BV"), map(min, most[:2], padded), strict=True)))


@cache
def _device(index: int | None) -> tuple[int, int]:
    """Compute capability and multiprocessors of a GPU; those of one program at a time for the interpreter."""
    if index is None:
        return 90, 1
    properties = torch.cuda.get_device_properties(index)
    return 10 * properties.major + properties.minor, properties.multi_processor_count


def _launch(q: Tensor, v: Tensor, columns: int, kernel: str, walks: int = 1) -> tuple[int, dict[str, int]]:
    """Programs of a launch, and its constants."""
    (batch, steps, heads, key), value = q.shape, v.shape[-1]
    capability, processors = _device(q.device.index)
    tiles = _tiles(kernel, q.dtype, capability, key, value, columns)
    constants = {"K": key, "V": value, "W": columns}
    each = batch * heads * triton.cdiv(value, tiles.BV)
    if kernel == "walk":  # it is a loop over time: smaller tiles rather than idle processors
        while tiles.BK > 16 and walks * each * triton.cdiv(key, tiles.BK) < processors:
            tiles = tiles._replace(BK=tiles.BK // 2)
        return walks * each * triton.cdiv(key, tiles.BK), constants | tiles._asdict()
    chunks = triton.cdiv(steps, C.value)
    return chunks * (each if kernel == "output" else batch * heads), constants | tiles._asdict()


def _room(q: Tensor, v: Tensor) -> Tensor:
    """Room for the states of all chunks: bfloat16 for bfloat16 inputs, otherwise float32."""
    (batch, steps, heads, key), value = q.shape, v.shape[-1]
    dtype = q.dtype if q.dtype == torch.bfloat16 else torch.float32
    return torch.empty(batch, heads, triton.cdiv(steps, C.value), value, key, dtype=dtype, device=q.device)


class _LinearAttention(torch.autograd.Function):
    """Keeps its arguments and G; the states are made again in the backward pass, beside their gradients."""

    @staticmethod
    def forward(ctx, q, k, v, log_decay, bonus, initial_state, exclusive, return_state, scale, dtype):
        (batch, steps, heads, key), value = q.shape, v.shape[-1]
        columns = 0 if log_decay is None else 1 if log_decay.dim() == 3 else key
        sums = None if log_decay is None else decay_sums(log_decay)
        states, last = _room(q, v), None
        if return_state:
            last = torch.empty(batch, heads, key, value, dtype=torch.float32, device=q.device)
        programs, constants = _launch(q, v, columns, "walk")
        states_kernel[(programs,)](k, v, sums, initial_state, states, last, steps, heads, **constants)
        out = torch.empty_like(v, dtype=dtype)
        programs, constants = _launch(q, v, columns, "output")
        output_kernel[(programs,)](
            q, k, v, sums, bonus, states, out, steps, heads, scale, EXCLUSIVE=int(exclusive), **constants
        )
        ctx.save_for_backward(q, k, v, sums, bonus, initial_state)
        ctx.columns, ctx.exclusive, ctx.scale = columns, int(exclusive), scale
        ctx.decay_dtype = None if log_decay is None else log_decay.dtype
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        q, k, v, sums, bonus, initial_state = ctx.saved_tensors
        dout, dlast = dout.contiguous(), None if dlast is None else dlast.contiguous()
        (batch, steps, heads, key), states, dstates = q.shape, _room(q, v), _room(q, v)
        dstart = None if initial_state is None else torch.empty_like(initial_state)
        programs, constants = _launch(q, v, ctx.columns, "walk", walks=2)
        both_states_kernel[(programs,)](
            q, k, v, sums, initial_state, states, dout, dlast, dstates, dstart, steps, heads, ctx.scale,
            EXCLUSIVE=ctx.exclusive, **constants,
        )  # fmt: skip
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        ddecay = None if sums is None else torch.empty_like(sums, dtype=ctx.decay_dtype)
        parts = None
        if bonus is not None:
            parts = torch.empty(batch * states.shape[2], heads, key, dtype=torch.float32, device=q.device)
        programs, constants = _launch(q, v, ctx.columns, "gradient")
        gradient_kernel[(programs,)](
            q, k, v, sums, bonus, states, dout, dstates, dq, dk, dv, ddecay, parts, steps, heads, ctx.scale,
            EXCLUSIVE=ctx.exclusive, **constants,
        )  # fmt: skip
        dbonus = None if parts is None else parts.sum(0).to(bonus.dtype)
        return dq, dk, dv, ddecay, dbonus, dstart, None, None, None, None


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    exclusive: bool,
    bonus: Tensor | None,
    return_state: bool,
    *,
    scale: float,
    dtype: torch.dtype,
) -> tuple[Tensor, Tensor | None]:
    """scale S_t^T q_t [B, T, H, V] in the given type, and the last state [B, H, K, V] if it is asked for."""
    if q.dtype == torch.float64:
        raise ValueError('q has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    tensors = (None if each is None else each.contiguous() for each in (q, k, v, log_decay, bonus, initial_state))
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out: tuple[Tensor, Tensor | None] = _LinearAttention.apply(  # type: ignore[no-untyped-call]
            *tensors, exclusive, return_state, float(scale), dtype
        )
    return out


def _specialised(
    kernel: Any, width: int, columns: int, dtype: torch.dtype = torch.bfloat16, *, whole: bool = False
) -> Specialisation:
    """A launch with K = V = width and W = columns; if `whole`, exclusive, with a bonus and with states in and out."""
    tiles = _tiles(PASSES[kernel.__name__], dtype, 90, width, width, columns)
    constants = {"K": width, "V": width, "W": columns, "BK": tiles.BK, "BV": tiles.BV, "EXCLUSIVE": int(whole)}
    absent = {*(() if columns else ("p_g", "p_dg")), *(() if whole else EXTRAS)}
    types = {"T": "i32", "H": "i32", "scale": "fp32"} | dict.fromkeys((*EXTRAS, "p_g", "p_dg"), "*fp32")
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    names = [name for name in kernel.arg_names if name not in constants]
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, own) for name in names if name not in absent},
        constants={name: constants.get(name) for name in kernel.arg_names if name in constants or name in absent},
        warps=tiles.num_warps,
        stages=tiles.num_stages,
    )


PASSES = {
    "states_kernel": "walk",
    "both_states_kernel": "walk",
    "output_kernel": "output",
    "gradient_kernel": "gradient",
}
EXTRAS = ("p_bonus", "p_dbonus", "p_start", "p_end", "p_dend", "p_dstart")
KERNELS = (both_states_kernel, output_kernel, gradient_kernel)
SPECIALISATIONS = (
    Specialisation(
        kernel=decay_kernel,
        types={"p_log_decay": "*bf16", "p_g": "*fp32", "T": "i32", "WIDTH": "i32"},
        constants={"BW": 64},
    ),
    *(_specialised(each, width, w) for width in (64, 128) for w in (0, 1, width) for each in KERNELS),
    *(_specialised(each, 64, 64, whole=True) for each in (states_kernel, *KERNELS)),
    *(_specialised(each, 64, 64, torch.float32) for each in KERNELS),
)
