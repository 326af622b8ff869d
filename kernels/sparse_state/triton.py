"""Linear attention with a state in slots as Triton kernels, forward and backward; see README.md for the equations.

`triton_tiles` and `triton_chunks` have the layouts and letters, `triton_forward` and `triton_backward` the kernels;
launches are here.
"""

from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor
from torch.autograd.function import once_differentiable

from archloom.kernels.compiled import Specialisation
from archloom.kernels.sparse_state.triton_backward import (
    both_states_kernel,
    key_gradient_kernel,
    route_gradient_kernel,
    value_gradient_kernel,
)
from archloom.kernels.sparse_state.triton_forward import decay_kernel, output_kernel, states_kernel, through_kernel
from archloom.kernels.triton_chunks import C

SLOTS = 16
"""Slots of a tile of routes: the least that a product takes."""
STAGES = 2


class _Sizes(NamedTuple):
    """B, T, H, K, V, N, and R, the heads of the routes; M chunks; BK and BV, the channels of a tile; warps."""

    B: int
    T: int
    H: int
    K: int
    V: int
    N: int
    R: int
    M: int
    BK: int
    BV: int
    warps: int

    def programs(self, *, keys: bool = False, values: bool = False, states: int = 0) -> tuple[int]:
        """One for each chunk of a head, or for each slot of a head in `states` ways, and for each tile of channels."""
        count = self.B * self.H * (states * self.N if states else self.M)
        for tiled, width, tile in ((keys, self.K, self.BK), (values, self.V, self.BV)):
            count *= -(-width // tile) if tiled else 1
        return (count,)


def _tile(dtype: torch.dtype, width: int) -> int:
    """Key or value channels of a tile: fewer for float32, whose products do not run on tensor cores."""
    padded: int = triton.next_power_of_2(width)
    return min(32 if dtype == torch.float32 else 64, max(16, padded))


def _warps(dtype: torch.dtype) -> int:
    return 8 if dtype == torch.float32 else 4


def _sizes(q: Tensor, v: Tensor, read: Tensor) -> _Sizes:
    (batch, steps, heads, key), value = q.shape, v.shape[-1]
    chunks = triton.cdiv(steps, C.value)
    tiles = _tile(q.dtype, key), _tile(q.dtype, value)
    return _Sizes(batch, steps, heads, key, value, read.shape[-1], read.shape[2], chunks, *tiles, _warps(q.dtype))


def _precision(dtype: torch.dtype) -> str:
    """That of products of routes, which are float32: TF32 beside inputs of 16 bits, as it rounds less than they do."""
    return "ieee" if dtype == torch.float32 else "tf32"


def _launches(n: _Sizes) -> dict[str, int]:
    return {"K": n.K, "V": n.V, "BK": n.BK, "BV": n.BV, "num_warps": n.warps, "num_stages": STAGES}


def _sums(log_decay: Tensor, write: Tensor, n: _Sizes) -> Tensor:
    """G of the slots, float32."""
    sums = torch.empty(n.B, n.T, n.H, n.N, dtype=torch.float32, device=write.device)
    programs = n.programs()[0] * triton.cdiv(n.N, SLOTS)
    decay_kernel[(programs,)](log_decay, write, sums, n.T, n.H, n.R, n.N, BN=SLOTS)
    return sums


def _through(q: Tensor, read: Tensor, write: Tensor, sums: Tensor | None, n: _Sizes) -> Tensor:
    """What goes from token to token through the slots inside each chunk."""
    through = torch.empty(n.B, n.H, n.M, C.value, C.value, dtype=torch.float32, device=q.device)
    through_kernel[n.programs()](
        read, write, sums, through, n.T, n.H, n.R, n.N, BN=SLOTS, PRECISION=_precision(q.dtype), num_warps=n.warps
    )
    return through


def _room(q: Tensor, n: _Sizes) -> Tensor:
    """Room for the states of all chunks: bfloat16 for bfloat16 inputs, otherwise float32."""
    dtype = q.dtype if q.dtype == torch.bfloat16 else torch.float32
    return torch.empty(n.B, n.H, n.M, n.N, n.V, n.K, dtype=dtype, device=q.device)


class _SparseState(torch.autograd.Function):
    """Keeps its arguments and G; all else is made again in the backward pass."""

    @staticmethod
    def forward(ctx, q, k, v, read, write, log_decay, initial_state, return_state, scale):
        n = _sizes(q, v, read)
        sums = None if log_decay is None else _sums(log_decay, write, n)
        states, last = _room(q, n), None
        if return_state:
            last = torch.empty(n.B, n.H, n.N, n.K, n.V, dtype=torch.float32, device=q.device)
        states_kernel[n.programs(keys=True, values=True, states=1)](
            k, v, write, sums, initial_state, states, last, n.T, n.H, n.R, n.N, **_launches(n)
        )
        out = torch.empty_like(v)
        output_kernel[n.programs(values=True)](
            q, k, v, read, sums, _through(q, read, write, sums, n), states, out, n.T, n.H, n.R, n.N, scale,
            **_launches(n),
        )  # fmt: skip
        ctx.save_for_backward(q, k, v, read, write, sums, initial_state)
        ctx.scale, ctx.decay_dtype = scale, None if log_decay is None else log_decay.dtype
        ctx.set_materialize_grads(False)
        return out, last

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dlast):
        q, k, v, read, write, sums, initial_state = ctx.saved_tensors
        n = _sizes(q, v, read)
        dout = torch.zeros_like(v) if dout is None else dout.contiguous()
        dlast = None if dlast is None else dlast.contiguous()
        states, dstates = _room(q, n), _room(q, n)
        dstart = None if initial_state is None else torch.empty_like(initial_state)
        both_states_kernel[n.programs(keys=True, values=True, states=2)](
            q, k, v, read, write, sums, initial_state, states, dout, dlast, dstates, dstart,
            n.T, n.H, n.R, n.N, ctx.scale, **_launches(n),
        )  # fmt: skip
        through = _through(q, read, write, sums, n)
        dq, dk, dv = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        dthrough, dread, dwrite, dboth = (
            _route_rooms(n, through, sums) if any(ctx.needs_input_grad[3:6]) else (None,) * 4
        )
        key_gradient_kernel[n.programs(keys=True)](
            q, k, v, read, write, sums, through, states, dout, dstates, dq, dk, dthrough, dread, dwrite, dboth,
            n.B, n.T, n.H, n.R, n.N, ctx.scale, **_launches(n),
        )  # fmt: skip
        value_gradient_kernel[n.programs(values=True)](
            q, k, write, sums, through, dout, dstates, dv, n.T, n.H, n.R, n.N, ctx.scale, **_launches(n)
        )
        ddecay = None
        if dthrough is not None:
            dread, dwrite, ddecay = _route_gradients(q, read, write, sums, dthrough, dread, dwrite, dboth, n)
            ddecay = None if ddecay is None else ddecay.to(ctx.decay_dtype)
        return dq, dk, dv, dread, dwrite, ddecay, dstart, None, None


def _route_rooms(n: _Sizes, through: Tensor, sums: Tensor | None) -> tuple[Tensor | None, ...]:
    """Room for the gradient of what goes through the slots, and by tile of key channels for what routes receive of the
    states and for S dS at the ends of the chunks."""
    parts, device = triton.cdiv(n.K, n.BK), through.device
    read, write = (torch.empty(parts, n.B, n.T, n.H, n.N, dtype=torch.float32, device=device) for _ in range(2))
    both = None if sums is None else torch.empty(parts, n.B, n.H, n.M, n.N, dtype=torch.float32, device=device)
    return torch.empty_like(through), read, write, both


def _route_gradients(
    q: Tensor, read: Tensor, write: Tensor, sums: Tensor | None,
    dthrough: Tensor, partread: Tensor, partwrite: Tensor, partboth: Tensor | None, n: _Sizes,
) -> tuple[Tensor, Tensor, Tensor | None]:  # fmt: skip
    """Gradients of the routes, summed over heads that share them, and of the log decay."""
    dread, dwrite = torch.empty_like(partread[0]), torch.empty_like(partwrite[0])
    ddecay = None if sums is None else torch.empty(n.B, n.T, n.H, dtype=torch.float32, device=q.device)
    route_gradient_kernel[n.programs()](
        read, write, sums, dthrough, partread, partwrite, partboth, dread, dwrite, ddecay, partread.shape[0],
        n.B, n.T, n.H, n.R, n.N, BN=SLOTS, PRECISION=_precision(q.dtype), num_warps=n.warps,
    )  # fmt: skip
    if n.R == 1:
        dread, dwrite = dread.sum(2, keepdim=True), dwrite.sum(2, keepdim=True)
    return dread.to(read.dtype), dwrite.to(write.dtype), ddecay


def sparse_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    read: Tensor,
    write: Tensor,
    log_decay: Tensor | None,
    initial_state: Tensor | None,
    return_state: bool,
    *,
    scale: float,
) -> tuple[Tensor, Tensor | None]:
    """Output [B, T, H, V] with its scale, and the last state [B, H, N, K, V] if it is asked for; read and write
    [B, T, 1 or H, N]."""
    if q.dtype == torch.float64:
        raise ValueError('q has dtype torch.float64, which backend="triton" does not take; backend="chunked" does')
    read, write = torch.broadcast_tensors(read, write)  # type: ignore[no-untyped-call]
    tensors = (None if x is None else x.contiguous() for x in (q, k, v, read, write, log_decay, initial_state))
    with torch.cuda.device_of(q):  # type: ignore[no-untyped-call]
        out: tuple[Tensor, Tensor | None] = _SparseState.apply(  # type: ignore[no-untyped-call]
            *tensors, return_state, float(scale)
        )
    return out


def _specialised(
    kernel: Any, width: int = 0, dtype: torch.dtype = torch.bfloat16, *, decay: bool = True, whole: bool = True
) -> Specialisation:
    """A launch with K = V = width; if `whole`, with states in and out and gradients of routes."""
    tile = _tile(dtype, width)
    constants = {"K": width, "V": width, "BK": tile, "BV": tile, "BN": SLOTS, "PRECISION": _precision(dtype)}
    absent = {*(() if decay else ("p_g", "p_ddecay", "p_dboth", "p_partboth")), *(() if whole else EXTRAS)}
    types = dict.fromkeys("BTHRN", "i32") | {"parts": "i32", "scale": "fp32"} | dict.fromkeys(SINGLE, "*fp32")
    own = "*bf16" if dtype == torch.bfloat16 else "*fp32"
    names = [name for name in kernel.arg_names if name not in constants]
    return Specialisation(
        kernel=kernel,
        types={name: types.get(name, own) for name in names if name not in absent},
        constants={name: constants.get(name) for name in kernel.arg_names if name in constants or name in absent},
        warps=_warps(dtype),
        stages=STAGES,
    )


EXTRAS = ("p_start", "p_end", "p_dend", "p_dstart", "p_dthrough", "p_dread", "p_dwrite", "p_dboth")
SINGLE = (*EXTRAS, "p_g", "p_through", "p_partread", "p_partwrite", "p_partboth", "p_ddecay", "p_read", "p_write")
KERNELS = (states_kernel, output_kernel, both_states_kernel, key_gradient_kernel, value_gradient_kernel)
SPECIALISATIONS = (
    _specialised(decay_kernel),
    *(_specialised(each, decay=decay) for decay in (True, False) for each in (through_kernel, route_gradient_kernel)),
    *(_specialised(each, dtype=torch.float32) for each in (through_kernel, route_gradient_kernel)),
    *(_specialised(each, width) for width in (64, 128) for each in KERNELS),
    *(_specialised(each, 64, decay=False, whole=False) for each in KERNELS),
    *(_specialised(each, 64, torch.float32) for each in KERNELS),
)
