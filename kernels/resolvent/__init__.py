"""The strictly causal resolvent of a decayed inner-product kernel, and the delta rule; see README.md."""

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
from archloom.kernels.resolvent import chunked, reference

__all__ = ["delta_rule", "resolvent"]


def resolvent(
    b: Tensor,
    k: Tensor,
    x: Tensor,
    *,
    log_decay: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    backend: Backend = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """z_t = x_t - sum over s < t of <b_t, k_s>_g z_s, that is z = (I + strict(K))^-1 x for the kernel K = <b, k>_g.

    <b_t, k_s>_g = sum_i b_ti k_si exp(G_ti - G_si) with G the sum of `log_decay` over time. The state is
    S_t = sum over s <= t of (k_s decayed to t) z_s^T.

    Args:
        b, k: [B, T, H, K].
        x: [B, T, H, V].
        log_decay: None, [B, T, H] or [B, T, H, K]; finite and <= 0 (the sign is checked by the reference only, since
            reading it would make a GPU wait). May be float32 beside bfloat16 inputs.
        initial_state: [B, H, K, V].
        return_state: also return the state after the last step, float32 (float64 for float64 inputs).
        chunk: steps per chunk of the chunked form; None for the measured default. With channel decay it is rounded up
            to 4 * 2^n.
        backend: "chunked"; "triton" for GPU kernels, up to 256 key and 256 value channels and no float64; or
            "reference" for the literal recurrence.

    Returns:
        z [B, T, H, V] in the dtype of x; with `return_state` the pair (z, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a chunk below 1, or a backend that is unknown or
            cannot run here.
    """
    start = _checked_state({"b": b, "k": k, "x": x}, log_decay, initial_state, chunk)
    state: Tensor | None
    match backend:
        case "chunked":
            z, state = chunked.resolvent(b, k, x, log_decay, start, return_state, chunk)
        case "reference":
            check_decay_sign(log_decay)
            z, state = reference.resolvent(b, k, x, log_decay, start)
        case "triton":
            require_triton("resolvent", k)
            from archloom.kernels.resolvent import triton  # an optional package

            z, state = triton.delta_rule(None, b, k, x, log_decay, start, return_state, scale=1.0)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    z = z.to(x.dtype)
    return (z, state) if return_state and state is not None else z


def delta_rule(
    q: Tensor,
    b: Tensor,
    k: Tensor,
    x: Tensor,
    *,
    log_decay: Tensor | None = None,
    scale: float = 1.0,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    backend: Backend = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = scale * sum over s <= t of <q_t, k_s>_g z_s with z = resolvent(b, k, x), in one pass.

    With b = beta k and x = beta v this is DeltaNet (Yang et al. 2024), with a decay by head Gated DeltaNet, with
    one by channel Kimi delta attention: S_t = (I - beta k k^T) Diag(e^g) S_{t-1} + beta k v^T. The resolvent and the
    readout carry the same state.

    Args:
        q, b, k: [B, T, H, K].
        x: [B, T, H, V].
        scale: factor of the output.
        log_decay, initial_state, return_state, chunk, backend: as in `resolvent`.

    Returns:
        o [B, T, H, V] in the dtype of x; with `return_state` the pair (o, state).

    Raises:
        ValueError: as in `resolvent`.
    """
    start = _checked_state({"q": q, "b": b, "k": k, "x": x}, log_decay, initial_state, chunk)
    state: Tensor | None
    match backend:
        case "chunked":
            out, state = chunked.delta_rule(q, b, k, x, log_decay, start, return_state, chunk)
        case "reference":
            check_decay_sign(log_decay)
            out, state = reference.delta_rule(q, b, k, x, log_decay, start)
        case "triton":
            require_triton("delta_rule", k)
            from archloom.kernels.resolvent import triton  # an optional package

            out, state = triton.delta_rule(q, b, k, x, log_decay, start, return_state, scale=scale)
            scale = 1.0
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    out = (out if scale == 1.0 else out * scale).to(x.dtype)
    return (out, state) if return_state and state is not None else out


def _checked_state(
    inputs: dict[str, Tensor], log_decay: Tensor | None, initial_state: Tensor | None, chunk: int | None
) -> Tensor | None:
    """Check all arguments; the initial state in the accumulator's type."""
    check_alike(inputs, wide={"log_decay": log_decay, "initial_state": initial_state})
    k, x = inputs["k"], inputs["x"]
    check_shape("k", k, "BTHK", (None, None, None, None))
    batch, steps, heads, width = k.shape
    for name in inputs.keys() - {"k", "x"}:
        check_shape(name, inputs[name], "BTHK", (batch, steps, heads, width))
    check_shape("x", x, "BTHV", (batch, steps, heads, None))
    check_decay(log_decay, (batch, steps, heads), width)
    check_chunk(chunk)
    if initial_state is None:
        return None
    check_shape("initial_state", initial_state, "BHKV", (batch, heads, width, x.shape[-1]))
    return initial_state.to(accumulator(k.dtype))
