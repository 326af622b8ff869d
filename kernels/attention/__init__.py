"""Softmax attention with grouped heads, a sliding window or any mask, a bias and a forget decay; see README.md."""

from typing import Literal

from torch import Tensor

from archloom.kernels.arguments import check_alike, check_decay_sign, check_shape
from archloom.kernels.attention import chunked, masked, reference
from archloom.kernels.backends import unknown_backend
from archloom.kernels.visibility import check_visibility, visible

__all__ = ["attention"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    mask: Tensor | None = None,
    bias: Tensor | None = None,
    normaliser: Literal["softmax", "softmax_plus_one"] = "softmax",
    backend: Literal["chunked", "reference"] = "chunked",
) -> Tensor:
    """o_t = sum over s <= t of softmax_s(scale <q_t, k_s> + D_ts + bias_ts) v_s, D_ts = sum of log_decay over (s, t].

    The queries are the last T of the S positions, so that decoding with a cache is the same function. Query head h
    reads key head h // (H / G). The decay is that of Forgetting attention (Lin et al. 2025).

    Args:
        q: [B, T, H, K].
        k: [B, S, G, K] with H a multiple of G, and S >= T if causal.
        v: [B, S, G, V].
        log_decay: None or [B, S, H], one decay for each query head; finite and <= 0 (the sign is checked by the
            reference only, since reading it would make a GPU wait). May be float32 beside bfloat16 inputs.
        window: keep only 0 <= t - s < window; None keeps all.
        scale: factor of the inner products; None for K ** -0.5.
        causal: False lets every query see every key, unless a mask is given.
        mask: [T, S] of bool, True where t sees s, instead of the causal rule. A query that sees nothing gives zeros.
            Where it lets a query see a later key, the decay is summed over (t, s].
        bias: [H, T, S], added to the logits; may be float32 beside bfloat16 inputs.
        normaliser: "softmax", or "softmax_plus_one" with the denominator 1 + sum exp, which can attend to nothing.
        backend: "chunked", or "reference" for the dense definition.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a window below 1 or without the causal rule, or an
            unknown normaliser or backend.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"log_decay": log_decay, "bias": bias})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BSGK", (batch, None, None, width))
    sources, groups = k.shape[1:3]
    check_shape("v", v, "BSGV", (batch, sources, groups, None))
    check_visibility(steps, sources, window, mask, causal)
    if heads % groups:
        raise ValueError(f"q has H = {heads} heads, k has G = {groups}; expected H to be a multiple of G")
    if log_decay is not None:
        check_shape("log_decay", log_decay, "BSH", (batch, sources, heads))
        if sources < steps:
            raise ValueError(f"log_decay is given for S = {sources} positions, but q has T = {steps}; expected S >= T")
    if bias is not None:
        check_shape("bias", bias, "HTS", (heads, steps, sources))
    if normaliser not in ("softmax", "softmax_plus_one"):
        raise ValueError(f'normaliser is {normaliser!r}; expected "softmax" or "softmax_plus_one"')
    factor, plus_one = width**-0.5 if scale is None else scale, normaliser == "softmax_plus_one"
    kept = visible(steps, sources, window, mask, causal, q.device)
    match backend:
        case "chunked" if causal and mask is None and bias is None and not plus_one:
            return chunked.attention(q, k, v, log_decay, window, factor)
        case "chunked":
            return masked.attention(q, k, v, log_decay, bias, kept, factor, plus_one)
        case "reference":
            check_decay_sign(log_decay)
            return reference.attention(q, k, v, log_decay, bias, kept, factor, plus_one)
        case _:
            raise unknown_backend(backend)
