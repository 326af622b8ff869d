"""Blocks: a mixer and a channel mixer around the residual stream, and blocks made of a stack."""

from archloom.search_space.operations.row import Cost, Operation, Shape
from archloom.search_space.terms import Term
from archloom.search_space.types import Type


def _parts(term: Term) -> int:
    """How many of its mixer and channel mixer a block has."""
    return 1 if term.arguments[1].operation.name == "none" else 2


def _each(count: Cost) -> Cost:
    """For each part of the block."""
    return lambda s, t, h: _parts(t) * count(s, t, h)


def _averages(shape: Shape, term: Term, heads: int) -> int:
    """One weight for every output that a block of the stack can read; the first block has but one."""
    from archloom.search_space.stacks import layers

    blocks = sum(1 for _ in layers(term.arguments[0]))
    return blocks * (blocks + 1) // 2 - 1


BLOCKS = (
    Operation(
        name="block",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="pre-norm residual block: mixer, then channel mixer",
        equation=r"y = x + {0}(\mathrm{norm}\, x);\; y + {1}(\mathrm{norm}\, y)",
        weight=2.0,
        parametric=True,
        weights=_each(lambda s, t, h: s.width),
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="parallel",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="pre-norm residual block: mixer and channel mixer read the same input",
        equation=r"x + {0}(\mathrm{norm}\, x) + {1}(\mathrm{norm}\, x)",
        weight=0.5,
        parametric=True,
        weights=lambda s, t, h: s.width,
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="gru",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="gated block: a GRU whose state is the stream takes in each rectified output (GTrXL)",
        equation=r"y = \mathrm{GRU}(x, \mathrm{relu}\, {0}(\mathrm{norm}\, x));\;"
        r" \mathrm{GRU}(y, \mathrm{relu}\, {1}(\mathrm{norm}\, y))",
        weight=0.1,
        parametric=True,
        weights=_each(lambda s, t, h: 6 * s.width**2 + 2 * s.width),
        flops=_each(lambda s, t, h: 12 * s.width**2 + 10 * s.width),
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="scaled",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="residual block whose branches start small: a learned scale of each channel (LayerScale)",
        equation=r"y = x + \gamma \odot {0}(\mathrm{norm}\, x);\; y + \gamma' \odot {1}(\mathrm{norm}\, y)",
        weight=0.2,
        parametric=True,
        weights=_each(lambda s, t, h: 2 * s.width),
        flops=_each(lambda s, t, h: s.width),
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="replacing",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="block without the second residual: the channel mixer's output is the stream (CRATE)",
        equation=r"y = x + {0}(\mathrm{norm}\, x);\; {1}(\mathrm{norm}\, y)",
        weight=0.1,
        parametric=True,
        weights=_each(lambda s, t, h: s.width),
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="conditioned",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="residual block whose norms blend two learned gains, token by token, as the stream itself asks",
        equation=r"y = x + {0}(\gamma(x) \odot \mathrm{rms}^{-1} x);\; y + {1}(\gamma'(y) \odot \mathrm{rms}^{-1} y)",
        weight=0.15,
        parametric=True,
        weights=_each(lambda s, t, h: 3 * s.width + 1),
        flops=_each(lambda s, t, h: 5 * s.width),
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="blended",
        rows=(((Type.MIXER, Type.CHANNEL), Type.BLOCK),),
        summary="residual block whose norms blend RMS normalisation and an affine map by a learned share (SLAB)",
        equation=r"y = x + {0}(\lambda \gamma \odot \mathrm{rms}^{-1} x + (1 - \lambda) (\alpha \odot x + b));\;"
        r" y + {1}(\lambda' \gamma' \odot \mathrm{rms}^{-1} y + (1 - \lambda') (\alpha' \odot y + b'))",
        weight=0.15,
        parametric=True,
        weights=_each(lambda s, t, h: 3 * s.width + 1),
        flops=_each(lambda s, t, h: 5 * s.width),
        blocks=lambda t, inner: 1,
    ),
    Operation(
        name="averaged",
        rows=(((Type.STACK,), Type.BLOCK),),
        summary="a stack in which each block reads a learned weighted average of all earlier outputs",
        equation=r"x_l = \sum_{j<l} \alpha_{lj} y_j,\; y_l = {0}_l(x_l)",
        weight=0.3,
        parametric=True,
        weights=_averages,
        flops=lambda s, t, h: 2 * s.width * _averages(s, t, h),
    ),
    Operation(
        name="unet",
        rows=(((Type.STACK,), Type.BLOCK),),
        summary="a stack that runs at half the rate, on pairs of tokens, beside the stream (temporal U-net)",
        equation=r"x_t + \left[{0}(c_0 \odot x_{2i-1} + c_1 \odot x_{2i})\right]_{i = \lfloor t/2 \rfloor}",
        weight=0.3,
        stride=2,
        parametric=True,
        weights=lambda s, t, h: 2 * s.width,
        flops=lambda s, t, h: 3 * s.width,
        state=lambda s, t, h: 2 * s.width,
    ),
)
