"""Local linear attention: a ridge regression of values on keys around each query; see README.md."""

import math

import torch
from torch import Tensor

from archloom.kernels.arguments import accumulator, check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.local_linear import chunked, reference
from archloom.kernels.visibility import check_visibility

__all__ = ["local_linear"]


def local_linear(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    ridge: float | Tensor,
    scale: float | None = None,
    window: int | None = None,
    mask: Tensor | None = None,
    backend: Backend = "chunked",
) -> Tensor:
    """o_t = sum_s w_ts (1 - <z_ts, rho_t>) v_s / (omega_t - <mu_t, rho_t>), over the s that t sees.

    w_ts = exp(scale <q_t, k_s>), z_ts = k_s - q_t, omega = sum w, mu = sum w z, and rho solves
    (sum w z z^T + ridge omega I) rho = mu: local linear attention (arXiv:2510.01450). It is the value at q_t of the
    regression of v on k that softmax attention makes with a constant; with ridge -> infinity it is softmax attention.

    Args:
        q: [B, T, H, K].
        k: [B, S, H, K] with S >= T; the queries are the last T positions, so that a cache is only more keys.
        v: [B, S, H, V].
        ridge: > 0 in units of |k|^2, one number or a tensor [H] (whose sign is checked by the reference only, since
            reading it would make a GPU wait). In float32 keep it above about 1e-4 |k|^2.
        scale: factor of the inner products; None for K ** -0.5.
        window: keep only 0 <= t - s < window; None keeps all of the past.
        mask: [T, S] of bool, True where t sees s, instead of the causal rule; then T may exceed S. A query that sees
            nothing gives zeros.
        backend: "chunked"; "triton" for GPU kernels, which take no float64, K up to 64 and V up to 128; or "reference"
            for the dense definition. Only the reference is differentiable twice.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a ridge that is not positive, a window below 1, a
            window beside a mask, or a backend that is unknown or cannot run here.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"ridge": ridge if isinstance(ridge, Tensor) else None})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BSHK", (batch, None, heads, width))
    sources = k.shape[1]
    check_shape("v", v, "BSHV", (batch, sources, heads, None))
    check_visibility(steps, sources, window, mask)
    if isinstance(ridge, Tensor):
        check_shape("ridge", ridge, "H", (heads,))
    elif not 0 < ridge < math.inf:
        raise ValueError(f"ridge is {ridge}; expected a positive number")
    ridges = torch.as_tensor(ridge, dtype=accumulator(q.dtype), device=q.device).expand(heads)
    factor = width**-0.5 if scale is None else scale
    match backend:
        case "chunked":
            return chunked.local_linear(q, k, v, ridges, factor, window, mask)
        case "reference":
            if not bool((ridges > 0).all()):
                raise ValueError(f"ridge must be > 0 for every head, but its smallest value is {ridges.min().item()}")
            return reference.local_linear(q, k, v, ridges, factor, window, mask)
        case "triton":
            require_triton("local_linear", q)
            from archloom.kernels.local_linear import triton  # an optional package

            return triton.local_linear(q, k, v, ridges, factor, window, mask)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
