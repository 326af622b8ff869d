"""Equations of terms: right on the page, LaTeX that a compiler takes, names that are defined before they are used."""

import re
from collections import Counter

import pytest

from archloom.search_space import zoo
from archloom.search_space.equations import equations, plain
from archloom.search_space.equations.pieces import Weight
from archloom.search_space.equations.templates import template
from archloom.search_space.equations.writing import FUNCTIONS, INDICES, LETTERS, LINE
from archloom.search_space.operations import OPERATIONS, Operation, Parameter, term
from archloom.search_space.operations.row import choice
from archloom.search_space.terms import Term, walk
from archloom.search_space.text import parse
from archloom.search_space.types import Type

from .latex import problems
from .sampled import architectures, mixers


def texts(text: str) -> list[str]:
    return [each.text for each in equations(parse(text))]


def every_term() -> list[Term]:
    return [*map(zoo.load, zoo.names()), *architectures(60, seed=3)]


# The equations of terms


def test_softmax_attention_reads_as_it_is_printed_in_papers() -> None:
    assert texts("mix(apply(rownorm(masked(exp(dot(project(x), project(x))), visible)), value(x)), heads=2)") == [
        "q_t = W_q x_t",
        "k_t = W_k x_t",
        "A1_ts = exp(K^{-1/2} ⟨q_t, k_s⟩) [s ≤ t]",
        "A2_ts = A1_ts / Σ_r A1_tr",
        "v_t = W_v x_t",
        "o_t = Σ_{s ≤ t} A2_ts v_s",
        "f(x)_t = W_o o_t",
    ]


def test_a_let_is_one_line_that_all_its_uses_name() -> None:
    mixer = parse(zoo.entry("deltanet").text)
    lines = [each.text for each in equations(mixer)]
    assert "β_t = σ(wᵀ x_t + b)" in lines
    assert "k2_t = k1_t / ‖k1_t‖_2" in lines
    assert "L_ts = β_t ⟨k2_t, k2_s⟩ [s ≤ t]" in lines
    assert "o1_t = [(I + strict(L))⁻¹ v]_t" in lines
    assert sum("K^{-1/2} ⟨q2_t, k2_s⟩" in line for line in lines) == 1


def test_a_decay_used_twice_is_summed_up_once() -> None:
    lines = [each.text for each in equations(parse(zoo.entry("gated_deltanet").text))]
    assert lines.count("G = cumsum(g)") == 1
    assert sum("exp(G_t - G_s)" in line for line in lines) == 2


def test_two_decays_have_two_sums() -> None:
    lines = texts(
        "mix(apply(masked(decay(decay(dot(project(x), project(x)), retention), forget(x)), visible), value(x)))"
    )
    assert [line for line in lines if "cumsum" in line] == ["G1 = cumsum(g1)", "G2 = cumsum(g2)"]
    assert any("exp(G1_t - G1_s) exp(G2_t - G2_s)" in line for line in lines)


def test_numbers_of_parameters_stand_in_the_equation_and_the_rest_beside_it() -> None:
    architecture = parse("every(block(pointwise(conv(value(x), width=3), heads=1), mlp(activation=relu2)), "
                         "block(pointwise(value(x, share=2)), none), period=3, times=6)")  # fmt: skip
    lines = equations(architecture)
    shown = {each.text: each.note for each in lines}
    assert any("Σ_{j<3}" in text for text in shown)
    assert any("relu2(" in text for text in shown)
    assert shown["m2(x) = 0"] == ""
    assert shown["f2(x)_t = W_{f2,o} W_f2 x_t"] == "share=2 heads=2"
    assert (lines[-1].text, lines[-1].note) == ("model = (B1^{×2}, B2)^×", "times=6")


def test_blocks_and_stacks_are_functions() -> None:
    lines = texts("repeat(block(pointwise(value(x)), mlp), times=4)")
    assert lines[-3:] == ["y = x + f(norm x)", "B(x) = y + m(norm y)", "model = B^{×4}"]


def test_a_block_that_comes_again_is_defined_once() -> None:
    twice = "block(pointwise(value(x)), mlp)"
    other = "block(mix(apply(dense, value(x))), none)"
    lines = texts(f"then(repeat({twice}, times=2), then(repeat({other}, times=1), repeat({twice}, times=1)))")
    assert sum(line.startswith("B") for line in lines) == 2
    assert lines[-1] == "model = B1^{×2}; B2^{×1}; B1^{×1}"


def test_two_mixers_of_one_text_are_two_functions() -> None:
    lines = texts("together(pointwise(value(x)), pointwise(value(x)))")
    assert lines[-1] == "f3(x) = f1(x) + f2(x)"
    assert len({re.sub(r"^f\d\(x\)_t = ", "", line) for line in lines[:2]}) == 2


@pytest.mark.parametrize(
    ("text", "last"),
    [
        ("norm(value(x))", "v_t = γ ⊙ W x_t / rms(W x_t)"),
        ("norm(silu(add(value(x), value(x))))", "v2_t = γ ⊙ v1_t / rms(v1_t)"),
        ("mul(add(value(x), value(x)), value(x))", "v_t = (W_a x_t + W_b x_t) ⊙ W_c x_t"),
        ("add(mul(value(x), value(x)), value(x))", "v_t = W_a x_t ⊙ W_b x_t + W_c x_t"),
        ("mul(mul(value(x), value(x)), value(x))", "v_t = (W_a x_t ⊙ W_b x_t) ⊙ W_c x_t"),
        ("silu(add(value(x), value(x)))", "v_t = silu(W_a x_t + W_b x_t)"),
        ("elu1(conv(project(x), width=2))", "k_t = elu(Σ_{j<2} c_j ⊙ W x_{t-j}) + 1"),
        ("taylor2(dot(project(x), project(x)))", "S2_ts = 1 + S1_ts + S1_ts² / 2"),
        ("sigmoid(value(x))", "v_t = σ(W x_t)"),
        ("conv(shift(x))", "z2_t = Σ_{j<4} c_j ⊙ z1_{t-j}"),
        ("shift(x)", "z_t = μ ⊙ x_{t-1} + (1 - μ) ⊙ x_t"),
    ],
)
def test_brackets_and_names_where_they_are_needed(text: str, last: str) -> None:
    found = texts(text)[-1]
    assert re.sub(r"_\{?v,?([abc])\}?", r"_\1", found) == last


def test_weights_of_several_operations_have_several_names() -> None:
    for mixer in mixers(60, seed=4):
        wanted = sum(len(_matrices(each.operation)) for each in walk(mixer) if not each.operation.shares)
        shown = " ; ".join(each.text for each in equations(mixer))
        names = set(re.findall(r"(?<!\w)W(?:_[^\W²]+|_\{[^}]*\})?", shown))
        assert len(names) == wanted


def _matrices(operation: Operation) -> set[str]:
    """The subscripts of the letter W in an operation's equation."""
    form = template(operation)
    marks = [*form.value, *(mark for _, definition in form.definitions for mark in definition)]
    return {mark.subscript for mark in marks if isinstance(mark, Weight) and mark.letter == "W"}


# What every term's equations are


def test_the_latex_of_every_term_is_in_order() -> None:
    for architecture in every_term():
        for each in equations(architecture):
            assert problems(each.latex) == [], each.latex


def test_plain_text_of_every_term_has_no_latex_and_short_lines() -> None:
    for architecture in every_term():
        for each in equations(architecture):
            assert "\\" not in each.text
            assert each.text.count("{") == each.text.count("}")
            assert each.text.count("(") == each.text.count(")")
            assert len(each.text) <= LINE, each.text
            assert not any("\ue000" <= letter <= "\uf8ff" for letter in each.text)


def test_names_are_defined_once_and_before_they_are_used() -> None:
    for architecture in every_term():
        lines = [each.text for each in equations(architecture)]
        heads = [_head(line) for line in lines]
        assert max(Counter(heads).values()) == 1
        for index, line in enumerate(lines):
            right = re.sub(rf"{heads[index]}_\{{[ti]-1\}}", "", line.partition(" = ")[2])  # a state reads its own past
            right = re.sub(r"_\w+|_\{[^}]*\}", "", right)
            used = set(re.findall(r"(?<!\w)[A-Za-zβΔψ]\d*(?!\w)", right))
            assert not used & set(heads[index:]), line


def _head(line: str) -> str:
    return re.split(r"[_( ]", line, maxsplit=1)[0]


def test_equations_depend_on_the_term_alone() -> None:
    for architecture in architectures(10, seed=5):
        assert equations(architecture) == equations(parse(architecture.text))


def test_every_type_has_a_letter_and_an_index_or_is_a_function() -> None:
    assert set(LETTERS) == set(Type)
    assert {each for types in INDICES for each in types} | FUNCTIONS | {Type.STACK} == set(Type)


# Templates and plain text


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation_has_an_equation_in_known_latex_that_reads_each_argument(name: str) -> None:
    operation = OPERATIONS[name]
    filled = re.sub(r"\{(\d)\}", r"{x}", operation.equation)
    assert problems(filled) == []
    assert "\\" not in plain(filled)
    for argument in range(operation.arity):
        assert template(operation).indices(argument), f"{name} does not say what it does with argument {argument + 1}"


def synthetic(equation: str, *parameters: Parameter, parametric: bool = False) -> Term:
    """A made-up operation on two values, applied."""
    operation = Operation(
        name="synthetic",
        rows=(((Type.VALUE, Type.VALUE), Type.VALUE),),
        summary="",
        equation=equation,
        parameters=parameters,
        parametric=parametric,
    )
    values = tuple(each.default for each in parameters)
    return Term(operation, values, (term("value", term("x")), term("value", term("x"))), Type.VALUE)


@pytest.mark.parametrize(
    ("equation", "expected"),
    [
        (r"{0}_t^{2} + \frac{1}{2} {1}_t", "v_t = (W_a x_t)² + 1/2 W_b x_t"),
        (r"{0}_t \odot {rate} + {1}_t", "v_t = W_a x_t ⊙ 7 + W_b x_t"),
        (r"{0}_t + r {1}_t", "v_t = W_a x_t + 7 W_b x_t"),
        (r"\max_{r \in R} ({0}_t + {1}_t)", "v_t = max_{r ∈ R} (W_a x_t + W_b x_t)"),
        (r"S_t = S_{t-1} + {0}_t {1}_t^\top;\; o_t = S_t q", "v_t = S_t q"),
    ],
)
def test_conventions_of_templates(equation: str, expected: str) -> None:
    *_, last = equations(synthetic(equation, choice("rate", 7)))
    assert re.sub(r"_\{?v,?([ab])\}?", r"_\1", last.text) == expected


def test_either_of_two_masks_stands_in_brackets() -> None:
    kernel = "masked(exp(dot(project(x), project(x))), either(first(count=4), window(width=16)))"
    lines = texts(f"mix(apply({kernel}, value(x)))")
    assert lines[-2] == "o_t = Σ_{s ≤ t} exp(K^{-1/2} ⟨q_t, k_s⟩) ([s < 4 ∨ s = t] ∨ [0 ≤ t - s < 16]) v_s"


def test_parameters_stand_where_the_equation_says() -> None:
    for text, said in (
        ("chunk(size=16)", "M_ts = [⌊t/16⌋ = ⌊s/16⌋]"),
        ("strided(stride=4)", "M_ts = [(s + 1) mod 4 = 0 ∨ s = t]"),
        ("first(count=4)", "M_ts = [s < 4 ∨ s = t]"),
        ("dilated(width=8, dilation=2)", "M_ts = [t - s ∈ {0, 2, 2 · 2, …}, t - s < 8 · 2]"),
        ("ensemble(members=4)", "m(x) = 1/4 Σ_i s_i' ⊙ W_2 (r_i' ⊙ relu(s_i ⊙ W_1 (r_i ⊙ x)))"),
    ):
        assert texts(text) == [said]


def test_a_definition_may_refer_to_itself() -> None:
    state = equations(synthetic(r"S_t = \lambda S_{t-1} + {0}_t {1}_t^\top;\; o_t = S_t q", parametric=True))[0]
    assert state.text == "S_t = λ S_{t-1} + W_{S,a} x_t (W_{S,b} x_t)ᵀ"


@pytest.mark.parametrize(
    ("latex", "text"),
    [
        (r"\sigma(w^\top x_t + b)", "σ(wᵀ x_t + b)"),
        (r"e^{-\lambda \tau}", "exp(-λ τ)"),
        (r"\tfrac{1}{16} \log x", "1/16 log x"),
        (r"\frac{a + b}{c}", "(a + b)/c"),
        (r"\left[(I + A)^{-1} v\right]_t", "[(I + A)⁻¹ v]_t"),
        (r"\lVert x \rVert_2^2 \odot \langle q, k \rangle", "‖x‖_2² ⊙ ⟨q, k⟩"),
        (r"\sqrt{K} \, x_{t-1}", "√K x_{t-1}"),
        (r"\mathrm{MLP}_{\sin}(\tau)", "MLP_sin(τ)"),
        (r"2^{-5-h}", "2^{-5-h}"),
        (r"\unheard x", "unheard x"),
    ],
)
def test_plain_text(latex: str, text: str) -> None:
    assert plain(latex) == text


@pytest.mark.parametrize(
    ("latex", "problem"),
    [
        ("{a", "never closed"),
        ("a}", "closes nothing"),
        (r"\left( a", "never closed"),
        ("x_t_s", "double _"),
        ("x_{t}^2^{3}", "double ^"),
        (r"\nosuch a", "unknown command"),
        ("x_", "without a script"),
        (r"\mathrm x", "without an argument"),
    ],
)
def test_the_checker_of_latex_finds_what_is_wrong(latex: str, problem: str) -> None:
    assert any(problem in each for each in problems(latex))


@pytest.mark.parametrize("latex", ["x_t^2", "x_{t_1}^{a^b}", r"\mathrm{a}_{\sin}(x)_t", "{a_b}_c", r"\left[a\right]_t"])
def test_the_checker_of_latex_passes_what_is_right(latex: str) -> None:
    assert problems(latex) == []
