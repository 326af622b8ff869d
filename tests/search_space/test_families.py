"""Every system of the zoo has the family that its paper gives it."""

import pytest

from archloom.search_space import zoo
from archloom.search_space.families import ALL, family


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("mha", "attention"),
        ("sigmoid_attention", "attention"),
        ("falcon_h1", "attention"),  # a hybrid
        ("sparsemax_attention", "attention"),
        ("linear_attention", "recurrence"),
        ("gated_deltanet", "recurrence"),
        ("mamba", "recurrence"),
        ("hebbian_resonance", "recurrence"),
        ("hyena", "convolution"),
        ("dynamic_conv", "convolution"),
        ("no_mixer", "pointwise"),
    ],
)
def test_family(name: str, expected: str) -> None:
    assert family(zoo.load(name)) == expected


def test_every_system_has_one() -> None:
    assert {family(zoo.load(name)) for name in zoo.names()} == set(ALL)
