"""Other ways from the stream to queries, keys and values: through a latent, under a bounded norm, by position."""

from archloom.search_space.operations.counts import SHARE, V, X
from archloom.search_space.operations.row import Operation, Shape, choice, inner
from archloom.search_space.terms import Term
from archloom.search_space.types import Type

_PERIOD = choice("period", 2, 4)


def _rank(shape: Shape, term: Term) -> int:
    """The width of the latent that is expanded; the largest there is while a term has no arguments yet."""
    return inner(term.arguments[0], shape) if term.arguments else max(2, shape.width // 2)


PROJECTIONS: tuple[Operation, ...] = (
    Operation(
        name="latent",
        rows=(((X,), Type.LATENT),),
        parameters=(choice("part", 2, 4, 8, default=4),),
        summary="compression to D / `part` channels with RMS normalisation, which keys and values are expanded from",
        equation=r"\gamma \odot W {0}_t / \mathrm{rms}(W {0}_t)",
        weight=0.5,
        parametric=True,
        weights=lambda s, t, h: (s.width + 1) * inner(t, s),
        flops=lambda s, t, h: (2 * s.width + 5) * inner(t, s),
    ),
    Operation(
        name="expand",
        rows=(((Type.LATENT,), Type.FEATURE),),
        parameters=(SHARE,),
        summary="linear map of a latent to features; `share` query heads use one head of it",
        equation=r"W {0}_t",
        weight=0.5,
        parametric=True,
        weights=lambda s, t, h: _rank(s, t) * h * s.key,
        flops=lambda s, t, h: 2 * _rank(s, t) * h * s.key,
    ),
    Operation(
        name="expand_value",
        rows=(((Type.LATENT,), V),),
        parameters=(SHARE,),
        summary="linear map of a latent to values; `share` query heads use one head of it",
        equation=r"W {0}_t",
        weight=0.5,
        parametric=True,
        weights=lambda s, t, h: _rank(s, t) * h * s.value,
        flops=lambda s, t, h: 2 * _rank(s, t) * h * s.value,
    ),
    Operation(
        name="spectral",
        rows=(((X,), Type.FEATURE),),
        parameters=(SHARE,),
        summary="linear projection whose largest singular value is a learned gain (sigma reparametrisation)",
        equation=r"\tfrac{\gamma}{\sigma(W)} W {0}_t",
        weight=0.3,
        parametric=True,
        weights=lambda s, t, h: s.width * h * s.key + 1,
        flops=lambda s, t, h: 2 * s.width * h * s.key,
    ),
    Operation(
        name="by_position",
        rows=(((X,), Type.FEATURE),),
        parameters=(_PERIOD,),
        summary="linear projection with `period` sets of weights, used in turn along the sequence",
        equation=r"W_{t \bmod p} \, {0}_t",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: t.integer("period") * s.width * h * s.key,
        flops=lambda s, t, h: 2 * s.width * h * s.key,
    ),
    Operation(
        name="value_by_position",
        rows=(((X,), V),),
        parameters=(_PERIOD,),
        summary="linear projection to values with `period` sets of weights, used in turn along the sequence",
        equation=r"W_{t \bmod p} \, {0}_t",
        weight=0.15,
        parametric=True,
        weights=lambda s, t, h: t.integer("period") * s.width * h * s.value,
        flops=lambda s, t, h: 2 * s.width * h * s.value,
    ),
)
