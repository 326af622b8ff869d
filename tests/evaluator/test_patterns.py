"""The same term under the four patterns: what each token may see, two-sided recurrences, and reading from a source."""

from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.modules import Cache, Context
from archloom.evaluator.modules.mixers import make_mixer
from archloom.search_space.costs import Widths, costs
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import OPERATIONS, term
from archloom.search_space.patterns import (
    CAUSAL,
    CAUSAL_CROSS,
    NONCAUSAL,
    NONCAUSAL_CROSS,
    PATTERNS,
    Pattern,
    misfits,
)
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse

WIDTHS = Widths(model=12, key=8, value=12, hidden=8)
STEPS, SOURCES = 37, 29
EXACT = 1e-10  # float64, sums of a few dozen terms in another order


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)


def compiled(mixer: Term, pattern: Pattern) -> nn.Module:
    module = make_mixer(mixer, widths=WIDTHS, length=STEPS, pattern=pattern)
    with torch.no_grad():
        for weight in module.parameters():
            weight.add_(0.3 * torch.randn_like(weight))
    return module


def inputs(pattern: Pattern) -> tuple[Tensor, Tensor | None]:
    x = torch.randn(2, STEPS, WIDTHS.model, requires_grad=True)
    return x, torch.randn(2, SOURCES, WIDTHS.model, requires_grad=True) if pattern.cross else None


def reaches(gradient: Tensor) -> Tensor:
    """Where a gradient [B, T, D] is more than the rounding of an FFT; [T]."""
    size = gradient.abs().amax((0, 2))
    return size > 1e-12 * size.max()


def seen(module: nn.Module, x: Tensor, source: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Which inputs [T, T] and sources [T, S] each output depends on."""
    outputs = module(x, Context(source=source))
    reads = [each for each in (x, source) if each is not None]
    rows = []
    for t in range(x.shape[1]):
        gradients = torch.autograd.grad(outputs[:, t].square().sum(), reads, retain_graph=True, allow_unused=True)
        rows.append(
            [
                torch.zeros(each.shape[1], dtype=torch.bool) if found is None else reaches(found)
                for found, each in zip(gradients, reads, strict=True)
            ]
        )
    own, *across = (torch.stack(column) for column in zip(*rows, strict=True))
    return own, across[0] if across else None


SOFTMAX = "mix(apply(rownorm(masked(exp(dot(rotary(project(x)), rotary(project(conv(x))))), visible)), value(x)))"
LINEAR = "mix(apply(rownorm(masked(dot(elu1(project(x)), elu1(project(x))), visible)), value(x)))"
DECAYED = "mix(apply(masked(decay(dot(project(x), project(shift(x))), forget(x)), visible), silu(conv(value(x)))))"
CHANNEL = (
    "mix(apply(rownorm(masked("
    "decayed_dot(elu1(project(x)), elu1(project(x)), forget_channels(x)), visible)), value(x)))"
)
DELTA = (
    "mix(let k = unit(project(x)) in let b = beta(x) in let g = selective(step(x)) in"
    " apply(masked(decay(dot(unit(project(x)), k), g), visible),"
    " resolve(masked(decay(gram(k, b), g), visible), scale(value(x), b))))"
)
EVERYWHERE = [SOFTMAX, LINEAR, DECAYED, CHANNEL, DELTA]


@pytest.mark.parametrize("text", EVERYWHERE)
@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_tokens_see_what_the_pattern_says(text: str, pattern: Pattern) -> None:
    mixer = parse(text)
    own, across = seen(compiled(mixer, pattern), *inputs(pattern))
    if pattern.causal:
        assert not own.triu(1).any()
    if pattern.cross:
        assert across is not None
        assert across.all()
    else:
        assert own.equal(torch.ones_like(own).tril() if pattern.causal else torch.ones_like(own))


@pytest.mark.parametrize("text", EVERYWHERE)
@pytest.mark.parametrize("pattern", [NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS], ids=lambda pattern: pattern.name)
def test_passes_equal_the_dense_operator(text: str, pattern: Pattern) -> None:
    module = compiled(parse(text), pattern)
    x, source = inputs(pattern)
    lowered, dense = module(x, Context(source=source)), module(x, Context(source=source, dense=True))
    torch.testing.assert_close(lowered, dense, rtol=0, atol=EXACT)


@pytest.mark.parametrize(
    "text", [DECAYED.replace("shift(x)", "x").replace("conv(value(x))", "value(x)"), CHANNEL, DELTA]
)
def test_noncausal_recurrences_do_not_know_a_direction(text: str) -> None:
    """A reversed sequence gives the reversed output."""
    module = compiled(parse(text), NONCAUSAL)
    x, _ = inputs(NONCAUSAL)
    torch.testing.assert_close(module(x.flip(1)).flip(1), module(x), rtol=0, atol=EXACT)


def test_a_noncausal_decay_counts_the_tokens_between() -> None:
    """Against the sum written out: o_t = sum_s <q_t, k_s> K^-1/2 exp(G) v_s, G over (s, t] or [t, s)."""
    module = compiled(
        parse("mix(apply(masked(decay(dot(project(x), project(x)), forget(x)), visible), value(x)), heads=1)"),
        NONCAUSAL,
    )
    x, _ = inputs(NONCAUSAL)
    query, key = _only(module, "dot").inputs
    decay = torch.nn.functional.logsigmoid(_only(module, "forget").linear(x))[..., 0]
    value = _only(module, "value").linear(x)
    scores = torch.einsum("btk,bsk->bts", query.linear(x), key.linear(x)) / WIDTHS.key**0.5
    expected = torch.zeros_like(value)
    for t in range(STEPS):
        for s in range(STEPS):
            gates = decay[:, s + 1 : t + 1] if s <= t else decay[:, t:s]
            between = gates.sum(1).exp()
            expected[:, t] = expected[:, t] + (scores[:, t, s] * between)[:, None] * value[:, s]
    torch.testing.assert_close(module(x), module.output(expected), rtol=0, atol=EXACT)


def _only(module: nn.Module, name: str) -> nn.Module:
    (found,) = (
        each for each in module.modules() if getattr(getattr(each, "term", None), "operation", None) is OPERATIONS[name]
    )
    return found


def test_a_source_is_read_the_same_in_segments() -> None:
    module = compiled(parse(DELTA), CAUSAL_CROSS)
    x, source = inputs(CAUSAL_CROSS)
    whole, cache, parts = module(x, Context(source=source)), Cache(), []
    for past, end in ((0, 1), (1, 20), (20, STEPS)):
        parts.append(module(x[:, past:end], Context(past=past, cache=cache, source=source)))
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=EXACT)


def test_what_a_pattern_cannot_say_is_refused_in_words() -> None:
    assert misfits(parse(SOFTMAX), CAUSAL_CROSS) == []
    windowed = parse(SOFTMAX.replace("visible", "window"))
    assert misfits(windowed, CAUSAL_CROSS) == ["window"]
    assert misfits(windowed, NONCAUSAL) == []
    x, _ = inputs(CAUSAL)
    with pytest.raises(ValueError, match="needs a source"):
        compiled(parse(SOFTMAX), CAUSAL_CROSS)(x)
    with pytest.raises(ValueError, match="no decode form"):
        compiled(parse(SOFTMAX), NONCAUSAL)(x, Context(cache=Cache()))


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_sampled_mixers_hold_under_every_pattern(pattern: Pattern) -> None:
    """Drawn under a pattern: only what it knows, parameters as counted, dense equals lowered, causal."""
    sampler = Sampler(grammar=Grammar(depth=1, max_size=26, pattern=pattern))
    rng = Random(5)
    for _ in range(25):
        mixer = sampler.mixer(rng)
        assert misfits(mixer, pattern) == []
        module = compiled(mixer, pattern)
        stack = term("repeat", term("block", mixer, term("none")), times=1)
        counted = costs(stack, WIDTHS, STEPS, pattern=pattern).parameters - 2 * WIDTHS.model
        assert sum(weight.numel() for weight in module.parameters()) == counted, mixer.text
        x, source = inputs(pattern)
        lowered, dense = module(x, Context(source=source)), module(x, Context(source=source, dense=True))
        scale = lowered.abs().max()
        assert torch.isfinite(lowered).all(), mixer.text
        assert (lowered - dense).abs().max() <= 1e-9 * scale, mixer.text
        if pattern.causal:
            own, _ = seen(module, x, source)
            assert not own.triu(1).any(), mixer.text


def test_every_operation_has_a_pattern() -> None:
    assert all(operation.patterns <= set(PATTERNS.values()) and operation.patterns for operation in OPERATIONS.values())
    assert {node.operation.name for node in walk(parse(DELTA))} <= set(OPERATIONS) | {"let"}
