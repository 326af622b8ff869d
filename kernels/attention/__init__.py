"""Attention over all pairs: softmax and entrywise weights, masks, score modifications, grouped heads; see README.md."""

from torch import Tensor

from archloom.kernels.arguments import check_decay_sign
from archloom.kernels.attention import chunked, reference
from archloom.kernels.attention.checks import check_mask, check_numbers, check_tensors
from archloom.kernels.attention.decode import attention_decode
from archloom.kernels.attention.positions import PositionalMask
from archloom.kernels.attention.resolvent import attention_resolvent
from archloom.kernels.attention.rule import Normaliser, Rule
from archloom.kernels.backends import Backend, require_triton, unknown_backend

__all__ = ["PositionalMask", "attention", "attention_decode", "attention_resolvent"]


def attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    log_decay: Tensor | None = None,
    window: int | None = None,
    scale: float | None = None,
    causal: bool = True,
    mask: Tensor | PositionalMask | None = None,
    bias: Tensor | None = None,
    lag_bias: Tensor | None = None,
    soft_cap: float | None = None,
    normaliser: Normaliser = "softmax",
    top_k: int | None = None,
    backend: Backend = "chunked",
) -> Tensor:
    """o_t = sum over the s that t sees of w_ts v_s, with weights of the scores x and the decay D,

        x_ts = cap(scale <q_t, k_s>) + bias_ts + lag_bias_{t-s},    cap(x) = c tanh(x / c)
        D_ts = sum of log_decay over (s, t]
        w = softmax(x + D),  exp(x + D) / (1 + sum exp(x + D)),  sparsemax(x + D),  or  f(x) exp(D) with
        f = sigmoid, relu, relu^2

    The queries are the last T of the S positions, so that decoding with a cache is the same function. Query head h
    reads key head h // (H / G). The decay is that of Forgetting attention (Lin et al. 2025).

    Args:
        q: [B, T, H, K].
        k: [B, S, G, K] with H a multiple of G, and S >= T unless neither causal nor by position.
        v: [B, S, G, V].
        log_decay: None or [B, S, H], one decay for each query head; finite and <= 0 (the sign is checked by the
            reference only, since reading it would make a GPU wait). May be float32 beside bfloat16 inputs.
        window: keep only 0 <= t - s < window; None keeps all.
        scale: factor of the inner products; None for K ** -0.5.
        causal: False lets every query see later keys too, unless a mask tensor is given.
        mask: a PositionalMask, on top of the causal rule; or [T, S] of bool, True where t sees s, instead of that rule.
            A query that sees nothing gives zeros. Where it lets a query see a later key, the decay is summed over
            (t, s].
        bias: [H, T, S]; may be float32 beside bfloat16 inputs.
        lag_bias: [H, L], a relative bias; entry min(t - s, L - 1). Where later keys can be seen L is odd, lag 0 is the
            middle entry, and lags beyond either end read that end. May be float32 beside bfloat16 inputs.
        soft_cap: c > 0, of the soft cap; None for none.
        normaliser: "softmax", "softmax_plus_one", which can attend to nothing, "sigmoid", "relu", "relu2" or
            "sparsemax".
        top_k: keep only the k largest weights of each row before it is normalised, and those within half of the digits
            of the last of them; None keeps all.
        backend: "chunked", "reference" for the dense definition, or "triton", which has neither bias, top_k nor
            sparsemax, takes float32 and bfloat16, and K and V up to 256.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a window below 1 or beside another mask or without
            the causal rule, or an unknown normaliser or backend.
    """
    check_tensors(q, k, v, log_decay, bias, lag_bias)
    placed = [name for name, given in (("log_decay", log_decay), ("lag_bias", lag_bias)) if given is not None]
    check_mask(q.shape[1], k.shape[1], window, mask, causal, placed)
    seen = mask if isinstance(mask, Tensor) else None
    causal = causal and seen is None
    check_numbers(lag_bias, not causal, soft_cap, normaliser, top_k)
    rule = Rule(
        scale=q.shape[3] ** -0.5 if scale is None else scale,
        causal=causal,
        positions=mask if isinstance(mask, PositionalMask) else PositionalMask(window=window),
        soft_cap=soft_cap,
        normaliser=normaliser,
        top_k=top_k,
    )
    match backend:
        case "chunked":
            return chunked.attention(q, k, v, log_decay, bias, lag_bias, seen, rule)
        case "reference":
            check_decay_sign(log_decay)
            return reference.attention(q, k, v, log_decay, bias, lag_bias, seen, rule)
        case "triton":
            require_triton("attention", q)
            from archloom.kernels.attention.triton import attention as compiled

            return compiled(q, k, v, log_decay, bias, lag_bias, seen, rule)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
