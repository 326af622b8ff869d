"""Weights of whole rows of scores, in plain PyTorch: every normaliser, and the choice of the k largest."""

import torch
from torch import Tensor
from torch.nn.functional import pad

from archloom.kernels.attention.rule import LOGARITHMIC, Rule


def weights(scores: Tensor, log_lag: Tensor | None, seen: Tensor | None, rule: Rule, *, blind: bool) -> Tensor:
    """[B, H, T, S] from scores of that shape, all S keys of each row.

    Args:
        scores: capped, with every bias.
        log_lag: None or [B, H, T, S], the summed log decay between query and key; read only where `seen`.
        seen: None for all, or [T, S] of bool.
        rule: its normaliser and top_k are read.
        blind: whether a row may see nothing, which then has weights of zero.
    """
    if rule.normaliser not in LOGARITHMIC:
        return _entrywise(scores, log_lag, seen, rule)
    lowest = torch.finfo(scores.dtype).min
    logits = scores if log_lag is None else scores + log_lag
    if seen is not None:
        logits = logits.masked_fill(~seen, lowest)
    if rule.top_k is not None:
        logits = logits.masked_fill(~among_largest(logits, rule.top_k, margin(logits)), lowest)
    match rule.normaliser:
        case "softmax":
            found = torch.softmax(logits, -1)
        case "softmax_plus_one":  # the one is the exponential of one more score, of zero
            found = torch.softmax(pad(logits, (0, 1)), -1)[..., :-1]
        case _:
            found = sparsemax(logits)
    return found.masked_fill(~seen.any(-1, keepdim=True), 0) if blind and seen is not None else found


def _entrywise(scores: Tensor, log_lag: Tensor | None, seen: Tensor | None, rule: Rule) -> Tensor:
    """f(scores) exp(log_lag) where seen."""
    match rule.normaliser:
        case "sigmoid":
            found = scores.sigmoid()
        case "relu":
            found = scores.relu()
        case _:
            found = scores.relu().square()
    if log_lag is not None:
        # what is hidden may have a positive lag: its exponential must not be formed, for the sake of the gradient
        found = found * (log_lag if seen is None else log_lag.masked_fill(~seen, -torch.inf)).exp()
    if seen is not None:
        found = found.masked_fill(~seen, 0)
    if rule.top_k is None:
        return found
    equal = margin(found) * found.detach().amax(-1, keepdim=True)
    return found.masked_fill(~among_largest(found, rule.top_k, equal), 0)


def sparsemax(logits: Tensor) -> Tensor:
    """The nearest point of the simplex to each row (Martins and Astudillo 2016, arXiv:1602.02068).

    It is (z - c)_+ with c such that the row sums to 1. Relative to the largest entry c is in [-1, 0), so everything
    that lies 1 or more below it has no weight and may stand at -2.
    """
    largest = logits.detach().amax(-1, keepdim=True)
    far = logits <= largest - 2
    z = (logits.masked_fill(far, 0) - largest).masked_fill(far, -2)
    with torch.no_grad():
        falling = z.sort(-1, descending=True).values
        rank = torch.arange(1, z.shape[-1] + 1, dtype=z.dtype, device=z.device)
        supported = (rank * falling > falling.cumsum(-1) - 1).sum(-1, keepdim=True)  # at least the largest
        support = z >= falling.gather(-1, supported - 1)
    threshold = ((z * support).sum(-1, keepdim=True) - 1) / support.sum(-1, keepdim=True)
    return (z - threshold).relu()


def margin(x: Tensor) -> float:
    """How close two numbers must be to count as equal: half of the digits."""
    return float(torch.finfo(x.dtype).eps ** 0.5)


def among_largest(x: Tensor, k: int, tolerance: Tensor | float) -> Tensor:
    """Where an entry is one of the k largest of its row or within `tolerance` of the last of them, of bool.

    Equal entries are kept together: a choice between them would hang on rounding and on the backend.
    """
    x = x.detach()
    return x >= x.topk(min(k, x.shape[-1]), -1).values[..., -1:] - tolerance
