"""Numbers: finite outputs and gradients, and a gradient that reaches every parameter."""

import torch
from torch import Tensor

from archloom.evaluator.gates.subject import Subject, differs, distance

SMALLEST_SHARE = 1e-14
"""Of the largest gradient: a parameter whose gradient is rounding noise is dead."""

ROUNDING = 0.1
"""Of two float32 results that should be one, over the longest sequence. Beyond it rounding says more than tokens do."""


def forward(subject: Subject) -> str | None:
    """Finite logits of the right shape at every length, in float64 and float32."""
    for dtype in (torch.float32, torch.float64):
        model = subject.model.to(dtype).eval()
        for length in (1, *subject.lengths):
            tokens = subject.tokens(length)
            with torch.no_grad():
                logits = model(tokens)
            if logits.shape != (*tokens.shape, subject.task.vocabulary):
                return f"logits {tuple(logits.shape)} for tokens {tuple(tokens.shape)}"
            if not torch.isfinite(logits).all():
                return f"not finite at length {length} in {dtype}"
    return None


def gradient(subject: Subject) -> str | None:
    """A finite gradient reaches every parameter."""
    model = subject.model.train()
    largest: dict[str, float] = {name: 0.0 for name, _ in model.named_parameters()}
    for salt in range(3):
        model.zero_grad()
        torch.autograd.backward(
            _project(model(subject.tokens(subject.task.length, salt=salt)), subject.generator(salt))
        )
        for name, parameter in model.named_parameters():
            if parameter.grad is not None:
                if not torch.isfinite(parameter.grad).all():
                    return f"the gradient of {name} is not finite"
                largest[name] = max(largest[name], float(parameter.grad.abs().max()))
        least = SMALLEST_SHARE * max(largest.values())
        if min(largest.values()) > least:
            return None
    return f"no gradient reaches {', '.join(name for name, size in largest.items() if size <= least)}"


def stability(subject: Subject) -> str | None:
    """Numbers stay in the range of float32 over a long sequence, forward and backward, and in float32 nothing looks
    ahead."""
    (tokens, cut), length, model = subject.parting, subject.longest, subject.long.float().train()
    inputs = model.embedding(tokens).detach().requires_grad_()
    outputs = model.stack(inputs)
    if not torch.isfinite(outputs).all():
        return f"not finite at length {length} in float32"
    error = distance(outputs[1, :cut], outputs[0, :cut])
    if differs(error, ROUNDING):
        return (
            f"changing tokens from {cut} on changes outputs before it by {error:.1e} at length {length} in float32, by "
            "rounding where not by design"
        )
    torch.autograd.backward(_project(outputs, subject.generator(3)))
    for name, value in (("the inputs", inputs), *model.stack.named_parameters()):
        if value.grad is not None and not torch.isfinite(value.grad).all():
            return f"the gradient of {name} is not finite at length {length} in float32"
    return None


def _project(outputs: Tensor, generator: torch.Generator) -> Tensor:
    """A random projection to one number: a sum of squares would be constant behind a normalisation."""
    return (outputs * torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)).sum()
