"""Positions and projections: what holds for every mixer that has one of them, and what each of them is."""

from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.modules import Cache, Context, Flow, Operator, compile_mixer
from archloom.evaluator.modules.mixers import make_mixer
from archloom.evaluator.modules.positions import tree_distance
from archloom.search_space import zoo
from archloom.search_space.costs import Widths, costs, default_widths
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.patterns import CAUSAL, CAUSAL_CROSS, NONCAUSAL, NONCAUSAL_CROSS, Pattern
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse

WIDTHS = Widths(model=20, key=16, value=24, hidden=1)
LENGTH = 40
SEGMENTS = (1, 1, 6, 15, 17)
DRAWS = 3  # of each operation
EXACT = 1e-9  # relative; two exact forms of one sum in float64, up to a few thousand roundings

ADDED = (
    *("angle", "turn", "sinusoid", "slopes", "relative", "graph_bias", "relative_keys", "additive", "table"),
    *("latent", "expand", "expand_value", "spectral", "by_position", "value_by_position", "pool", "plus"),
)
DRAWN = tuple(name for name in ADDED if OPERATIONS[name].weight > 0)


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)


def drawn(name: str, count: int, *, pattern: Pattern = CAUSAL) -> list[Term]:
    """Mixers that have the operation."""
    grammar = Grammar(depth=1, max_size=20, weights={name: 60 * OPERATIONS[name].weight}, pattern=pattern)
    sampler, rng = Sampler(grammar=grammar), Random(name)
    found: list[Term] = []
    while len(found) < count:
        mixer = sampler.mixer(rng, max_size=20)
        if any(node.operation.name == name for node in walk(mixer)):
            found.append(mixer)
    return found


def module_of(mixer: Term, pattern: Pattern = CAUSAL) -> nn.Module:
    return make_mixer(mixer, widths=WIDTHS, length=LENGTH, pattern=pattern)


def assert_close(found: Tensor, wanted: Tensor) -> None:
    assert (found - wanted).abs().max() <= EXACT * wanted.abs().max().clamp(min=1e-3)


def check(mixer: Term) -> None:
    """Built as counted, causal, the same densely and in segments, and every weight matters."""
    module = module_of(mixer)
    promised = costs(zoo.as_architecture(mixer, depth=1), WIDTHS, LENGTH)
    around = costs(zoo.as_architecture(parse("pointwise(value(x), heads=1)"), depth=1), WIDTHS, LENGTH)
    own = sum(each.numel() for each in module.parameters())
    assert own == promised.parameters - around.parameters + 2 * WIDTHS.model * WIDTHS.value

    x = torch.randn(2, LENGTH, WIDTHS.model)
    outputs = module(x)
    assert torch.isfinite(outputs).all()
    assert_close(module(x, Context(dense=True)), outputs)
    cut = LENGTH // 2
    assert_close(module(torch.cat([x[:, :cut], torch.randn_like(x[:, cut:])], 1))[:, :cut], outputs[:, :cut])

    cache, pieces, past = Cache(), [], 0
    for count in SEGMENTS:
        pieces.append(module(x[:, past : past + count], Context(past=past, cache=cache)))
        past += count
    assert_close(torch.cat(pieces, 1), outputs)
    assert 4 * sum(kept.numel() for kept in cache.values()) == 2 * promised.state_bytes

    names, weights = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad(outputs.square().sum(), weights, allow_unused=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, f"{name} never matters"


@pytest.mark.parametrize("name", DRAWN)
def test_every_mixer_with_the_operation_is_sound(name: str) -> None:
    for mixer in drawn(name, DRAWS):
        try:
            check(mixer)
        except Exception as problem:
            problem.add_note(mixer.text)
            raise


@pytest.mark.parametrize("pattern", [NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS], ids=lambda pattern: pattern.name)
@pytest.mark.parametrize("name", DRAWN)
def test_the_operation_means_something_under_its_patterns(name: str, pattern: Pattern) -> None:
    if pattern not in OPERATIONS[name].patterns:
        pytest.skip(f"{name} has no meaning under {pattern.name}")
    for mixer in drawn(name, 3, pattern=pattern):
        module = module_of(mixer, pattern)
        x, source = torch.randn(2, 33, WIDTHS.model), torch.randn(2, 37, WIDTHS.model) if pattern.cross else None
        lowered, dense = module(x, Context(source=source)), module(x, Context(source=source, dense=True))
        assert torch.isfinite(lowered).all(), mixer.text
        assert_close(lowered, dense)


SCORES = "relu2(dot({0}, {1}))", "exp(dot({0}, {1}))", "sigmoid(dot({0}, {1}))"


@pytest.mark.parametrize("left", SCORES)
@pytest.mark.parametrize("right", SCORES)
def test_sums_of_scores_with_and_without_a_logarithm(left: str, right: str) -> None:
    score = f"plus({left}, {right})".format("project(x)", "project(conv(x))")
    check(parse(f"mix(apply(rownorm(masked(decay({score}, slopes), visible)), value(x)))"))


def test_a_sum_of_exponentials_does_not_overflow() -> None:
    score = "plus(exp(dot(project(x), project(x))), exp(dot(project(x), project(x))))"
    module = module_of(parse(f"mix(apply(rownorm(masked({score}, visible)), value(x)), heads=1)"))
    assert torch.isfinite(module(1e3 * torch.randn(1, LENGTH, WIDTHS.model))).all()


# -- single operations -------------------------------------------------------------------------------------------------


def part(body: str, name: str, *, heads: int = 1, pattern: Pattern = CAUSAL) -> Operator:
    """The only module of an operation in a mixer."""
    compiled = compile_mixer(parse(f"mix({body}, heads={heads})"), widths=WIDTHS, length=LENGTH, pattern=pattern)
    (found,) = (each for each in compiled.modules() if isinstance(each, Operator) and each.term.operation.name == name)
    return found


def test_a_turn_keeps_norms_and_scores_of_equal_tokens_depend_on_the_distance() -> None:
    turn = part("apply(masked(dot(turn(project(x), angle(x)), project(x)), visible), value(x))", "turn")
    x = torch.randn(1, 1, WIDTHS.model).expand(1, LENGTH, -1)
    features = turn(Flow(x=x))[0, :, 0]
    torch.testing.assert_close(features.norm(dim=-1), features[0].norm().expand(LENGTH))
    products = features @ features.T
    torch.testing.assert_close(products[1:, 1:], products[:-1, :-1])
    assert products[0].std() > 1e-3 * products[0].abs().max()


def test_slopes_are_powers_of_two() -> None:
    slopes = part("apply(masked(decay(dot(project(x), project(x)), slopes), visible), value(x))", "slopes", heads=4)
    found = slopes(Flow(x=torch.zeros(1, 3, WIDTHS.model)))
    assert found[0, 0].tolist() == [-(2**-2), -(2**-4), -(2**-6), -(2**-8)]


@pytest.mark.parametrize(
    ("t", "s", "expected"), [(0, 0, 0), (1, 0, 1), (2, 1, 2), (3, 1, 1), (6, 3, 4), (11, 5, 1), (7, 8, 2)]
)
def test_distance_in_the_tree(t: int, s: int, expected: int) -> None:
    found = tree_distance(torch.arange(40)[:, None], torch.arange(40)[None])
    assert found[t, s] == found[s, t] == expected


def test_distances_in_the_tree_are_those_of_its_edges() -> None:
    """Against repeated relaxation over the edges of 70 nodes."""
    expected = torch.full((70, 70), 1000).fill_diagonal_(0)
    for node in range(1, 70):
        expected[node, (node - 1) // 2] = expected[(node - 1) // 2, node] = 1
    for middle in range(70):
        expected = torch.minimum(expected, expected[:, middle, None] + expected[None, middle])
    steps = torch.arange(70)
    assert torch.equal(tree_distance(steps[:, None], steps[None]), expected)


def test_lags_are_told_apart_by_sign_where_causality_is_not_asked() -> None:
    body = "apply(masked(relative(dot(project(x), project(x)), reach=16), visible), value(x))"
    assert part(body, "relative").bias.shape == (1, 17)
    relative = part(body, "relative", pattern=NONCAUSAL)
    assert relative.bias.shape == (1, 33)
    index = relative.index(Flow(x=torch.zeros(1, LENGTH, WIDTHS.model), pattern=NONCAUSAL))
    assert index[20, 20] == 16
    assert (index[20, 19], index[20, 21]) == (17, 15)
    assert (index[39, 0], index[0, 39]) == (32, 0)


def test_a_pool_is_the_mean_of_the_tokens_there_are() -> None:
    body = "apply(exponential, value(pool(x, width=4)))"
    x = torch.randn(2, 9, WIDTHS.model)
    for pattern, before, after in ((CAUSAL, 3, 0), (NONCAUSAL, 1, 2)):
        found = part(body, "pool", pattern=pattern)(Flow(x=x, pattern=pattern))
        for t in range(9):
            torch.testing.assert_close(found[:, t], x[:, max(0, t - before) : t + after + 1].mean(1))


def test_a_spectral_projection_has_its_gain_as_norm() -> None:
    spectral = part("apply(masked(dot(spectral(x), project(x)), visible), value(x))", "spectral")
    with torch.no_grad():
        spectral.gain.fill_(0.7)
    rows = spectral(Flow(x=torch.eye(WIDTHS.model)[None]))[0, :, 0]
    torch.testing.assert_close(torch.linalg.svdvals(rows)[0], torch.tensor(0.7))


def test_latent_attention_keeps_the_latent_and_one_rotated_key() -> None:
    """Per token D/4 + K of MLA against 2 D of multi-head attention, at D = 32 and four heads."""
    widths = default_widths(32)
    per_token = {
        name: (costs(zoo.load(name, depth=1), widths, 64).state_bytes // 4) / 64
        for name in ("mha", "mqa", "mla", "kimi_mla_nope")
    }
    assert per_token == {"mha": 64, "mqa": 16, "mla": 8 + 8, "kimi_mla_nope": 8}
