"""Milliseconds of each primitive and backend, forward and backward, beside the least that its work can take.

Run as `python tests/benchmarks/bench_kernels.py`, or `make bench-kernels` for every section. Columns:

    first    the first call in this process, compilation included
    ms       the best of several runs
    of roof  the least time on this device for the FLOPs of the equation and its bytes (kernel_costs.py), over ms
    softmax  ms over that of PyTorch's fused softmax attention at the same size
    loop     ms of the reference: one step of a recurrence at a time over `unbind`, or the dense definition; left out
             where it would keep more than a gigabyte
    ratio    loop over ms

On the CPU everything runs on one thread in float32, on CUDA in bfloat16 with float32 decays. Sections: the table; the
growth of the time with T; composed mixers against named ones; flash-linear-attention's counterparts (CUDA only).
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from kernel_composed import print_composed
from kernel_costs import best_of, bytes_moved, measured_ceilings, timed
from kernel_counterparts import print_counterparts
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

from archloom.evaluator.training import keep_memory
from archloom.kernels import table
from archloom.kernels.table import Draw, Example, Size

SIZES = ("32x64x2x16", "8x128x2x32", "8x512x2x32", "8x2048x2x32")
CUDA_SIZES = ("8x512x4x64", "8x2048x4x64", "4x8192x4x64")
GROWING = (512, 1024, 2048, 4096, 8192)
SECTIONS = ("table", "growth", "composed", "counterparts")
FUSED = "attention, torch's own"
"""PyTorch's fused softmax attention, with which all are compared."""
MOST_BYTES = 1 << 30


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Where and what to measure; `only` is a part of an example's name."""

    device: str
    dtype: torch.dtype
    backends: Sequence[str]
    only: str
    seconds: float

    def milliseconds(self, example: Example, backend: str) -> float:
        return 1e3 * best_of(lambda: step(example, backend), self.device, self.seconds)

    def chosen(self, size: Size) -> Iterator[Example]:
        """PyTorch's attention always, and the examples that are asked for."""
        yield fused(Draw(size, device=self.device, dtype=self.dtype))
        found = table.examples(size, device=self.device, dtype=self.dtype)
        yield from (each for each in found if self.only in each.name)

    def backends_of(self, example: Example) -> list[str]:
        """Those wanted that it has."""
        if example.name == FUSED:
            return ["torch"]
        return [each for each in self.backends if each in table.backends_of(example.function)]


def fused(draw: Draw) -> Example:
    size = draw.size
    names = ("query", "key", "value")
    return Example(
        name=FUSED,
        function=scaled_dot_product_attention,
        inputs={each: draw.leaf(size.batch, size.heads, size.steps, size.width) for each in names},
        options={"is_causal": True},
        flops=size.pairs() * 4 * size.width,
        times=2.5,
    )


def step(example: Example, backend: str) -> Tensor:
    """One forward and backward; the output."""
    out = example() if example.name == FUSED else example(backend=backend)
    assert isinstance(out, Tensor)
    torch.autograd.grad(out, list(example.tensors.values()), torch.ones_like(out))
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--backends", nargs="+", default=["chunked", "triton"], choices=("chunked", "triton"))
    parser.add_argument("--sizes", nargs="+", type=size_of, metavar="BxTxHxK", help=f"default: {' '.join(SIZES)}")
    parser.add_argument("--only", default="", metavar="TEXT", help="cases whose name holds this text")
    parser.add_argument("--seconds", type=float, default=0.5, help="for each figure (default: %(default)s)")
    parser.add_argument("--sections", nargs="+", choices=SECTIONS, default=["table"], help="default: table")
    parser.add_argument("--composed", action="store_true", help="short for --sections composed")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("there is no CUDA device here; --device cpu")
    on_cuda = arguments.device == "cuda"
    settings = Settings(
        device=arguments.device,
        dtype=torch.bfloat16 if on_cuda else torch.float32,
        backends=[each for each in arguments.backends if on_cuda or each != "triton"],
        only=arguments.only,
        seconds=arguments.seconds,
    )
    if not settings.backends:
        parser.error("Triton kernels need a CUDA device; --backends chunked")
    torch.set_num_threads(1)  # all three as workers do
    torch.set_flush_denormal(True)
    keep_memory()
    torch.manual_seed(0)
    warm = torch.ones(64, 64, device=settings.device, requires_grad=True)
    (warm @ warm).sum().backward()  # libraries load once a process, and no case shall pay for it
    sections = ["composed"] if arguments.composed else arguments.sections
    print(f"torch {torch.__version__}, {device_name(settings.device)}, {str(settings.dtype).removeprefix('torch.')}")
    if "table" in sections:
        print_table(arguments.sizes or [Size.of(each) for each in (CUDA_SIZES if on_cuda else SIZES)], settings)
    if "growth" in sections:
        print_growth(settings)
    if "composed" in sections:
        print_composed(settings.device, settings.seconds)
    if "counterparts" in sections:
        print_counterparts(settings.device, settings.backends, settings.seconds)


def size_of(text: str) -> Size:
    try:
        return Size.of(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def device_name(device: str) -> str:
    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{torch.backends.cpu.get_cpu_capability()}, one thread"


def print_table(sizes: Sequence[Size], settings: Settings) -> None:
    ceilings = measured_ceilings(settings.device, settings.dtype)
    print(f"roof: copies {ceilings.bandwidth / 1e9:.1f} GB/s, products {ceilings.compute / 1e9:.0f} GFLOP/s")
    print(f"\n{'case':30s} {'BxTxHxK':13s} {'backend':8s} {'first':>9s} {'ms':>9s} {'MFLOP':>9s} {'MB':>8s}", end="")
    print(f" {'of roof':>7s} {'softmax':>7s} {'loop':>9s} {'ratio':>6s}")
    for size in sizes:
        softmax = math.nan
        for example in settings.chosen(size):
            rows = [costs(example, backend, settings) for backend in settings.backends_of(example)]
            work, known = example.flops * (1 + example.times), has_loop(example, size)
            loop = settings.milliseconds(example, "reference") if known else math.nan
            for backend, first, best, moved in filter(None, rows):
                softmax = best if example.name == FUSED else softmax
                roof = 1e3 * ceilings.seconds(work, moved) / best
                print(f"{example.name:30s} {size!s:13s} {backend:8s} {first:9.2f} {best:9.2f}", end="")
                print(f" {work / 1e6:9.1f} {moved / 1e6:8.2f} {roof:7.1%} {best / softmax:7.2f}", end="")
                print(f" {loop:9.2f} {loop / best:6.1f}" if known else f" {'-':>9s} {'-':>6s}", flush=True)


def has_loop(example: Example, size: Size) -> bool:
    """Whether there is a reference, and a dense one keeps less than MOST_BYTES for its backward."""
    by_channel = any(word in example.name for word in ("local", "windowed"))
    kept = 16 * size.tokens * size.steps * (size.width if by_channel else 1) if example.dense else 0
    return example.name != FUSED and kept <= MOST_BYTES


def costs(example: Example, backend: str, settings: Settings) -> tuple[str, float, float, int] | None:
    """The backend, milliseconds of the first call and of the best, and bytes; None where it refuses the arguments."""
    try:
        first = 1e3 * timed(lambda: step(example, backend), settings.device)
    except ValueError as refusal:
        print(f"{example.name:30s} {'':13s} {backend:8s} {refusal}")
        return None
    moved = bytes_moved(list(example.tensors.values()), step(example, backend))
    return backend, first, settings.milliseconds(example, backend), moved


def print_growth(settings: Settings) -> None:
    """The exponent of the time in T, fitted to its logarithm, of what is linear in T: at B 8, H 2, K 32."""
    print(f"\n{'case':30s} {'backend':8s} {'exponent':>8s}   ms at T", "".join(f"{steps:>9d}" for steps in GROWING))
    times: dict[tuple[str, str], list[float]] = {}
    for steps in GROWING:
        for example in settings.chosen(Size(batch=8, steps=steps, heads=2, width=32)):
            if example.name == FUSED or (example.dense and "window" not in example.name):
                continue
            for backend in settings.backends_of(example):
                if found := costs(example, backend, settings):
                    times.setdefault((example.name, backend), []).append(found[2])
    for (name, backend), taken in times.items():
        exponent = slope([math.log(steps) for steps in GROWING], [math.log(each) for each in taken])
        print(f"{name:30s} {backend:8s} {exponent:8.2f}          ", "".join(f"{each:9.2f}" for each in taken))


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    """Of the line that fits best."""
    middle, height = sum(x) / len(x), sum(y) / len(y)
    return sum((a - middle) * (b - height) for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


if __name__ == "__main__":
    main()
