"""Laws of normalisers and scores: what a division of rows forgets, and what it does not."""

import pytest

from archloom.search_space.identity import canonical
from archloom.search_space.operations import OPERATIONS
from archloom.search_space.patterns import CAUSAL, NONCAUSAL, NONCAUSAL_CROSS, misfits
from archloom.search_space.terms import TermError
from archloom.search_space.text import parse
from archloom.search_space.types import Type

DOT, OTHER = "dot(project(x), project(x))", "dot(project(conv(x)), project(x))"


def mix(kernel: str) -> str:
    return f"mix(apply({kernel}, value(x)))"


def same(left: str, right: str) -> bool:
    return canonical(parse(mix(left))).text == canonical(parse(mix(right))).text


FORGOTTEN = {
    "a temperature under ReLU": (
        f"rownorm(masked(relu(temper({DOT})), visible))",
        f"rownorm(masked(relu({DOT}), visible))",
    ),
    "a temperature under squared ReLU, a decay and a choice": (
        f"rownorm(topk(masked(decay(relu2(temper({DOT})), forget(x)), visible)))",
        f"rownorm(topk(masked(decay(relu2({DOT}), forget(x)), visible)))",
    ),
    "a temperature where another attention picks": (
        f"rownorm(picked(masked(relu(temper({DOT})), visible), project(x), project(x)))",
        f"rownorm(picked(masked(relu({DOT}), visible), project(x), project(x)))",
    ),
    "an offset of keys where another attention picks": (
        "rownorm(picked(masked(exp(dot(project(x), affine(silu(project(x))))), visible), project(x), project(x)))",
        "rownorm(picked(masked(exp(dot(project(x), weigh(silu(project(x))))), visible), project(x), project(x)))",
    ),
    "temperatures of a product": (
        f"rownorm(strict(masked(relu(times(temper({DOT}), temper(temper({OTHER})))), visible)))",
        f"rownorm(strict(masked(relu(times({DOT}, {OTHER})), visible)))",
    ),
    "a temperature of a temperature": (
        f"masked(exp(temper(temper({DOT}))), visible)",
        f"masked(exp(temper({DOT})), visible)",
    ),
    "a count": (f"rownorm(rowmean(masked(exp({DOT}), visible)))", f"rownorm(masked(exp({DOT}), visible))"),
    "an order of summands": (
        f"masked(plus(exp({DOT}), plus(relu({DOT}), sigmoid({DOT}))), visible)",
        f"masked(plus(sigmoid({DOT}), plus(exp({DOT}), relu({DOT}))), visible)",
    ),
}


@pytest.mark.parametrize("law", FORGOTTEN)
def test_what_makes_no_difference_is_dropped(law: str) -> None:
    assert same(*FORGOTTEN[law])


@pytest.mark.parametrize(
    ("kept", "dropped"),
    [
        (f"rownorm(masked(exp(temper({DOT})), visible))", f"rownorm(masked(exp({DOT}), visible))"),
        (f"rownorm(masked(quad(temper({DOT})), visible))", f"rownorm(masked(quad({DOT}), visible))"),
        (f"masked(relu(temper({DOT})), visible)", f"masked(relu({DOT}), visible)"),
        (f"rownorm_plus_one(masked(relu(temper({DOT})), visible))", f"rownorm_plus_one(masked(relu({DOT}), visible))"),
        (f"rownorm_plus_one(rowmean(masked(exp({DOT}), visible)))", f"rownorm_plus_one(masked(exp({DOT}), visible))"),
        (f"masked(dilute({DOT}), visible)", f"masked(sigmoid({DOT}), visible)"),
        (
            f"rownorm(masked(relu(plus(temper({DOT}), {OTHER})), visible))",
            f"rownorm(masked(relu(plus({DOT}, {OTHER})), visible))",
        ),
    ],
)
def test_what_makes_a_difference_stays(kept: str, dropped: str) -> None:
    assert not same(kept, dropped)


@pytest.mark.parametrize(
    "ill_typed",
    [
        f"rownorm_plus_one(masked({DOT}, visible))",  # rows of any sign have no sum to divide by
        f"topk(masked({DOT}, visible))",
        f"picked(masked({DOT}, visible), project(x), project(x))",
        f"sparsemax(masked(exp({DOT}), visible))",  # acts on scores, not on their exponentials
        f"rownorm(sparsemax(masked({DOT}, visible)))",  # normalised twice
        f"rowmean(rownorm(masked(exp({DOT}), visible)))",
        f"masked(exp(temper(relu({DOT}))), visible)",
        f"masked(cap(quad({DOT})), visible)",  # positive scores may all lie where a cap is flat
        f"rownorm(assign(masked({DOT}, visible)))",  # a target without sources has an empty row
    ],
)
def test_what_cannot_be_typed_cannot_be_written(ill_typed: str) -> None:
    with pytest.raises(TermError):
        parse(mix(ill_typed))


def test_types_of_sums_and_scores() -> None:
    assert parse(f"plus(relu({DOT}), exp({DOT}))").type is Type.POSITIVE_SCORE
    assert parse(f"plus({DOT}, exp({DOT}))").type is Type.SCORE
    assert parse(f"plus(ones, quad({DOT}))").type is Type.POSITIVE_SCORE
    assert parse(f"rowmean(masked(relu({DOT}), visible))").type is Type.POSITIVE_KERNEL
    assert parse("pool(unit(project(x)))").type is Type.FEATURE
    assert parse("pool(elu1(project(x)))").type is Type.POSITIVE_FEATURE


def test_an_assignment_has_no_causal_meaning() -> None:
    mixer = parse(mix(f"assign(masked({DOT}, visible))"))
    assert misfits(mixer, CAUSAL) == ["assign"]
    assert misfits(mixer, NONCAUSAL) == misfits(mixer, NONCAUSAL_CROSS) == []
    assert OPERATIONS["assign"].weight > 0
