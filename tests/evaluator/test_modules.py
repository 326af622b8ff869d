"""Lowering: every term becomes a module that computes what the term says, at the cost that was promised.

The oracle of a lowered model is the same model with every kernel written out as a literal L x L operator.
"""

from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Protocol, Task
from archloom.evaluator.model import Model, build_model
from archloom.evaluator.modules import MODULES, Cache, Context, Flow, Operator, compile_mixer
from archloom.evaluator.modules.channels import CHANNELS
from archloom.evaluator.modules.mixers import MIXERS, make_mixer
from archloom.search_space import zoo
from archloom.search_space.costs import costs, default_widths, solve_widths, target_parameters
from archloom.search_space.operations import FAMILIES, OPERATIONS, term
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

WIDTH, LENGTH, VOCABULARY, BATCH = 32, 48, 11, 2
SEGMENTS = (1, 1, 3, 17, 26)  # one token at a time, and across the borders of chunks
EXACT = 1e-9  # two exact forms of one sum in float64, up to a few thousand roundings
CHUNK = 30


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def model_of(architecture: Term) -> Model:
    target = target_parameters(zoo.load("mha"), width=WIDTH, length=LENGTH)
    widths = solve_widths(architecture, target=target, width=WIDTH, length=LENGTH, tolerance=0.02)
    return Model(architecture, widths=widths, vocabulary=VOCABULARY, length=LENGTH).double()


def in_segments(model: Model, tokens: Tensor) -> tuple[Tensor, Cache]:
    """The outputs of a sequence that comes in pieces, and what a decoder carries at its end."""
    cache = Cache()
    outputs, past = [], 0
    for count in SEGMENTS:
        outputs.append(model(tokens[:, past : past + count], Context(past=past, cache=cache)))
        past += count
    return torch.cat(outputs, 1), cache


def gradients_of(model: Model, tokens: Tensor) -> dict[str, Tensor]:
    names, weights = zip(*model.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(model(tokens).square().sum(), weights), strict=True))


def check(architecture: Term) -> None:
    """All promises of a lowered architecture."""
    model = model_of(architecture)
    promised = costs(architecture, model.widths, LENGTH)
    target = target_parameters(zoo.load("mha"), width=WIDTH, length=LENGTH)
    assert model.stack_parameters == promised.parameters
    assert abs(model.stack_parameters - target) <= 0.02 * target

    tokens = torch.randint(VOCABULARY, (BATCH, LENGTH))
    outputs = model(tokens)
    assert torch.isfinite(outputs).all()
    torch.testing.assert_close(model(tokens, Context(dense=True)), outputs, rtol=0, atol=EXACT)

    pieces, cache = in_segments(model, tokens)
    torch.testing.assert_close(pieces, outputs, rtol=0, atol=EXACT)
    assert 4 * sum(kept.numel() for kept in cache.values()) == BATCH * promised.state_bytes

    reached = {name: False for name, _ in model.named_parameters()}
    for _ in range(3):  # a rectifier may be shut at one draw of the weights
        for name, gradient in gradients_of(model, tokens).items():
            assert torch.isfinite(gradient).all(), name
            reached[name] |= bool(gradient.abs().max() > 0)
        model = model_of(architecture)
    assert all(reached.values()), f"{[name for name, seen in reached.items() if not seen]} never matter"


@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_the_zoo_is_lowered_as_promised(name: str) -> None:
    check(zoo.load(name))


@pytest.mark.parametrize("seed", range(10))
def test_sampled_architectures_are_lowered_as_promised(seed: int) -> None:
    sampler, rng = Sampler.default(depth=2, width=WIDTH, length=LENGTH), Random(seed)
    for number in range(CHUNK):
        architecture = sampler.architecture(rng)
        try:
            check(architecture)
        except Exception as problem:
            problem.add_note(f"architecture {number} of seed {seed}: {architecture.text}")
            raise


Q, K, V = "project(x)", "project(conv(x))", "value(x)"
UNIT, POSITIVE = f"unit({K})", f"elu1({K})"

RARE = {
    "two scores with one channel decay": (
        "let g = forget_channels(x) in"
        f" apply(masked(times(exp(decayed_dot({Q}, {K}, g)), exp(decayed_dot({Q}, {K}, g))), visible), {V})"
    ),
    "resolvent of softmax scores": f"resolve(damp(rownorm(masked(exp(dot({Q}, {K})), visible)), beta(x)), {V})",
    "resolvent in a window": f"resolve(masked(gram({UNIT}, beta(x)), window(width=8)), {V})",
    "resolvent with channel decay": (
        f"resolve(masked(decayed_gram({UNIT}, double(beta(x)), selective_channels(x)), visible), {V})"
    ),
    "resolvent with both decays": (
        f"resolve(masked(decay(decayed_gram({UNIT}, beta(x), forget_channels(x)), forget(x)), visible), {V})"
    ),
    "reader and writer with keys of their own": (
        f"apply(masked(dot({Q}, {UNIT}), visible), resolve(masked(gram({UNIT}, beta(x)), visible), {V}))"
    ),
    "delta rule over a mixed value": (
        f"let k = {UNIT} in"
        f" apply(masked(dot({Q}, k), visible), resolve(masked(gram(k, beta(x)), visible), apply(implicit, {V})))"
    ),
    "normalised Taylor scores with decay": (
        f"apply(rownorm(masked(decay(taylor2(dot({Q}, {K})), forget(x)), visible)), {V})"
    ),
    "normalised with channel decay": (
        f"apply(rownorm(masked(decayed_dot({POSITIVE}, elu1({Q}), forget_channels(x)), visible)), {V})"
    ),
    "forgetting attention": f"apply(rownorm(masked(decay(exp(dot({Q}, {K})), forget(x)), visible)), {V})",
    "forgetting attention in a window": (
        f"apply(rownorm(masked(decay(exp(dot({Q}, {K})), forget(x)), window(width=4))), {V})"
    ),
    "decay inside the exponential": f"apply(rownorm(masked(exp(decay(dot({Q}, {K}), forget(x))), visible)), {V})",
    "sigmoid scores, normalised": f"apply(rownorm(masked(decay(sigmoid(dot({Q}, {K})), retention), visible)), {V})",
    "squared ReLU in a window": f"apply(rownorm(masked(relu2(dot({Q}, {K})), window(width=8))), {V})",
    "a sum of passes": f"add(apply(masked(dot({Q}, {K}), visible), {V}), apply(exponential(order=8), {V}))",
    "gated by a sigmoid": f"mul(sigmoid(apply(dense, {V})), apply(masked(dot({Q}, {K}), visible), {V}))",
    "shifted twice": f"apply(masked(dot(project(shift(shift(x))), {K}), visible), value(shift(x)))",
    "normalised features": f"apply(masked(dot(norm({Q}), rotary(unit({K}))), visible), weigh(silu({V})))",
}


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("body", RARE)
def test_what_sampling_seldom_draws_is_lowered_as_promised(body: str, heads: int) -> None:
    check(parse(f"repeat(block(mix({RARE[body]}, heads={heads}), glu), times=1)"))


@pytest.mark.parametrize("shares", [("1", "2"), ("4", "2"), ("2", "4")])
@pytest.mark.parametrize(
    "body",
    [
        "apply(rownorm(masked(exp(dot(project(x), project(x, share={0}))), visible)), value(x, share={1}))",
        "apply(rownorm(masked(dot(elu1(project(x, share={0})), elu1(project(x, share={1}))), visible)), value(x))",
        "resolve(masked(gram(unit(project(x, share={0})), beta(x)), visible), value(x, share={1}))",
        "apply(masked(relu2(dot(project(x, share={0}), project(x, share={1}))), window), value(x, share={1}))",
        "mul(apply(implicit, value(x, share={0})), weigh(value(x, share={1})))",
        "scale(apply(masked(decayed_dot(project(x, share={0}), project(x, share={0}), forget_channels(x)), visible),"
        " value(x, share={1})), beta(x))",
    ],
)
def test_heads_may_be_shared_in_any_ratio(body: str, shares: tuple[str, str]) -> None:
    check(parse(f"repeat(block(mix({body.format(*shares)}, heads=4), mlp), times=1)"))


def test_mixers_side_by_side_and_one_after_another() -> None:
    one, other = (str(zoo.entry(name).text.split("grammar 2")[1]) for name in ("mha", "gla"))
    check(parse(f"repeat(parallel(together({one}, chain({other}, {one})), mlp(activation=relu2)), times=1)"))


def test_every_operation_has_a_module() -> None:
    outer = {
        operation.name for family in ("mixers", "channel mixers", "blocks", "stacks") for operation in FAMILIES[family]
    }
    assert {*MODULES} - {"let"} == {*OPERATIONS} - outer
    assert {*MIXERS} == {operation.name for operation in FAMILIES["mixers"]}
    assert {*CHANNELS} <= {operation.name for operation in FAMILIES["channel mixers"]}


# -- sharing -----------------------------------------------------------------------------------------------------------


def calls(mixer: str, name: str) -> int:
    """How often modules of an operation run in one pass of a mixer."""
    body = compile_mixer(parse(mixer), widths=default_widths(8), length=4)
    count = 0

    def counted(module: nn.Module, inputs: object, output: object) -> None:
        nonlocal count
        count += 1

    for module in body.modules():
        if isinstance(module, Operator) and module.term.operation.name == name:
            module.register_forward_hook(counted)
    body(Flow(x=torch.randn(1, 4, 8)))
    return count


def test_a_shared_stream_is_one_module_that_runs_once() -> None:
    tied = "mix(let k = unit(project(x)) in apply(masked(dot(k, k), visible), value(x)))"
    loose = "mix(apply(masked(dot(unit(project(x)), unit(project(x))), visible), value(x)))"
    assert (calls(tied, "project"), calls(loose, "project")) == (1, 2)
    assert (calls(tied, "unit"), calls(loose, "unit")) == (1, 2)


def test_equal_subterms_have_weights_of_their_own_even_as_one_object() -> None:
    projection = term("project", term("x"))
    mixer = term(
        "mix",
        term("apply", term("masked", term("dot", projection, projection), term("visible")), term("value", term("x"))),
    )
    body = compile_mixer(mixer, widths=default_widths(8), length=4)
    assert sum(weight.numel() for weight in body.parameters()) == 3 * 8 * 8


# -- single operations -------------------------------------------------------------------------------------------------


def mixed(text: str, *, width: int = 8, length: int = 6) -> nn.Module:
    return make_mixer(parse(text), widths=default_widths(width), length=length).double()


def test_rotary_scores_depend_on_the_distance_alone() -> None:
    mixer = mixed(
        "mix(apply(rownorm(masked(exp(dot(rotary(project(x)), rotary(project(x)))), window(width=4))), value(x)))"
    )
    x = torch.randn(1, 1, 8, dtype=torch.float64).expand(1, 40, 8)  # the same token at every place
    assert torch.equal(x[:, :1], x[:, -1:])
    y = mixer(x)
    torch.testing.assert_close(y[:, 10:], y[:, 9:10].expand(1, 30, 8))


def test_retention_is_slower_from_head_to_head() -> None:
    body = compile_mixer(
        parse("mix(apply(masked(decay(dot(project(x), project(x)), retention), visible), value(x)), heads=4)"),
        widths=default_widths(8),
        length=3,
    )
    decay = next(module for module in body.modules() if type(module) is MODULES["retention"])
    expected = torch.log(1 - 2.0 ** -torch.arange(5, 9))
    torch.testing.assert_close(decay(Flow(x=torch.zeros(1, 3, 8)))[0, 0], expected)


def test_a_dense_kernel_cannot_be_extended() -> None:
    mixer = mixed("mix(apply(dense, value(x)), heads=1)", length=6)
    with pytest.raises(ValueError, match="length 6 cannot be extended to 7 tokens"):
        mixer(torch.randn(1, 7, 8, dtype=torch.float64))


def test_a_zero_row_is_a_fixed_point_of_unit_with_a_finite_gradient() -> None:
    mixer = mixed("mix(apply(masked(dot(unit(project(x)), unit(project(x))), visible), value(x)))")
    x = torch.zeros(1, 6, 8, dtype=torch.float64, requires_grad=True)
    y = mixer(x)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, torch.zeros_like(y))
    assert torch.isfinite(gradient).all()


CHOOSY = {"activator", "gau", "no_mixer", "prefix_blind", "relu_attention", "sparsemax_attention", "topk_attention"}
"""Systems in which a token need not see all before it; of 14 tokens a window or chunk of 16 shows all."""


@pytest.mark.parametrize("name", [name for name in zoo.names(CAUSAL) if name not in CHOOSY])
def test_no_token_sees_a_later_one_and_the_last_sees_the_first(name: str) -> None:
    model = model_of(zoo.load(name, depth=1))
    embedded = model.embedding(torch.randint(VOCABULARY, (1, 14))).detach().requires_grad_()
    outputs = model.stack(embedded)
    for token in (0, 5, 13):
        (gradient,) = torch.autograd.grad(outputs[0, token].square().sum(), embedded, retain_graph=True)
        seen = gradient[0].abs().amax(-1) > 1e-12  # the transform of a long convolution leaves roundings behind
        assert not seen[token + 1 :].any()
        assert seen[: token + 1].all()


def test_the_control_mixes_no_tokens() -> None:
    model = model_of(zoo.load("no_mixer"))
    tokens = torch.randint(VOCABULARY, (1, 9))
    shuffled = torch.randperm(9)
    torch.testing.assert_close(model(tokens)[:, shuffled], model(tokens[:, shuffled]))


# -- models ------------------------------------------------------------------------------------------------------------

TASK = Task(name="mqar", vocabulary=VOCABULARY, length=LENGTH, batch=BATCH)
PROTOCOL = Protocol(version=1, grammar=1, reference=zoo.load("mha").text, width=WIDTH, depth=2, tasks=(TASK,), rungs=())


def test_a_model_is_a_function_of_term_protocol_task_and_seed() -> None:
    text = zoo.load("gated_deltanet").text
    before = torch.get_rng_state()
    first, again, other = (build_model(text, protocol=PROTOCOL, task=TASK, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    assert not torch.equal(first.embedding.weight, other.embedding.weight)


@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_models_of_a_protocol_match_in_parameters(name: str) -> None:
    target = target_parameters(zoo.load("mha"), width=WIDTH, length=LENGTH)
    model = build_model(zoo.load(name).text, protocol=PROTOCOL, task=TASK, seed=0)
    assert abs(model.stack_parameters - target) <= PROTOCOL.tolerance * target
    assert model(torch.randint(VOCABULARY, (BATCH, LENGTH))).shape == (BATCH, LENGTH, VOCABULARY)
