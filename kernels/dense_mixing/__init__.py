"""Mixing over time by a learned matrix for every head, whatever the inputs; see README.md."""

from torch import Tensor

from archloom.kernels.arguments import check_alike, check_shape
from archloom.kernels.backends import Backend, require_triton, unknown_backend
from archloom.kernels.dense_mixing import chunked, reference

__all__ = ["dense_mixing"]


def dense_mixing(
    v: Tensor,
    *,
    matrix: Tensor,
    queries: int | None = None,
    causal: bool = True,
    backend: Backend = "chunked",
) -> Tensor:
    """o_t = sum over s of M_ts v_s, of s <= t only where causal, for the last T of S positions.

    The random form of Synthesizer (Tay et al. 2021, arXiv:2005.00743) takes softmax rows for M, gMLP (Liu et al. 2021,
    arXiv:2105.08050) any matrix. There is no state of finite size; to decode, keep v.

    Args:
        v: [B, S, H, V].
        matrix: [H, L, L] with L >= S; rows are positions that read, columns those that are read. What lies beyond S, or
            above the diagonal where causal, is not used. May be float32 beside bfloat16 inputs.
        queries: T, how many positions are wanted, 1 <= T <= S; None for all of them.
        causal: keep s <= t only.
        backend: "chunked"; "triton" for GPU kernels, which take no float64 and round the matrix to the type of v; or
            "reference" for the whole product.

    Returns:
        o [B, T, H, V] in the dtype of v.

    Raises:
        ValueError: for shapes, dtypes or devices that do not fit, a matrix that is too small, queries out of range, or
            a backend that is unknown or cannot run here.
    """
    check_alike({"v": v}, wide={"matrix": matrix})
    check_shape("v", v, "BSHV", (None, None, None, None))
    sources, heads = v.shape[1:3]
    check_shape("matrix", matrix, "HLL", (heads, None, matrix.shape[1] if matrix.dim() == 3 else None))
    if matrix.shape[1] < sources:
        raise ValueError(f"matrix has L = {matrix.shape[1]} positions, v has S = {sources}; expected L >= S")
    steps = sources if queries is None else queries
    if not 1 <= steps <= sources:
        raise ValueError(f"queries is {steps} beside S = {sources} positions of v; expected 1 <= queries <= S")
    rows = matrix[:, sources - steps : sources, :sources]
    match backend:
        case "chunked":
            return chunked.dense_mixing(v, rows, causal)
        case "reference":
            return reference.dense_mixing(v, rows, causal)
        case "triton":
            require_triton("dense_mixing", v)
            from archloom.kernels.dense_mixing import triton  # an optional package

            return triton.dense_mixing(v, rows, causal)
        case _:
            raise unknown_backend(backend, "chunked", "reference", "triton")
