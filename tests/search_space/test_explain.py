"""Explanations: everything a term is, from the table and the zoo, and how its costs grow."""

import math
from collections.abc import Callable

import pytest

from archloom.config import ProtocolSection
from archloom.search_space import zoo
from archloom.search_space.complexity import WIDTH, complexity, growth
from archloom.search_space.costs import costs, default_widths
from archloom.search_space.explain import explain, nearest
from archloom.search_space.identity import term_id
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

from .sampled import architectures


@pytest.mark.parametrize(
    ("count", "expected"),
    [
        (lambda t: 7, "O(1)"),
        (lambda t: 10**6 + 15 * t.bit_length(), "O(log T)"),
        (lambda t: 10**6 + math.isqrt(t), "O(√T)"),
        (lambda t: 10**6 + 3 * t, "O(T)"),
        (lambda t: t * t.bit_length() + 10 * t, "O(T log T)"),
        (lambda t: t * math.isqrt(t), "O(T√T)"),
        (lambda t: t * t + 100 * t, "O(T²)"),
        (lambda t: t**4, "O(T^4)"),
        (lambda t: round(t**1.25), "O(T^1.25)"),
        (lambda t: min(t, 64), "O(1)"),
    ],
)
def test_growth_names_the_class_of_a_count(count: Callable[[int], int], expected: str) -> None:
    assert growth(count) == expected


@pytest.mark.parametrize(
    ("name", "training", "state"),
    [
        ("mha", "O(T²)", "O(T)"),
        ("just_dense", "O(T²)", "O(T)"),
        ("hyena", "O(T log T)", "O(T)"),
        ("sliding_window", "O(T)", "O(1)"),
        ("kda", "O(T)", "O(1)"),
        ("based", "O(T)", "O(1)"),
        ("no_mixer", "O(T)", "O(1)"),
    ],
)
def test_classes_of_known_systems(name: str, training: str, state: str) -> None:
    found = complexity(zoo.load(name))
    assert (found.training, found.state) == (training, state)
    assert found.constant_state == (state == "O(1)")


def test_the_standard_width_is_that_of_the_default_protocol() -> None:
    assert ProtocolSection.model_fields["width"].default == WIDTH


def test_figures_are_those_of_the_costs_at_the_context() -> None:
    counted = costs(zoo.load("mha"), default_widths(64), 512)
    found = complexity(zoo.load("mha"), context=512, width=64)
    assert (found.parameters, found.state_bytes) == (counted.parameters, counted.state_bytes)
    assert (found.context, found.width) == (512, 64)
    assert complexity(zoo.load("based")).passes == ("apply: linear", "apply: softmax, window 16")


def test_operations_stand_in_order_of_first_use_with_their_parameters() -> None:
    found = explain(parse("mix(conv(apply(dense, conv(value(x), width=2)), width=3), heads=1)"))
    assert [(use.name, dict(use.values)) for use in found.operations] == [
        ("mix", {"heads": 1, "inner": 100}),
        ("conv", {"width": 3}),
        ("apply", {}),
        ("dense", {}),
        ("conv", {"width": 2}),
        ("value", {"share": 1}),
        ("x", {}),
    ]
    assert all(use.summary == OPERATIONS[use.name].summary for use in found.operations)


def test_a_mixer_is_explained_as_it_stands_and_compared_in_the_standard_block() -> None:
    found = explain(parse(zoo.entry("kda").text))
    assert found.type == "mixer"
    assert found.same_as == "kda"
    assert found.id == term_id(parse(zoo.entry("kda").text))
    assert found.complexity == complexity(zoo.load("kda"))
    assert len({each.name for each in found.nearest} - {"kda"}) == 3
    assert found.nearest == explain(zoo.load("kda")).nearest


def test_a_part_smaller_than_a_mixer_has_no_costs_and_no_neighbours() -> None:
    found = explain(parse("dot(project(x), project(x))"))
    assert (found.complexity, found.nearest, found.same_as) == (None, (), None)
    assert found.equations[-1].text == "S_ts = K^{-1/2} ⟨q_t, k_s⟩"


def test_neighbours_are_in_the_order_of_the_distance_given() -> None:
    order = ("gla", "mha", "hyena")

    def distance(old: Term, new: Term) -> float:
        return next((float(i) for i, name in enumerate(order) if zoo.load(name).text == old.text), 99.0)

    found = nearest(zoo.load("kda"), distance=distance)
    assert [(each.name, each.distance) for each in found] == [("gla", 0.0), ("mha", 1.0), ("hyena", 2.0)]


def test_neighbours_say_how_they_become_the_term() -> None:
    (first, *_) = explain(zoo.load("sliding_window", depth=4)).nearest
    assert (first.name, first.distance) == ("mha", 2.0)
    assert [change.line for change in first.changes] == ["replaced visible by window (argument 2 of masked)"]
    assert "+" in first.unified


def test_every_architecture_can_be_explained() -> None:
    for architecture in architectures(6, seed=11):
        found = explain(architecture)
        assert found.complexity is not None
        assert len(found.nearest) == 3
        assert found.nearest[0].distance <= found.nearest[1].distance <= found.nearest[2].distance
