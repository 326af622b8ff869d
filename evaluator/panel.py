"""The panel: known systems whose order on the proxy tasks is published, and the orders that must show. No torch here.

A proxy task is worth its time if it tells mixers apart, and it is right if it tells them apart as larger experiments
did. The systems here have the same scaffold, a short convolution and SiLU before queries, keys and values where the
mixer has them, since a missing short convolution outweighs every difference between mixers.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from archloom.search_space import zoo
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

_LINEAR = (
    "mix(apply(rownorm(masked(dot(elu1(conv(project(x))), elu1(conv(project(x)))), visible)), silu(conv(value(x)))), "
    "heads={heads})"
)
_GATED = (
    "mix(mul(norm(apply(masked(decayed_dot(silu(conv(project(x))), silu(conv(project(x))), forget_channels(x)), "
    "visible), silu(conv(value(x))))), silu(value(x))), heads=2)"
)
_WINDOW = (
    "mix(apply(rownorm(masked(exp(dot(rotary(silu(conv(project(x)))), rotary(silu(conv(project(x)))))), "
    "window(width=4))), silu(conv(value(x)))), heads=2)"
)

_OWN: Mapping[str, str] = {
    "linear": _LINEAR.format(heads=2),
    "linear, 1 head": _LINEAR.format(heads=1),
    "linear, 4 heads": _LINEAR.format(heads=4),
    "gated linear": _GATED,
    "window of 4": _WINDOW,
    "short convolution": "pointwise(silu(conv(value(x))), heads=2)",
}
_ZOO: Mapping[str, str] = {
    "softmax": "mha_conv",
    "delta": "deltanet",
    "delta, negative": "deltanet_negative",
    "gated delta": "gated_deltanet",
    "Mamba-2": "mamba2",
    "RetNet": "retnet",
    "Hyena": "hyena",
    "long convolution": "long_conv",
    "no mixer": "no_mixer",
}
_HYBRIDS: Mapping[str, tuple[str, str]] = {"softmax + long convolution": ("mha_conv", "long_conv")}

NAMES = (*_ZOO, *_OWN, *_HYBRIDS)
"""The systems of the panel."""


def system(name: str, *, depth: int) -> Term:
    """An architecture of the panel, or of the zoo, with `depth` blocks; hybrids have two. Raises `KeyError`."""
    if name in _HYBRIDS:
        first, second = (zoo.load(each, depth=1).text for each in _HYBRIDS[name])
        return parse(f"then({first}, {second})")
    if name in _OWN:
        return zoo.as_architecture(parse(_OWN[name]), depth=depth)
    return zoo.load(_ZOO.get(name, name), depth=depth)


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """On a kind of task the systems of each level score above those of the next, by their means.

    Levels hold if every neighbouring pair differs by at least `margin`; a single level with a `least` score holds if
    every system of it reaches that.
    """

    says: str
    kind: str
    levels: tuple[tuple[str, ...], ...]
    source: str
    least: float | None = None
    margin: float = 0.05


CLAIMS: tuple[Claim, ...] = (
    Claim(
        says="attention solves recall at small width",
        kind="mqar",
        levels=(("softmax",),),
        least=0.95,
        source="Arora et al. 2023, arXiv:2312.04927, figure 2",
    ),
    Claim(
        says="recall of a linear mixer grows with its state",
        kind="mqar",
        levels=(("linear, 1 head",), ("linear",), ("linear, 4 heads",)),
        source="Arora et al. 2024, arXiv:2402.18668, figure 2",
    ),
    Claim(
        says="the delta rule recalls more than the additive one of the same state",
        kind="mqar",
        levels=(("delta",), ("linear",)),
        source="Yang et al. 2024, arXiv:2406.06484, figure 2",
    ),
    Claim(
        says="convolutions fail recall that depends on the input",
        kind="mqar",
        levels=(("softmax", "linear", "delta", "gated delta"), ("long convolution", "short convolution", "Hyena")),
        source="Arora et al. 2023, arXiv:2312.04927, figure 2",
        margin=0.2,
    ),
    Claim(
        says="a hybrid of convolution and attention recovers recall",
        kind="mqar",
        levels=(("softmax + long convolution",), ("long convolution",)),
        source="Arora et al. 2023, arXiv:2312.04927, section 5",
        margin=0.2,
    ),
    Claim(
        says="with beta up to 2 the delta rule tracks parity, with beta up to 1 it does not",
        kind="parity",
        levels=(("delta, negative",), ("delta", "linear", "softmax")),
        source="Grazzi et al. 2024, arXiv:2411.12537, table 1",
        margin=0.2,
    ),
)
"""What was published, and must show on a panel of seconds."""
