"""Decayed inner-product kernels inside a causal window, applied and resolved; see README.md."""

from typing import Literal

from torch import Tensor

from archloom.kernels.arguments import check_alike, check_decay, check_decay_sign, check_shape
from archloom.kernels.backends import unknown_backend
from archloom.kernels.windowed import chunked, reference

__all__ = ["windowed_linear_attention", "windowed_resolvent"]

WindowedBackend = Literal["chunked", "reference"]


def windowed_linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    window: int,
    log_decay: Tensor | None = None,
    backend: WindowedBackend = "chunked",
) -> Tensor:
    """o_t = sum over t - window < s <= t of <q_t, k_s>_g v_s.

    <q_t, k_s>_g = sum_i q_ti k_si exp(G_ti - G_si) with G the sum of `log_decay` over time. The queries are the last T
    of the S positions, so that decoding is the same function over the last `window` keys.

    Args:
        q: [B, T, H, K].
        k: [B, S, H, K] with S >= T.
        v: [B, S, H, V].
        window: keep 0 <= t - s < window.
        log_decay: None, [B, S, H] or [B, S, H, K]; finite and <= 0 (the sign is checked by the reference only, since
            reading it would make a GPU wait). May be float32 beside bfloat16 inputs.
        backend: "chunked", or "reference" for the dense definition.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a window below 1, or an unknown backend.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"log_decay": log_decay})
    _check_positions("q", q, k, log_decay, window)
    check_shape("v", v, "BSHV", (*k.shape[:3], None))
    match backend:
        case "chunked":
            out = chunked.apply(q, k, v, log_decay, window)
        case "reference":
            check_decay_sign(log_decay)
            out = reference.apply(q, k, v, log_decay, window)
        case _:
            raise unknown_backend(backend)
    return out.to(q.dtype)


def windowed_resolvent(
    b: Tensor,
    k: Tensor,
    x: Tensor,
    *,
    window: int,
    log_decay: Tensor | None = None,
    earlier: Tensor | None = None,
    backend: WindowedBackend = "chunked",
) -> Tensor:
    """z_t = x_t - sum over t - window < s < t of <b_t, k_s>_g z_s: the resolvent of a kernel that ends with its window.

    Args:
        b: [B, T, H, K].
        k: [B, S, H, K] with S >= T; the T steps are the last of the S positions.
        x: [B, T, H, V].
        window: keep 0 < t - s < window.
        log_decay: None, [B, S, H] or [B, S, H, K], as in `windowed_linear_attention`.
        earlier: z of the S - T positions before, [B, S - T, H, V]; None where S = T.
        backend: "chunked", or "reference" for the literal recurrence.

    Returns:
        z [B, T, H, V] in the dtype of x.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a window below 1, or an unknown backend.
    """
    check_alike({"b": b, "k": k, "x": x}, wide={"log_decay": log_decay, "earlier": earlier})
    _check_positions("b", b, k, log_decay, window)
    check_shape("x", x, "BTHV", (*b.shape[:3], None))
    before = k.shape[1] - b.shape[1]
    if earlier is None and before:
        raise ValueError(f"k has {before} positions before b, whose z is missing; expected earlier [B, {before}, H, V]")
    if earlier is None:
        earlier = x[:, :0]
    elif before:
        check_shape("earlier", earlier, "BPHV", (len(b), before, *x.shape[2:]))
    match backend:
        case "chunked":
            z = chunked.resolve(b, k, x, log_decay, earlier, window)
        case "reference":
            check_decay_sign(log_decay)
            z = reference.resolve(b, k, x, log_decay, earlier, window)
        case _:
            raise unknown_backend(backend)
    return z.to(x.dtype)


def _check_positions(name: str, reader: Tensor, k: Tensor, log_decay: Tensor | None, window: int) -> None:
    check_shape(name, reader, "BTHK", (None, None, None, None))
    batch, steps, heads, width = reader.shape
    check_shape("k", k, "BSHK", (batch, None, heads, width))
    if k.shape[1] < steps:
        raise ValueError(f"k has S = {k.shape[1]} positions, {name} has T = {steps}; expected S >= T, its last T")
    check_decay(log_decay, (batch, k.shape[1], heads), width)
    if window < 1:
        raise ValueError(f"window is {window}; expected at least 1")
