"""Checks of tensor arguments that every primitive shares: floating type, device, shape.

All of them read metadata only, so none makes a GPU wait. Whether a log decay is positive needs its values, and is
therefore checked by the reference backends alone.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

_FLOATING = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


def accumulator(dtype: torch.dtype) -> torch.dtype:
    """The type in which states are kept and sums are made: float64 for float64, float32 for all else."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def check_alike(tensors: Mapping[str, Tensor | None], wide: Mapping[str, Tensor | None] | None = None) -> None:
    """Raise ValueError unless all `tensors` share one floating dtype and device.

    The tensors in `wide` (decays and states) may also have the accumulator's type: float32 beside bfloat16.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    first_name, first = next(iter(given.items()))
    if first.dtype not in _FLOATING:
        raise ValueError(f"{first_name} has dtype {first.dtype}; expected one of {', '.join(map(str, _FLOATING))}")
    wider = {name: tensor for name, tensor in (wide or {}).items() if tensor is not None}
    for name, tensor in (given | wider).items():
        allowed = {first.dtype, accumulator(first.dtype)} if name in wider else {first.dtype}
        if tensor.dtype not in allowed:
            expected = " or ".join(sorted(map(str, allowed)))
            raise ValueError(
                f"{name} has dtype {tensor.dtype}; beside {first_name} ({first.dtype}) expected {expected}"
            )
        if tensor.device != first.device:
            raise ValueError(f"{name} is on {tensor.device} but {first_name} is on {first.device}; move one of them")


def check_shape(name: str, tensor: Tensor, letters: str, sizes: Sequence[int | None]) -> None:
    """Raise ValueError unless `tensor` has the given sizes; None stands for any size of at least one."""
    expected = [size if size is not None else letter for letter, size in zip(letters, sizes, strict=True)]
    fits = tensor.dim() == len(sizes) and all(
        actual == size if size is not None else actual > 0 for actual, size in zip(tensor.shape, sizes, strict=True)
    )
    if not fits:
        wanted = ", ".join(map(str, expected))
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected [{', '.join(letters)}] = ({wanted})")


def check_decay(log_decay: Tensor | None, steps: tuple[int, int, int], width: int | None) -> None:
    """Raise ValueError unless `log_decay` is None, [B, T, H] or, where a width is given, [B, T, H, K]."""
    if log_decay is None:
        return
    if width is not None and log_decay.dim() == 4:
        check_shape("log_decay", log_decay, "BTHK", (*steps, width))
    else:
        check_shape("log_decay", log_decay, "BTH", steps)


def check_decay_sign(log_decay: Tensor | None) -> None:
    """Raise ValueError if any log decay is positive or not a number; reads values, so it waits for the device."""
    if log_decay is not None and not bool((log_decay <= 0).all()):
        raise ValueError(f"log_decay must be <= 0 everywhere, but its largest value is {log_decay.max().item()}")


def check_chunk(chunk: int | None) -> None:
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk is {chunk}; expected a number of steps of at least 1, or None for the default")
