"""A model under measurement, and what it is measured with."""

from dataclasses import dataclass

import torch
from torch import Tensor

from archloom.evaluator.model import Model
from archloom.evaluator.modules import Cache, Context
from archloom.search_space.terms import Term


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A built model of `architecture` over `vocabulary` symbols. Prefill, memory and energy take `batch` sequences."""

    model: Model
    architecture: Term
    batch: int
    vocabulary: int

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    @property
    def machine(self) -> str:
        """The device in words: its name, or the processor's instruction set and the threads that PyTorch uses."""
        if self.device.type == "cuda":
            return torch.cuda.get_device_name(self.device)
        return f"{self.device.type}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads"

    def inputs(self, length: int, *, batch: int) -> tuple[Tensor, Tensor | None]:
        """Random symbols [batch, length] and, under a cross pattern, as many to read; alike for alike arguments."""
        generator = torch.Generator().manual_seed(length)
        size = (batch, length)
        symbols, source = (torch.randint(self.vocabulary, size, generator=generator).to(self.device) for _ in range(2))
        return symbols, source if self.model.pattern.cross else None

    def stream(self, length: int) -> tuple[Tensor, Context]:
        """What the stack reads of one sequence: embedded symbols [1, length, D], and a context with the source."""
        symbols, source = self.inputs(length, batch=1)
        with torch.no_grad():
            embed = self.model.embedding
            return embed(symbols), Context(source=None if source is None else embed(source))

    def cache_after(self, length: int) -> Cache:
        """What a decoder carries after so many tokens of one sequence."""
        cache = Cache()
        if length:
            with torch.no_grad():
                self.model.features(self.inputs(length, batch=1)[0], Context(cache=cache))
        return cache
