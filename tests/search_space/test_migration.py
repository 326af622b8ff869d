"""Migration: what a text of an earlier grammar says is said in today's words, and errors still point into the text."""

import re

import pytest

from archloom.search_space import GRAMMAR_VERSION
from archloom.search_space.migration import MIGRATIONS, migrated
from archloom.search_space.terms import TermError
from archloom.search_space.text import parse

SCORE = "dot(project(x), project(x))"


def rewritten(text: str) -> str:
    """A text of grammar 1 in grammar 2, without spaces."""
    return "".join(token for token, _ in migrated(re.findall(r"\w+|[(),=]", text), 1, 2))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"causal({SCORE})", f"masked({SCORE}, visible)"),
        (f"window({SCORE}, width=8)", f"masked({SCORE}, window(width=8))"),
        (f"window(width=8, {SCORE})", f"masked({SCORE}, window(width=8))"),
        (f"window({SCORE}, width=8,)", f"masked({SCORE}, window(width=8))"),
        (f"window({SCORE})", f"masked({SCORE}, window(width=16))"),
        (f"causal({SCORE},)", f"masked({SCORE}, visible)"),
        (f"mix(apply(causal({SCORE}), conv(value(x), width=3)), heads=1)",
         f"mix(apply(masked({SCORE}, visible), conv(value(x), width=3)), heads=1)"),
        ("window(dot(conv(k, width=2), apply(causal(s), v)), width=4)",
         "masked(dot(conv(k, width=2), apply(masked(s, visible), v)), window(width=4))"),
        ("resolve(causal(gram(k, b)), apply(window(dot(k, k), width=4), v))",
         "resolve(masked(gram(k, b), visible), apply(masked(dot(k, k), window(width=4)), v))"),
        ("mix(apply(dense, value(x)))", "mix(apply(dense, value(x)))"),
        ("mix(causal(", "mix(masked("),
        (")) causal", "))causal"),
    ],
)  # fmt: skip
def test_unary_masks_become_terms(old: str, new: str) -> None:
    assert rewritten(old) == new.replace(" ", "")


def test_there_is_a_way_from_every_earlier_version() -> None:
    assert set(MIGRATIONS) == set(range(1, GRAMMAR_VERSION))


def test_an_old_text_without_what_changed_reads_as_today() -> None:
    text = "mix(apply(dense, conv(value(x), width=3)), heads=1)"
    assert parse(f"grammar 1 {text}") == parse(f"grammar {GRAMMAR_VERSION}  # today\n{text}") == parse(text)


def test_a_mistake_in_an_old_text_is_shown_where_it_stands() -> None:
    with pytest.raises(TermError, match="line 2, column 18: `qqqq` is neither"):
        parse("grammar 1  # causal(\nmix(apply(dense, qqqq(x)), heads=1)")
    with pytest.raises(TermError, match="line 1, column 17"):
        parse("grammar 1   mix(?")
