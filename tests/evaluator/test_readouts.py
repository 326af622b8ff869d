"""Readouts, convolutions and value operations in every company that sampling gives them."""

from random import Random

import pytest
import torch

from archloom.evaluator.modules import Cache, Context, Flow, Operator, compile_mixer
from archloom.evaluator.modules.mixers import Mixer, make_mixer
from archloom.search_space.costs import costs, default_widths
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.patterns import CAUSAL, EVERY, NONCAUSAL, Pattern
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse
from archloom.search_space.zoo import as_architecture

WIDTH, LENGTH, BATCH = 16, 41, 2
SEGMENTS = (1, 1, 3, 12, 24)
EXACT = 1e-8  # float64, relative to the largest output; chains of products amplify roundings
SAMPLES = 6
OPERATIONS_HERE = (
    *("local_linear", "spans", "covariance", "aft", "maximum"),
    *("modal", "toeplitz", "toeplitz_value"),
    *("taps", "spaced", "blend", "squash", "gelu", "tanh", "square", "relu"),
)


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def sampled(name: str, count: int, pattern: Pattern = CAUSAL, seed: int = 0) -> list[Term]:
    """Mixers that contain an operation."""
    weights = {name: 30 * OPERATIONS[name].weight, "together": 0.5, "chain": 0.5}
    grammar = Grammar(depth=1, max_size=22, width=WIDTH, length=LENGTH, weights=weights, pattern=pattern)
    sampler, rng, found = Sampler(grammar=grammar), Random(seed), []
    while len(found) < count:
        mixer = sampler.mixer(rng, max_size=22)
        if any(node.operation.name == name for node in walk(mixer)):
            found.append(mixer)
    return found


def compiled(mixer: Term, pattern: Pattern) -> Mixer:
    module = make_mixer(mixer, widths=default_widths(WIDTH), length=LENGTH, pattern=pattern).double()
    assert isinstance(module, torch.nn.Module)
    return module  # type: ignore[return-value]


def check(mixer: Term, pattern: Pattern = CAUSAL) -> None:
    module = compiled(mixer, pattern)
    counted = costs(as_architecture(mixer, depth=1), default_widths(WIDTH), LENGTH, pattern=pattern)
    around = 2 * WIDTH * 4 * WIDTH + 3 * WIDTH  # the channel mixer and three norms
    assert sum(weight.numel() for weight in module.parameters()) == counted.parameters - around

    x = torch.randn(BATCH, LENGTH, WIDTH, dtype=torch.float64, requires_grad=True)
    outputs = module(x)
    size = float(outputs.detach().abs().max())
    assert 0 < size < float("inf"), f"outputs of size {size}"
    torch.testing.assert_close(module(x, Context(dense=True)), outputs, rtol=0, atol=EXACT * size)

    weights = dict(module.named_parameters())
    gradients = torch.autograd.grad(
        (outputs * torch.randn_like(outputs)).sum(), list(weights.values()), retain_graph=True
    )
    for name, gradient in zip(weights, gradients, strict=True):
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, f"{name} never matters"
    if not pattern.causal:
        return

    with torch.no_grad():
        later = torch.cat([x[:, :14], torch.randn_like(x[:, 14:])], 1)
        changed = (module(later) - outputs)[:, :14].abs().max()
    assert changed <= EXACT * size  # transforms leave roundings behind
    cache, pieces, past = Cache(), [], 0
    for count in SEGMENTS:
        pieces.append(module(x[:, past : past + count], Context(past=past, cache=cache)))
        past += count
    torch.testing.assert_close(torch.cat(pieces, 1), outputs, rtol=0, atol=EXACT * size)
    assert 4 * sum(kept.numel() for kept in cache.values()) == BATCH * counted.state_bytes


@pytest.mark.parametrize("name", OPERATIONS_HERE)
def test_sampled_mixers_keep_their_promises(name: str) -> None:
    for mixer in sampled(name, SAMPLES):
        try:
            check(mixer)
        except Exception as problem:
            problem.add_note(mixer.text)
            raise


@pytest.mark.parametrize("name", [*OPERATIONS_HERE, "conditioned_filter"])
def test_sampled_noncausal_mixers_keep_their_promises(name: str) -> None:
    for mixer in sampled(name, SAMPLES // 3, NONCAUSAL):
        try:
            check(mixer, NONCAUSAL)
        except Exception as problem:
            problem.add_note(mixer.text)
            raise


# -- single operations, against what they should be --------------------------------------------------------------------


def body(text: str, pattern: Pattern = CAUSAL) -> Operator:
    return compile_mixer(
        parse(f"mix({text}, heads=2)"), widths=default_widths(8), length=LENGTH, pattern=pattern
    ).double()


def flow_of(pattern: Pattern, *, steps: int = 13, scale: float = 1.0, dense: bool = False) -> Flow:
    x = scale * torch.randn(1, steps, 8, dtype=torch.float64)
    source = Flow(x=torch.randn(1, 17, 8, dtype=torch.float64), pattern=NONCAUSAL) if pattern.cross else None
    return Flow(x=x, pattern=pattern, source=source, dense=dense)


@pytest.mark.parametrize("pattern", sorted(EVERY, key=lambda each: each.name), ids=lambda each: each.name)
def test_a_large_ridge_leaves_softmax_attention(pattern: Pattern) -> None:
    module, flow = body("local_linear(project(x), project(x), value(x))", pattern), flow_of(pattern)
    torch.nn.init.constant_(module.log_ridge, 30.0)
    q, k, v = module.inputs[0](flow), module.inputs[1](flow.keys), module.inputs[2](flow.keys)
    expected = torch.nn.functional.scaled_dot_product_attention(
        *(each.transpose(1, 2) for each in (q, k, v)), is_causal=pattern == CAUSAL
    )
    torch.testing.assert_close(module(flow), expected.transpose(1, 2), rtol=0, atol=1e-9)


@pytest.mark.parametrize("steps", [3, 8, 13])
def test_spans_to_both_sides_summarise_every_other_span(steps: int) -> None:
    module, flow = body("spans(project(x), project(x), value(x), span=4)", NONCAUSAL), flow_of(NONCAUSAL, steps=steps)
    q, k, v = (each(flow)[0] for each in module.inputs)
    outputs = module(flow)[0]
    spans = [slice(first, min(first + 4, steps)) for first in range(0, steps, 4)]
    for t in range(steps):
        for h in range(2):
            logits, values = [], []
            for span in spans:
                keys = k[span, h]
                if span.start <= t < span.stop:
                    logits += list(keys @ q[t, h] / 2)
                    values += list(v[span, h])
                else:
                    logits.append(keys.amax(0) @ q[t, h] / 2)
                    values.append(torch.softmax(keys @ q[span, h].amax(0) / 2, 0) @ v[span, h])
            expected = torch.softmax(torch.stack(logits), 0) @ torch.stack(values)
            torch.testing.assert_close(outputs[t, h], expected, rtol=0, atol=1e-12)


def test_exponents_may_be_large() -> None:
    """e^800 overflows: only ratios of weights are ever formed."""
    module = body("aft(value(x), value(x), window=4)")
    flow = flow_of(CAUSAL, steps=LENGTH, scale=1e3)
    assert module.inputs[0](flow).max() > 800
    outputs = module(flow)
    assert torch.isfinite(outputs).all()
    assert outputs.abs().max() <= module.inputs[1](flow).abs().max() * (1 + 1e-12)


def test_taps_are_centred_where_causality_is_not_asked() -> None:
    module, flow = body("apply(taps(x, width=3), value(x))", NONCAUSAL), flow_of(NONCAUSAL, steps=5)
    weights = torch.softmax((flow.x @ module.inputs[0].linear.weight.T).view(1, 5, 2, 3), -1)
    v = torch.nn.functional.pad(module.inputs[1](flow), (0, 0, 0, 0, 1, 1))
    expected = sum(weights[..., j, None] * v[:, 2 - j : 7 - j] for j in range(3))
    torch.testing.assert_close(module(flow), expected, rtol=0, atol=1e-12)


def test_a_conditioned_filter_turns_with_the_sequence() -> None:
    """Shift equivariance around the ends, which the paper proves for its type I."""
    module, flow = body("apply(conditioned_filter(value(x)), value(x))", NONCAUSAL), flow_of(NONCAUSAL)
    turned = Flow(x=flow.x.roll(4, 1), pattern=NONCAUSAL)
    torch.testing.assert_close(module(turned), module(flow).roll(4, 1), rtol=0, atol=1e-12)


def test_squashed_heads_keep_direction_below_length_one() -> None:
    module, flow = body("squash(maximum(value(x)))"), flow_of(CAUSAL, scale=100)
    before, after = module.inputs[0](flow), module(flow)
    assert (after.norm(dim=-1) <= 1 + 1e-12).all()
    torch.testing.assert_close(torch.cosine_similarity(before, after, -1), torch.ones(1, 13, 2, dtype=torch.float64))


def test_a_maximum_never_falls() -> None:
    module, flow = body("maximum(value(x))"), flow_of(CAUSAL)
    outputs = module(flow)
    assert (outputs.diff(dim=1) >= 0).all()
    assert torch.equal(outputs[:, -1], module.inputs[0](flow).amax(1))
