"""What every module of an operation shares: its place in the data flow, and its state while decoding.

A `Flow` carries one forward pass through one mixer: the input stream, the pattern that says what may be seen, the memo
that makes a shared node one tensor, and the cache that carries what earlier segments left behind. Without a cache a
pass sees a whole sequence. With one, a sequence may come in segments of any lengths, down to one token: that is the
decode form of causal mixers, and the outputs are the same.

What stands on the key side of a kernel is computed in `flow.keys`: the same flow, or that of the source where the
pattern is cross. Inside the source the pattern is self.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from archloom.search_space.operations import Shape, inner
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.terms import Term


class Cache(dict[nn.Module, Tensor]):
    """What each module carries from one segment to the next. `beside(mixer)` is what its key side carries apart."""

    def __init__(self) -> None:
        super().__init__()
        self._beside: dict[nn.Module, Cache] = {}

    def beside(self, owner: nn.Module) -> "Cache":
        return self._beside.setdefault(owner, Cache())


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a forward pass above the heads knows beside its stream.

    `past` tokens came in earlier segments, of which `cache` keeps what is needed; `dense` asks for the oracle; `source`
    [B, S, D] is what a cross pattern reads; `earlier` [B, T, D] is the stream as the block before received it.
    """

    past: int = 0
    cache: Cache | None = None
    dense: bool = False
    source: Tensor | None = None
    earlier: Tensor | None = None


WHOLE = Context()
"""A whole sequence at once."""


@dataclass(slots=True)
class Flow:
    """One pass through one mixer. x: [B, T, D]; `past` tokens came in earlier segments; `dense` asks for the oracle.

    `earlier` [B, T, D] is what the block before received, under this block's norm.
    """

    x: Tensor
    pattern: Pattern = CAUSAL
    source: "Flow | None" = None
    earlier: Tensor | None = None
    past: int = 0
    cache: Cache | None = None
    dense: bool = False
    memo: dict[nn.Module, Tensor] = field(default_factory=dict)

    @property
    def keys(self) -> "Flow":
        """The flow that the key side of a kernel is computed in."""
        return self if self.source is None else self.source

    def history(self, owner: nn.Module, now: Tensor, *, keep: int | None = None) -> Tensor:
        """`now` [B, T, ...] behind what `owner` kept of earlier segments: all of them, or the last `keep` tokens."""
        if self.cache is None:
            return now
        before = self.cache.get(owner)
        whole = now if before is None else torch.cat([before, now], 1)
        self.cache[owner] = whole if keep is None else whole[:, max(0, whole.shape[1] - keep) :]
        return whole


class Operator(nn.Module):
    """A compiled operation. `inputs` are the compiled arguments; `heads` those of its result; `shape` the mixer's."""

    __call__: Callable[..., Tensor]
    linear_in_length = True  # of its own work; that of a pass follows from its plan

    def __init__(self, *, term: Term, shape: Shape, heads: int, inputs: Sequence["Operator"]) -> None:
        super().__init__()
        self.term = term
        self.shape = shape
        self.heads = heads
        self.inputs = cast("Sequence[Operator]", nn.ModuleList(inputs))
        self.prepare()

    def prepare(self) -> None:
        """Makes the operation's own weights."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        raise NotImplementedError(type(self).__name__)

    def forward(self, flow: Flow) -> Tensor:
        return self.compute(flow, *[each(flow) for each in self.inputs])

    def log_scores(self, flow: Flow) -> Tensor | None:
        """The logarithm of a score or kernel where it is known exactly, else None."""
        return None

    @property
    def has_log_scores(self) -> bool:
        """Whether `log_scores` gives one. Running an operand twice would advance its state twice: ask first."""
        return False

    @property
    def channels(self) -> int:
        """Channels of the result per head (of the stream if it is one)."""
        return inner(self.term, self.shape)


class Shared(Operator):
    """A `let`: computed at its first use in a pass."""

    def forward(self, flow: Flow) -> Tensor:
        if self not in flow.memo:
            flow.memo[self] = self.inputs[0](flow)
        return flow.memo[self]


def spread(x: Tensor, heads: int) -> Tensor:
    """[B, T, G, ...] -> [B, T, heads, ...]: head h reads group floor(h * G / heads)."""
    return x if x.shape[2] == heads else x.repeat_interleave(heads // x.shape[2], 2)
