"""The law of sampling: every draw finishes, is valid, canonical and in budget; nothing is rejected."""

from collections import Counter
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.search_space.grammar import Grammar
from archloom.search_space.identity import canonical, term_id
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import depth, size, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type
from archloom.search_space.variation import in_budget

from .sampled import fresh, sampler

MIXING = {
    operation.name
    for operation in OPERATIONS.values()
    if any(result is Type.MIXED and Type.MIXED not in types for types, result in operation.signatures.items())
}
"""Operations that bring values of other tokens."""


@given(seed=st.integers(0, 2**32), blocks=st.integers(1, 6))
@settings(max_examples=150, deadline=None)
def test_every_draw_is_valid_canonical_and_in_budget(seed: int, blocks: int) -> None:
    the = sampler(6)
    term = the.architecture(Random(seed), depth=blocks)
    assert parse(term.text).type is term.type is Type.STACK
    assert depth(term) == blocks
    assert size(term) <= the.grammar.max_size
    assert in_budget(term, the)
    for mixer in walk(term):
        if mixer.type is Type.MIXER:
            assert the.grammar.load(node for node in walk(mixer) if not node.operation.shares) <= the.load
    assert canonical(fresh(term)).text == term.text


@given(seed=st.integers(0, 2**32), largest=st.integers(8, 30), load=st.integers(40, 120))
@settings(max_examples=150, deadline=None)
def test_mixers_keep_their_size_and_load(seed: int, largest: int, load: int) -> None:
    the = Sampler(grammar=sampler().grammar, load=load)
    mixer = the.mixer(Random(seed), max_size=largest)
    assert mixer.type is Type.MIXER
    assert size(mixer) <= largest
    assert the.grammar.load(node for node in walk(mixer) if not node.operation.shares) <= load
    assert any(node.operation.name in MIXING for node in walk(mixer))


class _CountedDraws(Random):
    """A generator that counts how often it is asked."""

    asked = 0

    def random(self) -> float:
        self.asked += 1
        return super().random()


def test_nothing_is_rejected() -> None:
    """A draw asks its generator at most three times for an operation that is there in the end: no second tries."""
    the = sampler()
    for seed in range(200):
        rng = _CountedDraws(seed)
        count = rng.randint(8, 40)
        rng.asked = 0
        drawn = the.of_size((Type.STACK, 2), count, rng)
        assert rng.asked <= 3 * count
        assert size(drawn) <= count


def test_draws_depend_on_the_seed_alone() -> None:
    first = [sampler().architecture(Random(seed)).text for seed in range(30)]
    other = Sampler.default(depth=2, max_size=40, width=32, length=32)
    assert [other.architecture(Random(seed)).text for seed in range(30)] == first
    assert len(set(first)) > 20


def test_sizes_are_drawn_evenly() -> None:
    the = Sampler(grammar=sampler().grammar, sharing=0.0)
    rng = Random(6)
    possible = [cell.size for cell in the.grammar.cells((Type.MIXER, 0), max_size=12, limit=the.load)]
    draws = 4_000
    seen = Counter(size(the.subterm(Type.MIXER, rng, max_size=12, load=the.load)) for _ in range(draws))
    assert sorted(seen) == possible
    expected = draws / len(possible)
    assert all(abs(count - expected) < 5 * expected**0.5 for count in seen.values())


# Without sharing, only streams that have no weights of their own are written once where they were drawn twice.
@pytest.mark.parametrize(("sharing", "least", "most"), [(0.0, 0.0, 0.02), (0.35, 0.3, 0.9)])
def test_streams_are_shared_as_often_as_asked(sharing: float, least: float, most: float) -> None:
    the = Sampler(grammar=sampler().grammar, sharing=sharing)
    rng = Random(7)
    mixers = [the.mixer(rng) for _ in range(300)]
    share = sum("let " in mixer.text for mixer in mixers) / len(mixers)
    assert least <= share <= most
    for mixer in mixers:  # a `let` is there because it is used again
        uses = Counter(word for word in mixer.text.replace("(", " ").replace(")", " ").replace(",", " ").split())
        bound = [word for word in uses if word[:1] in "skvbg" and word[1:].isdigit()]
        assert all(uses[word] >= 3 for word in bound)


def test_the_space_is_wide() -> None:
    """Few of many draws are repeats, and every operation with a positive prior occurs."""
    rng = Random(8)
    draws = [sampler().architecture(rng) for _ in range(2_000)]
    assert len({term_id(draw) for draw in draws}) > 1_800


def test_every_operation_with_a_prior_occurs() -> None:
    """Mixers of mixers, and scores of four arguments, are rare beside all there is: their weights are raised here."""
    rng = Random(9)
    raised = {"together": 300, "chain": 300, "every": 30, "partitioned": 20, "routes": 20, "resonance": 20, "log": 20}
    grammar = Grammar(depth=4, max_size=40, width=32, length=32, weights=raised)
    draws = [Sampler(grammar=grammar).architecture(rng) for _ in range(600)]
    draws += [sampler().mixer(rng) for _ in range(12_000)]
    met = {node.operation.name for draw in draws for node in walk(draw)}
    drawn = {name for name, operation in OPERATIONS.items() if operation.weight and CAUSAL in operation.patterns}
    assert drawn - met == set()
    assert "pointwise" not in met
