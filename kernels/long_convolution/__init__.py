"""Causal convolution of every channel with a filter as long as the sequence; see README.md."""

from torch import Tensor

from archloom.kernels.arguments import check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.long_convolution import chunked, reference

__all__ = ["long_convolution"]


def long_convolution(
    x: Tensor,
    filter: Tensor,
    *,
    history: Tensor | None = None,
    backend: Backend = "chunked",
) -> Tensor:
    """y_t = sum over j of filter_j x_{t-j}, 0 <= j < L, over the inputs in history and x.

    This is the convolution of H3 and Hyena (Poli et al. 2023).

    Args:
        x: [B, T, C].
        filter: [C, L]; filter[:, 0] multiplies the current step. Taps that reach before the first input are unused.
        history: [B, P, C], the inputs before x, any P; None for a start from nothing.
        backend: "chunked" (FFT, or an inner product for a single step); "triton" for GPU kernels (Toeplitz tiles, T S
            operations), which take no float64; or "reference" for the literal sum over lags.

    Returns:
        y [B, T, C], the T new outputs only, in the dtype of x.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, or a backend that is unknown or cannot run here.
    """
    check_alike({"x": x, "filter": filter, "history": history})
    check_shape("x", x, "BTC", (None, None, None))
    batch, _, channels = x.shape
    check_shape("filter", filter, "CL", (channels, None))
    if history is not None and history.shape != (batch, 0, channels):
        check_shape("history", history, "BPC", (batch, None, channels))
    match backend:
        case "chunked":
            return chunked.long_convolution(x, filter, history)
        case "reference":
            return reference.long_convolution(x, filter, history)
        case "triton":
            require_triton("long_convolution", x)
            from archloom.kernels.long_convolution import triton  # an optional package

            return triton.long_convolution(x, filter, history)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
