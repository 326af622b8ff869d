"""Types and terms: what can be built, how sharing survives edits, and what makes two terms equal."""

import copy
import pickle

import pytest

from archloom.search_space.operations import OPERATIONS, share, term
from archloom.search_space.terms import (
    Term,
    TermError,
    build,
    depth,
    owns_weights,
    places,
    replace,
    size,
    substitute,
    walk,
)
from archloom.search_space.text import parse
from archloom.search_space.types import LET_PREFIX, SHAREABLE, Type

DELTA = """
repeat(block(mix(
  let k = unit(project(x)) in
  let b = beta(x) in
  apply(
    masked(dot(unit(project(x)), k), visible), resolve(masked(gram(k, b), visible), scale(value(x), b))
  ), heads=2), mlp), times=2)
"""


def x() -> Term:
    return term("x")


def test_build_names_the_argument_and_the_types_that_would_fit() -> None:
    with pytest.raises(TermError, match=r"argument 2 of `apply` must be a?.*value or mixed value, got feature"):
        build(OPERATIONS["apply"], (), (term("dense"), term("project", x())))
    with pytest.raises(TermError, match="argument 1 of `rownorm` must be positive kernel, got kernel"):
        term("rownorm", term("dense"))
    with pytest.raises(TermError, match="`dot` takes 2 arguments, got 1"):
        term("dot", term("project", x()))


def test_types_that_fit_one_by_one_but_not_together_are_named() -> None:
    double = term("double", term("beta", x()))
    unit = term("unit", term("project", x()))
    wide = term("gram", unit, double)
    with pytest.raises(
        TermError, match=r"`masked` has no form for \(gram score with beta in \(0,2\), mask of a contiguous range\)"
    ):
        term("masked", wide, term("window"))
    assert term("masked", wide, term("visible")).type is Type.CONTRACTION


def test_term_refuses_unknown_parameters_and_values() -> None:
    with pytest.raises(TermError, match=r"`window` has no parameter \['depth'\]"):
        term("window", term("dot", term("project", x()), term("project", x())), depth=3)
    with pytest.raises(TermError, match=r"`conv` width=9: choose one of \[2, 3, 4\]"):
        term("conv", x(), width=9)


def test_result_types_carry_the_attribute_that_typing_needs() -> None:
    positive = term("elu1", term("project", x()))
    signed = term("project", x())
    assert term("dot", positive, positive).type is Type.POSITIVE_SCORE
    assert term("dot", positive, signed).type is Type.SCORE
    assert term("mul", term("value", x()), term("value", x())).type is Type.VALUE
    assert term("apply", term("dense"), term("value", x())).type is Type.MIXED


def test_only_shareable_types_can_be_bound() -> None:
    with pytest.raises(TermError, match="a `let` cannot bind a kernel"):
        share(term("dense"))
    shared = share(term("value", x()))
    assert share(shared) is shared
    assert set(LET_PREFIX) >= SHAREABLE


def test_replace_inside_a_shared_node_changes_all_its_uses_in_that_mixer_and_none_elsewhere() -> None:
    two = term("then", parse(DELTA), parse(DELTA))
    inside = next(
        p for p in places(two) if p.term.operation.name == "project" and p.path[:1] == (0,) and _shared(two, p.path)
    )
    changed = replace(two, inside.path, term("conv", term("project", x()), width=2))
    left, right = changed.arguments
    assert left.text.count("unit(conv(project") == 1
    keys = [node for node in walk(left) if node.operation.name in ("gram", "dot")]
    assert keys[0].arguments[1] is keys[1].arguments[0]  # still one node
    assert right == parse(DELTA)


def test_replacing_a_use_of_a_shared_node_changes_that_use_only() -> None:
    delta = parse(DELTA)
    use = next(p for p in places(delta) if p.term.operation.shares and p.term.type is Type.UNIT_FEATURE)
    changed = replace(delta, use.path, term("unit", term("relu", term("project", x()))))
    assert changed.text.count("relu") == 1
    assert changed.text.count("k1") == 2  # bound, and used by the one that is left
    assert size(changed) == size(delta) + 4


def test_substitute_visits_a_shared_node_once_and_keeps_it_one_object() -> None:
    delta = parse(DELTA)
    seen: list[str] = []

    def swap(node: Term) -> Term | None:
        seen.append(node.operation.name)
        return term("shift", node) if node.operation.name == "x" else None

    changed = substitute(delta, swap)
    assert seen.count("project") == 2
    assert changed.text.count("let ") == 2
    assert changed.text.count("shift(x)") == 4


def test_equality_is_that_of_structure_with_sharing() -> None:
    key = share(term("unit", term("project", x())))
    tied = term("dot", key, key)
    loose = term("dot", term("unit", term("project", x())), term("unit", term("project", x())))
    again = share(term("unit", term("project", x())))
    assert tied == term("dot", again, again)
    assert hash(tied) == hash(term("dot", again, again))
    assert tied != loose
    assert tied != "let"
    assert tied != term("dot", key, again)  # two keys that look alike are not one key


def test_copies_and_pickles_are_equal_terms() -> None:
    delta = parse(DELTA)
    assert pickle.loads(pickle.dumps(delta)) == delta
    assert copy.deepcopy(delta) == delta


def test_size_counts_a_shared_node_once_and_depth_counts_blocks() -> None:
    delta = parse(DELTA)
    # repeat block mlp mix apply masked visible dot unit project x | unit project x |
    # resolve masked visible gram beta x | scale value x
    assert size(delta) == 23
    assert depth(delta) == 2
    assert depth(term("then", delta, term("every", *[delta.arguments[0]] * 2, period=3, times=5))) == 7
    assert depth(delta.arguments[0]) == 1


def test_a_term_owns_weights_unless_it_only_uses_shared_ones() -> None:
    shared = share(term("value", x()))
    assert owns_weights(term("silu", term("value", x())))
    assert not owns_weights(term("silu", shared))
    assert owns_weights(term("mul", shared, term("value", x())))


def _shared(root: Term, path: tuple[int, ...]) -> bool:
    for index in path:
        if root.operation.shares:
            return True
        root = root.arguments[index]
    return False
