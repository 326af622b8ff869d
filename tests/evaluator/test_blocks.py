"""Channel mixers, residual forms, blocks of stacks, routed mixers and memories in all company they are drawn in."""

from dataclasses import replace
from random import Random

import pytest
import torch
from torch import Tensor

from archloom.evaluator.modules import Cache, Context, Stack
from archloom.evaluator.modules.blocks import BlendedNorm
from archloom.evaluator.modules.channels import ChannelScan
from archloom.search_space.costs import Widths, costs
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.operations.channels import SCAN_STATES
from archloom.search_space.patterns import CAUSAL, CAUSAL_CROSS, NONCAUSAL, NONCAUSAL_CROSS, Pattern
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse

WIDTHS = Widths(model=16, key=16, value=16, hidden=20)
DEPTH, LENGTH, BATCH = 3, 48, 2
SEGMENTS = (1, 1, 2, 1, 14, 29)  # also some in which no pair of tokens becomes whole
EXACT = 1e-9  # two exact forms in float64, relative to the largest output
SAMPLES = 3
NEW = (
    *("moe", "grouped_moe", "kan", "ista", "ensemble", "channel_scan"),
    *("gru", "scaled", "replacing", "conditioned", "blended", "averaged", "unet"),
    *("mixture", "earlier", "recall", "carry"),
)


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def sampled(name: str, count: int, pattern: Pattern = CAUSAL) -> list[Term]:
    """Architectures of one to three blocks that contain an operation."""
    weights = {name: max(5.0, 30 * OPERATIONS[name].weight)}
    grammar = Grammar(depth=DEPTH, max_size=34, width=16, length=LENGTH, weights=weights, pattern=pattern)
    sampler, rng, found = Sampler(grammar=grammar), Random(11), []
    while len(found) < count:
        term = sampler.architecture(rng, depth=rng.randint(1, DEPTH))
        if any(node.operation.name == name for node in walk(term)):
            found.append(term)
    return found


def stack_of(term: Term, pattern: Pattern = CAUSAL) -> Stack:
    return Stack(term, widths=WIDTHS, length=LENGTH, pattern=pattern).double()


def tokens(length: int = LENGTH) -> Tensor:
    return torch.randn(BATCH, length, WIDTHS.model, dtype=torch.float64)


def in_segments(stack: Stack, x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, Cache]:
    cache, pieces, past = Cache(), [], 0
    for size in sizes:
        pieces.append(stack(x[:, past : past + size], Context(past=past, cache=cache)))
        past += size
    return torch.cat(pieces, 1), cache


def check(term: Term, pattern: Pattern = CAUSAL) -> None:
    """Costs, lowering and gradients; where causal also causality and decoding."""
    stack, x = stack_of(term, pattern), tokens()
    promised = costs(term, WIDTHS, LENGTH, pattern=pattern)
    assert sum(weight.numel() for weight in stack.parameters()) == promised.parameters
    source = tokens(LENGTH - 5) if pattern.cross else None
    outputs = stack(x, Context(source=source))
    assert torch.isfinite(outputs).all()
    bound = EXACT * float(outputs.detach().abs().max())
    torch.testing.assert_close(stack(x, Context(dense=True, source=source)), outputs, rtol=0, atol=bound)
    names, weights = zip(*stack.named_parameters(), strict=True)
    cotangent = torch.randn_like(outputs)
    for name, gradient in zip(names, torch.autograd.grad((outputs * cotangent).sum(), weights), strict=True):
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, f"{name} never matters"
    if pattern == CAUSAL:
        with torch.no_grad():
            later = torch.cat([x[:, :21], tokens(LENGTH - 21)], 1)
            torch.testing.assert_close(stack(later)[:, :21], outputs[:, :21], rtol=0, atol=bound)
            pieces, cache = in_segments(stack, x, SEGMENTS)
        torch.testing.assert_close(pieces, outputs, rtol=0, atol=bound)
        assert 4 * sum(kept.numel() for kept in cache.values()) == BATCH * promised.state_bytes


@pytest.mark.parametrize("name", NEW)
@pytest.mark.parametrize("pattern", [CAUSAL, NONCAUSAL], ids=lambda pattern: pattern.name)
def test_sampled_architectures_keep_their_promises(name: str, pattern: Pattern) -> None:
    for number, term in enumerate(sampled(name, SAMPLES, pattern)):
        try:
            check(term, pattern)
        except Exception as problem:
            problem.add_note(f"architecture {number}: {term.text}")
            raise


SOFTMAX = "mix(apply(rownorm(masked(exp(dot(rotary(project(x)), project(conv(x)))), visible)), value(x)))"
PLAIN = f"block({SOFTMAX}, mlp)"


@pytest.mark.parametrize("pattern", [CAUSAL_CROSS, NONCAUSAL_CROSS], ids=lambda pattern: pattern.name)
def test_blocks_around_cross_mixers(pattern: Pattern) -> None:
    """Inside a stack at half the rate the source is read whole."""
    mixers = f"mixture({SOFTMAX}, {SOFTMAX})"
    check(parse(f"repeat(unet(then(repeat(gru({mixers}, moe), times=1), repeat({PLAIN}, times=2))), times=1)"), pattern)
    check(parse(f"repeat(averaged(repeat(conditioned({SOFTMAX}, kan), times=3)), times=1)"), pattern)


@pytest.mark.parametrize("activation", ["relu", "sine", "topk", "spike"])
@pytest.mark.parametrize("channel", ["mlp", "glu"])
def test_activations(channel: str, activation: str) -> None:
    check(parse(f"repeat(replacing({SOFTMAX}, {channel}(activation={activation})), times=2)"))


def test_a_stack_at_half_the_rate_in_another() -> None:
    inner = f"then(repeat({PLAIN}, times=1), repeat(unet(repeat({PLAIN}, times=2)), times=1))"
    term = parse(f"repeat(unet({inner}), times=1)")
    check(term)
    check(term, NONCAUSAL)


def test_a_pair_is_given_to_the_token_that_completes_it() -> None:
    """What a token at half the rate says is the same for t = 2i + 1 and 2i + 2, counted from 0; the first has none."""
    x = tokens(9)
    (unet,) = stack_of(parse(f"repeat(unet(repeat({PLAIN}, times=2)), times=1)")).layers.blocks
    said = unet(x) - x
    assert said[:, 0].abs().max() == 0
    torch.testing.assert_close(said[:, 1:8:2], said[:, 2:9:2])
    assert (said[:, 1] - said[:, 3]).abs().max() > 0


def test_averages_start_as_the_plain_stack() -> None:
    x = tokens()
    averaged = stack_of(parse(f"repeat(averaged(repeat({PLAIN}, times=3)), times=1)"))
    plain = stack_of(parse(f"repeat({PLAIN}, times=3)"))
    names = {
        name.replace("layers.blocks.0.blocks", "layers.blocks"): each for name, each in averaged.state_dict().items()
    }
    plain.load_state_dict({name: each for name, each in names.items() if "averages" not in name})
    torch.testing.assert_close(averaged(x), plain(x))


@pytest.mark.parametrize("channel", ["moe(experts=8)", "moe(experts=4, active=2)", "grouped_moe(experts=8)"])
def test_no_expert_starves_and_no_token_crowds_out_another(channel: str) -> None:
    """One token is enough for a gradient in every expert; the order of the tokens does not matter."""
    stack = stack_of(parse(f"repeat(block(pointwise(value(x)), {channel}), times=1)"))
    x = tokens(1)[:1]
    for name, weight in stack.named_parameters():
        (gradient,) = torch.autograd.grad(stack(x)[0, 0, 0], weight)
        if "channel." in name and name.rsplit(".", 1)[-1] in ("gate", "up", "down"):
            assert (gradient.flatten(1).abs().amax(1) > 0).all(), name
    many = tokens(30)
    order = torch.randperm(30)
    torch.testing.assert_close(stack(many)[:, order], stack(many[:, order]))


def channel_scan(hidden: int) -> ChannelScan:
    return ChannelScan(parse("channel_scan"), replace(WIDTHS, hidden=hidden))


@pytest.mark.parametrize("hidden", [1, 2, 171])
def test_a_scan_along_channels_is_bounded_for_any_input(hidden: int) -> None:
    """In float32, up to where a gated unit's square overflows: the state is an average, so y is within 2 N max |u|."""
    mixer = channel_scan(hidden)
    for size in (0.0, 1e-30, 1.0, 1e15):
        x = (size * torch.randn(2, 5, WIDTHS.model)).requires_grad_()
        u = size * torch.randn(hidden, 10)
        assert mixer.scan(u).abs().max() <= 2 * SCAN_STATES * u.abs().max()
        gradients = torch.autograd.grad(mixer(x).sum(), [x, *mixer.parameters()])
        assert all(torch.isfinite(each).all() for each in gradients)


def test_a_scan_along_channels_has_no_preferred_end() -> None:
    """Channels in the reverse order, and the rates of the two directions exchanged: the same output."""
    mixer, turned = channel_scan(30).double(), channel_scan(30).double()
    with torch.no_grad():
        mixer.rate.add_(torch.randn_like(mixer.rate))
        for name, weight in turned.named_parameters():
            axis = 1 if name == "down.weight" else 0
            weight.copy_(mixer.get_parameter(name).flip(axis))
    x = tokens()
    torch.testing.assert_close(turned(x), mixer(x))
    with torch.no_grad():
        turned.rate.copy_(mixer.rate)
    assert (turned(x) - mixer(x)).abs().max() > 1e-6


def test_a_blended_norm_is_an_affine_map_where_its_share_is_none() -> None:
    norm, x = BlendedNorm(WIDTHS.model).double(), tokens()
    start = torch.sigmoid(torch.tensor(2.0, dtype=torch.float64))
    rms = x / x.square().mean(-1, keepdim=True).sqrt()
    torch.testing.assert_close(norm(x), start * rms + (1 - start) * x, rtol=1e-5, atol=1e-5)  # the epsilon of the norm
    with torch.no_grad():
        norm.share.fill_(-80.0)
        norm.offset.fill_(3.0)
    torch.testing.assert_close(norm(x), x + 3.0)


def test_the_second_mixer_of_a_chain_reads_the_first_alone() -> None:
    reads = "apply(exponential, value({0}))"
    x = tokens()
    first, second = (
        stack_of(parse(f"repeat(block(chain(mix({reads.format('x')}), mix({reads.format(each)})), none), times=2)"))
        for each in ("x", "earlier")
    )
    second.load_state_dict(first.state_dict())
    assert torch.equal(first(x), second(x))
