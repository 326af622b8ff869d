"""Values read off features: from learned memory slots, or the features themselves."""

from archloom.search_space.operations.counts import F, V
from archloom.search_space.operations.row import Operation, choice

MEMORIES = (
    Operation(
        name="recall",
        rows=(((F,), V),),
        parameters=(choice("slots", 4, 8, 16, default=8),),
        summary="softmax attention of each token alone over learned keys and values: a memory of the weights",
        equation=r"\sum_m \mathrm{softmax}_m(\langle {0}_t, a_m \rangle) \, b_m",
        weight=0.1,
        parametric=True,
        weights=lambda s, t, h: h * t.integer("slots") * (s.key + s.value),
        flops=lambda s, t, h: h * t.integer("slots") * (2 * s.key + 2 * s.value + 5),
    ),
    Operation(
        name="carry",
        rows=(((F,), V),),
        summary="features as values: channel j of a value is channel j mod K of the feature",
        equation=r"{0}_t",
        weight=0.1,
    ),
)
