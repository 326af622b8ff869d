"""Plans: which pass serves a kernel is read off its attributes."""

import pytest

from archloom.search_space import zoo
from archloom.search_space.operations import Shape
from archloom.search_space.plans import Form, Plan, feature_width, fuses, heads_of, numbers, plan, remembered
from archloom.search_space.terms import Term, places, replace, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type

FORMS = {
    "activator": [],
    "aft_local": [],
    "alibi": [Form.SOFTMAX],
    "apriel_h1": [Form.LINEAR, Form.SOFTMAX],
    "bam": [Form.SOFTMAX, Form.SOFTMAX],
    "based": [Form.LINEAR, Form.SOFTMAX],
    "block_sparse": [Form.DENSE],
    "capsule_routing": [Form.SOFTMAX],
    "carope": [Form.SOFTMAX],
    "causal_graph": [Form.DENSE],
    "combiner": [],
    "conditioned_norm": [Form.SOFTMAX],
    "conv_share": [Form.SOFTMAX],
    "cosformer": [Form.DENSE],
    "crate": [Form.SOFTMAX],
    "dcls": [],
    "deltanet": [Form.LINEAR, Form.LINEAR],
    "deltanet_negative": [Form.LINEAR, Form.LINEAR],
    "dina": [Form.SOFTMAX, Form.DENSE],
    "disrt_topk": [Form.SOFTMAX],
    "dual_axis": [Form.SOFTMAX],
    "duplex_attention": [Form.DENSE, Form.DENSE],
    "dynamic_conv": [Form.TAPS],
    "entropy_guided": [Form.SOFTMAX],
    "external_memory": [],
    "falcon_h1": [Form.SOFTMAX, Form.LINEAR],
    "fcaformer": [Form.SOFTMAX, Form.SOFTMAX],
    "forgetting_attention": [Form.SOFTMAX],
    "gated_conv": [Form.TOEPLITZ],
    "gated_deltanet": [Form.LINEAR, Form.LINEAR],
    "gau": [Form.SCORES],
    "gin_attention": [Form.SOFTMAX],
    "gla": [Form.LINEAR],
    "gmlp": [Form.DENSE],
    "gqa": [Form.SOFTMAX],
    "graph_distance_attention": [Form.DENSE],
    "gtrxl": [Form.SOFTMAX],
    "h3": [Form.TOEPLITZ],
    "hard_attention": [Form.DENSE],
    "hebbian_resonance": [],
    "hedgehog": [Form.LINEAR],
    "heterogeneous_attention": [Form.SOFTMAX],
    "hgrn2": [Form.LINEAR],
    "hybrid_recall_3to1": [Form.LINEAR, Form.LINEAR],
    "hyena": [Form.TOEPLITZ],
    "just_dense": [Form.DENSE],
    "kan_transformer": [Form.SOFTMAX],
    "karat": [Form.DENSE],
    "kda": [Form.LINEAR, Form.LINEAR],
    "kernel_rpe": [Form.FEATURE_TOEPLITZ],
    "kimi_linear": [Form.LINEAR, Form.LINEAR],
    "kimi_mla_nope": [Form.SOFTMAX],
    "kmeans_cross": [Form.DENSE],
    "lawcat": [Form.LINEAR],
    "layerscale": [Form.SOFTMAX],
    "lina_speech": [Form.LINEAR],
    "linear_2quad": [Form.LINEAR],
    "linear_attention": [Form.LINEAR],
    "lizard": [Form.LINEAR, Form.DENSE],
    "lla": [],
    "local_global": [Form.DENSE, Form.DENSE],
    "long_conv": [Form.TOEPLITZ],
    "mamba": [],
    "mamba2": [Form.LINEAR],
    "mamba_mixer": [],
    "mha": [Form.SOFTMAX],
    "mha_conv": [Form.SOFTMAX],
    "miga": [Form.SOFTMAX],
    "mla": [Form.SOFTMAX],
    "mlp_mixer": [Form.DENSE, Form.DENSE],
    "moe_transformer": [Form.SOFTMAX],
    "mossformer": [Form.LINEAR, Form.DENSE, Form.LINEAR, Form.DENSE],
    "mqa": [Form.SOFTMAX],
    "multi_hyena": [Form.DENSE],
    "na": [Form.SOFTMAX],
    "no_mixer": [],
    "nope": [Form.SOFTMAX],
    "orchid": [Form.CIRCULAR, Form.TOEPLITZ],
    "parallel_branches": [Form.SOFTMAX, Form.SOFTMAX],
    "partial_attention": [Form.DENSE, Form.SOFTMAX],
    "perceiver_memory": [Form.SOFTMAX],
    "performer": [Form.LINEAR],
    "prefix_blind": [Form.DENSE],
    "random_attention": [Form.DENSE],
    "relative_keys_attention": [Form.DENSE],
    "relu_attention": [Form.DENSE],
    "retnet": [Form.LINEAR],
    "rwkv": [Form.LINEAR],
    "rwkv7": [Form.LINEAR, Form.LINEAR, Form.LINEAR, Form.LINEAR],
    "scaled_relu": [Form.DENSE],
    "sigma_reparam": [Form.SOFTMAX],
    "sigmoid_attention": [Form.DENSE],
    "siren": [Form.SOFTMAX],
    "sla": [Form.LINEAR],
    "slab": [Form.LINEAR],
    "sliding_window": [Form.SOFTMAX],
    "soft_cap_attention": [Form.DENSE],
    "softmax_plus_one": [Form.SOFTMAX],
    "sparsemax_attention": [Form.DENSE],
    "spiking_block": [Form.LINEAR],
    "spiking_linear": [Form.LINEAR],
    "sqa": [Form.SOFTMAX],
    "squeezeformer": [Form.SOFTMAX],
    "sse": [Form.LINEAR, Form.LINEAR],
    "ssm_diagonal": [Form.TOEPLITZ],
    "static_attention": [Form.SOFTMAX],
    "synthesizer": [Form.SOFTMAX],
    "t5_bias": [Form.DENSE],
    "tabm": [Form.SOFTMAX],
    "tidal_decode": [Form.SOFTMAX, Form.DENSE],
    "topk_attention": [Form.DENSE],
    "transnormer": [Form.LINEAR],
    "two_stage": [Form.SOFTMAX],
    "uniform_attention": [Form.LINEAR],
    "weighted_average": [Form.LINEAR],
    "window_query": [Form.SOFTMAX, Form.SOFTMAX],
    "xsqa": [Form.SOFTMAX],
}
Q, K = "project(x)", "project(conv(x))"


def passes(term: Term) -> list[Term]:
    return [node for node in walk(term) if node.operation.name in ("apply", "resolve")]


def plan_of(kernel: str) -> Plan:
    return plan(parse(kernel))


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_the_zoo(name: str) -> None:
    assert [plan(each.arguments[0]).form for each in passes(zoo.load(name))] == FORMS[name]


@pytest.mark.parametrize(
    ("kernel", "form"),
    [
        (f"masked(dot({Q}, {K}), visible)", Form.LINEAR),
        (f"masked(taylor2(dot({Q}, {K})), visible)", Form.LINEAR),
        (f"masked(decay(decay(dot({Q}, {K}), retention), forget(x)), visible)", Form.LINEAR),
        (f"masked(decayed_dot({Q}, {K}, forget_channels(x)), visible)", Form.LINEAR),
        (f"rownorm(masked(dot(relu({Q}), relu({K})), visible))", Form.LINEAR),
        (f"masked(dot({Q}, {K}), window(width=8))", Form.WINDOWED),
        (f"masked(decay(sigmoid(plus(dot({Q}, {K}), temper(dot({Q}, {K})))), forget(x)), visible)", Form.SCORES),
        (f"rownorm(masked(relu2(dot({Q}, {K})), window(width=8)))", Form.SCORES),
        (f"masked(decay(decayed_dot({Q}, {K}, forget_channels(x)), retention), window)", Form.WINDOWED),
        (f"rownorm(masked(exp(dot({Q}, {K})), visible))", Form.SOFTMAX),
        (f"rownorm(masked(decay(exp(dot({Q}, {K})), forget(x)), window(width=8)))", Form.SOFTMAX),
        (f"rownorm_plus_one(masked(exp(dot({Q}, {K})), visible))", Form.SOFTMAX),
        (f"rownorm(masked(exp(plus(temper(dot({Q}, {K})), dot(unit({Q}), {K}))), window(width=8)))", Form.SOFTMAX),
        (f"rownorm_plus_one(masked(dot(relu({Q}), relu({K})), visible))", Form.LINEAR),
        (f"rowmean(masked(decay(temper(dot({Q}, {K})), forget(x)), visible))", Form.LINEAR),
        (f"masked(decay(quad(plus(dot({Q}, {K}), dot({K}, {Q}))), retention), visible)", Form.LINEAR),
        (f"masked(plus(dot({Q}, {K}), ones), visible)", Form.LINEAR),
        (f"rownorm(masked(decay(exp(plus(dot({Q}, {K}), dot({Q}, {K}))), slopes), visible))", Form.SOFTMAX),
        (f"rownorm(masked(relative(dot(relu({Q}), relu({K}))), visible))", Form.FEATURE_TOEPLITZ),
        (f"masked(relative(dot({Q}, {K})), visible)", Form.FEATURE_TOEPLITZ),
        ("exponential", Form.TOEPLITZ),
        ("conditioned_filter(value(x))", Form.CIRCULAR),
        ("taps(x)", Form.TAPS),
        # what no pass serves
        (f"masked(exp(dot({Q}, {K})), visible)", Form.DENSE),  # not normalised
        (
            f"rownorm(masked(exp(decay(dot({Q}, {K}), forget(x))), visible))",
            Form.DENSE,
        ),  # decays inside the exponential
        (f"masked(taylor2(decayed_dot({Q}, {K}, forget_channels(x))), visible)", Form.DENSE),
        (f"masked(taylor2(decay(dot({Q}, {K}), retention)), visible)", Form.DENSE),
        (f"masked(times(dot({Q}, {K}), dot({Q}, {K})), visible)", Form.DENSE),
        (f"masked(sigmoid(additive({Q}, {K})), visible)", Form.DENSE),
        (f"rowmean(masked(sigmoid(dot({Q}, {K})), window(width=8)))", Form.DENSE),
        (f"rownorm_plus_one(masked(exp(dot({Q}, {K})), window(width=8)))", Form.DENSE),  # the sink has no place in it
        (f"rownorm_plus_one(masked(decay(exp(dot({Q}, {K})), forget(x)), visible))", Form.DENSE),  # nor a decay
        (f"rownorm(masked(exp(plus(dot({Q}, {K}), ones)), visible))", Form.DENSE),
        (f"rownorm(masked(exp(plus(dot({Q}, {K}), relu(dot({Q}, {K})))), visible))", Form.DENSE),
        (f"rownorm(masked(exp(cap(dot({Q}, {K}))), visible))", Form.DENSE),
        (f"rownorm(topk(masked(exp(dot({Q}, {K})), visible)))", Form.DENSE),
        (f"rownorm(picked(masked(exp(dot({Q}, {K})), visible), {Q}, {K}))", Form.DENSE),
        (f"masked(quad(decay(dot({Q}, {K}), retention)), visible)", Form.DENSE),
        (f"rowmean(masked(dot({Q}, {K}), window(width=8)))", Form.DENSE),
        (f"sparsemax(masked(dot({Q}, {K}), visible))", Form.DENSE),
        (f"rownorm(masked(relative(exp(dot({Q}, {K}))), visible))", Form.DENSE),
        (f"masked(relative(relative(dot({Q}, {K}))), visible)", Form.DENSE),
        (f"masked(relative(dot({Q}, {K})), window(width=8))", Form.DENSE),
        (f"masked(decay(relative(dot({Q}, {K})), retention), visible)", Form.DENSE),
        (f"rownorm(masked(exp(plus(dot({Q}, {K}), additive({Q}, {K}))), visible))", Form.DENSE),
        ("dense", Form.DENSE),
        ("strict(taps(x))", Form.DENSE),
        ("damp(taps(x), beta(x))", Form.DENSE),
        (f"damp(rownorm(masked(exp(dot({Q}, {K})), visible)), beta(x))", Form.SOFTMAX),
        (f"damp(rownorm(masked(dot(relu({Q}), relu({K})), visible)), beta(x))", Form.DENSE),
        (f"damp(rownorm_plus_one(masked(exp(dot({Q}, {K})), visible)), beta(x))", Form.DENSE),
    ],
)
def test_forms_follow_attributes(kernel: str, form: Form) -> None:
    assert plan_of(kernel).form is form


def test_a_plan_names_its_parts() -> None:
    found = plan_of(f"rownorm(masked(decay(decay(dot(relu({Q}), relu({K})), retention), forget(x)), visible))")
    assert found.query is not None
    assert found.key is not None
    assert (found.query.text, found.key.text) == (parse(f"relu({Q})").text, parse(f"relu({K})").text)
    assert [each.operation.name for each in found.head_decays] == ["forget", "retention"]
    assert found.normalised
    assert found.channel_decay is None
    assert len(found.parts) == 4

    gram = plan_of(f"masked(decay(decayed_gram(unit({K}), beta(x), selective_channels(x)), retention), visible)")
    assert gram.query is gram.key
    assert gram.gate is not None
    assert gram.channel_decay is not None
    assert (gram.gate.operation.name, gram.channel_decay.operation.name) == ("beta", "selective_channels")

    window = plan_of(f"rownorm(masked(exp(dot({Q}, {K})), window(width=8)))")
    assert window.window == 8
    assert window.linear_in_length
    assert not plan_of(f"rownorm(masked(exp(dot({Q}, {K})), visible))").linear_in_length


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

    plain, gram = "masked(decay(dot(project(x), k), g), visible)", "masked(decay(gram(k, beta(x)), g), visible)"
    assert fused(plain, gram)
    assert not fused(plain, "masked(gram(k, beta(x)), visible)")
    assert not fused("masked(decay(taylor2(dot(project(x), k)), g), visible)", gram)
    assert fused(
        "masked(decay(decay(dot(project(x), k), g), retention), visible)",
        "masked(decay(decay(gram(k, beta(x)), g), retention), visible)",
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


SHAPE = Shape(width=16, heads=4, key=5, value=3, hidden=0, length=4)


def kept_numbers(mixer: str) -> list[int]:
    """Numbers per token of what a softmax pass keeps."""
    (node,) = passes(parse(mixer))
    return [numbers(each, SHAPE) for each in remembered(plan(node.arguments[0]), node.arguments[1], SHAPE)]


def test_softmax_keeps_latents_where_they_are_narrower() -> None:
    body = "apply(rownorm(masked(exp(dot(project(x), {0})), visible)), {1})"
    latent = "mix(let c = latent(x, part={2}) in " + body + ", heads=4)"
    assert kept_numbers(f"mix({body}, heads=4)".format("project(x)", "value(x, share=2)")) == [20, 6]
    assert kept_numbers(latent.format("expand(c)", "expand_value(c)", 4)) == [4]
    assert kept_numbers(latent.format("expand(c)", "value(x)", 4)) == [4, 12]
    assert kept_numbers(latent.format("expand(c, share=4)", "expand_value(c, share=4)", 4)) == [4]
    assert kept_numbers(latent.format("expand(c, share=4)", "expand_value(c, share=4)", 2)) == [5, 3]
    assert kept_numbers(latent.format("rotary(expand(c))", "expand_value(c)", 4)) == [20, 4]
    assert kept_numbers(latent.format("expand(latent(x))", "expand_value(c)", 4)) == [4, 4]


def test_taylor_features_have_rank_one_plus_k_plus_k_squared() -> None:
    shape = Shape(width=8, heads=1, key=5, value=5, hidden=0, length=4)
    assert feature_width(plan_of(f"masked(taylor2(dot({Q}, {K})), visible)"), shape) == 31
    assert feature_width(plan_of(f"masked(dot({Q}, {K}), visible)"), shape) == 5
    assert feature_width(plan_of(f"masked(quad(plus(dot({Q}, {K}), dot({K}, {Q}))), visible)"), shape) == 111
    assert feature_width(plan_of(f"masked(plus(dot({Q}, {K}), ones), visible)"), shape) == 6
