"""Refitting: elites become likelier, nothing becomes impossible, and smoothing keeps to the prior."""

from random import Random

import pytest

from archloom.errors import ConfigError
from archloom.search_space import zoo
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.refit import expected_counts, log_likelihood, refit
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, size, walk
from archloom.search_space.text import parse

PRIOR = {name: operation.weight for name, operation in OPERATIONS.items() if operation.weight > 0}
ELITES = [zoo.load(name) for name in ("deltanet", "gla", "retnet", "mha", "no_mixer")]
FIT = [term for term in ELITES if "pointwise" not in term.text]


def grammar(weights: dict[str, float]) -> Grammar:
    return Grammar(depth=2, max_size=max(map(size, FIT)), weights=weights)


@pytest.mark.parametrize("smoothing", [0.05, 0.5, 5.0])
def test_elites_become_likelier_and_nothing_impossible(smoothing: float) -> None:
    weights = refit(ELITES, smoothing=smoothing)
    assert log_likelihood(FIT, grammar(weights)) > log_likelihood(FIT, grammar(PRIOR))
    assert set(weights) == set(PRIOR)
    assert all(weight > 0 for weight in weights.values())


def test_smoothing_keeps_to_the_prior() -> None:
    def moved(smoothing: float) -> float:
        return max(abs(weight / PRIOR[name] - 1) for name, weight in refit(ELITES, smoothing=smoothing).items())

    assert moved(1000.0) < 0.1 < moved(1.0)


def test_what_elites_have_is_drawn_more_often() -> None:
    elites = [zoo.load("deltanet"), zoo.load("gated_deltanet"), zoo.load("kda")]
    refitted = Grammar(depth=2, max_size=30, weights=refit(elites, smoothing=0.2))
    shares = []
    for each in (Grammar(depth=2, max_size=30), refitted):
        rng = Random(1)
        draws = [Sampler(grammar=each).architecture(rng) for _ in range(400)]
        shares.append(sum(any(node.operation.name == "gram" for node in walk(draw)) for draw in draws))
    assert shares[1] > shares[0]


def test_expected_counts_are_those_of_draws() -> None:
    the = Grammar(depth=1, max_size=16)
    sampler = Sampler(grammar=the, load=10**6, sharing=0.0)
    rng = Random(2)
    some = parse("repeat(block(mix(apply(masked(dot(project(x), project(conv(conv(x)))), visible), value(x))), mlp))")
    which = next(symbol for symbol in the.productions if symbol[0] is some.type)
    draws = [sampler.of_size(which, size(some), rng) for _ in range(4000)]
    expected = expected_counts([some], the)
    assert sum(expected.values()) == pytest.approx(size(some))
    for name in ("project", "conv", "value", "apply", "causal", "toeplitz"):
        seen = sum(node.operation.name == name for draw in draws for node in walk(draw)) / len(draws)
        assert seen == pytest.approx(expected[name], abs=0.1)


@pytest.mark.parametrize(("elites", "smoothing"), [([], 1.0), ([zoo.load("no_mixer")], 1.0), (ELITES, 0.0)])
def test_what_cannot_be_refitted_is_said(elites: list[Term], smoothing: float) -> None:
    with pytest.raises(ConfigError):
        refit(elites, smoothing=smoothing)
