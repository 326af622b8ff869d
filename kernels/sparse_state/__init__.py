"""Linear attention with a state in slots, of which every token reads and writes some; see README.md."""

from torch import Tensor

from archloom.kernels.arguments import (
    accumulator,
    check_alike,
    check_chunk,
    check_decay,
    check_decay_sign,
    check_shape,
)
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.sparse_state import chunked, reference

__all__ = ["sparse_state"]


def sparse_state(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    read: Tensor,
    write: Tensor,
    log_decay: Tensor | None = None,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    backend: Backend = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = scale sum over s <= t of <q_t, k_s> (sum_n read_tn write_sn exp(G_tn - G_sn)) v_s.

    A state [K, V] for each of N slots: S_n <- exp(g_tn) S_n + write_tn k_t v_t^T, o_t = scale sum_n read_tn S_n^T q_t.
    A slot forgets only where it is written: g_tn is log_decay_t where write_tn > 0 and 0 elsewhere, and G is its sum
    over time. It is linear attention with channel decay over the N K products of slots and channels, most of which need
    not be made. Rows of `read` and `write` are mostly zeros where tokens are routed to a few of many slots, as in the
    partitions of Pan et al. 2025 (arXiv:2507.16577); any numbers are served.

    Args:
        q, k: [B, T, H, K].
        v: [B, T, H, V].
        read, write: [B, T, N], the same for all heads, or [B, T, H, N]; what a token reads of each slot, and what it
            writes to it. May be float32 beside bfloat16 inputs.
        log_decay: None or [B, T, H]; finite and <= 0 (the sign is checked by the reference only, since reading it would
            make a GPU wait). Whether a weight is positive has no gradient. May be float32 beside bfloat16 inputs.
        scale: factor of the output.
        initial_state: [B, H, N, K, V].
        return_state: also return the state after the last step, float32 (float64 for float64 inputs).
        chunk: steps per chunk of the chunked form; None for the default. With decay it is rounded up to 4 * 2^n.
        backend: "chunked"; "triton" for GPU kernels, which take no float64 and whose chunks are of 64 steps whatever
            `chunk` says; or "reference" for the literal recurrence.

    Returns:
        o [B, T, H, V] in the dtype of q; with `return_state` the pair (o, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a chunk below 1, or a backend that is unknown or
            cannot run here.
    """
    wide = {"read": read, "write": write, "log_decay": log_decay, "initial_state": initial_state}
    check_alike({"q": q, "k": k, "v": v}, wide=wide)
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BTHK", (batch, steps, heads, width))
    check_shape("v", v, "BTHV", (batch, steps, heads, None))
    _check_route("read", read, (batch, steps, heads), None)
    slots = read.shape[-1]
    _check_route("write", write, (batch, steps, heads), slots)
    check_decay(log_decay, (batch, steps, heads), None)
    check_chunk(chunk)
    if initial_state is not None:
        check_shape("initial_state", initial_state, "BHNKV", (batch, heads, slots, width, v.shape[-1]))
        initial_state = initial_state.to(accumulator(q.dtype))

    read, write = (each if each.dim() == 4 else each.unsqueeze(2) for each in (read, write))
    state: Tensor | None
    match backend:
        case "chunked":
            out, state = chunked.sparse_state(q, k, v, read, write, log_decay, initial_state, return_state, chunk)
        case "reference":
            check_decay_sign(log_decay)
            out, state = reference.sparse_state(q, k, v, read, write, log_decay, initial_state)
        case "triton":
            require_triton("sparse_state", q)
            from archloom.kernels.sparse_state import triton  # an optional package

            out, state = triton.sparse_state(q, k, v, read, write, log_decay, initial_state, return_state, scale=scale)
            scale = 1.0
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    out = (out if scale == 1.0 else out * scale).to(q.dtype)
    return (out, state) if return_state and state is not None else out


def _check_route(name: str, route: Tensor, steps: tuple[int, int, int], slots: int | None) -> None:
    """Raise ValueError unless `route` is [B, T, N] or [B, T, H, N]."""
    batch, time, heads = steps
    if route.dim() == 4:
        check_shape(name, route, "BTHN", (batch, time, heads, slots))
    else:
        check_shape(name, route, "BTN", (batch, time, slots))
