"""Linear attention with decay by head or by channel; see README.md for the equations."""

from functools import partial

from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.arguments import (
    accumulator,
    check_alike,
    check_chunk,
    check_decay,
    check_decay_sign,
    check_shape,
)
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.linear_attention import chunked, reference
from archloom.kernels.normaliser import normalised

__all__ = ["linear_attention"]


def linear_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    normalise: bool = False,
    scale: float = 1.0,
    exclusive: bool = False,
    bonus: Tensor | None = None,
    initial_state: Tensor | None = None,
    return_state: bool = False,
    chunk: int | None = None,
    backend: Backend = "chunked",
) -> Tensor | tuple[Tensor, Tensor]:
    """o_t = scale * sum over s <= t of <q_t, k_s>_g v_s, where <q_t, k_s>_g = sum_i q_ti k_si exp(G_ti - G_si).

    G is the sum of `log_decay` over time. Linear attention (Katharopoulos et al. 2020) has no decay, RetNet
    and Mamba-2 have one per head, GLA (Yang et al. 2024) one per channel.

    Args:
        q, k: [B, T, H, K].
        v: [B, T, H, V].
        log_decay: None, [B, T, H] or [B, T, H, K]; finite and <= 0 (the sign is checked by the reference only, since
            reading it would make a GPU wait). May be float32 beside bfloat16 inputs.
        normalise: divide by the same sum with 1 for v, whose magnitude is kept at or above 1e-6; `scale` cancels.
        scale: factor of the output.
        exclusive: read the state before the step, o_t = scale * S_{t-1}^T q_t: the sum over s < t, without t's decay.
        bonus: [H, K], only if exclusive: adds scale <q_t, bonus k_t> v_t, the weight of the step itself in RWKV-6
            (Peng et al. 2024, arXiv:2404.05892). May be float32 beside bfloat16 inputs.
        initial_state: [B, H, K, V], or [B, H, K, V+1] when normalising; the last column is that of the denominator.
        return_state: also return the state after the last step, float32 (float64 for float64 inputs).
        chunk: steps per chunk of the chunked form; None for the measured default. With channel decay it is rounded up
            to 4 * 2^n.
        backend: "chunked"; "triton" for GPU kernels, which take no float64; or "reference" for the literal recurrence.

    Returns:
        o [B, T, H, V] in the dtype of q; with `return_state` the pair (o, state).

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a chunk below 1, a bonus that is not exclusive, or a
            backend that is unknown or cannot run here.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"log_decay": log_decay, "bonus": bonus, "initial_state": initial_state})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BTHK", (batch, steps, heads, width))
    check_shape("v", v, "BTHV", (batch, steps, heads, None))
    check_decay(log_decay, (batch, steps, heads), width)
    check_chunk(chunk)
    if bonus is not None:
        check_shape("bonus", bonus, "HK", (heads, width))
        if not exclusive:
            raise ValueError("bonus is given without exclusive=True; it is the weight of the step left out by that")
    if initial_state is not None:
        check_shape("initial_state", initial_state, "BHKV", (batch, heads, width, v.shape[-1] + normalise))
        initial_state = initial_state.to(accumulator(q.dtype))

    value = pad(v, (0, 1), value=1.0) if normalise else v
    state: Tensor | None
    match backend:
        case "chunked":
            form = partial(chunked.exclusive_linear_attention, bonus=bonus) if exclusive else chunked.linear_attention
            out, state = form(q, k, value, log_decay, initial_state, return_state, chunk)
        case "reference":
            check_decay_sign(log_decay)
            out, state = reference.linear_attention(q, k, value, log_decay, initial_state, exclusive, bonus)
        case "triton":
            require_triton("linear_attention", q)
            from archloom.kernels.linear_attention import triton  # an optional package

            out, state = triton.linear_attention(
                q,
                k,
                value,
                log_decay,
                initial_state,
                exclusive,
                bonus,
                return_state,
                scale=1.0 if normalise else scale,
                dtype=accumulator(q.dtype) if normalise else q.dtype,
            )
            scale = 1.0
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    if normalise:
        out = normalised(out)
    elif scale != 1.0:
        out = out * scale
    out = out.to(q.dtype)
    return (out, state) if return_state and state is not None else out
