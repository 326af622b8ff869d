"""Semantic identity: one canonical form and one hash per candidate.

`canonical` rewrites a term by laws that leave the computed function, as a family over its weights, unchanged:

- commutative and associative operations are flattened and their arguments sorted by structure;
- repeated decays and repeated gates are sorted, and pulled outwards through products;
- a positive scale under a normalisation is dropped, and a learned scale is folded into a neighbouring linear map;
- rotation and l2 normalisation commute, a damped kernel applied is a gated application;
- a `let` used once, or one that owns no weights, is written in place; `let`s are renamed by type and first use;
- a stack is a sequence of maximal repeats, a hybrid that never reaches its second block is a repeat.

Commutative arguments that differ only in which of several look-alike `let`s they use are ordered by trying each
numbering and keeping the smallest text. Rewriting caches its result on the node, so a mutant costs only its spine.
"""

import hashlib
from collections import Counter
from collections.abc import Callable
from itertools import permutations, product

from archloom.search_space import GRAMMAR_VERSION
from archloom.search_space.operations import MAX_TIMES, OPERATIONS, SHARED
from archloom.search_space.terms import Term, build, owns_weights, substitute, walk

MAX_NUMBERINGS = 720

SHARED.heads.update({(rank,): f"let[{rank}](" for rank in range(MAX_NUMBERINGS)})


def canonical(term: Term) -> Term:
    """The canonical form. Idempotent; equal for terms that the laws above make equal."""
    return _normal(term)


def term_id(term: Term) -> str:
    """SHA-256 (hexadecimal) of the canonical text under this grammar version."""
    normal = _normal(term)
    if normal._id is None:
        normal._id = hashlib.sha256(f"grammar {GRAMMAR_VERSION}\n{normal.text}".encode()).hexdigest()
    return normal._id


def _normal(term: Term) -> Term:
    cached = term._normal
    if cached is not None:
        return cached
    result = _normal_mixer(term) if term.operation.scopes else _rewritten(_with_normal_arguments(term))
    result._normal = result
    term._normal = result
    return result


def _with_normal_arguments(term: Term) -> Term:
    if not term.arguments:
        return term
    arguments = tuple([_normal(argument) for argument in term.arguments])
    if all([a is b for a, b in zip(arguments, term.arguments, strict=True)]):
        return term
    return build(term.operation, term.values, arguments)


def _rewritten(term: Term) -> Term:
    rule = RULES.get(term.operation.name)
    new = rule(term) if rule else None
    return term if new is None else _normal(new)


# -- laws: each takes a term with normal arguments and gives a simpler one, or None ------------------------------------


def _sorted_operands(term: Term) -> Term | None:
    """Flattens and sorts an associative, commutative operation; pulls decays and gates out of products."""
    operation = term.operation
    operands: list[Term] = []
    outside: list[Term] = []
    pulled = PULLED.get(operation.name)
    pending = [*reversed(term.arguments)]
    while pending:
        node = pending.pop()
        if node.operation is operation:
            pending.extend(reversed(node.arguments))
        elif pulled is not None and node.operation.name == pulled:
            outside.append(node.arguments[1])
            pending.append(node.arguments[0])
        else:
            operands.append(node)
    ordered = sorted(operands, key=_key)
    if not outside and len(operands) == 2 and ordered[0] is term.arguments[0] and ordered[1] is term.arguments[1]:
        return None
    result = ordered[0]
    for operand in ordered[1:]:
        result = build(operation, (), (result, operand))
    if not outside and result.key == term.key and _same_operands(result, term):
        return None
    if outside:
        result._normal = result
    for gate in sorted(outside, key=_key):
        assert pulled is not None
        result = build(OPERATIONS[pulled], (), (result, gate))
    if not outside:
        result._normal = result
    return result


def _same_operands(left: Term, right: Term) -> bool:
    return left is right or (
        left.operation is right.operation
        and left.operation.commutative
        and all(_same_operands(a, b) for a, b in zip(left.arguments, right.arguments, strict=True))
    )


def _sorted_chain(term: Term) -> Term | None:
    """op(op(a, g1), g2) with g1, g2 in order: repeated decays and repeated gates commute."""
    body, gate = term.arguments
    if body.operation is not term.operation or _key(body.arguments[1]) <= _key(gate):
        return None
    inner = build(term.operation, (), (body.arguments[0], gate))
    return build(term.operation, (), (inner, body.arguments[1]))


def _key(term: Term) -> str:
    return term.key


def _norm(term: Term) -> Term | None:
    """RMS normalisation forgets a positive scale of the whole head."""
    (body,) = term.arguments
    return build(term.operation, (), (body.arguments[0],)) if body.operation.name == "scale" else None


def _weigh(term: Term) -> Term | None:
    """A learned scale folds into a linear map before it; a gate moves outside it."""
    (body,) = term.arguments
    if body.operation.name in ("value", "weigh", "conv"):
        return body
    if body.operation.name == "scale":
        return build(body.operation, (), (build(term.operation, (), (body.arguments[0],)), body.arguments[1]))
    return None


def _drop_weigh(term: Term) -> Term | None:
    """A depthwise convolution absorbs a learned scale before it."""
    (body,) = term.arguments
    return build(term.operation, term.values, body.arguments) if body.operation.name == "weigh" else None


def _rotary(term: Term) -> Term | None:
    """A rotation keeps the norm: normalise last."""
    (body,) = term.arguments
    if body.operation.name != "unit":
        return None
    inner = body.arguments[0]
    signature = term.operation.signatures.get((inner.type,))
    return build(body.operation, (), (Term(term.operation, (), (inner,), signature),)) if signature else None


def _apply(term: Term) -> Term | None:
    kernel, value = term.arguments
    if kernel.operation.name != "damp":
        return None
    return build(OPERATIONS["scale"], (), (build(term.operation, (), (kernel.arguments[0], value)), kernel.arguments[1]))


def _right_nested(term: Term) -> Term | None:
    """Composition is associative."""
    first, second = term.arguments
    if first.operation is not term.operation:
        return None
    return build(term.operation, (), (first.arguments[0], build(term.operation, (), (first.arguments[1], second))))


def _parallel(term: Term) -> Term | None:
    return build(OPERATIONS["block"], (), term.arguments) if term.arguments[1].operation.name == "none" else None


def _every(term: Term) -> Term | None:
    first, second = term.arguments
    period, times = term.integer("period"), term.integer("times")
    repeat = OPERATIONS["repeat"]
    if times < period or first == second:
        return build(repeat, (times,), (first,))
    if times == period:
        return build(
            OPERATIONS["then"], (), (build(repeat, (period - 1,), (first,)), build(repeat, (1,), (second,)))
        )
    return None


def _then(term: Term) -> Term | None:
    nested = _right_nested(term)
    if nested is not None:
        return nested
    first, second = term.arguments
    head = second.arguments[0] if second.operation is term.operation else second
    if not (first.operation.name == head.operation.name == "repeat" and first.arguments[0] == head.arguments[0]):
        return None
    times = first.integer("times") + head.integer("times")
    if times > MAX_TIMES:
        return None
    merged = build(first.operation, (times,), first.arguments)
    return merged if head is second else build(term.operation, (), (merged, second.arguments[1]))


RULES: dict[str, Callable[[Term], Term | None]] = {
    "mul": _sorted_operands,
    "add": _sorted_operands,
    "times": _sorted_operands,
    "together": _sorted_operands,
    "decay": _sorted_chain,
    "scale": _sorted_chain,
    "norm": _norm,
    "weigh": _weigh,
    "conv": _drop_weigh,
    "rotary": _rotary,
    "apply": _apply,
    "chain": _right_nested,
    "parallel": _parallel,
    "every": _every,
    "then": _then,
}

PULLED = {"mul": "scale", "times": "decay"}


# -- sharing -----------------------------------------------------------------------------------------------------------


def _normal_mixer(mixer: Term) -> Term:
    body = mixer.arguments[0]
    heads = mixer.integer("heads")
    while True:
        body = _normal(_in_place(body, heads))
        if body.operation.name == "weigh":  # the output projection absorbs a learned scale
            body = body.arguments[0]
            continue
        counts = _counts(body)
        if all(count > 1 and owns_weights(node.arguments[0]) for node, count in counts.values()):
            break
    result = Term(mixer.operation, mixer.values, (body,), mixer.type)
    alike = _look_alikes(counts)
    return min(_numberings(result, alike), key=lambda each: each.text) if alike else result


def _counts(body: Term) -> dict[int, tuple[Term, int]]:
    """Shared nodes by identity, with how often each is used."""
    found: dict[int, tuple[Term, int]] = {}

    def visit(node: Term) -> None:
        if node.operation.shares:
            known = found.get(id(node))
            found[id(node)] = (node, 1 if known is None else known[1] + 1)
            if known is not None:
                return
        for argument in node.arguments:
            visit(argument)

    visit(body)
    return found


def _in_place(body: Term, heads: int) -> Term:
    """Writes single-use and weightless `let`s in place, forgets numberings, and clips `share` to the heads there are."""
    counts = _counts(body)
    memo: dict[int, Term] = {}

    def swap(node: Term) -> Term | None:
        if node.operation.shares:
            if id(node) not in memo:
                value = substitute(node.arguments[0], swap)
                kept = counts[id(node)][1] > 1 and owns_weights(node.arguments[0])
                if kept and (value is not node.arguments[0] or node.values):
                    value = Term(SHARED, (), (value,), value.type)
                memo[id(node)] = (node if value is node.arguments[0] else value) if kept else value
            return memo[id(node)]
        if "share" in node.operation.position and node.integer("share") > heads:
            return Term(node.operation, (heads,), tuple([substitute(a, swap) for a in node.arguments]), node.type)
        return None

    return substitute(body, swap)


def _look_alikes(counts: dict[int, tuple[Term, int]]) -> list[list[Term]]:
    tally = Counter(node.key for node, _ in counts.values())
    groups: dict[str, list[Term]] = {}
    for node, _ in counts.values():
        if tally[node.key] > 1:
            groups.setdefault(node.key, []).append(node)
    return list(groups.values())


def _numberings(mixer: Term, alike: list[list[Term]]) -> list[Term]:
    """The mixer under every numbering of its look-alike `let`s (the first MAX_NUMBERINGS of them)."""
    results = []
    for orders in product(*(permutations(group) for group in alike)):
        ranks = {id(node): rank for order in orders for rank, node in enumerate(order)}

        def number(node: Term, ranks: dict[int, int] = ranks) -> Term | None:
            if id(node) not in ranks:
                return None
            return fresh.setdefault(
                id(node), Term(SHARED, (ranks[id(node)],), (substitute(node.arguments[0], number),), node.type)
            )

        fresh: dict[int, Term] = {}
        body = _normal(substitute(mixer.arguments[0], number))
        results.append(Term(mixer.operation, mixer.values, (body,), mixer.type))
        if len(results) == MAX_NUMBERINGS:
            break
    return results


def count_shared(term: Term) -> int:
    """How many `let`s the term has."""
    return sum(node.operation.shares for node in walk(term))
