"""What the arguments of attention must satisfy; each failure is a ValueError that says what was given and expected."""

from torch import Tensor

from archloom.kernels.arguments import check_alike, check_shape
from archloom.kernels.attention.positions import PositionalMask
from archloom.kernels.attention.rule import NORMALISERS, Normaliser
from archloom.kernels.visibility import check_visibility


def check_tensors(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor | None, bias: Tensor | None, lag_bias: Tensor | None
) -> None:
    check_alike({"q": q, "k": k, "v": v}, wide={"log_decay": log_decay, "bias": bias, "lag_bias": lag_bias})
    check_shape("q", q, "BTHK", (None, None, None, None))
    batch, steps, heads, width = q.shape
    check_shape("k", k, "BSGK", (batch, None, None, width))
    sources, groups = k.shape[1:3]
    check_shape("v", v, "BSGV", (batch, sources, groups, None))
    if heads % groups:
        raise ValueError(f"q has H = {heads} heads, k has G = {groups}; expected H to be a multiple of G")
    if log_decay is not None:
        check_shape("log_decay", log_decay, "BSH", (batch, sources, heads))
    if bias is not None:
        check_shape("bias", bias, "HTS", (heads, steps, sources))
    if lag_bias is not None:
        check_shape("lag_bias", lag_bias, "HL", (heads, None))


def check_mask(
    steps: int, sources: int, window: int | None, mask: Tensor | PositionalMask | None, causal: bool, placed: list[str]
) -> None:
    """`placed` names the arguments that are given and need every query to be at one of the S positions."""
    check_visibility(steps, sources, window, mask if isinstance(mask, Tensor) else None, causal)
    if window is not None and isinstance(mask, PositionalMask):
        raise ValueError(f"window is {window} beside a positional mask; put the window into the mask")
    if isinstance(mask, PositionalMask):
        placed = [*placed, "a positional mask"]
    if placed and sources < steps:
        raise ValueError(f"{placed[0]} is given for S = {sources} positions, but q has T = {steps}; expected S >= T")


def check_numbers(
    lag_bias: Tensor | None, looks_ahead: bool, soft_cap: float | None, normaliser: Normaliser, top_k: int | None
) -> None:
    if lag_bias is not None and looks_ahead and lag_bias.shape[1] % 2 == 0:
        raise ValueError(
            f"lag_bias has L = {lag_bias.shape[1]} entries; expected an odd number, lag 0 in the middle, where queries"
            " may see later keys"
        )
    if soft_cap is not None and not soft_cap > 0:
        raise ValueError(f"soft_cap is {soft_cap}; expected more than 0, or None")
    if normaliser not in NORMALISERS:
        raise ValueError(f"normaliser is {normaliser!r}; expected one of {', '.join(NORMALISERS)}")
    if top_k is not None and top_k < 1:
        raise ValueError(f"top_k is {top_k}; expected at least 1, or None")
