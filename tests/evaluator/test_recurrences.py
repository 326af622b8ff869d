"""Feature maps, gates and recurrences beyond a decayed inner product: what each is, and what mixers of them promise."""

import math
from collections.abc import Iterator
from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.modules import Cache, Context, Flow, Operator, compile_mixer
from archloom.evaluator.modules.mixers import make_mixer
from archloom.search_space.costs import BYTES, Widths, costs
from archloom.search_space.grammar import Grammar
from archloom.search_space.operations import OPERATIONS, term
from archloom.search_space.patterns import CAUSAL, CAUSAL_CROSS, NONCAUSAL, NONCAUSAL_CROSS, Pattern, misfits
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type

WIDTHS = Widths(model=12, key=16, value=12, hidden=1)
STEPS, SOURCES = 41, 29
SEGMENTS = (1, 1, 3, 17, 19)
EXACT = 1e-9  # relative; two exact forms of one sum in float64, up to a few thousand roundings

ADDED = (
    *("exp", "sigmoid", "mul", "weigh", "rms", "complement", "floor", "affine", "hedgehog", "random_features"),
    *("spike", "topk_channels", "constant_decay", "fade_channels", "log", "step_channels", "routes", "exclusive"),
    *("bonus", "initial_state", "partitioned", "lrpe", "reweight", "scan", "erase", "resonance"),
)
FEATURE_FORMS = ("exp", "sigmoid", "mul", "weigh")  # new on features, older on scores and values
EACH = 8  # 26 operations: 208 mixers
PARTNERS = {
    "log": ("decayed_dot", "channel_softmax"),
    "fade_channels": ("decayed_dot",),
    "step_channels": ("scan",),
    "scan": ("step_channels",),
    "routes": ("partitioned",),
    "partitioned": ("routes",),
    "erase": ("channel_softmax",),
    "resonance": ("unit", "beta"),
}
"""What makes an operation's arguments or takes its result, where that is rare itself."""


@pytest.fixture(autouse=True)
def double_precision() -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(before)


def drawn(name: str, count: int, pattern: Pattern = CAUSAL) -> list[Term]:
    """Different mixers that hold the operation in its new form."""
    # A ReLU of diluted scores that are smaller than log 2 is zero: that is no matter of these operations.
    heavy = {**dict.fromkeys((name, *PARTNERS.get(name, ())), 40.0), "dilute": 0.0}
    sampler = Sampler(grammar=Grammar(depth=1, max_size=18, weights={**heavy, "masked": 20.0}, pattern=pattern))
    rng, found = Random(name), dict[str, Term]()
    while len(found) < count:
        mixer = sampler.mixer(rng, max_size=18)
        if any(node.operation.name == name and is_new(node) for node in walk(mixer)):
            found[mixer.text] = mixer
    return list(found.values())


def is_new(node: Term) -> bool:
    kinds = (Type.FEATURE, Type.POSITIVE_FEATURE, Type.FRACTION)
    return node.operation.name not in FEATURE_FORMS or node.type in kinds


def hold(mixer: Term, pattern: Pattern) -> None:
    """All promises of a mixer under a pattern."""
    try:
        _hold(mixer, pattern)
    except Exception as problem:
        problem.add_note(mixer.text)
        raise


def _hold(mixer: Term, pattern: Pattern) -> None:
    module = make_mixer(mixer, widths=WIDTHS, length=STEPS, pattern=pattern)
    stack = term("repeat", term("block", mixer, term("none")), times=1)
    counted = costs(stack, WIDTHS, STEPS, pattern=pattern)
    assert sum(weight.numel() for weight in module.parameters()) == counted.parameters - 2 * WIDTHS.model
    x = torch.randn(2, STEPS, WIDTHS.model, requires_grad=True)
    source = torch.randn(2, SOURCES, WIDTHS.model) if pattern.cross else None
    outputs = module(x, Context(source=source))
    assert torch.isfinite(outputs).all()
    assert_close(module(x, Context(source=source, dense=True)), outputs)

    names, weights = zip(*module.named_parameters(), strict=True)
    gradients = torch.autograd.grad((outputs * torch.randn_like(outputs)).sum(), weights, retain_graph=True)
    for name, gradient in zip(names, gradients, strict=True):
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() > 0, f"{name} never matters"
    if not pattern.causal:
        return
    (leak,) = torch.autograd.grad(outputs[:, :20].square().sum(), x, materialize_grads=True)
    assert leak[:, 20:].abs().max() <= 1e-12 * leak.abs().max()
    cache, parts, past = Cache(), [], 0
    for count in SEGMENTS:
        parts.append(module(x[:, past : past + count], Context(past=past, cache=cache, source=source)))
        past += count
    assert_close(torch.cat(parts, 1), outputs)
    if pattern == CAUSAL:
        assert BYTES * sum(kept.numel() for kept in cache.values()) == 2 * counted.state_bytes


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert (found - expected).abs().max() <= EXACT * expected.detach().abs().max()


@pytest.mark.parametrize("name", ADDED)
def test_sampled_mixers_hold_their_promises(name: str) -> None:
    for mixer in drawn(name, EACH):
        hold(mixer, CAUSAL)


@pytest.mark.parametrize("pattern", [NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS], ids=lambda pattern: pattern.name)
@pytest.mark.parametrize("name", ADDED)
def test_sampled_mixers_hold_under_every_pattern(name: str, pattern: Pattern) -> None:
    if pattern in OPERATIONS[name].patterns:
        for mixer in drawn(name, 1, pattern):
            hold(mixer, pattern)


Q, K, V = "project(x, share={0})", "project(conv(x), share={1})", "value(shift(x), share={0})"
WRITTEN = {
    "decay by head": f"apply(exclusive({Q}, {K}, forget(x)), {V})",
    "decay by channel": f"apply(exclusive({Q}, {K}, selective_channels(x)), {V})",
    "normalised": f"apply(rownorm(exclusive(relu({Q}), elu1({K}), forget(x))), {V})",
    "normalised with a sink": (f"apply(rownorm_plus_one(exclusive(relu({Q}), elu1({K}), forget_channels(x))), {V})"),
    "averaged": f"apply(rowmean(exclusive({Q}, {K}, forget(x))), {V})",
    "strict": f"apply(strict(exclusive({Q}, {K}, forget_channels(x))), {V})",
    "resolvent of exclusive scores": (
        f"resolve(damp(rownorm(exclusive(elu1({Q}), elu1({K}), forget(x))), beta(x)), {V})"
    ),
    "rates": f"resolve(rated_gram(unit({K}), sigmoid({Q}), fade_channels(x, law=sigmoid)), {V})",
    "rates and a strong decay": f"resolve(rated_gram(unit({K}), sigmoid({Q}), selective_channels(x)), {V})",
    "exclusive keys of their own": (
        f"let k = unit({K}) in apply(exclusive({Q}, k, fade_channels(x)), resolve(masked(gram(k, beta(x)),"
        f" visible), {V}))"
    ),
    "partitions": f"apply(masked(partitioned({Q}, {K}, routes(conv(x)), forget(x)), visible), {V})",
    "partitions normalised": (
        f"apply(rownorm(masked(decay(partitioned(elu1({Q}), relu({K}), routes(x, slots=8, keep=2),"
        f" forget(x)), retention), visible)), {V})"
    ),
    "partitions in a window": (
        f"apply(masked(partitioned({Q}, {K}, routes(conv(x)), forget(x)), window(width=8)), {V})"
    ),
    "in a window": f"apply(masked(dot({Q}, {K}), window(width=8)), {V})",
    "in a window that is not left": f"apply(masked(decay(dot({Q}, {K}), forget(x)), window(width=32)), {V})",
    "in a window with channel decay, normalised": (
        f"apply(rownorm(masked(decayed_dot(elu1({Q}), elu1({K}), selective_channels(x)), window(width=8))), {V})"
    ),
    "a polynomial in a window with a sink": (
        f"apply(rownorm_plus_one(masked(taylor2(plus(dot({Q}, {K}), ones)), window(width=4))), {V})"
    ),
    "a shifted square in a window": (
        f"apply(masked(decay(quad(temper(dot({Q}, {K}))), retention), window(width=4)), {V})"
    ),
    "resolvent in a window": f"resolve(masked(gram(unit({K}), beta(x)), window(width=8)), {V})",
    "delta rule in a window with channel decay": (
        f"let k = unit({K}) in let g = selective_channels(x) in apply(masked(decayed_dot({Q}, k, g), window(width=8)),"
        f" resolve(masked(decayed_gram(k, beta(x), g), window(width=16)), {V}))"
    ),
    "sigmoid scores with decay": f"apply(masked(decay(sigmoid(dot({Q}, {K})), forget(x)), visible), {V})",
    "squares in a window with a sink": (
        f"apply(rownorm_plus_one(masked(decay(relu2(plus(dot({Q}, {K}), dot({K}, {Q}))), retention),"
        f" window(width=8))), {V})"
    ),
    "sigmoid scores averaged": f"apply(rowmean(masked(sigmoid(temper(dot({Q}, {K}))), visible)), {V})",
    "resolvent of softmax scores": f"resolve(damp(rownorm(masked(exp(dot({Q}, {K})), visible)), beta(x)), {V})",
    "resolvent of forgetful softmax in a window": (
        f"resolve(damp(rownorm(masked(decay(exp(plus(dot({Q}, {K}), temper(dot({K}, {Q})))), forget(x)),"
        f" window(width=8))), beta(x)), {V})"
    ),
    "damped softmax": f"apply(damp(rownorm(masked(exp(dot({Q}, {K})), visible)), beta(x)), {V})",
    "damped squares": f"apply(damp(rownorm(masked(relu2(dot({Q}, {K})), window(width=8))), beta(x)), {V})",
    "resolvent of sigmoid scores": (f"resolve(damp(rownorm(masked(sigmoid(dot({Q}, {K})), visible)), beta(x)), {V})"),
    "turned scores in a window": f"apply(masked(lrpe({Q}, {K}), window(width=8)), {V})",
    "turned scores": f"apply(masked(decay(lrpe({Q}, {K}), constant_decay), visible), {V})",
    "softmax of turned scores": f"apply(rownorm(masked(exp(lrpe({Q}, {K})), visible)), {V})",
    "near scores": f"apply(rownorm(masked(reweight(dot(relu({Q}), elu1({K}))), visible)), {V})",
    "what is kept is not written": (
        f"let f = floor(sigmoid({Q})) in apply(masked(decayed_dot({K}, complement(f), log(f)), visible), {V})"
    ),
    "products of features": (f"apply(masked(dot(mul({Q}, sigmoid({K})), mul(exp({K}), relu({Q}))), visible), {V})"),
    "a difference": f"subtract({V}, apply(masked(dot(weigh(unit({Q})), affine({K})), visible), {V}))",
    "initial states": (
        f"let q = {Q} in let g = forget_channels(x) in add(apply(masked(decayed_dot(q, {K}, g), visible), {V}),"
        f" silu(add(initial_state(q, g), initial_state({K}, forget(x)))))"
    ),
    "scan": f"scan({Q}, {K}, step_channels(x), {V})",
    "erase": f"erase({Q}, channel_softmax({K}), {V}, value(x))",
    "resonance": f"resonance({Q}, unit({K}), beta(x), {V})",
}


@pytest.mark.parametrize("shares", [(1, 1), (2, 4)])
@pytest.mark.parametrize(
    "pattern", [CAUSAL, NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS], ids=lambda pattern: pattern.name
)
@pytest.mark.parametrize("body", WRITTEN)
def test_written_mixers_hold_their_promises(body: str, pattern: Pattern, shares: tuple[int, int]) -> None:
    mixer = parse(f"mix({WRITTEN[body].format(*shares)}, heads=4)")
    if not misfits(mixer, pattern):
        hold(mixer, pattern)


# -- definitions -------------------------------------------------------------------------------------------------------


def compiled(body: str, *, heads: int = 1, width: int = 12, pattern: Pattern = CAUSAL) -> Operator:
    widths = Widths(model=width, key=8 * heads, value=6 * heads, hidden=1)
    return compile_mixer(parse(f"mix({body}, heads={heads})"), widths=widths, length=STEPS, pattern=pattern)


def only(module: nn.Module, name: str) -> Operator:
    (found,) = (each for each in module.modules() if isinstance(each, Operator) and each.term.operation.name == name)
    return found


def test_random_features_estimate_the_exponential() -> None:
    """Without bias: means over the directions of 200 heads come to exp(<q, k> K^-1/2), for 64 pairs within an error or
    so (the estimates are skewed, and one pair may be off by four)."""
    heads, width = 200, 8
    node = parse("mix(apply(masked(dot(random_features(project(x)), project(x)), visible), value(x)), heads=1)")
    part = next(each for each in walk(node) if each.operation.name == "random_features")
    shape = Widths(model=4, key=width, value=1, hidden=1).shape(1, 4)
    module = type(
        only(compile_mixer(node, widths=Widths(model=4, key=8, value=8, hidden=1), length=4), "random_features")
    )
    feature = module(term=part, shape=shape, heads=heads, inputs=[])
    rows = feature.get_buffer("directions")
    lengths = rows.square().sum(-1)
    torch.testing.assert_close(rows @ rows.mT, torch.diag_embed(lengths))
    q, k = (0.4 * torch.randn(1, 64, 1, width) for _ in range(2))
    flow = Flow(x=torch.zeros(1, 64, 4))
    products = (feature.compute(flow, q) * feature.compute(flow, k)).sum(-1)[0]  # an estimate for each pair and head
    expected = torch.exp((q * k).sum((0, 2, 3)) / math.sqrt(width))
    errors = (products.mean(1) - expected) / (products.std(1) / math.sqrt(heads))
    assert errors.abs().mean() < 1.5


def test_spikes_are_whole_and_pass_gradients_through() -> None:
    body = compiled("apply(masked(dot(project(x), project(x)), visible), spike(value(x), count=4))")
    spike = only(body, "spike")
    value = torch.randn(2, 3, 1, 6, requires_grad=True)
    fired = spike.compute(Flow(x=torch.zeros(2, 3, 12)), value)
    threshold = value.detach().abs().mean(-1, keepdim=True) / 4
    whole = fired / threshold / (1 + math.sqrt(2) / 1000)
    torch.testing.assert_close(whole, whole.round())
    assert (whole.abs().amax(-1) >= 4).all()
    (gradient,) = torch.autograd.grad(fired.sum(), value)
    assert torch.equal(gradient, torch.ones_like(gradient))


def test_the_largest_channels_stay_and_equal_ones_alike() -> None:
    kept = only(
        compiled("apply(masked(dot(topk_channels(project(x), one_in=4), project(x)), visible), value(x))"),
        "topk_channels",
    )
    x = torch.tensor([3.0, -5.0, 1.0, 0.0, 2.0, -0.5, 0.1, 1.5]).view(1, 1, 1, 8)
    flow = Flow(x=torch.zeros(1, 1, 12))
    assert kept.compute(flow, x).flatten().tolist() == [3, -5, 0, 0, 0, 0, 0, 0]
    assert kept.compute(flow, torch.ones(1, 1, 1, 8)).sum() == 8


def test_routes_keep_the_largest_weights_of_a_softmax() -> None:
    routes = only(
        compiled(
            "apply(masked(partitioned(project(x), project(x), routes(x, slots=8, keep=2), slopes), visible), value(x))"
        ),
        "routes",
    )
    x = torch.randn(2, 5, 12)
    weights = routes.compute(Flow(x=x), x)
    assert ((weights > 0).sum(-1) == 2).all()
    whole = torch.softmax(routes.get_submodule("linear")(x), -1)
    torch.testing.assert_close(weights.sort(-1).values[..., -2:], whole.sort(-1).values[..., -2:])


def test_a_token_leaves_the_partitions_it_is_not_routed_to_as_they_were() -> None:
    """Scores between two tokens that share a slot do not depend on a token in between that is routed elsewhere."""
    body = compiled("apply(masked(partitioned(project(x), project(x), routes(x), forget(x)), visible), value(x))")
    scores, routes = only(body, "partitioned"), only(body, "routes")
    x = torch.randn(1, 20, 12)
    chosen = routes.compute(Flow(x=x), x)[0].argmax(-1)
    first, last = 0, int((chosen == chosen[0]).nonzero().max())
    assert last > 1
    between = [t for t in range(1, last) if chosen[t] != chosen[0]]
    assert between
    before = scores(Flow(x=x))[0, 0, last, first]
    other = x.clone()
    other[0, between] *= 1.5  # the same slot, another decay
    torch.testing.assert_close(scores(Flow(x=other))[0, 0, last, first], before)
    assert torch.equal(routes.compute(Flow(x=other), other)[0].argmax(-1), chosen)
    assert scores(Flow(x=x))[0, 0, last, [t for t in range(last) if chosen[t] != chosen[0]]].abs().max() == 0


def test_turned_scores_depend_on_the_distance_and_are_even_in_it() -> None:
    body = compiled("apply(masked(lrpe(project(x), project(x)), visible), value(x))", pattern=NONCAUSAL)
    score = only(body, "lrpe")
    x = torch.randn(1, 1, 12).expand(1, 15, 12)
    found = score(Flow(x=x, pattern=NONCAUSAL))[0, 0]
    torch.testing.assert_close(found, found.mT)
    torch.testing.assert_close(found[3:, 3:], found[:-3, :-3])
    assert (found[0] - found[0, 0]).abs().max() > 1e-3


def test_reweighted_scores_end_at_the_reach() -> None:
    score = only(
        compiled("apply(rownorm(masked(reweight(dot(relu(project(x)), relu(project(x)))), visible)), value(x))"),
        "reweight",
    )
    x = torch.randn(1, 140, 12)
    factor = score.compute(Flow(x=x), torch.ones(1, 1, 140, 140))[0, 0]
    assert float(factor[5, 5]) == 1
    assert math.isclose(float(factor[69, 5]), math.sqrt(0.5), rel_tol=1e-12)
    assert factor[128:, 0].abs().max() == 0


def test_decays_of_fractions_are_bounded() -> None:
    log = only(
        compiled("apply(masked(decayed_dot(project(x), project(x), log(sigmoid(project(x)))), visible), value(x))"),
        "log",
    )
    f = torch.tensor([0.0, 1e-9, 0.5, 1.0]).view(1, 1, 1, 4).requires_grad_()
    found = log.compute(Flow(x=torch.zeros(1, 1, 12)), f)
    torch.testing.assert_close(found.flatten(), torch.tensor([1e-6, 1e-6, 0.5, 1.0]).log())
    (gradient,) = torch.autograd.grad(found.sum(), f)
    assert torch.isfinite(gradient).all()


def test_gradients_of_a_resonance_do_not_grow_with_the_length() -> None:
    """Against a change of the state before the first token, with large values and the strongest agreement."""
    body = compiled("resonance(project(x), unit(project(x)), beta(x), value(x))")
    resonance = only(body, "resonance")
    with torch.no_grad():
        resonance.get_parameter("agreement").fill_(8.0)
    sizes = []
    for steps in (10, 200):
        query, key = torch.randn(1, steps, 1, 8), torch.ones(1, steps, 1, 8) / math.sqrt(8)
        gate, value = torch.full((1, steps, 1), 0.3), 5 * torch.ones(1, steps, 1, 6)
        state = torch.zeros(1, 1, 8, 6, requires_grad=True)
        _, end = resonance.run(query, [key, gate, value], state, dense=False)
        assert end.norm() <= value[0, 0].norm()
        (gradient,) = torch.autograd.grad(end.sum(), state)
        sizes.append(float(gradient.norm()))
    assert sizes[1] < sizes[0] < torch.ones(8, 6).norm()


def test_rates_that_turn_are_not_bounded_and_one_rate_is() -> None:
    """What the row of `rated_gram` says: why it is never drawn."""

    def transition(degrees: float, rates: tuple[float, float]) -> Tensor:
        angle = math.radians(degrees)
        key = torch.tensor([math.cos(angle), math.sin(angle)])
        return torch.eye(2) - torch.outer(torch.tensor(rates) * key, key)

    both = transition(60, (1, 0)) @ transition(30, (0, 1))
    assert math.isclose(float(torch.linalg.eigvals(both).abs().max()), 1.23, abs_tol=0.005)
    for angle in range(0, 180, 10):
        assert torch.linalg.matrix_norm(transition(angle, (0.9, 0.9)), 2) <= 1 + 1e-12
    assert OPERATIONS["rated_gram"].weight == 0
