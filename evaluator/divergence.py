"""Why a run diverged: what was the first thing that is not finite, found by taking the fatal step once more.

The training loop leaves the weights alone when a gradient norm is not finite, and everything in it is deterministic,
so the same forward and backward pass fails again in the same place, this time under watch.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from archloom.evaluator.inside import blocks_of
from archloom.evaluator.model import Model

What = Literal["weight", "activation", "loss", "gradient"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """The first thing that was not finite: `what` it is, and `where` in words."""

    what: What
    where: str

    def __str__(self) -> str:
        kind = "" if self.what == "loss" else f"{self.what}, "
        return f"first not finite: {kind}{self.where}"


def origin_of_divergence(model: nn.Module, loss: Callable[[], Tensor]) -> Origin | None:
    """What is not finite first while `loss()` runs the model and a backward pass follows; None if everything is finite.

    The order is that of time: weights as they are, activations from the embedding on, the loss, gradients from the
    head back. Gradients of the model are None afterwards. `loss` may run without gradients; then none are looked at.
    """
    places = _places(model)
    for name, weight in model.named_parameters():
        if not _finite(weight):
            return Origin(what="weight", where=name)
    model.zero_grad(set_to_none=True)
    try:
        with _first_not_finite(places) as found:
            value = loss()
        if found:
            return Origin(what="activation", where=found[0])
        if not _finite(value):
            return Origin(what="loss", where="the loss, of finite outputs")
        if not value.requires_grad:
            return None
        torch.autograd.backward(value)
        return _gradient(model, places)
    finally:
        model.zero_grad(set_to_none=True)


def _gradient(model: nn.Module, places: dict[str, nn.Module]) -> Origin | None:
    """The place nearest to the outputs that has a parameter without a finite gradient."""
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    broken = [name for name, gradient in gradients.items() if not _finite(gradient)]
    owners = _owners(model, places)
    for where in reversed(places):
        if any(owners.get(name) == where for name in broken):
            return Origin(what="gradient", where=where)
    if broken:
        return Origin(what="gradient", where=broken[-1])
    if gradients and not _finite(torch.stack([each.norm() for each in gradients.values()]).norm()):
        return Origin(what="gradient", where="the norm, of finite entries too large to be squared and summed")
    return None


def _owners(model: nn.Module, places: dict[str, nn.Module]) -> dict[str, str]:
    """The place of each named parameter: the smallest that holds it."""
    sizes = {where: sum(1 for _ in module.parameters()) for where, module in places.items()}
    owner: dict[int, str] = {}
    for where in sorted(places, key=lambda where: -sizes[where]):
        owner |= {id(each): where for each in places[where].parameters()}
    return {name: owner[id(each)] for name, each in model.named_parameters() if id(each) in owner}


def _places(model: nn.Module) -> dict[str, nn.Module]:
    """Modules by their names in words, in the order of computation; the children of a module that is no `Model`."""
    if not isinstance(model, Model):
        return {f"child {name} ({type(each).__name__})": each for name, each in model.named_children()}
    places: dict[str, nn.Module] = {"embedding": model.embedding}
    for number, block in enumerate(blocks_of(model), start=1):
        parts = {
            "norm before the mixer": block.mixer_norm,
            "mixer": block.mixer,
            "norm before the channel mixer": block.channel_norm,
            "channel mixer": block.channel,
            "residual": block,
        }
        places |= {f"{part} of block {number}": module for part, module in parts.items() if module is not None}
    return {**places, "final norm": model.stack.norm, "head": model.head}


@contextmanager
def _first_not_finite(places: dict[str, nn.Module]) -> Iterator[list[str]]:
    """Yields a list that will hold the names of the places whose output was not finite, in the order of time."""
    found: list[str] = []

    def watch(where: str) -> Callable[[nn.Module, object, object], None]:
        def look(_: nn.Module, __: object, outputs: object) -> None:
            if not all(_finite(each) for each in tree_leaves(outputs) if isinstance(each, Tensor)):
                found.append(where)

        return look

    handles = [module.register_forward_hook(watch(where)) for where, module in places.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _finite(x: Tensor) -> bool:
    return bool(torch.isfinite(x.detach()).all())
