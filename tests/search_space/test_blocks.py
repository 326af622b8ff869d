"""Blocks and stacks as terms: laws of identity, depth, costs at half the rate, stretched zoo entries, and the prior."""

from collections import Counter
from random import Random

import pytest

from archloom.search_space import zoo
from archloom.search_space.costs import costs, default_widths, solve_widths, target_parameters
from archloom.search_space.identity import canonical
from archloom.search_space.sampling import Sampler
from archloom.search_space.stacks import layers
from archloom.search_space.terms import depth, walk
from archloom.search_space.text import parse

MIX, OTHER = "mix(apply(exponential, value(x)))", "mix(apply(implicit, value(x)))"
PLAIN, LAST = f"block({MIX}, mlp)", f"block({OTHER}, mlp)"
STACK = f"repeat({PLAIN}, times=2)"


@pytest.mark.parametrize(
    ("text", "same"),
    [
        (f"replacing({MIX}, none)", f"block({MIX}, none)"),
        (f"mixture({OTHER}, {MIX})", f"mixture({MIX}, {OTHER})"),
        (f"averaged(repeat({PLAIN}, times=1))", PLAIN),
        (f"averaged(repeat(averaged({STACK}), times=1))", f"averaged({STACK})"),
        (f"unet(repeat(unet({STACK}), times=1))", f"unet({STACK})"),
        (f"unet(repeat(averaged(repeat(unet({STACK}), times=1)), times=1))", f"unet({STACK})"),
        (f"chain({MIX}, mix(apply(implicit, value(earlier))))", f"chain({MIX}, {OTHER})"),
        (f"unet(then(repeat({PLAIN}, times=1), repeat({PLAIN}, times=1)))", f"unet({STACK})"),
    ],
)
def test_terms_that_are_one(text: str, same: str) -> None:
    assert canonical(parse(text)) == canonical(parse(same))


@pytest.mark.parametrize(
    ("text", "other"),
    [
        (f"mixture({MIX}, mixture({MIX}, {OTHER}))", f"mixture(mixture({MIX}, {MIX}), {OTHER})"),
        (f"scaled({MIX}, mlp)", PLAIN),
        (f"blended({MIX}, none)", f"block({MIX}, none)"),
        (f"averaged({STACK})", f"unet({STACK})"),
        (f"unet(then({STACK}, repeat(unet({STACK}), times=1)))", f"unet(then({STACK}, {STACK}))"),
    ],
)
def test_terms_that_are_two(text: str, other: str) -> None:
    assert canonical(parse(text)) != canonical(parse(other))


def test_blocks_made_of_stacks_count_their_blocks_and_stay_one_layer() -> None:
    stack = parse(
        f"then(repeat(unet(averaged_stack), times=2), repeat({PLAIN}, times=1))".replace("averaged_stack", STACK)
    )
    assert depth(stack) == 5
    assert [block.operation.name for block in layers(stack)] == ["unet", "unet", "block"]
    assert canonical(stack).text == canonical(canonical(stack)).text


def test_a_stack_at_half_the_rate_costs_half_and_keeps_half() -> None:
    widths, length = default_widths(16), 64
    attention = parse("block(mix(apply(rownorm(masked(exp(dot(project(x), project(x))), visible)), value(x))), none)")
    plain, halved = (
        parse(each.format(attention.text))
        for each in ("repeat({0}, times=2)", "repeat(unet(repeat({0}, times=2)), times=1)")
    )
    whole, half = costs(plain, widths, length), costs(halved, widths, length)
    assert half.parameters == whole.parameters + 2 * 16
    assert half.state_bytes == whole.state_bytes // 2 + 4 * 2 * 16
    assert half.flops < 0.5 * whole.flops


@pytest.mark.parametrize("wanted", [2, 3, 4, 7])
@pytest.mark.parametrize("name", ["two_stage", "squeezeformer", "weighted_average", "kimi_linear", "gtrxl"])
def test_entries_are_stretched_to_any_depth(name: str, wanted: int) -> None:
    assert depth(zoo.load(name, depth=wanted)) == wanted


def test_stages_share_the_depth_in_proportion() -> None:
    part = parse(f"then(repeat({PLAIN}, times=1), repeat({LAST}, times=3))")
    kinds = Counter(block.text for block in layers(zoo.as_architecture(part, depth=8)))
    assert kinds == {parse(PLAIN).text: 2, parse(LAST).text: 6}
    assert len(list(layers(zoo.as_architecture(part, depth=1)))) == 2  # a stage keeps a block


def test_gates_that_fill_the_target_narrow_the_model() -> None:
    target = target_parameters(zoo.load("mha"), width=64, length=64)
    found = solve_widths(zoo.load("gtrxl"), target=target, width=64, length=64, tolerance=0.02)
    assert 32 < found.model == found.key < 64
    assert found.hidden >= found.model


def test_coarse_hidden_widths_are_made_up_by_the_inner_ones() -> None:
    """A hidden unit of eight gated experts in three blocks is 9% of the target at D = 32."""
    target = target_parameters(zoo.load("mha"), width=32, length=32)
    term = parse(f"repeat(block({MIX}, moe(experts=8)), times=3)")
    found = solve_widths(term, target=target, width=32, length=32, tolerance=0.02)
    assert abs(costs(term, found, 32).parameters - target) <= 0.02 * target
    assert found.model == 32


def test_hybrids_and_stages_are_drawn() -> None:
    """Percent of draws of depth 4: the prior weights see to it that no way to build a stack is rare."""
    sampler, rng, count = Sampler.default(depth=4), Random(5), 1000
    drawn = [{node.operation.name for node in walk(sampler.architecture(rng))} for _ in range(count)]
    for name in ("every", "then", "averaged", "unet"):
        assert 0.02 * count < sum(name in each for each in drawn) < 0.5 * count, name
