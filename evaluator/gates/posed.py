"""Patterns: what holds of the causal form holds under every other pattern that a task of the protocol is posed in."""

import torch
from torch import Tensor

from archloom.evaluator.gates.subject import SHORT, Subject, differs, distance
from archloom.evaluator.model import Model
from archloom.evaluator.modules import WHOLE, Context
from archloom.search_space.patterns import Pattern

SOURCE = 29
"""Tokens of a source: fewer than those that read it, and no multiple of anything."""


def patterns(subject: Subject) -> str | None:
    """Finite numbers and gradients, the same literally, and the same for a row alone, under every other pattern."""
    for pattern in subject.patterns:
        reason = _under(pattern, subject)
        if reason is not None:
            return f"{reason} under the {pattern.name} pattern"
    return None


def _under(pattern: Pattern, subject: Subject) -> str | None:
    model, tokens = subject.posed(pattern).eval(), subject.tokens(SHORT)
    source = subject.tokens(SOURCE, salt=1) if pattern.cross else None
    outputs = model(tokens, source=source)
    if not torch.isfinite(outputs).all():
        return "outputs are not finite"
    weights = torch.randn(outputs.shape, generator=subject.generator(5), dtype=outputs.dtype)
    torch.autograd.backward((outputs * weights).sum())
    for name, parameter in model.named_parameters():
        if parameter.grad is not None and not torch.isfinite(parameter.grad).all():
            return f"the gradient of {name} is not finite"
    with torch.no_grad():
        if differs(error := distance(_row(model, tokens, source, Context(dense=True)), outputs[:1])):
            return f"lowered and dense forms differ by {error:.1e}"
        if differs(error := distance(_row(model, tokens, source, WHOLE), outputs[:1])):
            return f"a row alone differs from the row in a batch by {error:.1e}"
    return None


def _row(model: Model, tokens: Tensor, source: Tensor | None, context: Context) -> Tensor:
    """The first row alone."""
    outputs: Tensor = model(tokens[:1], context, source=None if source is None else source[:1])
    return outputs
