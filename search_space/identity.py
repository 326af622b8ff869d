"""Semantic identity: one canonical form and one hash per candidate.

`canonical` rewrites a term by laws that leave the computed function, as a family over its weights, unchanged:

- commutative and associative operations are flattened and their arguments sorted by structure;
- repeated decays and repeated gates are sorted, and pulled outwards through products;
- a positive scale under a normalisation is dropped, and a learned scale is folded into a neighbouring linear map;
- rotation and l2 normalisation commute, a damped kernel applied is a gated application;
- a stream is a `let` if and only if it is used more than once, whether or not the text says so for what has no
  weights of its own; `let`s are renamed by type and first use;
- a stack is the shortest that has the same blocks in the same order.

Commutative arguments that differ only in which of several look-alike `let`s they use are ordered by trying each
numbering and keeping the smallest text. Rewriting caches its result on the node, so a mutant costs only its spine.
"""

import hashlib
from collections.abc import Callable
from itertools import islice, permutations, product
from operator import is_

from archloom.search_space import GRAMMAR_VERSION
from archloom.search_space.operations import HEADS, OPERATIONS, SHARED
from archloom.search_space.plans import heads_of
from archloom.search_space.stacks import shortest
from archloom.search_space.terms import Term, build, substitute, walk
from archloom.search_space.types import SHAREABLE

MAX_NUMBERINGS = 720
MOST_HEADS = max(HEADS)

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
    if term.operation.scopes:
        result = _normal_mixer(term)
    else:
        result = _over(term, [each._normal or _normal(each) for each in term.arguments]) if term.arguments else term
        rule = RULES.get(result.operation.name)
        simpler = rule(result) if rule else None
        if simpler is not None:
            result = _normal(simpler)
    result._normal = term._normal = result
    return result


def _over(term: Term, arguments: list[Term]) -> Term:
    """The same operation over these arguments: the same term if they are its own."""
    if all(map(is_, arguments, term.arguments)):
        return term
    return build(term.operation, term.values, tuple(arguments))


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
    return build(term.operation, (), (body.arguments[0],)) if _scales_own_heads(body) else None


def _weigh(term: Term) -> Term | None:
    """A learned scale folds into a linear map before it; a gate moves outside it."""
    (body,) = term.arguments
    if body.operation.name in ("value", "weigh", "conv"):
        return body
    if _scales_own_heads(body):
        return build(body.operation, (), (build(term.operation, (), (body.arguments[0],)), body.arguments[1]))
    return None


def _scales_own_heads(term: Term) -> bool:
    """Whether it is a gate on values that have as many heads as the gate: weights per head can be moved past it."""
    return term.operation.name == "scale" and heads_of(term.arguments[0], MOST_HEADS) == MOST_HEADS


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
    return build(
        OPERATIONS["scale"], (), (build(term.operation, (), (kernel.arguments[0], value)), kernel.arguments[1])
    )


def _right_nested(term: Term) -> Term | None:
    """Composition is associative."""
    first, second = term.arguments
    if first.operation is not term.operation:
        return None
    return build(term.operation, (), (first.arguments[0], build(term.operation, (), (first.arguments[1], second))))


def _parallel(term: Term) -> Term | None:
    return build(OPERATIONS["block"], (), term.arguments) if term.arguments[1].operation.name == "none" else None


def _stack(term: Term) -> Term | None:
    """A stack is the sequence of its blocks."""
    short = shortest(term)
    return None if short.text == term.text else short


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
    "every": _stack,
    "then": _stack,
}

PULLED = {"mul": "scale", "times": "decay"}


# -- sharing -----------------------------------------------------------------------------------------------------------


def _normal_mixer(mixer: Term) -> Term:
    heads = mixer.integer("heads")
    body = mixer.arguments[0]
    shares, exceeds = _survey(body, heads)
    body = _normal_body(_clipped(body, heads) if exceeds else body)
    while shares:
        tied = _tied(body)
        body = _normal_body(tied)
        if body is tied:
            break
    result = mixer if body is mixer.arguments[0] else Term(mixer.operation, mixer.values, (body,), mixer.type)
    alike = _look_alikes(result) if shares else []
    return min(_numberings(result, alike), key=lambda each: each.text) if alike else result


def _normal_body(body: Term) -> Term:
    body = _normal(body)
    while body.operation.name == "weigh":  # the output projection absorbs a learned scale
        body = body.arguments[0]
    return body


def _survey(body: Term, heads: int) -> tuple[bool, bool]:
    """Whether it has a `let`, and whether it has a `share` above the heads there are."""
    shares, exceeds, pending = False, False, [body]
    while pending:
        node = pending.pop()
        operation = node.operation
        shares = shares or operation.shares
        exceeds = exceeds or (operation.divides and node.integer("share") > heads)
        pending.extend(node.arguments)
    return shares, exceeds


def _clipped(body: Term, heads: int) -> Term:
    """The body in which no `share` exceeds the heads."""

    def clip(node: Term) -> Term | None:
        if not node.operation.divides or node.integer("share") <= heads:
            return None
        return Term(node.operation, (heads,), node.arguments, node.type)  # a stream: nothing to clip in it

    return substitute(body, clip)


def _tied(body: Term) -> Term:
    """The body in which a stream is a `let` if and only if it is used more than once.

    What an operation without weights makes of the same streams is the same stream. An operation with weights is
    another one wherever it is written again, unless it stands in a `let`.
    """
    bound: dict[int, Term] = {}  # what each `let` binds
    known: dict[tuple[object, ...], Term] = {}  # operations without weights, by themselves and their arguments
    uses: dict[int, int] = {}
    written: dict[int, Term] = {}

    def merged(node: Term) -> Term:
        """The node without its `let`s: two places hold one object if and only if they hold one stream."""
        operation = node.operation
        if operation.shares:
            if id(node) not in bound:
                bound[id(node)] = merged(node.arguments[0])
            return bound[id(node)]
        if not node.arguments:
            return node
        arguments = tuple([merged(argument) for argument in node.arguments])
        merges = node.type in SHAREABLE and not operation.parametric
        what = (operation, node.values, *map(id, arguments)) if merges else ()
        if merges and what in known:
            return known[what]
        fresh = known[what] = Term(operation, node.values, arguments, node.type)
        for argument in arguments:
            uses[id(argument)] = uses.get(id(argument), 0) + 1
        return fresh

    def tied(node: Term) -> Term:
        """The node with a `let` around every stream that is used more than once."""
        if not node.arguments:
            return node
        done = written.get(id(node))
        if done is None:
            done = _over(node, [tied(argument) for argument in node.arguments])
            if uses.get(id(node), 0) > 1:
                done = Term(SHARED, (), (done,), node.type)
            written[id(node)] = done
        return done

    return tied(merged(body))


def _look_alikes(mixer: Term) -> list[list[Term]]:
    """The groups of `let`s that cannot be told apart by what they bind."""
    groups: dict[str, list[Term]] = {}
    for node in walk(mixer):
        if node.operation.shares:
            groups.setdefault(node.key, []).append(node)
    return [group for group in groups.values() if len(group) > 1]


def _numberings(mixer: Term, alike: list[list[Term]]) -> list[Term]:
    """The mixer under every numbering of its look-alike `let`s (the first MAX_NUMBERINGS of them)."""
    choices = [islice(permutations(group), MAX_NUMBERINGS) for group in alike]
    orders = islice(product(*choices), MAX_NUMBERINGS)
    return [_numbered(mixer, {id(let): rank for group in order for rank, let in enumerate(group)}) for order in orders]


def _numbered(mixer: Term, ranks: dict[int, int]) -> Term:
    fresh: dict[int, Term] = {}

    def number(node: Term) -> Term | None:
        if id(node) not in ranks:
            return None
        if id(node) not in fresh:
            value = substitute(node.arguments[0], number)
            fresh[id(node)] = Term(SHARED, (ranks[id(node)],), (value,), node.type)
        return fresh[id(node)]

    body = _normal(substitute(mixer.arguments[0], number))
    return Term(mixer.operation, mixer.values, (body,), mixer.type)
