"""Distance: a metric on candidates that counts edits."""

from itertools import pairwise
from random import Random
from time import process_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.search_space import zoo
from archloom.search_space.distance import distance
from archloom.search_space.identity import term_id
from archloom.search_space.text import parse
from archloom.search_space.variation import mutate

from .sampled import architectures, fresh, mixers, sampler

SLOWEST = 0.005  # seconds of process time between two architectures, in the median


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_distance_is_a_metric(seed: int) -> None:
    rng = Random(seed)
    a = sampler().architecture(rng)
    b = mutate(a, sampler(), rng).term
    c = mutate(b, sampler(), rng).term if rng.random() < 0.5 else sampler().architecture(rng)
    assert distance(a, fresh(a)) == 0.0
    for one, other in ((a, b), (b, c), (a, c)):
        assert distance(one, other) == distance(other, one)
        assert (distance(one, other) == 0.0) == (term_id(one) == term_id(other))
    assert distance(a, c) <= distance(a, b) + distance(b, c)


def test_all_of_some_mixers_keep_the_triangle_inequality() -> None:
    some = mixers(14, seed=1, max_size=12)
    between = {(a, b): distance(a, b) for a in some for b in some}
    for a in some:
        for b in some:
            assert all(between[a, c] <= between[a, b] + between[b, c] for c in some)


KEYS = "masked(dot(project(x), project(x)), visible)"
TIED = "masked(dot(k, k), visible)"


@pytest.mark.parametrize(
    ("left", "right", "edits"),
    [
        (f"mix(apply({KEYS}, value(x)))", f"mix(apply({KEYS}, value(x)), heads=4)", 0.5),
        (f"mix(apply({KEYS}, value(x)))", f"mix(apply({KEYS}, silu(value(x))))", 1),
        (f"mix(apply({KEYS}, conv(value(x))))", f"mix(apply({KEYS}, silu(value(x))))", 1),
        (f"mix(apply({KEYS}, value(x)))", f"mix(let k = project(x) in apply({TIED}, value(x)))", 2.5),
        (f"mix(apply({KEYS}, value(x)))", f"mix(apply({KEYS}, mul(value(x), value(x))))", 3),
        (f"mix(mul(apply({KEYS}, value(x)), silu(value(x))))", f"mix(mul(silu(value(x)), apply({KEYS}, value(x))))", 0),
    ],
)  # fmt: skip
def test_distance_counts_edits(left: str, right: str, edits: float) -> None:
    assert distance(parse(left), parse(right)) == edits


def test_systems_of_a_family_are_nearer_than_strangers() -> None:
    deltanet, gated, mha = (zoo.load(name) for name in ("deltanet", "gated_deltanet", "mha"))
    assert distance(deltanet, gated) < distance(deltanet, mha)


def test_usual_architectures_take_little_time() -> None:
    times = []
    for a, b in pairwise(architectures(60, seed=2)):
        start = process_time()
        distance(a, b)
        times.append(process_time() - start)
    assert sorted(times)[len(times) // 2] < SLOWEST
