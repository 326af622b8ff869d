"""Replicates of one model side by side through any primitive: as many more heads, or as many more sequences.

Primitives have backward passes of their own, which `torch.vmap` cannot enter (`vmapped` leads it around them), and
nothing in them mixes heads or sequences. So R replicates, each with its own inputs and weights, are R H heads of one
call: one launch, and gradients for each. Without weights they are R B sequences, for which no tensor is copied.
"""

from collections.abc import Callable, Mapping
from functools import partial

import torch
from torch import Tensor

from archloom.kernels.table import last_input

__all__ = ["replicated"]


def replicated(
    primitive: Callable[..., Tensor | tuple[Tensor, Tensor]],
    inputs: Mapping[str, Tensor],
    weights: Mapping[str, Tensor] | None = None,
    *,
    initial_state: Tensor | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """What the primitive gives for every replicate alone.

        replicated(selective_scan, {"q": q, "k": k, "v": v, "step": step}, {"rate": rate})

    Args:
        primitive: a primitive, options bound by `functools.partial`.
        inputs: arguments with a time axis, each [R, B, T, H, ...] or, of the convolutions, [R, B, T, C]. Without
            weights also [R, B, T, ...] of no head.
        weights: arguments that belong to heads or channels, each [R, H, ...] or [R, C, ...].
        initial_state: [R, B, ...].

    Returns:
        The output [R, B, T, ...]; with a primitive that returns its state, the pair of it and the states [R, B, ...].

    Raises:
        ValueError: where tensors differ in R. And what the primitive itself raises.
    """
    weights = weights or {}
    counts = {name: len(tensor) for name, tensor in {**inputs, **weights}.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"the first axes are {counts}; expected one number of replicates R")
    (count,) = set(counts.values())
    if not weights:
        given = {**inputs, **({} if initial_state is None else {"initial_state": initial_state})}
        result = primitive(**{name: tensor.flatten(0, 1) for name, tensor in given.items()})
        if isinstance(result, Tensor):
            return _apart(result, count, 0)
        out, state = result
        return _apart(out, count, 0), _apart(state, count, 0)
    function = primitive.func if isinstance(primitive, partial) else primitive
    heads_of_state = 1 if last_input(function) is None else 2
    given = {name: tensor.movedim(0, 2).flatten(2, 3) for name, tensor in inputs.items()}
    given |= {name: tensor.flatten(0, 1) for name, tensor in weights.items()}
    if initial_state is not None:
        given["initial_state"] = initial_state.movedim(0, heads_of_state).flatten(heads_of_state, heads_of_state + 1)
    result = primitive(**given)
    if isinstance(result, Tensor):
        return _apart(result, count, 2)
    out, state = result
    return _apart(out, count, 2), _apart(state, count, heads_of_state)


def _apart(x: Tensor, count: int, axis: int) -> Tensor:
    """[.., R H, ..] -> [R, .., H, ..], or [R B, ..] -> [R, B, ..]."""
    return torch.unflatten(x, axis, (count, -1)).movedim(axis, 0)
