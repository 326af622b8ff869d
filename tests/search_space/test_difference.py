"""Differences of terms: nothing between equal terms, readable lines between others, small for small edits."""

from random import Random

import pytest

from archloom.search_space import zoo
from archloom.search_space.difference import Kind, difference, unified
from archloom.search_space.text import parse

from .sampled import architectures, fresh, mixers

MHA = "mix(apply(rownorm(masked(exp(dot(project(x), project(x))), visible)), value(x)), heads=2)"


def lines(old: str, new: str) -> list[str]:
    return [change.line for change in difference(parse(old), parse(new))]


@pytest.mark.parametrize(
    ("new", "expected"),
    [
        (MHA, []),
        (MHA.replace("heads=2", "heads=4"), ["changed mix heads=2 to 4"]),
        (MHA.replace("visible", "window"), ["replaced visible by window (argument 2 of masked)"]),
        (MHA.replace("value(x)", "silu(conv(value(x)))"), ["added silu(conv(…)) (argument 2 of apply)"]),
        (
            MHA.replace("exp(dot(project(x)", "exp(dot(project(x, share=2)"),
            ["changed project share=1 to 2 (argument 1 of dot)"],
        ),
        (
            MHA.replace("exp(dot(project(x), project(x)))", "exp(decay(dot(project(x), project(x)), forget(x)))"),
            ["added decay(…, forget(x)) (in exp)"],
        ),
        (
            MHA.replace(
                "rownorm(masked(exp(dot(project(x), project(x))), visible))",
                "masked(dot(project(x), project(x)), visible)",
            ),
            ["removed rownorm(…) (argument 1 of apply)", "removed exp(…) (argument 1 of masked)"],
        ),
        (
            MHA.replace("mix(apply", "mix(mul(value(x), apply").replace(", heads", "), heads"),
            ["added mul(value(x), …) (in mix)"],
        ),
    ],
)
def test_an_edit_is_a_line(new: str, expected: list[str]) -> None:
    assert lines(MHA, new) == expected


def test_sharing_is_a_difference() -> None:
    tied = "mix(let k = project(x) in apply(masked(dot(k, k), visible), value(x)))"
    free = "mix(apply(masked(dot(project(x), project(x)), visible), value(x)))"
    assert lines(tied, free) == ["replaced let(project) by project(x) (argument 2 of dot)"]
    assert lines(free, tied) == ["replaced project(x) by let(project) (argument 2 of dot)"]


def test_commutative_arguments_may_change_sides() -> None:
    assert lines("mul(silu(value(x)), value(x))", "mul(value(x), silu(value(x)))") == []


def test_a_long_part_is_cut_in_the_line_and_whole_in_the_record() -> None:
    (change,) = difference(parse(MHA), parse(f"together({MHA}, {zoo.entry('kda').text.partition('grammar 2')[2]})"))
    assert change.kind is Kind.ADDED
    assert len(change.line) < 100
    assert "resolve(" in change.after


def test_equal_terms_have_no_difference_and_others_have_one() -> None:
    found = architectures(12, seed=8)
    for old in found:
        assert difference(old, fresh(old)) == ()
        for new in found:
            assert bool(difference(old, new)) == (old.text != new.text)


def test_both_ways_touch_as_many_operations() -> None:
    rng = Random(1)
    found = mixers(30, seed=9)
    for _ in range(40):
        old, new = rng.choice(found), rng.choice(found)
        there, back = (sum(change.operations for change in difference(*pair)) for pair in ((old, new), (new, old)))
        assert there == back


def test_the_unified_diff_shows_what_goes_and_what_comes() -> None:
    one, four = (parse(MHA.replace("heads=2", f"heads={heads}")) for heads in (1, 4))
    shown = unified(one, four, names=("old", "new")).splitlines()
    assert shown[:2] == ["--- old", "+++ new"]
    assert any(line.startswith("-") and "heads=1" in line for line in shown)
    assert any(line.startswith("+") and "heads=4" in line for line in shown)
