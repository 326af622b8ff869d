"""Which keys a query sees: the causal rule with an optional window, or an explicit mask.

visible[t, s] = 0 <= t' - s < window,    t' = t + S - T: the T queries are the last of S positions
"""

import torch
from torch import Tensor

from archloom.kernels.arguments import check_shape


def check_visibility(steps: int, sources: int, window: int | None, mask: Tensor | None, causal: bool = True) -> None:
    """Raise ValueError unless T queries can be the last of S positions, or a mask [T, S] replaces that rule."""
    if mask is not None:
        check_shape("mask", mask, "TS", (steps, sources))
        if mask.dtype != torch.bool:
            raise ValueError(f"mask has dtype {mask.dtype}; expected torch.bool, True where a query sees a key")
    elif causal and sources < steps:
        raise ValueError(f"k has S = {sources} positions, q has T = {steps}; expected S >= T, q being the last T")
    if window is None:
        return
    if window < 1:
        raise ValueError(f"window is {window}; expected at least 1 (the step itself), or None")
    if mask is not None or not causal:
        raise ValueError(f"window is {window} without the causal rule; put the window into the mask")


def visible(
    steps: int, sources: int, window: int | None, mask: Tensor | None, causal: bool, device: torch.device
) -> Tensor | None:
    """[T, S] of bool, True where a query sees a key; None where every query sees every key."""
    if mask is not None or not causal:
        return mask
    position = torch.arange(sources, device=device)
    lag = position[sources - steps :].unsqueeze(1) - position
    return (lag >= 0) & (lag < (sources if window is None else window))
