"""Costs and widths: what an architecture costs without building it, and the widths that make candidates comparable."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from archloom.errors import ConfigError
from archloom.evaluator.modules import Context, Stack
from archloom.search_space import zoo
from archloom.search_space.costs import Widths, costs, default_widths, solve_widths, target_parameters
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

from .sampled import architectures

TOLERANCE = 0.02
OTHER_WIDTH = {"crate": 1, "gtrxl": -1}
"""Entries that D is wider for (nothing has a hidden width) or narrower (its gates alone would be the whole target)."""


def by_hand(width: int, length: int, depth: int) -> tuple[int, int]:
    """Parameters and state bytes of softmax attention with a GELU channel mixer."""
    block = 4 * width**2 + 2 * width * 4 * width + 2 * width
    return depth * block + width, 4 * depth * 2 * length * width


@pytest.mark.parametrize(("width", "length", "depth"), [(16, 8, 1), (32, 100, 3)])
def test_costs_of_attention_by_hand(width: int, length: int, depth: int) -> None:
    found = costs(zoo.load("mha", depth=depth), default_widths(width), length)
    assert (found.parameters, found.state_bytes) == by_hand(width, length, depth)


def test_state_of_a_window_stops_growing_and_of_a_recurrence_never_does() -> None:
    def state(name: str, length: int) -> int:
        return costs(zoo.load(name), default_widths(32), length).state_bytes

    assert state("sliding_window", 64) == state("sliding_window", 4096)
    assert state("gated_deltanet", 64) == state("gated_deltanet", 4096) == 4 * 2 * (2 * 16 * 16 + 3 * 3 * 32)
    assert state("mha", 128) == 2 * state("mha", 64)


def test_a_fused_delta_rule_has_one_state_and_an_untied_one_two() -> None:
    tied = parse(zoo.entry("deltanet").text)
    text = tied.text.replace("resolve(masked(gram(k1, b1), visible)", "resolve(masked(gram(unit(k2), b1), visible)")
    loose = parse(
        text.replace("mix(let", "mix(let k2 = silu(conv(project(x))) in let", 1).replace("unit(k2)", "unit(k2)")
    )
    one, two = (costs(_stack(each), default_widths(32), 64) for each in (tied, loose))
    assert two.state_bytes - one.state_bytes == 4 * (2 * 16 * 16 + 3 * 32)


def _stack(mixer: Term) -> Term:
    return zoo.as_architecture(mixer, depth=1)


@pytest.mark.parametrize("length", [32, 128])
@pytest.mark.parametrize("width", [32, 64])
@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_every_zoo_entry_reaches_the_target(name: str, width: int, length: int) -> None:
    target = target_parameters(zoo.load("mha"), width=width, length=length)
    found = solve_widths(zoo.load(name), target=target, width=width, length=length, tolerance=TOLERANCE)
    assert abs(costs(zoo.load(name), found, length).parameters - target) <= TOLERANCE * target
    if name in OTHER_WIDTH:
        assert OTHER_WIDTH[name] * found.model > OTHER_WIDTH[name] * width
    else:
        assert found.model == width
        assert found.hidden >= width // 4


def test_the_reference_solves_to_its_own_widths() -> None:
    target = target_parameters(zoo.load("mha"), width=32, length=64)
    found = solve_widths(zoo.load("mha"), target=target, width=32, length=64, tolerance=TOLERANCE)
    assert found == default_widths(32)


def test_architectures_without_a_channel_mixer_are_widened() -> None:
    target = target_parameters(zoo.load("mha"), width=32, length=64)
    bare = parse(zoo.load("mha").text.replace("mlp", "none"))
    found = solve_widths(bare, target=target, width=32, length=64, tolerance=TOLERANCE)
    assert found.model > 32
    assert abs(costs(bare, found, 64).parameters - target) <= TOLERANCE * target


def test_nearly_every_draw_reaches_the_target() -> None:
    target = target_parameters(zoo.load("mha"), width=32, length=32)
    reached = 0
    for term in architectures(200, seed=21):
        try:
            solve_widths(term, target=target, width=32, length=32, tolerance=TOLERANCE)
        except ConfigError:
            continue
        reached += 1
    assert reached >= 196


def test_an_impossible_target_says_what_was_missed_and_what_to_do() -> None:
    with pytest.raises(ConfigError, match=r"to 10 parameters within 2%: the nearest have \d+\. Give its mixers fewer"):
        solve_widths(zoo.load("mamba2"), target=10, width=64, length=64, tolerance=TOLERANCE)


def test_head_widths_are_rounded_and_never_zero() -> None:
    shape = Widths(model=8, key=6, value=3, hidden=1).shape(4, 16)
    assert (shape.key, shape.value, shape.heads, shape.length) == (2, 1, 4, 16)
    assert Widths(model=8, key=1, value=1, hidden=1).shape(4, 16).key == 1


# The counter sees matrix products alone, and fused attention not at all. Written out densely, attention computes the
# half of the scores that the mask hides, which the estimate leaves out.
@pytest.mark.parametrize(
    ("name", "dense", "least", "most"), [("mha", True, 1.1, 1.3), ("linear_attention", False, 0.8, 1.25)]
)
def test_flops_agree_with_a_counter(name: str, dense: bool, least: float, most: float) -> None:
    width, length, batch = 64, 256, 2
    term = zoo.load(name)
    torch.set_num_threads(1)
    stack = Stack(term, widths=default_widths(width), length=length)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        stack(torch.randn(batch, length, width), Context(dense=dense))
    claimed = batch * costs(term, default_widths(width), length).flops
    assert least < counter.get_total_flops() / claimed < most


def test_flops_of_attention_grow_with_the_square_of_the_length_and_of_recurrences_linearly() -> None:
    def flops(name: str, length: int) -> int:
        return costs(zoo.load(name), default_widths(16), length).flops

    assert flops("mha", 8192) > 3.5 * flops("mha", 4096)
    for name in ("linear_attention", "gla", "gated_deltanet", "sliding_window", "retnet"):
        assert flops(name, 8192) == 2 * flops(name, 4096)


def test_a_block_is_not_an_architecture() -> None:
    with pytest.raises(ConfigError, match="an architecture is a stack, got `block`"):
        Stack(parse("block(mix(apply(dense, value(x))), mlp)"), widths=default_widths(8), length=4)
