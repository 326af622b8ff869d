"""Normalisers, score functions and pooling: their definitions at single rows, and sampled mixers that hold them."""

from collections.abc import Iterator
from functools import cache
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.modules import Cache, Context
from archloom.evaluator.modules.mixers import make_mixer
from archloom.evaluator.modules.normalisers import among_largest, sparsemax, straight_through
from archloom.search_space.costs import BYTES, Widths, costs
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import term
from archloom.search_space.patterns import CAUSAL, CAUSAL_CROSS, NONCAUSAL, NONCAUSAL_CROSS, PATTERNS, Pattern, misfits
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type

WIDTHS = Widths(model=12, key=8, value=12, hidden=8)
STEPS, SOURCES = 37, 29
SEGMENTS = (1, 1, 3, 17, 15)
EXACT = 1e-9  # float64, relative: two exact forms of sums of up to a few hundred terms


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)


# -- definitions -------------------------------------------------------------------------------------------------------


def test_sparsemax_is_the_nearest_point_of_the_simplex() -> None:
    """No step towards a vertex brings the result nearer: the condition for a projection on a convex set."""
    z = 2 * torch.randn(50, 9)
    p = sparsemax(z)
    assert (p >= 0).all()
    torch.testing.assert_close(p.sum(-1), torch.ones(50))
    towards = torch.eye(9) - p[:, None]  # [50, vertices, 9]
    assert ((z - p)[:, None] * towards).sum(-1).max() < 1e-12
    assert (p == 0).any()


def test_sparsemax_forgets_what_is_hidden_and_a_shift() -> None:
    z = torch.randn(8, 6)
    hidden = torch.cat([z, torch.full((8, 3), -torch.inf)], -1)
    torch.testing.assert_close(sparsemax(hidden)[:, :6], sparsemax(z))
    assert (sparsemax(hidden)[:, 6:] == 0).all()
    torch.testing.assert_close(sparsemax(z + 1e3), sparsemax(z))
    nothing = torch.full((2, 4), -torch.inf, requires_grad=True)
    sparsemax(nothing).sum().backward()
    assert nothing.grad is not None
    assert torch.equal(sparsemax(nothing), torch.zeros(2, 4))
    assert torch.isfinite(nothing.grad).all()


def test_gradients_of_sparsemax_are_those_of_differences() -> None:
    assert torch.autograd.gradcheck(sparsemax, torch.randn(4, 7, requires_grad=True))


def test_a_hard_choice_has_the_gradient_of_the_softmax() -> None:
    z = torch.randn(5, 6, requires_grad=True)
    cotangent = torch.randn(5, 6)
    chosen = straight_through(z)
    assert torch.equal(chosen.argmax(-1), z.argmax(-1))
    assert torch.equal(chosen.detach().sum(-1), torch.ones(5))
    (found,) = torch.autograd.grad(chosen, z, cotangent)
    (expected,) = torch.autograd.grad(torch.softmax(z, -1), z, cotangent)
    torch.testing.assert_close(found, expected)


def test_equal_scores_are_chosen_alike_whatever_their_rounding() -> None:
    row = torch.tensor([[0.3, 0.7, 0.7 * (1 + 1e-15), 0.1, 0.7 * (1 - 1e-15), -torch.inf]])
    torch.testing.assert_close(straight_through(row), torch.tensor([[0, 1 / 3, 1 / 3, 0, 1 / 3, 0]]))
    assert among_largest(row, 2, 1e-8).tolist() == [[False, True, True, False, True, False]]
    assert among_largest(row, 4, 1e-8).tolist() == [[True, True, True, False, True, False]]
    assert among_largest(row, 9, 1e-8).all()  # all that there are


def matrix(kernel: str, *, steps: int = 12, pattern: Pattern = CAUSAL) -> Tensor:
    """The kernel [T, T] of one head, by applying it to the unit vectors."""
    mixer = parse(f"mix(apply({kernel}, value(x)), heads=1)")
    module = make_mixer(mixer, widths=Widths(model=steps, key=5, value=steps, hidden=1), length=steps, pattern=pattern)
    with torch.no_grad():
        module.output.weight.copy_(torch.eye(steps))
        (value,) = (each for each in module.modules() if _is(each, "value"))
        value.linear.weight.copy_(torch.eye(steps))
        return module(torch.eye(steps)[None])[0]


def _is(module: nn.Module, name: str) -> bool:
    node = getattr(module, "term", None)
    return isinstance(node, Term) and node.operation.name == name


DOT = "dot(project(x), project(x))"


def test_rows_of_normalised_kernels() -> None:
    for kernel in (
        f"sparsemax(masked({DOT}, visible))",
        f"hard(masked({DOT}, visible))",
        "rownorm(masked(ones, visible))",
    ):
        rows = matrix(kernel)
        torch.testing.assert_close(rows.sum(-1), torch.ones(12))
        assert (rows >= 0).all()
        assert (rows.triu(1) == 0).all()
    lost = matrix(f"rownorm_plus_one(masked(exp({DOT}), visible))").sum(-1)
    assert ((lost > 0) & (lost < 1)).all()


def test_a_mean_counts_what_the_mask_shows() -> None:
    rows = matrix("rowmean(masked(ones, window(width=4)))")
    expected = torch.stack([torch.cat([torch.zeros(max(0, t - 3)), torch.ones(min(4, t + 1)) / min(4, t + 1),
                                       torch.zeros(11 - t)]) for t in range(12)])  # fmt: skip
    torch.testing.assert_close(rows, expected)
    torch.testing.assert_close(
        matrix("rowmean(masked(ones, visible))", pattern=NONCAUSAL), torch.full((12, 12), 1 / 12)
    )


def test_every_source_is_given_to_one_target() -> None:
    columns = matrix(f"assign(masked({DOT}, visible))", pattern=NONCAUSAL)
    assert sorted(set(columns.flatten().tolist())) == [0, 1]
    assert torch.equal(columns.sum(0), torch.ones(12))


def test_top_k_keeps_k_entries_of_long_rows() -> None:
    kept = matrix(f"topk(masked(exp({DOT}), visible), k=4)") != 0
    assert kept.sum(-1).tolist() == [min(t + 1, 4) for t in range(12)]


def test_another_attention_picks_k_entries_of_long_rows() -> None:
    kept = matrix("picked(masked(ones, visible), project(x), project(x), k=4)") != 0
    assert kept.sum(-1).tolist() == [min(t + 1, 4) for t in range(12)]
    assert not kept.triu(1).any()


def picking(kernel: str, *, seed: int = 3) -> nn.Module:
    """A mixer whose queries and keys are q and k."""
    torch.manual_seed(seed)
    lets = "let q = project(x) in let k = project(conv(x)) in"
    mixer = parse(f"mix({lets} apply(rownorm({kernel}), value(x)))")
    return make_mixer(mixer, widths=WIDTHS, length=STEPS)


def test_what_scores_pick_of_themselves_is_the_largest() -> None:
    own = picking("picked(masked(exp(dot(q, k)), visible), q, k, k=4)")
    largest = picking("topk(masked(exp(dot(q, k)), visible), k=4)")
    x = torch.randn(2, STEPS, WIDTHS.model)
    close(own(x), largest(x), largest(x).detach().abs().max())
    assert (own(x) - picking("masked(exp(dot(q, k)), visible)")(x)).abs().max() > 1e-3


def test_nothing_is_learned_through_what_picks() -> None:
    mixer = picking("picked(masked(exp(dot(project(x), k)), visible), q, k, k=4)")
    outputs = mixer(torch.randn(2, STEPS, WIDTHS.model)).square().sum()
    names, weights = zip(*mixer.named_parameters(), strict=True)
    gradients = torch.autograd.grad(outputs, weights, allow_unused=True)
    (unused,) = (name for name, gradient in zip(names, gradients, strict=True) if gradient is None)
    (picks,) = (each for each in mixer.modules() if _is(each, "picked"))
    assert mixer.get_parameter(unused) is picks.inputs[1].inputs[0].linear.weight


PICKED = (
    "rownorm(picked(masked(exp({0}), visible), q, k, k=4))",
    "rownorm_plus_one(picked(masked(decay(exp({0}), forget(x)), visible), k, k, k=8))",
    "rowmean(picked(topk(masked(relu2({0}), visible), k=8), q, k, k=4))",
)


@pytest.mark.parametrize("shares", [(1, 1), (2, 4), (4, 1)])
@pytest.mark.parametrize("kernel", [*PICKED, "picked(masked(quad({0}), window(width=8)), q, k, k=4)"])
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_mixers_that_pick_hold_their_promises(kernel: str, shares: tuple[int, int], pattern: Pattern) -> None:
    one, other = shares
    mixer = parse(
        f"mix(let q = rotary(project(x, share={one})) in let k = project(conv(x), share={other}) in"
        f" add(apply(rownorm(masked(exp(dot(q, k)), visible)), value(x)),"
        f" apply({kernel.format(f'dot(project(x, share={other}), project(x))')}, value(x, share={one}))), heads=4)"
    )
    if not misfits(mixer, pattern):
        hold(mixer, pattern)


def test_across_and_chunk_part_what_is_visible() -> None:
    inside, across = (matrix(f"masked(ones, {mask}(size=4))") for mask in ("chunk", "across"))
    torch.testing.assert_close(inside + across - torch.eye(12), matrix("masked(ones, visible)"))


# -- passes ------------------------------------------------------------------------------------------------------------

PASSES = [
    "rownorm_plus_one(masked(exp(temper({0})), visible))",
    "rownorm_plus_one(masked(decay(quad(temper({0})), forget(x)), visible))",
    "rownorm(masked(decay(exp(plus(temper({0}), dot(unit(project(x)), project(x)))), forget(x)), visible))",
    "rownorm(masked(quad(plus({0}, dot(project(x), project(x)))), visible))",
    "rowmean(masked(decay(plus(temper({0}), ones), retention), visible))",
    "rownorm(masked(decay(ones, forget(x)), visible))",
    "rownorm_plus_one(masked(ones, visible))",
    "masked(taylor2(temper(plus({0}, temper({0})))), visible)",
    "rowmean(masked(temper(decayed_dot(project(x), project(x), forget_channels(x))), visible))",
]


@pytest.mark.parametrize("shares", [(1, 1), (2, 1), (1, 4)])
@pytest.mark.parametrize("kernel", PASSES)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_passes_equal_the_dense_operator(kernel: str, shares: tuple[int, int], pattern: Pattern) -> None:
    dot = f"dot(project(x, share={shares[0]}), project(conv(x), share={shares[1]}))"
    hold(parse(f"mix(apply({kernel.format(dot)}, pool(value(x, share={shares[0]}))), heads=4)"), pattern)


# -- samples -----------------------------------------------------------------------------------------------------------

NEW = (
    "rownorm_plus_one", "rowmean", "sparsemax", "topk", "hard", "relu", "plus", "ones", "quad", "cap", "temper",
    "fourier", "dilute", "across", "pool",
)  # fmt: skip
EACH = 14  # 15 operations: 210 mixers


@cache
def sampler(name: str, pattern: Pattern = CAUSAL) -> Sampler:
    return Sampler(grammar=Grammar(depth=1, max_size=18, pattern=pattern, weights={name: 60.0, "masked": 20.0}))


def holds(mixer: Term, name: str) -> bool:
    return any(node.operation.name == name and node.type is not Type.POSITIVE_FEATURE for node in walk(mixer))


def mixers(name: str, count: int, pattern: Pattern = CAUSAL) -> list[Term]:
    """Different mixers that hold an operation."""
    rng, found = Random(name), dict[str, Term]()
    while len(found) < count:
        mixer = sampler(name, pattern).mixer(rng, max_size=18)
        if holds(mixer, name):
            found[mixer.text] = mixer
    return list(found.values())


def hold(mixer: Term, pattern: Pattern) -> None:
    """All promises of a mixer under a pattern."""
    module = make_mixer(mixer, widths=WIDTHS, length=STEPS, pattern=pattern)
    stack = term("repeat", term("block", mixer, term("none")), times=1)
    counted = costs(stack, WIDTHS, STEPS, pattern=pattern)
    assert sum(weight.numel() for weight in module.parameters()) == counted.parameters - 2 * WIDTHS.model
    x = torch.randn(2, STEPS, WIDTHS.model, requires_grad=True)
    source = torch.randn(2, SOURCES, WIDTHS.model) if pattern.cross else None
    outputs = module(x, Context(source=source))
    size = outputs.detach().abs().max()
    assert torch.isfinite(outputs).all()
    close(module(x, Context(source=source, dense=True)), outputs, size)

    names, weights = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), weights, retain_graph=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, f"{name} never matters"
    if not pattern.causal:
        return
    (leak,) = torch.autograd.grad(outputs[:, :20].square().sum(), x, materialize_grads=True)  # uniform: reads no query
    assert leak[:, 20:].abs().max() <= 1e-12 * leak.abs().max()
    cache, parts, past = Cache(), [], 0
    for count in SEGMENTS:
        parts.append(module(x[:, past : past + count], Context(past=past, cache=cache, source=source)))
        past += count
    close(torch.cat(parts, 1), outputs, size)
    if pattern == CAUSAL:
        assert BYTES * sum(kept.numel() for kept in cache.values()) == 2 * counted.state_bytes


def close(found: Tensor, expected: Tensor, size: Tensor) -> None:
    assert (found - expected).abs().max() <= EXACT * size


@pytest.mark.parametrize("name", NEW)
def test_sampled_mixers_hold_their_promises(name: str) -> None:
    check_all(mixers(name, EACH), CAUSAL)


@pytest.mark.parametrize("pattern", [NONCAUSAL, NONCAUSAL_CROSS], ids=lambda pattern: pattern.name)
def test_sampled_assignments_hold_their_promises(pattern: Pattern) -> None:
    check_all(mixers("assign", EACH, pattern), pattern)


@pytest.mark.parametrize("name", [name for name in NEW if name != "across"])
def test_sampled_mixers_hold_across_sequences(name: str) -> None:
    check_all(mixers(name, 3, CAUSAL_CROSS), CAUSAL_CROSS)


def check_all(drawn: list[Term], pattern: Pattern) -> None:
    for mixer in drawn:
        try:
            hold(mixer, pattern)
        except Exception as problem:
            problem.add_note(mixer.text)
            raise
