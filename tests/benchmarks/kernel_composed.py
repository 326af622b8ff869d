"""Mixers that nobody has named against their nearest named neighbours, both compiled from terms by the evaluator."""

import torch
from kernel_costs import best_of
from torch import nn

from archloom.evaluator.modules.mixers import make_mixer
from archloom.search_space.costs import Widths
from archloom.search_space.text import parse

SIZES = ((8, 128), (4, 512))
WIDTHS = Widths(model=64, key=64, value=64, hidden=1)
TARGET = 2.0

QUERY, PAIR = "unit(project(x))", "dot(project(x), project(x))"
DELTA = (
    "let k = unit(project(x)) in let g = selective_channels(x) in let b = beta(x) in "
    f"apply(masked(decayed_dot({QUERY}, k, g), %s), resolve(masked(decayed_gram(k, b, g), %s), scale(value(x), b)))"
)
KIMI = ("Kimi delta", DELTA % ("visible", "visible"))
WINDOW = "window(width=16)"
PAIRS = (
    ("delta rule read in a window", DELTA % (WINDOW, "visible"), *KIMI),
    ("delta rule in a window", DELTA % (WINDOW, WINDOW), *KIMI),
    (
        "softmax window on delta rule",
        f"apply(rownorm(masked(exp({PAIR}), {WINDOW})), {DELTA % ('visible', 'visible')})",
        *KIMI,
    ),
    (
        "sigmoid scores with decay",
        f"apply(masked(decay(sigmoid({PAIR}), forget(x)), visible), value(x))",
        "sigmoid attention",
        f"apply(masked(sigmoid({PAIR}), visible), value(x))",
    ),
    (
        "sigmoid scores with decay",
        f"apply(masked(decay(sigmoid({PAIR}), forget(x)), visible), value(x))",
        "forgetting attention",
        f"apply(rownorm(masked(decay(exp({PAIR}), forget(x)), visible)), value(x))",
    ),
    (
        "resolvent of softmax",
        f"resolve(damp(rownorm(masked(exp({PAIR}), visible)), beta(x)), value(x))",
        "softmax attention",
        f"apply(rownorm(masked(exp({PAIR}), visible)), value(x))",
    ),
)
"""A composed mixer and its neighbour, each by name and body."""


def mixer(body: str, length: int, device: str) -> nn.Module:
    term = parse(f"grammar 2\nmix({body}, heads=2)")
    return make_mixer(term, widths=WIDTHS, length=length).to(device)


def print_composed(device: str, seconds: float) -> None:
    """Milliseconds forward and backward in float32, with the projections; at most twice the neighbour is wanted."""
    print(f"\n{'composed mixer':28s} {'B':>3s} {'T':>5s} {'ms':>9s}   {'neighbour':22s} {'ms':>9s} {'ratio':>6s}")
    for batch, length in SIZES:
        for name, body, neighbour, other in PAIRS:
            both = [milliseconds(mixer(each, length, device), batch, length, device, seconds) for each in (body, other)]
            ratio = both[0] / both[1]
            print(f"{name:28s} {batch:3d} {length:5d} {both[0]:9.2f}   {neighbour:22s} {both[1]:9.2f}", end="")
            print(f" {ratio:6.1f}{'  above the target' if ratio > TARGET else ''}", flush=True)


def milliseconds(module: nn.Module, batch: int, length: int, device: str, seconds: float) -> float:
    x = torch.randn(batch, length, WIDTHS.model, device=device, requires_grad=True)

    def step() -> None:
        torch.autograd.grad(module(x).sum(), [x, *module.parameters()])

    return 1e3 * best_of(step, device, seconds)
