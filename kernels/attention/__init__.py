"""Causal softmax attention with grouped heads, a sliding window and a forget decay; see README.md."""

from typing import Literal

from torch import Tensor

from archloom.kernels.arguments import check_alike, check_decay_sign, check_shape, unknown_backend
from archloom.kernels.attention import chunked, reference

__all__ = ["attention"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    backend: Literal["chunked", "reference"] = "chunked",
) -> Tensor:
    """o_t = sum over s <= t of softmax_s(scale <q_t, k_s> + D_ts) v_s, D_ts = sum of log_decay over (s, t].

    The queries are the last T of the S positions, so that decoding with a cache is the same function. Query head h
    reads key head h // (H / G). The decay is that of Forgetting attention (Lin et al. 2025).

    Args:
        q: [B, T, H, K].
        k: [B, S, G, K] with S >= T and H a multiple of G.
        v: [B, S, G, V].
        log_decay: None or [B, S, H], one decay for each query head; finite and <= 0 (the sign is checked by the
            reference only, since reading it would make a GPU wait). May be float32 beside bfloat16 inputs.
        window: keep only 0 <= t - s < window; None keeps all.
        scale: factor of the inner products; None for K ** -0.5.
        backend: "chunked", or "reference" for the dense definition.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a window below 1, or an unknown backend.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"log_decay": log_decay})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BSGK", (batch, None, None, width))
    sources, groups = k.shape[1:3]
    check_shape("v", v, "BSGV", (batch, sources, groups, None))
    if sources < steps:
        raise ValueError(f"k has S = {sources} positions, q has T = {steps}; expected S >= T, q being the last T")
    if heads % groups:
        raise ValueError(f"q has H = {heads} heads, k has G = {groups}; expected H to be a multiple of G")
    if log_decay is not None:
        check_shape("log_decay", log_decay, "BSH", (batch, sources, heads))
    if window is not None and window < 1:
        raise ValueError(f"window is {window}; expected at least 1 (the step itself), or None")
    factor = width**-0.5 if scale is None else scale
    match backend:
        case "chunked":
            return chunked.attention(q, k, v, log_decay, window, factor)
        case "reference":
            check_decay_sign(log_decay)
            return reference.attention(q, k, v, log_decay, window, factor)
        case _:
            raise unknown_backend(backend)
