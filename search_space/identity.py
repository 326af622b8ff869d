"""Semantic identity: one canonical form and one hash per candidate.

`canonical` rewrites a term by laws that leave the computed function, as a family over its weights, unchanged:

- commutative and associative operations are flattened and their arguments sorted by structure;
- repeated decays and repeated gates are sorted, and pulled outwards through products;
- a positive scale under a normalisation of channels or rows is dropped, and a learned scale is folded into a
  neighbouring linear map;
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
from archloom.search_space.stacks import inside, only_block, shortest
from archloom.search_space.terms import ITSELF, Term, build, joined, substitute, walk
from archloom.search_space.types import SHAREABLE, Type

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
        return term if cached is ITSELF else cached
    if not term.arguments:
        result = term
    elif term.operation.scopes:
        result = _normal_mixer(term)
    else:
        result = _over(term, [each if each._normal is ITSELF else _normal(each) for each in term.arguments])
        rule = _RULES.get(result.operation)
        simpler = rule(result) if rule else None
        if simpler is not None:
            result = _normal(simpler)
    result._normal = ITSELF
    if result is not term:
        term._normal = result
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
    result = joined(operation, ordered)
    if not outside and _same_tree(result, term):
        return None
    if outside:
        result._normal = ITSELF
    for gate in sorted(outside, key=_key):
        assert pulled is not None
        result = build(OPERATIONS[pulled], (), (result, gate))
    if not outside:
        result._normal = ITSELF
    return result


def _same_tree(left: Term, right: Term) -> bool:
    """Whether one operation is nested in the same way over the same operands."""
    return left is right or (
        left.operation is right.operation
        and not left.values
        and not left.operation.shares
        and len(left.arguments) == 2
        and all(map(_same_tree, left.arguments, right.arguments))
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
    """A learned scale folds into a linear map before it; a gate moves outside it, a long convolution too."""
    (body,) = term.arguments
    if body.operation.name in ("value", "project", "affine", "weigh", "conv", "initial_state"):
        return body
    if _scales_own_heads(body):
        return build(body.operation, (), (build(term.operation, (), (body.arguments[0],)), body.arguments[1]))
    if _convolves_own_heads(body):
        return build(body.operation, (), (body.arguments[0], build(term.operation, (), (body.arguments[1],))))
    return None


def _convolves_own_heads(term: Term) -> bool:
    """Whether it is a long convolution, channel by channel, of values that have as many heads as there are filters."""
    return (
        term.operation.name == "apply"
        and term.arguments[0].type is Type.FILTER
        and heads_of(term.arguments[1], MOST_HEADS) == MOST_HEADS
    )


def _scales_own_heads(term: Term) -> bool:
    """Whether it is a gate on values that have as many heads as the gate: weights per head can be moved past it."""
    return term.operation.name == "scale" and heads_of(term.arguments[0], MOST_HEADS) == MOST_HEADS


def _drop_weigh(term: Term) -> Term | None:
    """A depthwise convolution absorbs a learned scale before it."""
    (body,) = term.arguments
    return build(term.operation, term.values, body.arguments) if body.operation.name == "weigh" else None


def _initial_state(term: Term) -> Term | None:
    """A learned state absorbs a learned scale of its queries."""
    query, decay = term.arguments
    return build(term.operation, (), (query.arguments[0], decay)) if query.operation.name == "weigh" else None


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


def _rownorm(term: Term) -> Term | None:
    """Normalised rows forget a positive factor of the whole row, and so what is added to it under an exponential."""
    bare = _without_exponential_shift(_without_factors(term.arguments[0]))
    return None if bare is term.arguments[0] else build(term.operation, (), (bare,))


def _temper(term: Term) -> Term | None:
    """Two temperatures are one."""
    (body,) = term.arguments
    return body if body.operation is term.operation else None


def _without_factors(node: Term) -> Term:
    """A kernel or score without temperatures and counts that only multiply its rows."""
    match node.operation.name:
        case "temper" | "rowmean":
            return _without_factors(node.arguments[0])
        case "masked" | "strict" | "topk" | "picked" | "decay" | "relu" | "relu2":
            return _over(node, [_without_factors(node.arguments[0]), *node.arguments[1:]])
        case "times":
            return _over(node, [_without_factors(each) for each in node.arguments])
        case _:
            return node


def _without_exponential_shift(node: Term) -> Term:
    """A positive kernel or score without what only multiplies its rows in being added below an exponential."""
    match node.operation.name:
        case "masked" | "strict" | "topk" | "picked" | "decay":
            return _over(node, [_without_exponential_shift(node.arguments[0]), *node.arguments[1:]])
        case "exp":
            return _over(node, [_without_offsets(node.arguments[0])])
        case _:
            return node


def _without_row_shift(term: Term) -> Term | None:
    """A projection onto the simplex and an argmax forget what is added to the whole row."""
    bare = _without_offsets(term.arguments[0])
    return None if bare is term.arguments[0] else build(term.operation, (), (bare,))


def _without_offsets(node: Term) -> Term:
    """A kernel or score without the offsets of its keys, which add the same number to every entry of a row."""
    match node.operation.name:
        case "dot" if node.arguments[1].operation.name == "affine":
            query, key = node.arguments
            return _over(node, [query, build(OPERATIONS["weigh"], (), key.arguments)])
        case "masked" | "strict" | "temper" | "dilute":
            return _over(node, [_without_offsets(node.arguments[0]), *node.arguments[1:]])
        case "plus":
            return _over(node, [_without_offsets(each) for each in node.arguments])
        case _:
            return node


def _evenly_nested(term: Term) -> Term | None:
    """Composition is associative."""
    links: list[Term] = []
    pending = [*reversed(term.arguments)]
    while pending:
        node = pending.pop()
        if node.operation is term.operation:
            pending.extend(reversed(node.arguments))
        else:
            links.append(node)
    result = joined(term.operation, links)
    return None if _same_tree(result, term) else result


def _plain(term: Term) -> Term | None:
    """Without a channel mixer there is nothing to run beside the mixer, and nothing to replace the stream."""
    return build(OPERATIONS["block"], (), term.arguments) if term.arguments[1].operation.name == "none" else None


def _averaged(term: Term) -> Term | None:
    """The only block of a stack has one output to read."""
    return only_block(term.arguments[0])


def _unet(term: Term) -> Term | None:
    stack = inside(term)
    return None if stack is term.arguments[0] else build(term.operation, (), (stack,))


def _chain(term: Term) -> Term | None:
    """The second mixer reads the first one's output alone. Composition is associative."""
    first, second = term.arguments
    if any(node.operation.name == "earlier" for node in walk(second)):
        return build(term.operation, (), (first, substitute(second, _without_earlier)))
    return _evenly_nested(term)


def _without_earlier(node: Term) -> Term | None:
    return Term(OPERATIONS["x"], (), (), node.type) if node.operation.name == "earlier" else None


def _sorted_pair(term: Term) -> Term | None:
    """The rows of a router may stand in any order."""
    first, second = term.arguments
    return build(term.operation, (), (second, first)) if _key(second) < _key(first) else None


def _stack(term: Term) -> Term | None:
    """A stack is the sequence of its blocks."""
    short = shortest(term)
    return None if _same_stack(short, term) else short


def _same_stack(left: Term, right: Term) -> bool:
    """Whether they are one sequence of operations over the same blocks."""
    return left is right or (
        left.operation is right.operation
        and left.type is Type.STACK
        and left.values == right.values
        and all(map(_same_stack, left.arguments, right.arguments))
    )


def _complement(term: Term) -> Term | None:
    (body,) = term.arguments
    return body.arguments[0] if body.operation.name == "complement" else None


def _absorbs_its_like(term: Term) -> Term | None:
    """Doing it once with other weights, or with none, is the same."""
    (body,) = term.arguments
    return body if body.operation is term.operation else None


def _affine(term: Term) -> Term | None:
    (body,) = term.arguments
    if body.operation.name == "affine":
        return body
    if body.operation.name != "weigh":
        return None
    return build(term.operation, (), body.arguments)


def _normalises_anew(term: Term) -> Term | None:
    """A normalisation forgets an earlier one, and a positive scale of the whole head."""
    (body,) = term.arguments
    return build(term.operation, (), body.arguments) if body.operation.name == "rms" else _norm(term)


RULES: dict[str, Callable[[Term], Term | None]] = {
    "mul": _sorted_operands,
    "add": _sorted_operands,
    "times": _sorted_operands,
    "plus": _sorted_operands,
    "together": _sorted_operands,
    "either": _sorted_operands,
    "both": _sorted_operands,
    "decay": _sorted_chain,
    "scale": _sorted_chain,
    "norm": _normalises_anew,
    "weigh": _weigh,
    "conv": _drop_weigh,
    "initial_state": _initial_state,
    "rotary": _rotary,
    "apply": _apply,
    "chain": _chain,
    "parallel": _plain,
    "replacing": _plain,
    "averaged": _averaged,
    "unet": _unet,
    "mixture": _sorted_pair,
    "every": _stack,
    "then": _stack,
    "rownorm": _rownorm,
    "temper": _temper,
    "sparsemax": _without_row_shift,
    "hard": _without_row_shift,
    "rms": _normalises_anew,
    "unit": _normalises_anew,
    "complement": _complement,
    "floor": _absorbs_its_like,
    "affine": _affine,
}

PULLED = {"mul": "scale", "times": "decay"}

_RULES = {OPERATIONS[name]: rule for name, rule in RULES.items()}


# -- sharing -----------------------------------------------------------------------------------------------------------


def _normal_mixer(mixer: Term) -> Term:
    heads = mixer.integer("heads")
    body = mixer.arguments[0]
    shares, exceeds = _survey(body, heads)
    body = _normal_body(_clipped(body, heads) if exceeds else body)
    while shares and not _is_tied(body):
        body = _normal_body(_tied(body))
    result = mixer if body is mixer.arguments[0] else Term(mixer.operation, mixer.values, (body,), mixer.type)
    alike = _look_alikes(result) if shares else []
    return min(_numberings(result, alike), key=lambda each: each.text) if alike else result


def _normal_body(body: Term) -> Term:
    body = _normal(body)
    while body.operation.name == "weigh":  # the output projection absorbs a learned scale
        body = body.arguments[0]
    return body


def _survey(body: Term, heads: int) -> tuple[bool, bool]:
    """Whether streams in it may be one, by a `let` or for want of weights, and whether a `share` exceeds the heads."""
    shares, exceeds, pending = False, False, [body]
    for node in pending:  # which grows while it is read
        operation = node.operation
        shares = shares or operation.shares or _is_weightless_stream(node)
        exceeds = exceeds or (operation.divides and node.integer("share") > heads)
        pending += node.arguments
    return shares, exceeds


def _is_weightless_stream(term: Term) -> bool:
    return term.type is Type.STREAM and bool(term.arguments) and not term.operation.parametric


def _is_tied(body: Term) -> bool:
    """Whether every `let` is used more than once, binds what is none, and no weightless stream is written twice."""
    uses: dict[int, int] = {}
    written: set[tuple[object, ...]] = set()
    pending = [body]
    for node in pending:
        operation = node.operation
        if operation.shares:
            uses[id(node)] = before = uses.get(id(node), 0) + 1
            if before > 1:
                continue
            if not _is_bindable(node.arguments[0]):
                return False
        elif not operation.parametric and node.arguments and node.type in SHAREABLE:
            what = (operation, node.values, *map(_same_stream, node.arguments))
            if what in written:
                return False
            written.add(what)
        pending += node.arguments
    return 1 not in uses.values()


def _is_bindable(value: Term) -> bool:
    """Whether a canonical `let` may bind it: a constant is written out, and a `let` binds no other `let`."""
    return not value.operation.shares and not _is_constant(value)


def _is_constant(term: Term) -> bool:
    """Whether it is the same stream wherever it is written: the input, or what has no weights."""
    return not term.arguments and not term.operation.parametric


def _same_stream(term: Term) -> object:
    """Equal for arguments that are one stream: a shared node, or the same constant."""
    return (term.operation, term.values) if _is_constant(term) else id(term) if term.operation.shares else object()


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
        if _is_constant(node):
            return known.setdefault((operation, node.values), node)
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
        if _is_constant(node):
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
