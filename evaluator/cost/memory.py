"""Bytes that a model holds: the largest sum while it runs, and what a decoder carries from token to token.

On a GPU the peak is that of PyTorch's allocator. On a CPU it is the largest sum of the live storages that PyTorch
operations were given or gave back, weights included. What a kernel takes and frees within one operation (work space of
a Fourier transform or of fused attention) is not seen there, nor what the allocator holds in reserve: a lower bound.
"""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from archloom.evaluator.modules import Cache

ON_CPU = "largest sum of live tensor storages"
ON_GPU = "torch.cuda.max_memory_allocated"


def carried_bytes(cache: Cache) -> int:
    """What a cache carries for a batch: numbers times their size, of views only what they show."""
    return sum(each.numel() * each.element_size() for each in cache.values())


def peak_bytes(run: Callable[[], object], *, model: nn.Module, device: torch.device) -> int:
    """The largest number of bytes alive while `run` runs, the model's weights and buffers included."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    live = _Live([*model.parameters(), *model.buffers()])
    with live:
        run()
    return live.peak


class _Live(TorchDispatchMode):
    """Sums the storages that operations read or make, until each is freed."""

    def __init__(self, held: Iterable[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.now = 0
        self._known: set[int] = set()
        for each in held:
            self._see(each)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        outputs = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, outputs)):
            if isinstance(each, Tensor):
                self._see(each)
        return outputs

    def _see(self, x: Tensor) -> None:
        storage = x.untyped_storage()
        if storage._cdata not in self._known:
            self._known.add(storage._cdata)
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
