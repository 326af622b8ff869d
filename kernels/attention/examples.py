"""The calls that stand for attention: each normaliser, mask and score modification that takes a path of its own."""

from collections.abc import Iterator

from archloom.kernels.attention import PositionalMask, attention, attention_resolvent
from archloom.kernels.table import Draw, Example

WINDOW = 32


def examples(draw: Draw) -> Iterator[Example]:
    size = draw.size
    decay, table = draw.decay(*draw.per_head), draw.leaf(size.heads, 8)
    for name, more, weights, options in (
        ("softmax", {}, {}, {}),
        (f"window {WINDOW}", {}, {}, {"window": WINDOW}),
        ("decay", {"log_decay": decay}, {}, {}),
        ("plus one", {}, {}, {"normaliser": "softmax_plus_one"}),
        ("strided", {}, {}, {"mask": PositionalMask(window=4, stride=4)}),
        ("sigmoid with decay", {"log_decay": decay}, {}, {"normaliser": "sigmoid"}),
        ("squared ReLU", {}, {}, {"normaliser": "relu2"}),
        ("sparsemax", {}, {}, {"normaliser": "sparsemax"}),
        ("top 4", {}, {}, {"top_k": 4}),
        ("soft cap", {}, {}, {"soft_cap": 5.0}),
        ("relative bias", {}, {"lag_bias": table}, {}),
    ):
        q, k, v = (draw.each(size.width) for _ in range(3))
        yield Example(
            name=f"attention, {name}",
            function=attention,
            inputs={"q": q, "k": k, "v": v, **more},
            weights=weights,
            options=options,
            flops=size.pairs(WINDOW if "window" in options else None) * 4 * size.width,
            dense=True,
            times=2.5,  # five products for two
        )
    q, k, x = (draw.each(size.width) for _ in range(3))
    yield Example(
        name="attention, resolvent",
        function=attention_resolvent,
        inputs={"q": q, "k": k, "x": x, "gate": draw.uniform(*draw.per_head)},
        flops=size.pairs() * 4 * size.width,
        dense=True,
        times=2.5,
    )
