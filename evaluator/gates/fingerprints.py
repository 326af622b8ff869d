"""What an architecture computes, as a hash."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from archloom.evaluator.gates.subject import NARROW
from archloom.evaluator.modules import Operator, Stack
from archloom.search_space.terms import Term

LENGTH = 72
"""Longer than any range that a mask can have, so that a range is never mistaken for all that there is."""


def fingerprint(architecture: Term) -> str:
    """Outputs in float64 at small widths, with weights fixed by their roles, as a SHA-256.

    A role is the operation's name and its number among its like, so two spellings of one function agree. Outputs are
    rounded to six digits before hashing.
    """
    stack = Stack(architecture, widths=NARROW, length=LENGTH).double()
    counts: dict[str, int] = {}
    for module in stack.modules():
        if not any(True for _ in module.parameters(recurse=False)):
            continue
        role = module.term.operation.name if isinstance(module, Operator) else type(module).__name__
        counts[role] = counts.get(role, 0) + 1
        _cast(module, f"{role} {counts[role]}")
    with torch.no_grad():
        outputs = stack(_numbers("input", (1, LENGTH, NARROW.model)))
    rounded = [f"{value:.6g}" for value in (outputs / outputs.abs().max()).flatten().tolist()]
    return hashlib.sha256(" ".join(rounded).encode()).hexdigest()


def _cast(module: nn.Module, role: str) -> None:
    """Gives a module the weights of its role. Those of an operation keep the range that they start in: a position or a
    rate that is out of it may do nothing."""
    if isinstance(module, Operator):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_seed(role))
            module.prepare()
        module.double()
    for name, parameter in module.named_parameters(recurse=False):
        start = parameter.detach() if isinstance(module, Operator) else 0
        parameter.data.copy_(start + _numbers(f"{role} {name}", parameter.shape) / math.sqrt(parameter.shape[-1]))


def _numbers(role: str, shape: Sequence[int]) -> Tensor:
    generator = torch.Generator().manual_seed(_seed(role))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float64)


def _seed(role: str) -> int:
    return int.from_bytes(hashlib.sha256(role.encode()).digest()[:6], "big")
