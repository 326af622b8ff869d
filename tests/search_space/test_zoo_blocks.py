"""Zoo entries that differ above their mixers: the whole architecture against its published equations, in float64.

Weights are mapped by name: those inside a mixer as its places say, all others as the compiled modules call them. Two to
four blocks, an odd length, and all widths different.
"""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from archloom.evaluator.modules import Context, Stack
from archloom.evaluator.modules.mixers import Mixer
from archloom.search_space import zoo
from archloom.search_space.costs import Widths, costs

from .literal.cases_blocks import WHOLES
from .literal.places import LENGTH
from .literal.whole import Whole
from .test_zoo import assert_close, find

BATCH, STEPS = 2, 37
WIDTHS = Widths(model=10, key=12, value=8, hidden=7)


@pytest.fixture(autouse=True)
def _double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(before)


def compiled(name: str, widths: Widths = WIDTHS) -> Stack:
    """The stack with every weight moved off its start."""
    term = zoo.load(name, depth=WHOLES[name].depth)
    stack = Stack(term, widths=widths, length=LENGTH, pattern=zoo.entry(name).pattern)
    with torch.no_grad():
        for weight in stack.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return stack


def weights_of(stack: Stack, case: Whole) -> dict[str, nn.Parameter]:
    """Every weight by the name that the literal knows it by."""
    kinds: list[str] = []
    found: dict[str, nn.Parameter] = {}
    inside: set[int] = set()
    for path, module in stack.named_modules():
        if isinstance(module, Mixer):
            text = module.body.term.text
            kinds += [text] * (text not in kinds)
            places = case.places[kinds.index(text)]
            for name, (place, weight) in places.items():
                found[f"{path}.{name}"] = find(module.body, place).get_parameter(weight)
            found[f"{path}.output"] = module.output.get_parameter("weight")
            inside |= {id(each) for each in module.parameters()}
    assert len(kinds) == len(case.places)
    return found | {name: each for name, each in stack.named_parameters() if id(each) not in inside}


@pytest.mark.parametrize("name", WHOLES)
def test_architecture_is_the_published_one(name: str) -> None:
    case, stack = WHOLES[name], compiled(name)
    weights = weights_of(stack, case)
    assert sorted(map(id, weights.values())) == sorted(map(id, stack.parameters()))
    x = torch.randn(BATCH, STEPS, WIDTHS.model, requires_grad=True)
    copies = {each: weight.detach().clone().requires_grad_() for each, weight in weights.items()}
    expected = torch.stack([case.literal(each, copies) for each in x])
    cotangent = torch.randn_like(expected)
    expected_gradients = torch.autograd.grad(expected, [x, *copies.values()], cotangent)
    for dense in (False, True):
        outputs = stack(x, Context(dense=dense))
        gradients = torch.autograd.grad(outputs, [x, *weights.values()], cotangent)
        assert_close(outputs, expected, f"outputs, dense={dense}")
        for each, found, wanted in zip(["x", *weights], gradients, expected_gradients, strict=True):
            assert_close(found, wanted, f"gradient of {each}, dense={dense}")


@pytest.mark.parametrize("name", WHOLES)
@pytest.mark.parametrize("widths", [WIDTHS, Widths(model=24, key=32, value=20, hidden=50)])
def test_parameters_are_those_of_the_formula(name: str, widths: Widths) -> None:
    case = WHOLES[name]
    expected = case.count(widths.model, widths.key, widths.value, widths.hidden)
    assert sum(weight.numel() for weight in compiled(name, widths).parameters()) == expected
    term, pattern = zoo.load(name, depth=case.depth), zoo.entry(name).pattern
    assert costs(term, widths, LENGTH, pattern=pattern).parameters == expected
