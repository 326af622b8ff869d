"""How far apart two terms are: the least cost of edits that turn one canonical form into the other.

The ordered tree edit distance of Zhang and Shasha (SIAM Journal on Computing 18, 1989): an operation is inserted or
deleted for 1, renamed for 1, and given other parameter values for 1/2. Commutative arguments stand in canonical order.
What a `let` binds is written at its first use and marked as bound, which is worth 1/2; a later use is a leaf named
after the `let`. So the tree says what the canonical text says, and the distance is a metric on candidates: 0 exactly
for equal ids, symmetric, with the triangle inequality.
"""

from functools import lru_cache
from typing import NamedTuple

from archloom.search_space.identity import canonical
from archloom.search_space.terms import Term

RENAMED = 1.0
REVALUED = 0.5


def distance(a: Term, b: Term) -> float:
    """Edits between two terms, 0 if and only if they are one candidate. Time grows with the product of their sizes."""
    left, right = _tree(canonical(a)), _tree(canonical(b))
    if left == right:
        return 0.0
    costs = _renaming(left, right)
    between = [[0.0] * len(right.labels) for _ in left.labels]  # of the subtrees, by their roots
    for i in left.roots:
        for j in right.roots:
            _fill(between, costs, left, right, i, j)
    return between[-1][-1]


class _Tree(NamedTuple):
    """Nodes in postorder: labels, the first (leftmost) leaf below each, and the roots that begin a new left path."""

    labels: tuple[tuple[object, ...], ...]
    first: tuple[int, ...]
    roots: tuple[int, ...]


@lru_cache(maxsize=1024)
def _tree(term: Term) -> _Tree:
    labels: list[tuple[object, ...]] = []
    first: list[int] = []

    def visit(node: Term, lets: dict[int, int]) -> None:
        operation = node.operation
        if operation.shares and id(node) in lets:
            first.append(len(labels))
            labels.append((operation, node.type, lets[id(node)]))
            return
        start = len(labels)
        if operation.scopes:
            lets = {}
        for argument in node.arguments:
            visit(argument, lets)
        if operation.shares:
            lets[id(node)] = len(lets)
            labels[-1] = (*labels[-1][:2], True)  # what it binds, which ended just now
        else:
            first.append(start)
            labels.append((operation, node.values, False))

    visit(term, {})
    last = {leaf: node for node, leaf in enumerate(first)}  # the highest node on each left path
    return _Tree(tuple(labels), tuple(first), tuple(sorted(last.values())))


def _renaming(left: _Tree, right: _Tree) -> list[list[float]]:
    """What it costs to make a node of one tree into one of the other."""
    return [[0.0 if a == b else REVALUED if a[0] is b[0] else RENAMED for b in right.labels] for a in left.labels]


def _fill(between: list[list[float]], costs: list[list[float]], left: _Tree, right: _Tree, i: int, j: int) -> None:
    """The distances of all subtrees on the left paths of two roots, by those of the forests before them."""
    top, side = left.first[i], right.first[j]
    ahead = right.first[side : j + 1]
    above = [float(n) for n in range(j - side + 2)]
    rows = [above]
    for x in range(top, i + 1):
        row = [above[0] + 1.0]
        whole = left.first[x] == top
        before = rows[left.first[x] - top]
        cost, inner = costs[x], between[x]
        least = row[0]
        for n, start in enumerate(ahead):
            if whole and start == side:
                other = above[n] + cost[side + n]
                least = min(least + 1.0, above[n + 1] + 1.0, other)
                inner[side + n] = least
            else:
                other = before[start - side] + inner[side + n]
                least = min(least + 1.0, above[n + 1] + 1.0, other)
            row.append(least)
        rows.append(row)
        above = row
