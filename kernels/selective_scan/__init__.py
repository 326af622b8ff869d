"""Selective scan: a linear recurrence whose decay differs by step, channel and value; see README.md."""

from typing import Literal

from torch import Tensor

from archloom.kernels.arguments import accumulator, check_alike, check_shape
from archloom.kernels.backends import unknown_backend
from archloom.kernels.selective_scan import chunked, reference

__all__ = ["selective_scan"]


def selective_scan(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    step: Tensor,
    rate: Tensor,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    backend: Literal["chunked", "reference"] = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t[j] = sum_i q_t[i] h_t[i,j] with h_t[i,j] = exp(step_t[j] rate[i,j]) h_{t-1}[i,j] + k_t[i] step_t[j] v_t[j].

    The recurrence S6 of Mamba (Gu and Dao 2023, arXiv:2312.00752, algorithm 2): q is its C, k its B, rate its A.

    Args:
        q, k: [B, T, H, K].
        v: [B, T, H, V].
        step: [B, T, H, V], the discretisation step, >= 0. May be float32 beside bfloat16 inputs, as may `rate`.
        rate: [H, K, V], the decay per unit of step, finite and <= 0 (both signs are checked by the reference only,
            since reading them would make a GPU wait).
        initial_state: [B, H, K, V]; None for zeros.
        return_state: also return the state after the last step, float32 (float64 for float64 inputs).
        backend: "chunked", or "reference" for the literal recurrence. Only the reference is differentiable twice.

    Returns:
        o [B, T, H, V] in the dtype of q; with `return_state` the pair (o, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or an unknown backend.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"step": step, "rate": rate, "initial_state": initial_state})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BTHK", (batch, steps, heads, width))
    check_shape("v", v, "BTHV", (batch, steps, heads, None))
    size = (batch, heads, width, v.shape[-1])
    check_shape("step", step, "BTHV", tuple(v.shape))
    check_shape("rate", rate, "HKV", size[1:])
    dtype = accumulator(q.dtype)
    if initial_state is None:
        initial_state = q.new_zeros(size, dtype=dtype)
    check_shape("initial_state", initial_state, "BHKV", size)
    wide = [x.to(dtype) for x in (q, k, v, step, rate, initial_state)]
    match backend:
        case "chunked":
            out, state = chunked.selective_scan(*wide)
        case "reference":
            _check_signs(step, rate)
            out, state = reference.selective_scan(*wide)
        case _:
            raise unknown_backend(backend)
    out = out.to(q.dtype)
    return (out, state) if return_state else out


def _check_signs(step: Tensor, rate: Tensor) -> None:
    if not bool((step >= 0).all()):
        raise ValueError(f"step must be >= 0 everywhere, but its smallest value is {step.min().item()}")
    if not bool((rate <= 0).all()):
        raise ValueError(f"rate must be <= 0 everywhere, but its largest value is {rate.max().item()}")
