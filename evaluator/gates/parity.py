"""Parities: what has to be the same however it is asked for - again, alone, in segments, or by the literal form."""

import torch
from torch import Tensor

from archloom.evaluator.gates.subject import NARROW, NARROW_LENGTHS, Subject, differs, distance
from archloom.evaluator.model import Model
from archloom.evaluator.modules import WHOLE, Cache, Context
from archloom.search_space.costs import costs

SEGMENTS = (1, 1, 1, 3, 1, 16, 5, 1, 1, 1)
"""Single tokens at the start, in the middle and behind longer segments; a last one takes what is left."""

LONG_SEGMENTS = (64, 1, 35, 1)
REPEATED = 67
LITERALLY = Context(dense=True)

BYTES = 4


def determinism(subject: Subject) -> str | None:
    """The same tokens give the same again, in training mode too, and nothing that was given is written to."""
    model, tokens, other = subject.narrow.eval(), subject.tokens(REPEATED), subject.tokens(REPEATED, salt=1)
    given, weights = tokens.clone(), _contents(model)
    with torch.no_grad():
        first = model(tokens)
        model(other)
        training = model.train()(tokens)
        again = model.eval()(tokens)
        stream = model.embedding(tokens)
        before = stream.clone()
        model.stack(stream)
    if differs(error := distance(training, first)):
        return f"outputs in training mode differ from those in evaluation mode by {error:.1e}"
    if differs(error := distance(again, first)):
        return f"a second call with the same tokens differs by {error:.1e}"
    if not (torch.equal(stream, before) and torch.equal(tokens, given)):
        return "the inputs are written to"
    after = _contents(model)
    changed = [name for name, value in weights.items() if not torch.equal(value, after[name])]
    return f"calls write to {', '.join(changed)}" if changed else None


def batch_independence(subject: Subject) -> str | None:
    """A row alone gives what it gives in a batch, and has no gradient in another."""
    model, tokens = subject.model.eval(), subject.tokens(subject.short)
    with torch.no_grad():
        together, alone = model(tokens), torch.cat([model(row[None]) for row in tokens])
    error = distance(alone, together)
    if differs(error):
        return f"a row alone differs from the row in a batch by {error:.1e}"
    inputs = model.embedding(tokens).detach().requires_grad_()
    outputs = model.stack(inputs)[0]
    weights = torch.randn(outputs.shape, generator=subject.generator(2), dtype=outputs.dtype)
    (outputs * weights).sum().backward()
    assert inputs.grad is not None
    leak = float(inputs.grad[1:].abs().max() / inputs.grad[0].abs().max())
    return f"outputs of a row have a gradient in another, {leak:.1e} of it" if differs(leak) else None


def decode(subject: Subject) -> str | None:
    """Segments, down to single tokens, give what the whole sequence gives, from a state of the size that the term
    counts."""
    for model, length, wanted in (
        (subject.model, subject.short, SEGMENTS),
        (subject.narrow, NARROW_LENGTHS[-1], LONG_SEGMENTS),
    ):
        tokens = subject.tokens(length)
        with torch.no_grad():
            whole = model.eval()(tokens)
            parts, cache = _in_segments(model, tokens, _segments(wanted, length))
        error = distance(torch.cat(parts, 1), whole)
        if differs(error):
            return f"decoding {length} tokens in {len(parts)} segments differs from the whole sequence by {error:.1e}"
    held = BYTES * sum(each.numel() for each in cache.values()) // len(tokens)
    counted = costs(subject.architecture, NARROW, length).state_bytes
    if held != counted:
        return f"a state of {held} bytes after {length} tokens where the term counts {counted}"
    return None


def lowering(subject: Subject) -> str | None:
    """The lowered passes give what the literal L x L operators give, and have their gradients."""
    model, tokens = subject.model.eval(), subject.tokens(subject.short, batch=1)
    with torch.no_grad():
        error = distance(model(tokens), model(tokens, LITERALLY))
    if differs(error):
        return f"lowered and dense forms differ by {error:.1e} at length {subject.short}"
    model, length = subject.narrow.eval(), NARROW_LENGTHS[-1]
    weights = torch.randn(1, length, subject.task.vocabulary, generator=subject.generator(4), dtype=torch.float64)
    (found, gradient), (expected, literal) = (
        _with_gradient(model, subject.tokens(length, batch=1), context, weights) for context in (WHOLE, LITERALLY)
    )
    if differs(error := distance(found, expected)):
        return f"lowered and dense forms differ by {error:.1e} at length {length}"
    if differs(error := distance(gradient, literal)):
        return f"gradients of lowered and dense forms differ by {error:.1e} at length {length}"
    return None


def _with_gradient(model: Model, tokens: Tensor, context: Context, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The logits, and the gradients of all parameters, behind one another, of their sum under `weights`."""
    model.zero_grad()
    logits = model(tokens, context)
    (logits * weights).sum().backward()
    gradients = [torch.zeros_like(each) if each.grad is None else each.grad for each in model.parameters()]
    return logits.detach(), torch.cat([each.flatten() for each in gradients])


def _contents(model: Model) -> dict[str, Tensor]:
    """Copies of all parameters and buffers by name."""
    return {name: value.detach().clone() for name, value in (*model.named_parameters(), *model.named_buffers())}


def _in_segments(model: Model, tokens: Tensor, sizes: list[int]) -> tuple[list[Tensor], Cache]:
    cache, parts, past = Cache(), [], 0
    for size in sizes:
        parts.append(model(tokens[:, past : past + size], Context(past=past, cache=cache)))
        past += size
    return parts, cache


def _segments(wanted: tuple[int, ...], total: int) -> list[int]:
    """The wanted sizes as far as the total allows, and what is left as one more."""
    sizes: list[int] = []
    for size in (*wanted, total):
        sizes.append(min(size, total - sum(sizes)))
    return [size for size in sizes if size > 0]
