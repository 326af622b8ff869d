"""Selective scan: a linear recurrence whose decay differs by step, channel and value; see README.md."""

from torch import Tensor

from archloom.kernels.arguments import accumulator, check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
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
    backend: Backend = "chunked",
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
        backend: "chunked"; "triton" for GPU kernels, which take no float64; or "reference" for the literal recurrence.
            Only the reference is differentiable twice.

    Returns:
        o [B, T, H, V] in the dtype of q; with `return_state` the pair (o, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a backend that is unknown or cannot run here.
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
    if initial_state is not None:
        check_shape("initial_state", initial_state, "BHKV", size)
        initial_state = initial_state.to(dtype)
    state: Tensor | None
    match backend:
        case "chunked":
            out, state = chunked.selective_scan(*_widened(q, k, v, step, rate, initial_state))
        case "reference":
            _check_signs(step, rate)
            out, state = reference.selective_scan(*_widened(q, k, v, step, rate, initial_state))
        case "triton":
            require_triton("selective_scan", q)
            from archloom.kernels.selective_scan import triton  # an optional package

            out, state = triton.selective_scan(q, k, v, step, rate, initial_state, return_state)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    out = out.to(q.dtype)
    return (out, state) if return_state and state is not None else out


def _widened(
    q: Tensor, k: Tensor, v: Tensor, step: Tensor, rate: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, ...]:
    """All of them in the accumulator's type, with zeros where no state is given."""
    dtype = accumulator(q.dtype)
    if initial_state is None:
        initial_state = q.new_zeros(q.shape[0], *rate.shape, dtype=dtype)
    return *(x.to(dtype) for x in (q, k, v, step, rate)), initial_state


def _check_signs(step: Tensor, rate: Tensor) -> None:
    if not bool((step >= 0).all()):
        raise ValueError(f"step must be >= 0 everywhere, but its smallest value is {step.min().item()}")
    if not bool((rate <= 0).all()):
        raise ValueError(f"rate must be <= 0 everywhere, but its largest value is {rate.max().item()}")
