"""The table of primitives: one folder each, and what checks, benchmarks and packing are to know of it.

A folder has `__init__.py` with the public function, `reference.py` (the oracle), `chunked.py`, `triton.py` where it has
a Triton form, and `examples.py` with one function,

    def examples(draw: Draw) -> Iterator[Example]

that gives the calls which stand for the primitive: every argument that changes how it is computed. Whatever runs over
all primitives runs over these: the tests of equality, states, packing, replicates and compilation, the benchmarks, and
the ahead-of-time compilation of Triton kernels. So a new primitive is a new folder and a new row here.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from typing import Any, get_args, get_type_hints

import torch
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels.arguments import accumulator

PRIMITIVES: tuple[str, ...] = (
    "archloom.kernels.attention",
    "archloom.kernels.banded",
    "archloom.kernels.dense_mixing",
    "archloom.kernels.feature_toeplitz",
    "archloom.kernels.linear_attention",
    "archloom.kernels.local_linear",
    "archloom.kernels.long_convolution",
    "archloom.kernels.resolvent",
    "archloom.kernels.selective_scan",
    "archloom.kernels.short_convolution",
    "archloom.kernels.sparse_state",
    "archloom.kernels.windowed",
)
"""The package of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """B sequences of T steps with H heads of K = V channels; convolutions have H K channels."""

    batch: int
    steps: int
    heads: int
    width: int

    @classmethod
    def of(cls, text: str) -> "Size":
        """From BxTxHxK, as in 8x512x2x32; a ValueError for anything else."""
        sizes = [int(part) if part.isdecimal() else 0 for part in text.split("x")]
        if len(sizes) != 4 or min(sizes) < 1:
            raise ValueError(f"the size is {text!r}; expected BxTxHxK, four whole numbers of at least 1")
        batch, steps, heads, width = sizes
        return cls(batch=batch, steps=steps, heads=heads, width=width)

    @property
    def tokens(self) -> int:
        """Over all heads and sequences."""
        return self.batch * self.steps * self.heads

    def pairs(self, window: int | None = None) -> int:
        """Of a query and a key that it sees, causally and within a window."""
        reach = self.steps if window is None else min(window, self.steps)
        return self.batch * self.heads * (self.steps * reach - reach * (reach - 1) // 2)

    def __str__(self) -> str:
        return f"{self.batch}x{self.steps}x{self.heads}x{self.width}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A call of a primitive.

    `flops` are those of the equation, forward: a multiplication, an addition and an exponential count one each.
    `state` is the shape [B, ...] of its initial state, None where it has none. `dense` marks a reference that forms
    T x S numbers for each head, `times` how much more the backward costs than the forward.
    """

    name: str
    function: Callable[..., Tensor | tuple[Tensor, Tensor]]
    inputs: Mapping[str, Tensor]  # [B, T, H, ...] or [B, T, C]
    weights: Mapping[str, Tensor] = field(default_factory=dict)  # [H, ...] or [C, ...], of no sequence
    options: Mapping[str, Any] = field(default_factory=dict)
    flops: float
    state: tuple[int, ...] | None = None
    dense: bool = False
    times: float = 2.0

    @property
    def tensors(self) -> dict[str, Tensor]:
        return {**self.inputs, **self.weights}

    def __call__(self, **others: Any) -> Tensor | tuple[Tensor, Tensor]:
        return self.function(**(self.tensors | dict(self.options) | others))


class Draw:
    """Draws the arguments of examples at a size: leaves that ask for gradients, the same for the same seed.

    Decays stay in the accumulator's type beside half precision, as models keep them.
    """

    def __init__(self, size: Size, *, device: str = "cpu", dtype: torch.dtype = torch.float32, seed: int = 0) -> None:
        self.size = size
        self.device = device
        self.dtype = dtype
        self.generator = torch.Generator().manual_seed(seed)
        self.per_head = (size.batch, size.steps, size.heads)

    def leaf(self, *shape: int) -> Tensor:
        """Normal numbers."""
        return self._leaf(torch.randn(shape, generator=self.generator), self.dtype)

    def each(self, *shape: int) -> Tensor:
        """Normal numbers for every token and head, [B, T, H, ...]."""
        return self.leaf(*self.per_head, *shape)

    def unit(self) -> Tensor:
        """Keys of length 1."""
        drawn = torch.randn(*self.per_head, self.size.width, generator=self.generator)
        return self._leaf(normalize(drawn, dim=-1), self.dtype)

    def uniform(self, *shape: int) -> Tensor:
        """In (0, 1)."""
        return self._leaf(torch.rand(shape, generator=self.generator), self.dtype)

    def routes(self, slots: int) -> Tensor:
        """Weights of slots for every token and head, half of them zero, [B, T, H, N]."""
        drawn = torch.rand(*self.per_head, slots, generator=self.generator)
        return self._leaf(drawn * (drawn >= drawn.median(-1, keepdim=True).values), self.dtype)

    def decay(self, *shape: int) -> Tensor:
        """Log decays in (-1, 0)."""
        return self._leaf(-torch.rand(shape, generator=self.generator), accumulator(self.dtype))

    def decays(self) -> Iterator[tuple[str, dict[str, Tensor]]]:
        """None, by head and by channel, as arguments."""
        yield "none", {}
        yield "head", {"log_decay": self.decay(*self.per_head)}
        yield "channel", {"log_decay": self.decay(*self.per_head, self.size.width)}

    def _leaf(self, drawn: Tensor, dtype: torch.dtype) -> Tensor:
        return drawn.to(self.device, dtype).requires_grad_()


def examples(
    size: Size, *, device: str = "cpu", dtype: torch.dtype = torch.float32, primitive: str | None = None
) -> Iterator[Example]:
    """The examples of all primitives, or of one package, at a size."""
    for package in PRIMITIVES if primitive is None else (primitive,):
        yield from import_module(f"{package}.examples").examples(Draw(size, device=device, dtype=dtype))


def backends_of(function: Callable[..., Any]) -> tuple[str, ...]:
    """The backends that a primitive's signature names."""
    return get_args(get_type_hints(function).get("backend"))


def with_triton() -> tuple[str, ...]:
    """The packages that have Triton kernels."""
    return tuple(each for each in PRIMITIVES if find_spec(f"{each}.triton") is not None)


def last_input(function: Callable[..., Any]) -> str | None:
    """The argument whose last values are the state, which the package says in LAST_INPUT; None for states that sum."""
    named: str | None = getattr(import_module(function.__module__), "LAST_INPUT", None)
    return named
