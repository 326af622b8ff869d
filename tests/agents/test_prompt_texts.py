"""The texts of prompts and what they are made of: templates, the sheet of operations, quotations, lengths."""

import hashlib
import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from archloom.agents.language_model import researcher
from archloom.agents.language_model.lengths import BYTES_PER_TOKEN, fitted, tokens
from archloom.agents.language_model.operation_sheet import GROUPS, SHORT, sheet, signature
from archloom.agents.language_model.prompting import filled, prompt, read
from archloom.agents.language_model.quoting import MARKER, plain, quoted
from archloom.db.records import Protocol, Role
from archloom.search_space import zoo
from archloom.search_space.operations import FAMILIES, OPERATIONS, Operation
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.text import parse
from archloom.search_space.types import Type

SAMPLER = Sampler.default(depth=2)
TERM = zoo.load("mha").text
PROTOCOL = Protocol(
    version=2,
    grammar=2,
    reference=TERM,
    width=64,
    depth=2,
    tasks=(),
    rungs=(),
    baselines=tuple((name, zoo.load(name).text) for name in zoo.STANDARD),
)


# -- templates ---------------------------------------------------------------------------------------------------------


def test_a_place_is_filled_once_and_what_is_put_there_is_not_read_again() -> None:
    assert filled("$one and $$5 ${two}s", {"one": "$two $nothing $", "two": "x"}) == "$two $nothing $ and $5 xs"


@pytest.mark.parametrize(
    ("template", "places", "said"),
    [
        ("$one", {"one": "1", "two": "2"}, "no place two; it has one"),
        ("$one $two", {"one": "1"}, "nothing is given for the places two"),
        ("costs $5", {}, "begins no place"),
    ],
)
def test_a_place_that_is_unknown_missing_or_no_place_is_an_error(
    template: str, places: dict[str, str], said: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        filled(template, places)


PINNED = {
    "researcher/1": "671c1c7339f9",
    "repair/1": "14f1d969e1e2",
    "critic/1": "471f02c0d837",
    "analyst/1": "0360d05d3e79",
    "grader/1": "a001f148468c",
}
"""Digests of the prompts: a text that changes takes a new version, and its digest is written here anew."""


@pytest.mark.parametrize("role", [role for role in Role if role is not Role.EMBEDDER])
def test_a_prompt_keeps_its_text_as_long_as_it_keeps_its_version(role: Role) -> None:
    found = prompt(role)
    digest = hashlib.sha256(f"{found.system}\0{found.user}".encode()).hexdigest()[:12]
    assert PINNED.get(found.title) == digest, f"{found.title} changed: raise the version in its file, and pin {digest}"


def test_a_file_of_another_form_is_an_error() -> None:
    assert read("version 12\n\n# system\n\na\n\nb\n\n# user\n\nc\n", role=Role.CRITIC).title == "critic/12"
    for text in ("# user\n\nc\n", "version 0\n\n# user\n\nc\n", "version 1\n\nc\n", "version 1\n\n# user\n\n"):
        with pytest.raises(ValueError, match="begins with `version N`"):
            read(text, role=Role.CRITIC)


# -- the algebra -------------------------------------------------------------------------------------------------------


def spelled(text: str) -> list[Type]:
    """The types that `X|f|V` stands for, by the sheet's own legend."""
    full = {each.value: each for each in Type}
    legend = sheet().splitlines()[0].removeprefix("Types: ").removesuffix(".").split(", ")
    named = {told.split(" ", 1)[0]: full[told.split(" ", 1)[1]] for told in legend if " any of " not in told}
    groups = {told.split()[0]: [named[each] for each in told.split()[3:]] for told in legend if " any of " in told}
    return [type_ for each in text.split("|") for type_ in groups.get(each) or [named.get(each) or full[each]]]


@pytest.mark.parametrize("operation", OPERATIONS.values(), ids=lambda each: each.name)
def test_the_sheet_says_what_each_operation_takes_and_makes(operation: Operation) -> None:
    line = f"  {signature(operation)}: {operation.summary}"
    assert (line in sheet().splitlines()) == (CAUSAL in operation.patterns)
    if CAUSAL not in operation.patterns:
        return
    call, _, made = signature(operation).partition(" -> ")
    inside = call.partition("(")[2].removesuffix(")").split(", ") if "(" in call else []
    arguments = [spelled(each) for each in inside if "=" not in each]
    assert [sorted(each, key=str) for each in arguments] == [
        sorted(operation.accepted(index), key=str) for index in range(operation.arity)
    ]
    for parameter, written in zip(operation.parameters, [each for each in inside if "=" in each], strict=True):
        name, _, values = written.partition("=")
        choices = list(map(str, parameter.choices))
        assert name == parameter.name
        assert sorted(values.split("|")) == sorted(choices) or values == f"{choices[0]}..{choices[-1]}"
        assert re.split(r"\||\.\.", values)[0] == str(parameter.default)
    if operation.arity == 1:
        assert {(each,): result_of(made, each) for each in arguments[0]} == operation.signatures
    else:
        assert set(spelled(made)) == set(operation.signatures.values())


def result_of(made: str, argument: Type) -> Type:
    """`f of F, else same`, read for one argument."""
    for rule in made.split(", "):
        result, _, of = rule.partition(" of ")
        if of and argument in spelled(of):
            return spelled(result)[0]
        if not of:
            return argument if result in ("same", "else same") else spelled(result)[0]
    raise AssertionError(f"{made} says nothing of {argument}")


def test_every_type_has_a_short_name_of_its_own() -> None:
    assert set(SHORT) == set(Type)
    assert len({*SHORT.values(), *GROUPS}) == len(Type) + len(GROUPS)


def test_the_system_part_holds_all_families_the_baselines_and_the_limits() -> None:
    system = researcher.system(SAMPLER, protocol=PROTOCOL, lets=7)
    lines = system.splitlines()
    assert all(f"{family}:" in lines for family in FAMILIES)
    systems = lines[lines.index("Known systems:") + 1 :]
    shown = {line.split(" ", 1)[0]: parse(line.partition("): ")[2]).text for line in systems}
    assert shown == {name: parse(zoo.entry(name).text).text for name in zoo.STANDARD}
    assert f"at most {SAMPLER.grammar.max_size} operations, at most 7 `let`s" in system
    assert "at most 2 blocks" in " ".join(system.split())
    assert all(f'"{field}"' in system for field in ("hypothesis", "term", "parent", "edits", "predictions", "cites"))
    assert tokens(system) < 7_200  # 5,763 of o200k_base were counted


def test_a_protocol_without_baselines_is_told_the_standard_systems_and_other_terms_are_told_too() -> None:
    bare = researcher.system(SAMPLER, protocol=replace(PROTOCOL, baselines=()), lets=7)
    assert all(f"\n{name} (" in bare for name in zoo.STANDARD)
    own = replace(PROTOCOL, baselines=(("mine\n> x", TERM),))
    assert f"\nmine > x: {TERM}" in researcher.system(SAMPLER, protocol=own, lets=7)


# -- quotations and lengths -------------------------------------------------------------------------------------------


@given(st.text(st.characters() | st.sampled_from("\n\r\x85\u2028 > abc"), max_size=300), st.integers(1, 200))
def test_a_quotation_is_marked_on_every_line_and_holds_nothing_that_moves_a_cursor(text: str, length: int) -> None:
    lines = quoted(text, length=length).split("\n")
    assert all(line.startswith(MARKER) and line.isprintable() for line in lines)
    assert sum(len(line) - len(MARKER) for line in lines) <= max(length, len("(nothing)"))
    assert len(plain(text, length=length)) <= length
    assert plain(text, length=length).isprintable()


def test_a_quotation_is_cut_to_its_length_over_all_its_lines() -> None:
    assert quoted("abcd\n" * 50, length=18).split("\n") == [*[f"{MARKER}abcd"] * 4, f"{MARKER}a…"]
    assert quoted(" \n\t\n", length=18) == f"{MARKER}(nothing)"


def test_in_a_quotation_every_odd_byte_is_a_token() -> None:
    assert tokens("abc " * 29) == math.ceil((4 * 29 + 1) / BYTES_PER_TOKEN)
    assert tokens(f"{MARKER}{'{' * 100}") > 100
    assert tokens(f"{MARKER}{'字' * 100}") > 300


def test_items_are_left_out_in_the_given_order() -> None:
    def render(left: object) -> str:
        return str(left).replace("'", "")

    sections = {"a": ["aaaaaa"] * 2, "b": ["bbbbbb"] * 3}
    order = (("b", 2), ("a", 0), ("b", 0))
    sizes = [tokens(render({"a": ["aaaaaa"] * a, "b": ["bbbbbb"] * b})) for a, b in ((2, 3), (2, 2), (0, 2), (0, 0))]
    kept = [fitted(sections, order=order, render=render, room=size) for size in sizes]
    assert [(text.count("aaaaaa"), text.count("bbbbbb")) for text in kept] == [(2, 3), (2, 2), (0, 2), (0, 0)]
