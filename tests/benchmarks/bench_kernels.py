"""Milliseconds of each primitive, forward and backward, chunked and reference, on one thread in float32.

Run as `python tests/benchmarks/bench_kernels.py`. The convolutions have C = H K channels. The reference of the long
convolution keeps T shifted copies of its input, that of local linear attention T differences of each key; they are left
out where that is more than a gigabyte.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import normalize

from archloom.kernels.attention import attention
from archloom.kernels.banded import banded
from archloom.kernels.feature_toeplitz import feature_toeplitz
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.local_linear import local_linear
from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.resolvent import delta_rule, resolvent
from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.short_convolution import short_convolution

SIZES = ((32, 64, 2, 16), (8, 128, 2, 32), (8, 512, 2, 32), (8, 2048, 2, 32))  # B, T, H, K = V
MOST_BYTES = 1 << 30
DENSE_REFERENCES = ("long convolution", "local linear")

Primitive = Callable[..., Tensor | tuple[Tensor, Tensor]]
Case = tuple[str, Primitive, list[Tensor]]


def cases(batch: int, steps: int, heads: int, width: int) -> Iterator[Case]:
    """Name, primitive with its arguments bound, and the inputs to differentiate by."""

    def leaf(*shape: int) -> Tensor:
        return torch.randn(*shape, requires_grad=True)

    q, k, v = (leaf(batch, steps, heads, width) for _ in range(3))
    k = normalize(k.detach(), dim=-1).requires_grad_()
    b = (k.detach() * torch.rand(batch, steps, heads, 1)).requires_grad_()
    by_head = (-torch.rand(batch, steps, heads)).requires_grad_()
    by_channel = (-torch.rand(batch, steps, heads, width)).requires_grad_()

    yield "attention", partial(attention, q, k, v), [q, k, v]
    yield "attention, window 32", partial(attention, q, k, v, window=32), [q, k, v]
    yield "attention, decay", partial(attention, q, k, v, log_decay=by_head), [q, k, v, by_head]
    mask, bias = torch.rand(steps, steps) < 0.5, leaf(heads, steps, steps)
    yield "attention, mask", partial(attention, q, k, v, mask=mask), [q, k, v]
    yield "attention, plus one", partial(attention, q, k, v, normaliser="softmax_plus_one"), [q, k, v]
    yield "attention, bias", partial(attention, q, k, v, bias=bias), [q, k, v, bias]
    for kind, decay in (("none", None), ("head", by_head), ("channel", by_channel)):
        extra = [] if decay is None else [decay]
        yield f"linear attention, {kind}", partial(linear_attention, q, k, v, log_decay=decay), [q, k, v, *extra]
        yield f"resolvent, {kind}", partial(resolvent, b, k, v, log_decay=decay), [b, k, v, *extra]
        yield f"delta rule, {kind}", partial(delta_rule, q, b, k, v, log_decay=decay), [q, b, k, v, *extra]
    bonus = leaf(heads, width)
    exclusive = partial(linear_attention, q, k, v, log_decay=by_channel, exclusive=True, bonus=bonus)
    yield "linear attention, bonus", exclusive, [q, k, v, by_channel, bonus]
    step, rate = (
        torch.rand(batch, steps, heads, width).requires_grad_(),
        (-torch.rand(heads, width, width)).requires_grad_(),
    )
    yield "selective scan", partial(selective_scan, q, k, v, step=step, rate=rate), [q, k, v, step, rate]
    yield "local linear", partial(local_linear, q, k, v, ridge=1.0), [q, k, v]
    distances = leaf(heads, steps)
    yield "feature Toeplitz", partial(feature_toeplitz, q, k, v, taps=distances), [q, k, v, distances]
    for reach in (4, 32):
        band = leaf(batch, steps, heads, reach)
        yield f"banded, W {reach}", partial(banded, band, v), [band, v]
    channels = heads * width
    x, filter, taps = leaf(batch, steps, channels), leaf(channels, steps), leaf(channels, 4)
    yield "long convolution", partial(long_convolution, x, filter), [x, filter]
    yield "short convolution, W 4", partial(short_convolution, x, taps), [x, taps]


def milliseconds(primitive: Primitive, backend: str, inputs: list[Tensor], seconds: float) -> float:
    """The best of at least two runs after one to warm up, within about `seconds`."""

    def once() -> float:
        start = time.perf_counter()
        out = primitive(backend=backend)
        assert isinstance(out, Tensor)
        torch.autograd.grad(out.sum(), inputs)
        return (time.perf_counter() - start) * 1e3

    once()
    end, times = time.perf_counter() + seconds, [once(), once()]
    while time.perf_counter() < end:
        times.append(once())
    return min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=0.5, help="time for each figure (default: %(default)s)")
    seconds = parser.parse_args().seconds
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(f"torch {torch.__version__}, {torch.backends.cpu.get_cpu_capability()}, one thread, float32")
    print(f"{'primitive':26s} {'B':>3s} {'T':>5s} {'H':>2s} {'K':>3s} {'chunked':>9s} {'reference':>10s} {'ratio':>6s}")
    for size in SIZES:
        batch, steps, heads, width = size
        for name, primitive, inputs in cases(*size):
            fast = milliseconds(primitive, "chunked", inputs, seconds)
            row = f"{name:26s} {batch:3d} {steps:5d} {heads:2d} {width:3d} {fast:9.2f}"
            if name in DENSE_REFERENCES and 4 * batch * steps * steps * heads * width > MOST_BYTES:
                print(row, f"{'-':>10s} {'-':>6s}", flush=True)
                continue
            slow = milliseconds(primitive, "reference", inputs, seconds)
            print(row, f"{slow:10.2f} {slow / fast:6.1f}", flush=True)


if __name__ == "__main__":
    main()
