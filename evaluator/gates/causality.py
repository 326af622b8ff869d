"""Causality: no output moves with a later token, with how many follow, or has a gradient in one.

The future of one sequence is replaced behind many cuts, a row for each: at every token of a short sequence, and around
the borders of chunks of a longer one. What replaces it differs from row to row, since a leak may be blind to a sign, to
a mean of zero, to large or small numbers, or wait for a repeated token. Tokens are replaced in evaluation mode, and
streams, whose gradients are looked at too, in training mode.
"""

import torch
from torch import Tensor

from archloom.evaluator.gates.subject import NARROW_LENGTHS, Subject, differs, distance
from archloom.evaluator.model import Model

CHUNKS = (16, 32, 64, 128)
EVERY_CUT = 35
MOST_STREAMS = 8
LARGE, SMALL = 30.0, 1e-2


def causality(subject: Subject) -> str | None:
    """No output moves with later tokens or their number, and no gradient flows from an output to a later input."""
    for model, lengths in ((subject.model, subject.lengths), (subject.narrow, NARROW_LENGTHS)):
        alone = {}
        for length in lengths:
            tokens = subject.tokens(length)[0]
            alone[length], reason = _by_tokens(subject, model.eval(), tokens)
            reason = reason or _by_streams(subject, model.train(), tokens)
            if reason is not None:
                return f"{reason} at length {length}"
        for length in lengths[:-1]:
            moved = distance(alone[lengths[-1]][:length], alone[length])
            if differs(moved):
                return (
                    f"{lengths[-1] - length} more tokens change outputs before them by {moved:.1e} at length {length}"
                )
    return _far(subject)


def _far(subject: Subject) -> str | None:
    """One cut through the longest sequence."""
    tokens, cut = subject.parting
    with torch.no_grad():
        logits = subject.long.double().eval()(tokens)
    reason = _moved(logits, [cut])
    return None if reason is None else f"{reason} at length {subject.longest}"


def cuts(length: int, generator: torch.Generator) -> list[int]:
    """Where the future begins, in [1, length): everywhere, or at the ends, at borders of chunks and inside of some."""
    if length <= EVERY_CUT:
        return list(range(1, length))
    inside = torch.randint(2, length - 1, (2,), generator=generator).tolist()
    borders = [border for border in CHUNKS if border < length]
    last = [(length - 1) // chunk * chunk for chunk in (16, 64)]
    return sorted({1, length // 2, length - 1, *inside, *borders, *last} - {0})


def _by_tokens(subject: Subject, model: Model, tokens: Tensor) -> tuple[Tensor, str | None]:
    """The logits [T, vocabulary] of the tokens [T], and why they are no function of the past."""
    length = len(tokens)
    generator = subject.generator(length)
    where = [1, 1, *cuts(length, generator)]
    rows = [tokens]
    for number, cut in enumerate(where):
        past, future = tokens[:cut], _other_tokens(number, tokens, cut, subject.task.vocabulary, generator)
        rows.append(torch.cat([past, future]))
    with torch.no_grad():
        logits = model(torch.stack(rows))
    return logits[0], _moved(logits, where)


def _other_tokens(number: int, tokens: Tensor, cut: int, vocabulary: int, generator: torch.Generator) -> Tensor:
    """What replaces the tokens from `cut` on; the kinds take turns. The first two, both behind the first token, are one
    token for ever and every symbol in turn: a leak that waits for a symbol has its chance in one of them."""
    future = tokens[cut:]
    match number % 6:
        case 0:
            return tokens[cut - 1].expand_as(future)  # nothing new
        case 1:
            return torch.randperm(vocabulary, generator=generator).repeat(len(future) // vocabulary + 1)[: len(future)]
        case 2:
            return torch.cat([future[:-1], tokens[:1]])  # the last as the first
        case 3:
            return tokens[:cut].flip(0).repeat(len(future) // cut + 1)[: len(future)]  # the past mirrored
        case _:
            return torch.randint(vocabulary, future.shape, generator=generator)


def _by_streams(subject: Subject, model: Model, tokens: Tensor) -> str | None:
    """Streams [T, D] whose future is replaced by other numbers, and gradients of the outputs before the cut."""
    base = model.embedding(tokens).detach()
    generator = subject.generator(len(tokens) + 1)
    where = cuts(len(tokens), generator)
    where = where[:: -(-len(where) // MOST_STREAMS) or 1]
    rows = [base]
    for number, cut in enumerate(where):
        rows.append(torch.cat([base[:cut], _other_numbers(number, base[cut:], generator)]))
    inputs = torch.stack(rows).requires_grad_()
    outputs = model.stack(inputs)
    reason = _moved(outputs.detach(), where)
    if reason is not None:
        return reason
    # A random projection: a sum of squares would be constant behind a normalisation.
    before = torch.arange(len(tokens)) < torch.tensor([0, *where])[:, None]
    weights = torch.randn(outputs.shape, generator=generator, dtype=outputs.dtype)
    (outputs * weights)[before].sum().backward()
    assert inputs.grad is not None
    size = inputs.grad.abs().amax(-1)[1:]  # [cuts, T]
    known = size.masked_fill(~before[1:], 0).amax(1)
    leaked = size.masked_fill(before[1:], 0).amax(1)
    for cut, share in zip(where, (leaked / known.clamp(min=1e-30)).tolist(), strict=True):
        if differs(share):
            return f"outputs before token {cut} have a gradient in later inputs, {share:.1e} of it,"
    return None


def _other_numbers(number: int, future: Tensor, generator: torch.Generator) -> Tensor:
    """What replaces the stream [n, D] from a cut on; the kinds take turns."""
    noise = torch.randn(future.shape, generator=generator, dtype=future.dtype)
    match number % 5:
        case 0:
            return noise
        case 1:
            return LARGE * noise.abs()
        case 2:
            return future + SMALL * noise.abs()
        case 3:
            return SMALL * noise
        case _:
            return -future


def _moved(outputs: Tensor, where: list[int]) -> str | None:
    """Outputs [1 + cuts, T, C], of which row i + 1 shares with row 0 what lies before `where[i]`."""
    for row, cut in zip(outputs[1:], where, strict=True):
        leak = distance(row[:cut], outputs[0, :cut])
        if differs(leak):
            return f"changing tokens from {cut} on changes outputs before it by {leak:.1e}"
    return None
