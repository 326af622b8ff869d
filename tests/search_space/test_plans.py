"""Plans: which pass serves a kernel is read off its attributes."""

import pytest

from archloom.search_space import zoo
from archloom.search_space.operations import Shape
from archloom.search_space.plans import Form, Plan, feature_width, fuses, heads_of, plan
from archloom.search_space.terms import Term, places, replace, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type

FORMS = {
    "based": [Form.LINEAR, Form.SOFTMAX],
    "deltanet": [Form.LINEAR, Form.LINEAR],
    "gated_deltanet": [Form.LINEAR, Form.LINEAR],
    "gla": [Form.LINEAR],
    "gqa": [Form.SOFTMAX],
    "hyena": [Form.TOEPLITZ],
    "just_dense": [Form.DENSE],
    "kda": [Form.LINEAR, Form.LINEAR],
    "linear_attention": [Form.LINEAR],
    "mamba2": [Form.LINEAR],
    "mha": [Form.SOFTMAX],
    "mha_conv": [Form.SOFTMAX],
    "no_mixer": [],
    "retnet": [Form.LINEAR],
    "sliding_window": [Form.SOFTMAX],
}
Q, K = "project(x)", "project(conv(x))"


def passes(term: Term) -> list[Term]:
    return [node for node in walk(term) if node.operation.name in ("apply", "resolve")]


def plan_of(kernel: str) -> Plan:
    return plan(parse(kernel))


def test_every_zoo_entry_is_listed() -> None:
    assert tuple(FORMS) == zoo.names()


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_the_zoo(name: str) -> None:
    assert [plan(each.arguments[0]).form for each in passes(zoo.load(name))] == FORMS[name]


@pytest.mark.parametrize(
    ("kernel", "form"),
    [
        (f"causal(dot({Q}, {K}))", Form.LINEAR),
        (f"causal(taylor2(dot({Q}, {K})))", Form.LINEAR),
        (f"causal(decay(decay(dot({Q}, {K}), retention), forget(x)))", Form.LINEAR),
        (f"causal(decayed_dot({Q}, {K}, forget_channels(x)))", Form.LINEAR),
        (f"rownorm(causal(dot(relu({Q}), relu({K}))))", Form.LINEAR),
        (f"rownorm(causal(exp(dot({Q}, {K}))))", Form.SOFTMAX),
        (f"rownorm(window(decay(exp(dot({Q}, {K})), forget(x)), width=8))", Form.SOFTMAX),
        ("toeplitz(exponential)", Form.TOEPLITZ),
        # what no pass serves
        (f"causal(exp(dot({Q}, {K})))", Form.DENSE),  # not normalised
        (f"rownorm(causal(exp(decay(dot({Q}, {K}), forget(x)))))", Form.DENSE),  # decays inside the exponential
        (f"causal(taylor2(decayed_dot({Q}, {K}, forget_channels(x))))", Form.DENSE),
        (f"causal(taylor2(decay(dot({Q}, {K}), retention)))", Form.DENSE),
        (f"causal(times(dot({Q}, {K}), dot({Q}, {K})))", Form.DENSE),
        (f"window(dot({Q}, {K}), width=8)", Form.DENSE),
        (f"causal(sigmoid(dot({Q}, {K})))", Form.DENSE),
        ("dense", Form.DENSE),
    ],
)
def test_forms_follow_attributes(kernel: str, form: Form) -> None:
    assert plan_of(kernel).form is form


def test_a_plan_names_its_parts() -> None:
    found = plan_of(f"rownorm(causal(decay(decay(dot(relu({Q}), relu({K})), retention), forget(x))))")
    assert found.query is not None
    assert found.key is not None
    assert (found.query.text, found.key.text) == (parse(f"relu({Q})").text, parse(f"relu({K})").text)
    assert [each.operation.name for each in found.head_decays] == ["forget", "retention"]
    assert found.normalised
    assert found.channel_decay is None
    assert len(found.parts) == 4

    gram = plan_of(f"causal(decay(decayed_gram(unit({K}), beta(x), selective_channels(x)), retention))")
    assert gram.query is gram.key
    assert gram.gate is not None
    assert gram.channel_decay is not None
    assert (gram.gate.operation.name, gram.channel_decay.operation.name) == ("beta", "selective_channels")

    window = plan_of(f"rownorm(window(exp(dot({Q}, {K})), width=8))")
    assert window.window == 8
    assert window.linear_in_length
    assert not plan_of(f"rownorm(causal(exp(dot({Q}, {K}))))").linear_in_length


def reader_and_writer(term: Term) -> tuple[Plan, Plan]:
    outer, inner = passes(term)[:2]
    return plan(outer.arguments[0]), plan(inner.arguments[0])


@pytest.mark.parametrize("name", ["deltanet", "gated_deltanet", "kda"])
def test_delta_rules_fuse_and_stop_when_a_part_is_untied(name: str) -> None:
    mixer = parse(zoo.entry(name).text)
    assert fuses(*reader_and_writer(mixer))
    kinds = {Type.UNIT_FEATURE, Type.HEAD_DECAY, Type.CHANNEL_DECAY}
    uses = [p for p in places(mixer) if p.term.operation.shares and p.term.type in kinds]
    assert uses
    for use in uses:
        untied = replace(mixer, use.path, use.term.arguments[0])
        assert not fuses(*reader_and_writer(untied)), use.term


def test_fusion_needs_the_same_decays_and_a_plain_reader() -> None:
    delta = "let k = unit(project(x)) in let g = forget(x) in apply({0}, resolve({1}, value(x)))"

    def fused(reader: str, writer: str) -> bool:
        return fuses(*reader_and_writer(parse(f"mix({delta.format(reader, writer)})")))

    plain, gram = "causal(decay(dot(project(x), k), g))", "causal(decay(gram(k, beta(x)), g))"
    assert fused(plain, gram)
    assert not fused(plain, "causal(gram(k, beta(x)))")
    assert not fused("causal(decay(taylor2(dot(project(x), k)), g))", gram)
    assert fused(
        "causal(decay(decay(dot(project(x), k), g), retention))", "causal(decay(decay(gram(k, beta(x)), g), retention))"
    )


def test_heads_are_those_of_the_widest_part() -> None:
    assert heads_of(parse("project(x, share=2)"), 4) == 2
    assert heads_of(parse("silu(value(x, share=4))"), 4) == 1
    assert heads_of(parse("mul(value(x, share=4), value(x, share=2))"), 4) == 2
    assert heads_of(parse("scale(value(x, share=4), beta(x))"), 4) == 4
    assert heads_of(parse("dot(project(x, share=2), project(x, share=4))"), 4) == 2
    assert heads_of(parse("decay(dot(project(x, share=4), project(x, share=4)), retention)"), 4) == 4
    assert heads_of(parse("shift(x)"), 4) == 1
    assert heads_of(parse("value(x, share=4)"), 2) == 1


def test_taylor_features_have_rank_one_plus_k_plus_k_squared() -> None:
    shape = Shape(width=8, heads=1, key=5, value=5, hidden=0, length=4)
    assert feature_width(plan_of(f"causal(taylor2(dot({Q}, {K})))"), shape) == 31
    assert feature_width(plan_of(f"causal(dot({Q}, {K}))"), shape) == 5
