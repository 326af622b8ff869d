"""A canonical form means what the term meant: the same function at the same weights, with as many weights.

Both are compiled. Every weight is drawn from a generator seeded by its role, which is what the subterm computes, so a
subterm has the same weights on both sides wherever rewriting has moved it.
"""

import re
from collections.abc import Callable
from hashlib import sha256
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.modules import Operator
from archloom.evaluator.modules.mixers import make_mixer
from archloom.search_space.costs import default_widths
from archloom.search_space.identity import canonical
from archloom.search_space.operations import share
from archloom.search_space.terms import Term, places, replace, substitute
from archloom.search_space.text import parse
from archloom.search_space.types import SHAREABLE, Type

from .sampled import fresh, sampler
from .test_identity import EQUAL, FEWER_WEIGHTS

WIDTH, LENGTH = 16, 12
FOLDED = ("weigh", "temper", "affine", "floor(floor")  # operations whose weights a law folds into others or forgets
EXACT = 1e-10  # float64, sums of a few dozen terms in another order
NORM_EPSILON = 2e-2  # norm(scale(v, g)): the epsilon 1e-6 of the norm is not scaled; gates here go down to 0.01


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def role(node: Term) -> str:
    """What a subterm computes, whether or not its streams are shared."""
    written_out = substitute(node, lambda each: _written_out(each) if each.operation.shares else None)
    return canonical(parse(re.sub(r"share=\d", "share=1", written_out.text))).key


def _written_out(let: Term) -> Term:
    return substitute(let.arguments[0], lambda each: _written_out(each) if each.operation.shares else None)


def own_weights(module: nn.Module) -> list[tuple[str, nn.Parameter]]:
    """The weights of a module that are not those of its arguments."""
    return [(name, weight) for name, weight in module.named_parameters() if not name.startswith(("inputs.", "body."))]


def compiled(mixer: Term) -> nn.Module:
    module = make_mixer(mixer, widths=default_widths(WIDTH), length=LENGTH).double()
    for part in module.modules():
        if part is not module and not isinstance(part, Operator):
            continue
        what = role(part.term) if isinstance(part, Operator) else "output"
        for name, weight in own_weights(part):
            seed = int.from_bytes(sha256(f"{what} {name}".encode()).digest()[:6])
            drawn = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
            weight.data.copy_(drawn / weight.shape[-1] ** 0.5)
    return module


def parameters(module: nn.Module) -> int:
    return sum(weight.numel() for weight in module.parameters())


def meaning(mixer: Term) -> tuple[Tensor, int]:
    module = compiled(mixer)
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return module(x), parameters(module)


def assert_same_meaning(left: Term, right: Term, *, atol: float = EXACT) -> None:
    (outputs, count), (others, other_count) = meaning(left), meaning(right)
    assert count == other_count
    torch.testing.assert_close(others, outputs, rtol=0, atol=atol)


KEPT = [
    law
    for law, (left, _) in EQUAL.items()
    if left.startswith("mix(") and "weigh" not in left and law != "norm of scale"
]


@pytest.mark.parametrize("law", KEPT)
def test_laws_that_keep_weights_keep_the_function(law: str) -> None:
    left, right = (parse(text) for text in EQUAL[law])
    assert_same_meaning(left, canonical(left))
    assert_same_meaning(left, right)


def test_a_gate_under_a_norm_is_lost_up_to_its_epsilon() -> None:
    left = parse("mix(mul(norm(scale(value(x), beta(x))), apply(dense, value(x))))")
    (outputs, count), (others, fewer) = meaning(left), meaning(canonical(left))
    assert count - fewer == (WIDTH + 1) * 2  # the gate that decided nothing
    torch.testing.assert_close(outputs, others, rtol=0, atol=1e-3)
    assert not torch.equal(outputs, others)


def only(module: nn.Module, name: str) -> Operator:
    (found,) = (each for each in module.modules() if isinstance(each, Operator) and each.term.operation.name == name)
    return found


def _into_value(simpler: nn.Module, gains: list[Tensor]) -> None:
    only(simpler.body.inputs[1], "value").linear.weight.mul_(gains[0].flatten()[:, None])


def _into_conv(simpler: nn.Module, gains: list[Tensor]) -> None:
    only(simpler, "conv").taps.mul_(gains[0].flatten()[:, None])


def _into_output(simpler: nn.Module, gains: list[Tensor]) -> None:
    simpler.output.weight.mul_(gains[0].flatten())


def _into_weigh(simpler: nn.Module, gains: list[Tensor]) -> None:
    only(simpler, "weigh").gain.copy_(gains[0] * gains[1])


@pytest.mark.parametrize(
    ("law", "fold"),
    [
        ("weigh of value", _into_value),
        ("weigh of conv", _into_conv),
        ("conv of weigh", _into_conv),
        ("weigh before the output", _into_output),
        ("weigh of weigh", _into_weigh),
    ],
)
def test_folded_weights_can_be_folded(law: str, fold: Callable[[nn.Module, list[Tensor]], None]) -> None:
    """There are weights of the simpler form at which it is the same function: those times the dropped gain."""
    left, right = (parse(text) for text in EQUAL[law])
    module, simpler = compiled(left), compiled(right)
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        gains = [
            each.gain for each in module.modules() if isinstance(each, Operator) and each.term.operation.name == "weigh"
        ]
        fold(simpler, gains)
        torch.testing.assert_close(simpler(x), module(x), rtol=0, atol=EXACT)
    assert parameters(module) - parameters(simpler) == WIDTH


def _of(module: nn.Module, name: str) -> list[Operator]:
    """The operations of a name, outermost first."""
    return [each for each in module.modules() if isinstance(each, Operator) and each.term.operation.name == name]


def _one_floor(module: nn.Module, simpler: nn.Module) -> None:
    """1 - (1 - a)(1 - b) of the two bounds a and b."""
    outer, inner = (torch.sigmoid(each.bound) for each in _of(module, "floor"))
    only(simpler, "floor").bound.copy_(torch.logit(1 - (1 - outer) * (1 - inner)))


def _one_affine(module: nn.Module, simpler: nn.Module) -> None:
    outer, inner = _of(module, "affine")
    only(simpler, "affine").gain.copy_(outer.gain * inner.gain)
    only(simpler, "affine").offset.copy_(outer.gain * inner.offset + outer.offset)


def _weighed_affine(module: nn.Module, simpler: nn.Module) -> None:
    only(simpler, "affine").gain.copy_(only(module, "affine").gain * only(module, "weigh").gain)
    only(simpler, "affine").offset.copy_(only(module, "affine").offset)


def _gain_alone(module: nn.Module, simpler: nn.Module) -> None:
    only(simpler, "weigh").gain.copy_(only(module, "affine").gain)


@pytest.mark.parametrize(
    ("law", "fold"),
    [
        ("floor of floor", _one_floor),
        ("affine of affine", _one_affine),
        ("affine of weigh", _weighed_affine),
        ("offsets of keys under a softmax", _gain_alone),
        ("offsets of keys under a sparsemax", _gain_alone),
    ],
)
def test_what_is_dropped_said_nothing_more(law: str, fold: Callable[[nn.Module, nn.Module], None]) -> None:
    left, right = (parse(text) for text in FEWER_WEIGHTS[law])
    module, simpler = compiled(left), compiled(right)
    projections = zip(_of(module, "project"), _of(simpler, "project"), strict=True)
    x = torch.randn(2, LENGTH, WIDTH, dtype=torch.float64)
    with torch.no_grad():
        for ours, theirs in projections:
            theirs.load_state_dict(ours.state_dict())
        fold(module, simpler)
        torch.testing.assert_close(simpler(x), module(x), rtol=0, atol=EXACT)
    assert parameters(simpler) < parameters(module)


def _raw_draws(count: int) -> list[Term]:
    """Mixers as drawn, not yet canonical, with streams bound at random."""
    rng = Random(31)
    found: list[Term] = []
    while len(found) < count:
        drawn = sampler().of_size((Type.MIXER, 0), rng.randint(8, 24), rng)
        if drawn.operation.name != "mix" or any(word in drawn.text for word in FOLDED):
            continue
        spots = [p for p in places(drawn) if p.path and p.term.type in SHAREABLE and not p.term.operation.shares]
        place = rng.choice(spots)
        found.append(replace(drawn, place.path, share(place.term)) if rng.random() < 0.5 else drawn)
    return found


def test_sampled_mixers_keep_function_and_weights() -> None:
    changed = 0
    for drawn in _raw_draws(250):
        normal = canonical(fresh(drawn))
        changed += normal.text != drawn.text
        try:
            if "norm(scale" in drawn.text or "rms(" in drawn.text:
                outputs, others = meaning(drawn)[0], meaning(normal)[0]
                torch.testing.assert_close(others, outputs, rtol=NORM_EPSILON, atol=NORM_EPSILON)
            else:
                assert_same_meaning(drawn, normal)
        except AssertionError as problem:
            problem.add_note(f"drawn:     {drawn.text}\ncanonical: {normal.text}")
            raise
    assert changed > 80
