"""What a diverged run is blamed on: models that are made to fail in one known place."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.divergence import origin_of_divergence
from archloom.evaluator.inside import blocks_of
from archloom.evaluator.model import Model
from archloom.search_space import zoo
from archloom.search_space.costs import default_widths


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def model() -> Model:
    return Model(zoo.load("mha", depth=3), widths=default_widths(16), vocabulary=7, length=10)


def loss_of(model: nn.Module) -> Callable[[], Tensor]:
    tokens = torch.randint(7, (2, 10))
    return lambda: functional.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())


class Broken(torch.autograd.Function):
    """The identity, with an infinite gradient."""

    @staticmethod
    def forward(context: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> Tensor:
        return torch.full_like(gradients[0], math.inf)


class Before(nn.Module):
    """A module and something done to what it says."""

    def __init__(self, module: nn.Module, then: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.module, self.then = module, then

    def forward(self, *arguments: Any) -> Tensor:
        return self.then(self.module(*arguments))


def test_a_healthy_model_is_blamed_for_nothing(model: Model) -> None:
    assert origin_of_divergence(model, loss_of(model)) is None
    assert all(each.grad is None for each in model.parameters())
    assert not any(each._forward_hooks for each in model.modules())


def test_weights_come_first(model: Model) -> None:
    with torch.no_grad():
        blocks_of(model)[1].mixer.output.weight[0, 0] = math.nan
    found = origin_of_divergence(model, loss_of(model))
    assert found is not None
    assert (found.what, found.where) == ("weight", "stack.layers.blocks.1.mixer.output.weight")


def test_an_activation_is_named_by_its_place(model: Model) -> None:
    with torch.no_grad():
        blocks_of(model)[1].channel.down.weight.fill_(1e38)
        blocks_of(model)[1].channel.up.weight.fill_(1e3)
    found = origin_of_divergence(model, loss_of(model))
    assert str(found) == "first not finite: activation, channel mixer of block 2"


def test_a_sum_that_overflows_is_the_residual(model: Model) -> None:
    block = blocks_of(model)[0]
    block.mixer = Before(block.mixer, lambda y: torch.full_like(y, 3e38))
    block.channel = Before(block.channel, lambda y: torch.full_like(y, 3e38))
    found = origin_of_divergence(model, loss_of(model))
    assert str(found) == "first not finite: activation, residual of block 1"


def test_a_loss_of_finite_outputs_is_the_loss(model: Model) -> None:
    found = origin_of_divergence(model, lambda: loss_of(model)() * math.inf)
    assert str(found) == "first not finite: the loss, of finite outputs"


@pytest.mark.parametrize(
    ("number", "part", "expected"),
    [(3, "channel", "channel mixer of block 3"), (2, "mixer", "mixer of block 2"), (1, "mixer", "mixer of block 1")],
)
def test_a_gradient_is_blamed_where_it_broke_and_not_where_it_went(
    model: Model, number: int, part: str, expected: str
) -> None:
    block = blocks_of(model)[number - 1]
    setattr(block, part, Before(getattr(block, part), Broken.apply))
    found = origin_of_divergence(model, loss_of(model))
    assert str(found) == f"first not finite: gradient, {expected}"
    assert all(each.grad is None for each in model.parameters())


def test_a_norm_of_finite_gradients_can_overflow() -> None:
    model = nn.Sequential(nn.Linear(2, 2, bias=False))
    found = origin_of_divergence(model, lambda: (model(torch.ones(1, 2)) * 1e25).sum())
    assert found is not None
    assert found.what == "gradient"
    assert "too large to be squared" in found.where


def test_a_model_of_another_make_is_named_by_its_children() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
    with torch.no_grad():
        model[2].weight.fill_(3e38)
        model[2].bias.fill_(3e38)
    found = origin_of_divergence(model, lambda: model(torch.full((1, 2), 100.0)).sum())
    assert str(found) == "first not finite: activation, child 2 (Linear)"


def test_without_gradients_only_the_forward_pass_is_searched(model: Model) -> None:
    def evaluated() -> Tensor:
        with torch.no_grad():
            return loss_of(model)()

    assert origin_of_divergence(model, evaluated) is None
    model.head = Before(model.head, lambda y: y / 0)
    found = origin_of_divergence(model, evaluated)
    assert str(found) == "first not finite: activation, head"
