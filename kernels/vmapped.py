"""Primitives under `torch.vmap`, which maps over replicates and cannot enter a backward pass of a primitive's own.

    apply = vmappable(selective_scan, weights=("rate",))
    with vmapping():
        out = torch.vmap(lambda q, k, v, step, rate: apply(q, k, v, step=step, rate=rate))(q, k, v, step, rate)

A rule of `torch.autograd.Function` hands over the tensors without their wrapping, and `replicated` makes one call of
them: of more sequences, or of more heads where a weight differs. The rule is not itself differentiated, so the
primitive's own backward passes run. One vmap is served, not one inside another. Outside of `vmapping()` the primitive
is called as it is.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial, wraps
from typing import Any, ParamSpec, TypeVar, cast

import torch
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from archloom.kernels.replicated import replicated

__all__ = ["vmappable", "vmapping"]

P = ParamSpec("P")
R = TypeVar("R")
Result = Tensor | tuple[Tensor, ...]

SHARED = ("mask",)
"""Tensors without an axis of sequences or heads."""

_vmapping: ContextVar[bool] = ContextVar("whether vmap may be active", default=False)


@contextmanager
def vmapping() -> Iterator[None]:
    """Around a block of code that maps over primitives."""
    before = _vmapping.set(True)
    try:
        yield
    finally:
        _vmapping.reset(before)


def vmappable(function: Callable[P, R], *, weights: tuple[str, ...] = ()) -> Callable[P, R]:
    """The primitive, through which `torch.vmap` passes within `vmapping()`.

    `weights` names the arguments that belong to heads or channels, [H, ...] or [C, ...]; all other tensors have their
    sequences first. What differs between replicates is chosen by the in_dims of vmap, argument by argument.

    Raises:
        ValueError: from a call with a mask that differs between replicates. And what the primitive itself raises.
    """
    signature = inspect.signature(function)

    @wraps(function)
    def call(*arguments: P.args, **named: P.kwargs) -> R:
        if not _vmapping.get():
            return function(*arguments, **named)
        given = signature.bind(*arguments, **named).arguments
        tensors = {name: value for name, value in given.items() if isinstance(value, Tensor)}
        options = {name: value for name, value in given.items() if name not in tensors}
        bound = _Call(function=partial(function, **options), names=tuple(tensors), weights=weights)
        return cast(R, _Folded.apply(bound, *tensors.values()))  # type: ignore[no-untyped-call]

    return call


@dataclass(frozen=True, slots=True, kw_only=True)
class _Call:
    """A primitive with its options bound, and the names of the tensors that it is called with."""

    function: Callable[..., Any]
    names: tuple[str, ...]
    weights: tuple[str, ...]

    def __call__(self, *tensors: Tensor) -> Result:
        result: Result = self.function(**dict(zip(self.names, tensors, strict=True)))
        return result

    def of_replicates(self, tensors: Mapping[str, Tensor], shared: Mapping[str, Tensor], count: int) -> Result:
        """Of tensors [R, ...], and of others that are the same for all R replicates."""
        for name in SHARED:
            if name in tensors:
                raise ValueError(f"{name} differs between replicates; give one for all of them")
        apart = any(name in tensors for name in self.weights)
        kept = {name: value for name, value in shared.items() if name in SHARED or (name in self.weights and not apart)}
        given = dict(tensors) | {
            name: value.expand(count, *value.shape) for name, value in shared.items() if name not in kept
        }
        start = given.pop("initial_state", None)
        heads = {name: given.pop(name) for name in self.weights if name in given}
        return replicated(partial(self.function, **kept), given, heads, initial_state=start)


class _Folded(Function):
    @staticmethod
    def forward(call: _Call, *tensors: Tensor) -> Result:
        return call(*tensors)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Result) -> None:
        call, *tensors = inputs
        ctx.save_for_backward(*tensors)
        ctx.call = call

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        """Reached only where nothing differs between replicates: the call is made again, with its own backward."""
        needed = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            tensors = [x.detach().requires_grad_(n) for x, n in zip(ctx.saved_tensors, needed, strict=True)]
            result = ctx.call(*tensors)
        outputs = (result,) if isinstance(result, Tensor) else result
        asked = [tensor for tensor, wanted in zip(tensors, needed, strict=True) if wanted]
        found = iter(torch.autograd.grad(outputs, asked, gradients, allow_unused=True))
        return None, *(next(found) if wanted else None for wanted in needed)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], call: _Call, *tensors: Tensor) -> tuple[Result, Any]:
        placed = list(zip(call.names, tensors, in_dims[1:], strict=True))
        result = call.of_replicates(
            {name: tensor.movedim(axis, 0) for name, tensor, axis in placed if axis is not None},
            {name: tensor for name, tensor, axis in placed if axis is None},
            info.batch_size,
        )
        return result, 0 if isinstance(result, Tensor) else (0,) * len(result)
