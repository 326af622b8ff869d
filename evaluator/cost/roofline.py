"""The least time that work can take on a named device: max(FLOPs / peak, bytes / bandwidth) (Williams et al. 2009).

Peaks are those of the makers' data sheets, dense and without overclocking:

    h100, h200     SXM5, bf16 on tensor cores 989.4 TFLOP/s; 3.35 and 4.8 TB/s (NVIDIA H100 and H200 data sheets)
    a100           SXM4 80 GB, bf16 on tensor cores 312 TFLOP/s, 2.039 TB/s (NVIDIA A100 data sheet)
    rtx4090        bf16 on tensor cores with float32 sums 165.2 TFLOP/s, 1.008 TB/s (NVIDIA Ada architecture paper)
    laptop_cpu     eight Zen 4 cores at 3.3 GHz, 32 float32 operations a cycle: 845 GFLOP/s; two channels of DDR5-5600:
                   89.6 GB/s (AMD Ryzen 7 7840U data sheet)

Bytes are analytic: weights once, and every operation of the term reads its arguments and writes its result once, as a
number of the device's format. Scores and kernels stay on the chip unless they are written out densely, and masks,
sharing and concatenation move nothing. A channel mixer moves one hidden vector, written and read, for each of its
matrices of D x hidden but the last. Embedding and head are left out, as they are from `search_space.costs`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from archloom.search_space.costs import BYTES, Widths, costs
from archloom.search_space.operations import Shape
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.plans import Form, heads_of, numbers, plan, slots
from archloom.search_space.stacks import coarse_length, inside, layers
from archloom.search_space.terms import Term, walk
from archloom.search_space.types import FEATURES, GATES, KERNELS, SCORES, VALUES, Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """`peak` FLOPs a second and `bandwidth` bytes a second, of numbers of `number` bytes."""

    peak: float
    bandwidth: float
    number: int

    def seconds(self, flops: float, moved: float) -> float:
        return max(flops / self.peak, moved / self.bandwidth)


DEVICES: Mapping[str, Device] = {
    "h100": Device(peak=989.4e12, bandwidth=3.35e12, number=2),
    "h200": Device(peak=989.4e12, bandwidth=4.8e12, number=2),
    "a100": Device(peak=312e12, bandwidth=2.039e12, number=2),
    "rtx4090": Device(peak=165.2e12, bandwidth=1.008e12, number=2),
    "laptop_cpu": Device(peak=844.8e9, bandwidth=89.6e9, number=4),
}


def prefill_seconds(
    architecture: Term, widths: Widths, length: int, *, device: Device, batch: int = 1, pattern: Pattern = CAUSAL
) -> float:
    """Of one forward pass over `batch` sequences."""
    found = costs(architecture, widths, length, pattern=pattern)
    moved = found.parameters + batch * length * traffic(architecture, widths, length, pattern=pattern)
    return device.seconds(batch * found.flops, device.number * moved)


def decode_seconds(architecture: Term, widths: Widths, length: int, *, device: Device) -> float:
    """Of one more token of one causal sequence, the `length`-th: weights and state are read once.

    Its FLOPs are what the last token adds to those of the sequence, or the mean of all where that is more.
    """
    found = costs(architecture, widths, length)
    before = costs(architecture, widths, length - 1).flops if length > 1 else 0
    flops = max(found.flops - before, found.flops / length)
    moved = found.parameters + found.state_bytes / BYTES + traffic(architecture, widths, length)
    return device.seconds(flops, device.number * moved)


def traffic(architecture: Term, widths: Widths, length: int, *, pattern: Pattern = CAUSAL) -> float:
    """Numbers per token of a stack that operations read and write, without weights."""
    return sum(_of_block(block, widths, length, pattern) for block in layers(architecture)) + 2 * widths.model


def _of_block(block: Term, widths: Widths, length: int, pattern: Pattern) -> float:
    stride = block.operation.stride
    if stride > 1:
        coarse = coarse_length(length, stride, pattern)
        within = traffic(inside(block), widths, coarse, pattern=pattern)
        return 4 * widths.model + within * coarse / length
    if any(each.type is Type.STACK for each in block.arguments):
        return 2 * widths.model + sum(traffic(each, widths, length, pattern=pattern) for each in block.arguments)
    return sum(_of_part(part, widths, length, pattern) for part in block.arguments)


def _of_part(part: Term, widths: Widths, length: int, pattern: Pattern) -> float:
    """A mixer or channel mixer with its norm (reads and writes the stream) and residual (reads both, writes one)."""
    residual = 5 * widths.model
    if part.type is Type.CHANNEL:
        shape = widths.shape(1, length, pattern=pattern)
        matrices = part.operation.weights(shape, part, 1) // (widths.model * widths.hidden)
        hidden = 2 * widths.hidden * max(0, matrices - 1)
        return residual + 2 * widths.model + hidden if part.operation.parametric else 0
    return residual + sum(_of_mixer(each, widths, length, pattern) for each in _scoped(part))


def _scoped(mixer: Term) -> Iterator[Term]:
    """The mixers with heads that a mixer is made of."""
    if mixer.operation.scopes:
        yield mixer
        return
    for each in mixer.arguments:
        yield from _scoped(each)


def _of_mixer(mixer: Term, widths: Widths, length: int, pattern: Pattern) -> float:
    shape = widths.shape(mixer.integer("heads"), length, inner=mixer.integer("inner"), pattern=pattern)
    dense = {
        id(each)
        for node in walk(mixer)
        if node.operation.name in ("apply", "resolve") and plan(node.arguments[0]).form in _WRITTEN_OUT
        for each in walk(node.arguments[0])
    }
    total = widths.model  # what the output projection writes; what it reads is an argument of the mixer
    for node in walk(mixer):
        read = sum(_numbers(each, shape, dense) for each in node.arguments)
        made = 0 if node is mixer or node.operation.shares or not node.arguments else _numbers(node, shape, dense)
        total += made + (0 if node.operation.shares else read)
    return total


_WRITTEN_OUT = (Form.DENSE, Form.FEATURE_TOEPLITZ)


def _numbers(node: Term, shape: Shape, dense: set[int]) -> int:
    """Numbers per token of what a node stands for."""
    heads = heads_of(node, shape.heads)
    if node.type in (Type.STREAM, Type.LATENT, *FEATURES, *VALUES):
        return numbers(node, shape)
    if node.type in (*GATES, Type.ANGLE, Type.HEAD_DECAY):
        return heads
    if node.type is Type.CHANNEL_DECAY:
        return heads * shape.key
    if node.type in (Type.STEP_CHANNELS, Type.FILTER, Type.SPECTRUM):
        return heads * shape.value
    if node.type is Type.ROUTE:
        return slots(node)
    if node.type in (*SCORES, *KERNELS) and id(node) in dense:
        return heads * shape.length
    return 0
