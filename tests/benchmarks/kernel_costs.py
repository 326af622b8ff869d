"""What a call moves, and what a device can do: the two sides of a roofline, beside the FLOPs that examples count.

FLOPs are those of the equation or recurrence, whatever a backend spends beyond (a chunked form spends more, to spend
them on matrix products). Bytes are the least that moves: every input is read twice, the output is written, its gradient
read, and one gradient written for each input.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


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
