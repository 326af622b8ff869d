"""Edits of a term's text: what they do to the term, and what is said of those that cannot be made."""

import re
from random import Random
from time import process_time

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from archloom.agents.language_model.answers import MAX_EDITS, MAX_TERM, Edit
from archloom.agents.language_model.edits import edited
from archloom.search_space import zoo
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term, TermError, places, replace
from archloom.search_space.text import parse, pretty
from archloom.search_space.types import Type

SAMPLER = Sampler.default(depth=2)
PARENT = parse("mix(apply(masked(dot(elu1(project(x)), elu1(project(x))), window(width=8)), value(x)), heads=4)")
SHARED = parse("mix(let k1 = elu1(project(x)) in apply(masked(dot(k1, k1), visible), value(x)))")


def after(parent: Term, *edits: tuple[str, str]) -> str:
    return edited(parent, [Edit(replace=old, by=new) for old, new in edits])


def refusal(parent: Term, *edits: tuple[str, str]) -> str:
    with pytest.raises(TermError) as refused:
        after(parent, *edits)
    return str(refused.value)


def test_an_edit_changes_the_one_place_where_its_text_stands() -> None:
    text = PARENT.text
    assert after(PARENT, ("heads=4", "heads=8")) == text.replace("heads=4", "heads=8")
    assert after(PARENT, ("window(width=8)", "visible")) == text.replace("window(width=8)", "visible")
    assert after(PARENT, (", heads=4", "")) == text.replace(", heads=4", "")
    assert after(PARENT, (text, "mix(x)")) == "mix(x)"
    named = after(SHARED, ("let k1 = elu1", "let k1 = unit"), ("dot(k1, k1)", "exp(dot(k1, k1))"))
    assert named == SHARED.text.replace("elu1", "unit").replace("dot(k1, k1)", "exp(dot(k1, k1))")


def test_edits_are_made_one_after_another() -> None:
    assert after(PARENT, ("heads=4", "heads=2"), ("heads=2", "heads=8")).endswith("heads=8)")
    assert "does not stand" in refusal(PARENT, ("heads=4", "heads=2"), ("heads=4", "heads=8"))


def test_white_space_and_comments_do_not_matter() -> None:
    spread = "  window (\n\twidth = 8 # as before\n ) "
    assert after(PARENT, (spread, " window(width=32)\n")) == PARENT.text.replace("width=8", "width=32")
    assert after(PARENT, ("value(x)),heads", "value( x ) ),\n\nheads = 2 , heads"), (",heads=4", "")).endswith(
        ", heads=2)"
    )


def test_a_name_stands_in_no_longer_name_and_a_number_in_no_longer_number() -> None:
    assert "does not stand" in refusal(PARENT, ("lu1", "nit"))
    assert "does not stand" in refusal(PARENT, ("elu", "relu"))
    wide = parse(PARENT.text.replace("width=8", "width=32"))
    assert "does not stand" in refusal(wide, ("window(width=3", "window(width=6"))
    assert after(SHARED, ("x)) in", "norm(x))) in")) == SHARED.text.replace("x)) in", "norm(x))) in")


def test_tokens_that_an_edit_brings_together_stay_apart() -> None:
    assert after(SHARED, ("in apply(", "in x "), ("masked(", "1 -2 - 3")).count("in x 1 -2 - 3 dot(k1, k1)") == 1
    assert "let k1 = elu1(project(x)) x masked" in after(SHARED, ("in apply(", "x "))


def test_an_edit_that_stands_nowhere_is_shown_what_is_nearest() -> None:
    told = refusal(PARENT, ("heads=4", "heads=2"), ("masked(dot(unit(project(x))", "dot(x"))
    assert told == (
        "edits[1]: `masked(dot(unit(project(x))` does not stand in the text; "
        "the nearest part of it is `masked(dot(elu1(project(x))`: copy what is to be replaced from there"
    )
    assert "nothing in the text is like it" in refusal(PARENT, ("scan tanh", "x"))


def test_an_edit_that_stands_often_is_told_how_often_and_what_to_do() -> None:
    assert refusal(PARENT, ("elu1(project(x))", "unit(x)")) == (
        "edits[0]: `elu1(project(x))` stands in the text 2 times; "
        "write more of what stands around the one that you mean"
    )
    assert "stands in the text 3 times" in refusal(PARENT, ("x", "norm(x)"))
    many = ("heads=4", f"heads=4, {'x, ' * 30} x")
    assert "stands in the text 20 times or more" in refusal(PARENT, many, ("x, x", "x"))  # they overlap


def test_edits_that_change_nothing_are_refused() -> None:
    assert "edits[0]: `heads=4` is replaced by itself" in refusal(PARENT, ("heads=4", " heads = 4 "))
    assert 'edits[0]: "replace" is empty' in refusal(PARENT, (" # all of it", "x"))
    assert "the edits together change nothing" in refusal(PARENT, ("heads=4", "heads=2"), ("heads=2", "heads=4"))
    assert "the edits together change nothing" in refusal(PARENT)


def test_a_refusal_is_plain_and_short_whatever_the_edit_holds() -> None:
    hostile = "\x1b[31m\u202e\ud800\u2028" + "y" * 9_000
    for text in (hostile, "é" * MAX_TERM, "((((" * 2_500):
        told = refusal(PARENT, (text, "x"))
        assert told.isprintable()
        assert len(told) < 700
    assert after(PARENT, ("heads=4", hostile)).isascii() is False  # what it writes is for the parser to refuse


def test_what_is_not_edited_is_left_as_terms_are_written() -> None:
    for name in zoo.STANDARD:
        text = parse(zoo.entry(name).text).text
        second = text.index("(", text.index("(") + 1)
        assert after(parse(text), (text[:second], "other")) == "other" + text[second:], name


def stands(text: str, part: str) -> int:
    """How often a part of a canonical text stands in it, at the ends of words: an oracle without tokens."""
    return len(re.findall(rf"(?<!\w)(?={re.escape(part)}(?!\w))", text))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_an_edit_of_a_subterms_text_substitutes_the_subterm(seed: int) -> None:
    rng = Random(seed)
    parent = SAMPLER.architecture(rng)
    chosen = [
        place
        for place in places(parent)
        if not place.term.operation.shares and place.path and stands(parent.text, place.term.text) == 1
    ]
    assume(chosen)
    place = rng.choice(chosen)
    if place.term.type in (Type.STACK, Type.BLOCK):
        others = [each.term for each in places(SAMPLER.architecture(rng)) if each.term.type is place.term.type]
        assume(others)
        fresh = rng.choice(others)
    else:
        fresh = SAMPLER.subterm(place.term.type, rng, max_size=24)
    assume(fresh != place.term)
    old, new = rng.choice((place.term.text, pretty(place.term, width=20))), rng.choice((fresh.text, pretty(fresh)))
    line = after(parent, (old, new))
    assert parse(line) == replace(parent, place.path, fresh)
    if stands(line, fresh.text) == 1:
        assert "together change nothing" in refusal(parent, (old, new), (new, old))


@given(seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_part_that_does_not_stand_once_is_counted_as_in_the_text(seed: int) -> None:
    rng = Random(seed)
    parent = SAMPLER.architecture(rng)
    place = rng.choice(places(parent))
    often = stands(parent.text, place.term.text)
    assume(often != 1)
    told = refusal(parent, (place.term.text, "elsewhere"))
    assert ("does not stand" in told) if often == 0 else (f"{min(often, 20)} times" in told)


@pytest.mark.parametrize("unit", ["(", "x,", "f(x),", "x ", "#\n", "= let "])
def test_the_largest_edits_are_made_or_refused_soon(unit: str) -> None:
    long = (unit * MAX_TERM)[:MAX_TERM]
    edits = [("heads=4", f"heads=4 {long}")] * (MAX_EDITS - 1)
    started = process_time()
    if unit == "#\n":
        assert "is replaced by itself" in refusal(PARENT, *edits)
    else:
        assert len(after(PARENT, *edits)) > (MAX_EDITS - 1) * MAX_TERM / 2
        assert "20 times or more" in refusal(PARENT, *edits, (long[: MAX_TERM // 2], "y"))
        assert "does not stand" in refusal(PARENT, *edits, (f"{long[:-1]}?", "y"))
    assert process_time() - started < 1.5  # three scripts; a slow machine takes 0.3 s
