"""The work of a forward pass, counted and not timed: a count is the same on every machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What one forward pass executes: matrix FLOPs, elements that operations other than views read and write, and
    calls of such operations. Each can grow where the other two do not."""

    flops: int
    elements: int
    calls: int


class Counter(TorchDispatchMode):
    """Counts what is executed under it, Python loops and operations without a FLOP formula included."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = self.elements = self.calls = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **kwargs, out_val=out)
        if not _is_view(func):
            self.calls += 1
            tensors = [each for each in tree_leaves((args, kwargs, out)) if isinstance(each, torch.Tensor)]
            self.elements += sum(each.numel() for each in tensors)
        return out


def _is_view(func: Any) -> bool:
    """Whether what comes out is what went in under another shape; of one such operation the schema does not say it."""
    shares = any(each.alias_info is not None and not each.alias_info.is_write for each in func._schema.returns)
    return shares or func is torch.ops.aten._unsafe_view.default


def count_work(stack: nn.Module, *, width: int, lengths: Sequence[int]) -> tuple[Work, ...]:
    """The work of a stack on one stream [1, T, width] of each length.

    The stream is one vector for ever: where a pass chooses its chunks by the decays that it finds, it finds the same at
    every length.
    """
    found = []
    vector = torch.randn(width, generator=torch.Generator().manual_seed(0))
    for length in lengths:
        inputs = vector.expand(1, length, width).contiguous()
        # Fused attention is one operation to a counter; of FFTs only the elements are counted.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), Counter() as counter:
            stack(inputs)
        found.append(Work(flops=counter.flops, elements=counter.elements, calls=counter.calls))
    return tuple(found)
