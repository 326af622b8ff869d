"""What a primitive asks for by its equation, FLOPs and bytes, and what a device can do: the two sides of a roofline.

FLOPs are those of the equation or recurrence, whatever a backend spends beyond (a chunked form spends more, to spend
them on matrix products): a multiplication, an addition and an exponential count one each. The backward counts twice the
forward, that of attention 2.5 times, five products for two. Bytes are the least that moves: every input is read twice,
the output is written, its gradient read, and one gradient written for each input.
"""

import math
import time
from argparse import ArgumentTypeError
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """B sequences of T steps with H heads of K = V channels; the convolutions have H K channels."""

    batch: int
    steps: int
    heads: int
    width: int

    @classmethod
    def of(cls, text: str) -> "Size":
        """From BxTxHxK, as in 8x512x2x32."""
        try:
            batch, steps, heads, width = map(int, text.split("x"))
        except ValueError:
            raise ArgumentTypeError(f"{text!r}; expected BxTxHxK, as in 8x512x2x32") from None
        return cls(batch=batch, steps=steps, heads=heads, width=width)

    @property
    def tokens(self) -> int:
        """Over all heads and sequences."""
        return self.batch * self.steps * self.heads

    @property
    def pairs(self) -> int:
        """Of a query and a key that it sees, causally."""
        return self.tokens * (self.steps + 1) // 2

    def __str__(self) -> str:
        return f"{self.batch}x{self.steps}x{self.heads}x{self.width}"


WINDOW = 32


def _near(size: Size) -> int:
    """Pairs within a window of 32."""
    reach = min(WINDOW, size.steps)
    return size.batch * size.heads * (size.steps * reach - reach * (reach - 1) // 2)


def _transforms(size: Size) -> float:
    """Three real Fourier transforms of twice the length for every channel, and the product of two spectra."""
    points = 2 * size.steps
    return size.batch * size.heads * size.width * (3 * 2.5 * points * math.log2(points) + 3 * points)


FORWARD: dict[str, Callable[[Size], float]] = {
    "linear attention, none": lambda n: n.tokens * 4 * n.width**2,
    "linear attention": lambda n: n.tokens * 5 * n.width**2,
    "resolvent, none": lambda n: n.tokens * 4 * n.width**2,
    "resolvent": lambda n: n.tokens * 5 * n.width**2,
    "delta rule, none": lambda n: n.tokens * 6 * n.width**2,
    "delta rule": lambda n: n.tokens * 7 * n.width**2,
    "selective scan": lambda n: n.tokens * 7 * n.width**2,
    "attention": lambda n: n.pairs * 4 * n.width,
    "attention, window": lambda n: _near(n) * 4 * n.width,
    "local linear": lambda n: n.pairs * (n.width**2 + 7 * n.width) + n.tokens * n.width**3 / 3,
    "feature Toeplitz": lambda n: n.pairs * 4 * n.width,
    "banded, W 4": lambda n: n.tokens * 2 * 4 * n.width,
    "banded, W 32": lambda n: n.tokens * 2 * 32 * n.width,
    "long convolution": _transforms,
    "short convolution": lambda n: n.tokens * 2 * 4 * n.width,
}
"""FLOPs of one forward. A case has the row of the longest name that it begins with."""


def flops(name: str, size: Size) -> float:
    """Forward and backward."""
    row = max((each for each in FORWARD if name.startswith(each)), key=len)
    return FORWARD[row](size) * (3.5 if row.startswith("attention") else 3)


def bytes_moved(inputs: Sequence[Tensor], output: Tensor) -> int:
    """Forward and backward."""
    return 3 * sum(x.numel() * x.element_size() for x in inputs) + 2 * output.numel() * output.element_size()


@dataclass(frozen=True, slots=True, kw_only=True)
class Ceilings:
    """What the device was measured to reach: bytes a second of a copy, FLOPs a second of a matrix product."""

    bandwidth: float
    compute: float

    def seconds(self, flops: float, moved: float) -> float:
        """The least time for so much work."""
        return max(flops / self.compute, moved / self.bandwidth)


def measured_ceilings(device: str, dtype: torch.dtype) -> Ceilings:
    """Of a copy beyond any cache, and of a square product: 64 MiB and 1024 on a CPU, 1 GiB and 8192 on CUDA."""
    large = device == "cuda"
    stream = torch.ones((1 << 30 if large else 1 << 26) // 4, device=device)
    into, side = torch.empty_like(stream), 8192 if large else 1024
    square = torch.randn(side, side, device=device).to(dtype)
    copied = best_of(lambda: into.copy_(stream), device, 0.3)
    multiplied = best_of(lambda: square @ square, device, 0.3)
    return Ceilings(bandwidth=2 * 4 * stream.numel() / copied, compute=2 * side**3 / multiplied)


def best_of(run: Callable[[], object], device: str, seconds: float) -> float:
    """Seconds of the fastest run after one to warm up: of two at least, within about `seconds`."""
    timed(run, device)
    end, times = time.perf_counter() + seconds, [timed(run, device) for _ in range(2)]
    while time.perf_counter() < end:
        times.append(timed(run, device))
    return min(times)


def timed(run: Callable[[], object], device: str) -> float:
    """Seconds of one run, until the device is done with it."""
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start
