"""R models of one structure as one: their weights are the rows of a matrix, their answers those of one forward pass.

The pass is that of one model under `torch.vmap`: every matrix product becomes a batch of R products, and every call of
a primitive one with R times the heads or sequences (`kernels.vmapped`). As one matrix [R, P] the weights of all models
have one gradient, one norm a row and one update, however many tensors a model has.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call

from archloom.kernels.vmapped import vmapping


class Stacked:
    """The models' weights side by side, copies of theirs until they are written back.

    `weights` [R, P] holds the parameters that ask for a gradient, in the order of `named_parameters()`; what asks for
    none, and buffers, are stacked beside it. The forward pass is that of the first model.

    Errors: `ValueError` for no model, models that differ in modules or in names and shapes of their tensors, or
    parameters of several dtypes or devices.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        _check_alike(models)
        self._model = models[0]
        trained = {name: each for name, each in models[0].named_parameters() if each.requires_grad}
        self._shapes = {name: each.shape for name, each in trained.items()}
        self._fixed = {
            name: torch.stack([_tensors(model)[name].detach() for model in models])
            for name in _tensors(models[0])
            if name not in trained
        }
        self.weights = torch.stack([_row(model, self._shapes) for model in models]).requires_grad_()

    def answers(self, inputs: Tensor, *, source: Tensor | None = None, apart: bool = False) -> Tensor:
        """What every model says of the same inputs [B, ...] and source, or `apart` each of its own, [R, B, ...]:
        [R, B, T, vocabulary] or [R, B, T, C]."""
        own = 0 if apart else None
        given = (inputs,) if source is None else (inputs, source)
        with vmapping():
            outputs: Tensor = torch.vmap(self._answer, in_dims=(0, *[own] * len(given)))(self._named(), *given)
        return outputs

    def train(self, mode: bool = True) -> None:
        """Training or evaluation mode."""
        self._model.train(mode)

    def keep(self, rows: Tensor) -> None:
        """Leave out all models but those in some rows, which move up."""
        self.weights = self.weights.detach()[rows].requires_grad_()
        self._fixed = {name: each[rows] for name, each in self._fixed.items()}

    def write(self, row: int, model: nn.Module) -> None:
        """Give a model of this structure the weights of a row."""
        named = {name: each[row] for name, each in self._named().items()}
        with torch.no_grad():
            for name, tensor in _tensors(model).items():
                tensor.copy_(named[name])

    @property
    def matrices(self) -> Tensor:
        """Which of the P weights belong to a parameter with two axes or more, [P] of bool."""
        parts = [torch.full((shape.numel(),), len(shape) >= 2) for shape in self._shapes.values()]
        return torch.cat(parts).to(self.weights.device)

    def _named(self) -> dict[str, Tensor]:
        """The tensors of all models by name, each [R, ...]."""
        parts = torch.split(self.weights, [shape.numel() for shape in self._shapes.values()], 1)
        named = {
            name: part.view(len(part), *shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)
        }
        return named | self._fixed

    def _answer(self, tensors: Mapping[str, Tensor], inputs: Tensor, source: Tensor | None = None) -> Tensor:
        named = {} if source is None else {"source": source}
        # not tied: what stands under two names is one module, whose own tensors would not be put back
        outputs: Tensor = functional_call(self._model, dict(tensors), (inputs,), named, tie_weights=False)
        return outputs


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _row(model: nn.Module, names: Mapping[str, object]) -> Tensor:
    parameters = dict(model.named_parameters())
    return torch.cat([parameters[name].detach().flatten() for name in names])


def _check_alike(models: Sequence[nn.Module]) -> None:
    if not models:
        raise ValueError("no model is given; expected one or more of one structure")
    first, *others = [_structure(model) for model in models]
    for number, other in enumerate(others, start=1):
        odd = sorted({name for name, _ in {*first} ^ {*other}})
        if odd:
            raise ValueError(f"model {number} differs from the first in {', '.join(odd[:3])}; expected one structure")
    kinds = {(each.dtype, each.device) for model in models for each in model.parameters() if each.requires_grad}
    if len(kinds) != 1:
        given = ", ".join(sorted(f"{dtype} on {device}" for dtype, device in kinds)) or "none that asks for a gradient"
        raise ValueError(f"the parameters are {given}; expected one dtype and device")


def _structure(model: nn.Module) -> list[tuple[str, str]]:
    """The kinds of all modules, and the names and shapes of all tensors."""
    modules = [(name or "its own kind", type(each).__qualname__) for name, each in model.named_modules()]
    tensors = [(name, f"{tuple(each.shape)} {each.requires_grad}") for name, each in _tensors(model).items()]
    return modules + tensors
