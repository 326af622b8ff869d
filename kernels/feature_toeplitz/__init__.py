"""Kernelised attention with a Toeplitz weight for every distance; see README.md."""

from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.arguments import check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.feature_toeplitz import chunked, reference
from archloom.kernels.normaliser import normalised

__all__ = ["feature_toeplitz"]


def feature_toeplitz(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    taps: Tensor,
    normalise: bool = False,
    backend: Backend = "chunked",
) -> Tensor:
    """o_t = sum over s <= t of c_{t-s} <q_t, k_s> v_s, the T queries being the last of S positions.

    With q, k features of a kernel and c = exp(b) a relative bias: kernelised attention of Luo et al. 2021
    (arXiv:2106.12566, equation 9). There is no state of finite size; to decode, keep the keys and values.

    Args:
        q: [B, T, H, K].
        k: [B, S, H, K] with S >= T.
        v: [B, S, H, V].
        taps: [H, L], c; taps[:, 0] is the weight of the step itself, distances from L on weigh nothing. May be float32
            beside bfloat16 inputs.
        normalise: divide by the same sum with 1 for v, whose magnitude is kept at or above 1e-6.
        backend: "chunked"; "triton" for GPU kernels, which take K and V up to 256 and no float64; or "reference" for
            the dense definition.

    Returns:
        o [B, T, H, V] in the dtype of q.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a backend that is unknown or cannot run here.
    """
    check_alike({"q": q, "k": k, "v": v}, wide={"taps": taps})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BSHK", (batch, None, heads, width))
    sources = k.shape[1]
    check_shape("v", v, "BSHV", (batch, sources, heads, None))
    check_shape("taps", taps, "HL", (heads, None))
    if sources < steps:
        raise ValueError(f"k has S = {sources} positions, q has T = {steps}; expected S >= T, q being the last T")
    value = pad(v, (0, 1), value=1.0) if normalise else v
    weights = pad(taps, (0, sources - taps.shape[1]))  # cut or lengthened to [H, S]
    match backend:
        case "chunked":
            out = chunked.feature_toeplitz(q, k, value, weights)
        case "reference":
            out = reference.feature_toeplitz(q, k, value, weights)
        case "triton":
            require_triton("feature_toeplitz", q)
            from archloom.kernels.feature_toeplitz import triton  # an optional package

            out = triton.feature_toeplitz(q, k, v, taps, normalise)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
    return (normalised(out) if normalise else out).to(q.dtype)
