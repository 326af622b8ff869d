"""Every zoo entry against a literal implementation of its published equations, in float64.

A case says where each weight of the equations lives in the compiled mixer: a path of operation names from the body
inwards. Outputs and all gradients must agree, for the lowered form and the dense one. The sequence is of odd length, is
longer than a chunk of the kernels and shorter than the protocol's; all widths differ, so that no two axes can be
confused.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import Context, Operator
from archloom.evaluator.modules.mixers import Mixer, make_mixer
from archloom.search_space import zoo
from archloom.search_space.costs import Widths
from archloom.search_space.stacks import layers
from archloom.search_space.terms import Term

from .literal.cases import CASES
from .literal.cases_blocks import WHOLES
from .literal.places import LENGTH, Places

BATCH, STEPS = 2, 73
WIDTHS = Widths(model=10, key=12, value=8, hidden=1)
# Both sides round in float64, some over 73 products of transitions; the largest difference seen is 3e-14.
TOLERANCE = 1e-9


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    """Everything is built in float64, also what modules hold beside their weights."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def mixers(name: str) -> list[Term]:
    """The different mixers of an entry, in order."""
    return list(dict.fromkeys(block.arguments[0] for block in layers(zoo.load(name))))


def compiled(name: str, index: int, widths: Widths = WIDTHS) -> Mixer:
    """The mixer with every weight moved off its start, where gains are 1 and would hide a missing product."""
    mixer = make_mixer(mixers(name)[index], widths=widths, length=LENGTH, pattern=zoo.entry(name).pattern)
    assert isinstance(mixer, Mixer)
    with torch.no_grad():
        for weight in mixer.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return mixer


def below_lets(module: Operator) -> Operator:
    return below_lets(module.inputs[0]) if module.term.operation.name == "let" else module


def find(body: Operator, path: str) -> Operator:
    """The operation at a path of names; `name:i` where the input must be number i, else the name must be the only one
    of its kind."""
    at = below_lets(body)
    first, *rest = path.split()
    assert at.term.operation.name == first
    for word in rest:
        name, _, index = word.partition(":")
        inputs = [below_lets(each) for each in at.inputs]
        (at,) = [
            each for i, each in enumerate(inputs) if each.term.operation.name == name and (not index or i == int(index))
        ]
    return at


def weights_of(mixer: Mixer, places: Places) -> dict[str, nn.Parameter]:
    found = {name: find(mixer.body, path).get_parameter(weight) for name, (path, weight) in places.items()}
    return found | {"output": mixer.output.get_parameter("weight")}


def assert_close(found: Tensor, expected: Tensor, what: str) -> None:
    size = expected.abs().max()
    assert size > 0, f"{what} is zero and says nothing"
    assert (found - expected).abs().max() <= TOLERANCE * size, what


def test_every_mixer_of_every_entry_has_a_case() -> None:
    apart = set(zoo.names()) - set(WHOLES)  # the others are tested whole
    assert set(CASES) == {(name, index) for name in apart for index in range(len(mixers(name)))}


@pytest.mark.parametrize(("name", "index"), CASES)
def test_mixer_is_the_published_one(name: str, index: int) -> None:
    case = CASES[name, index]
    mixer = compiled(name, index)
    weights = weights_of(mixer, case.places)
    assert {id(each) for each in weights.values()} == {id(each) for each in mixer.parameters()}
    x = torch.randn(BATCH, STEPS, WIDTHS.model, requires_grad=True)
    source = torch.randn(BATCH, STEPS + 8, WIDTHS.model, requires_grad=True) if mixer.pattern.cross else None
    inputs = [x] if source is None else [x, source]
    copies = {each: weight.detach().clone().requires_grad_() for each, weight in weights.items()}
    expected = torch.stack([case.literal(*each, **copies) for each in zip(*inputs, strict=True)])
    cotangent = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, [*inputs, *copies.values()], cotangent)
    for dense in (False, True):
        outputs = mixer(x, Context(dense=dense, source=source))
        gradients = torch.autograd.grad(outputs, [*inputs, *weights.values()], cotangent)
        assert_close(outputs, expected, f"outputs, dense={dense}")
        for each, found, wanted in zip(
            [*["x", "source"][: len(inputs)], *weights], gradients, expected_gradients, strict=True
        ):
            assert_close(found, wanted, f"gradient of {each}, dense={dense}")


@pytest.mark.parametrize(("name", "index"), CASES)
@pytest.mark.parametrize(("D", "key", "value"), [(10, 12, 8), (24, 32, 20)])
def test_parameters_are_those_of_the_formula(name: str, index: int, D: int, key: int, value: int) -> None:
    mixer = compiled(name, index, Widths(model=D, key=key, value=value, hidden=1))
    H = mixers(name)[index].integer("heads")
    expected = CASES[name, index].count(D, H, key // H, value // H, LENGTH)
    assert sum(weight.numel() for weight in mixer.parameters()) == expected
