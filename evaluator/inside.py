"""A look inside a model while it reads some sequences: its kernels as the literal L x L operators, its hidden units.

Forward hooks are put on for one pass and taken off, so a model that nobody looks into runs as fast as ever. The pass is
the dense one, in evaluation mode and without gradients: it draws no random number and changes no weight.

What is seen of a kernel are the rows of |K|, divided by their sum, of every `apply` and `resolve`, and of a long
convolution its Toeplitz matrix per channel. Recurrences and readouts that are no kernel show none. A row is counted
where it has any mass and the pattern shows it more than one key: the first row of a causal kernel can only look at
itself.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import fmean

import torch
from torch import Tensor, nn

from archloom.evaluator.model import Model
from archloom.evaluator.modules import Context, Flow
from archloom.evaluator.modules.blocks import Block
from archloom.evaluator.modules.channels import ChannelScan, Ensemble, Ista, Kan, Mlp
from archloom.evaluator.modules.experts import Experts, MixtureOfExperts
from archloom.evaluator.modules.filters import Filter
from archloom.evaluator.modules.passes import Pass
from archloom.search_space.plans import Form


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Means over the counted rows of one kernel, heads and sequences; NaN where no row counts.

    `entropy` is that of a row in units of the logarithm of the keys it is shown, 1 where it looks at all of them alike;
    `sink` the share of its mass on the first key; `zeros` the share of all T S entries that are exactly zero.
    """

    entropy: float
    sink: float
    zeros: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Units:
    """Shares of the hidden units of one channel mixer.

    `dead` are units that say the same of every token, zero or not; `zeros` is the share of exact zeros among all values
    of all units.
    """

    dead: float
    zeros: float


@dataclass(slots=True, kw_only=True)
class Inside:
    """What was seen in one block: its kernels in the order they were computed, and its channel mixer's hidden units.

    `units` is None where there is no channel mixer, or one whose hidden units are not known here.
    """

    kernels: list[Rows] = field(default_factory=list)
    units: Units | None = None

    def mean(self, of: Callable[[Rows], float]) -> float | None:
        """The mean of a number over the block's kernels, None if it has none."""
        return fmean(map(of, self.kernels)) if self.kernels else None


def blocks_of(model: nn.Module) -> tuple[Block, ...]:
    """The blocks of a model in the order of `modules()`: that of the stack, and those inside a block at its place."""
    return tuple(each for each in model.modules() if isinstance(each, Block))


def look(model: Model, inputs: Tensor, *, source: Tensor | None = None) -> tuple[Inside, ...]:
    """What each block of `blocks_of(model)` shows while the model reads `inputs`, and `source` under a cross pattern.

    Shapes are those of the model: symbols [B, T] or vectors [B, T, C]. Time and memory grow with T^2.
    """
    blocks = blocks_of(model)
    seen = tuple(Inside() for _ in blocks)
    training = model.training
    model.eval()
    try:
        with torch.no_grad(), _watched(blocks, seen):
            model.features(inputs, Context(dense=True), source=source)
    finally:
        model.train(training)
    return seen


def rows(kernel: Tensor, shown: Tensor) -> Rows:
    """Of a kernel [..., T, S] of which each row is shown `shown` [T] keys."""
    mass = kernel.abs()
    total = mass.sum(-1, keepdim=True)
    counted = (total.squeeze(-1) != 0) & (shown > 1)
    zeros = float((kernel == 0).double().mean())
    if not bool(counted.any()):
        return Rows(entropy=float("nan"), sink=float("nan"), zeros=zeros)
    share = mass / torch.where(total == 0, 1, total)
    entropy = torch.special.entr(share).sum(-1) / shown.clamp(min=2).log()
    return Rows(entropy=float(entropy[counted].mean()), sink=float(share[..., 0][counted].mean()), zeros=zeros)


def units(hidden: Tensor) -> Units:
    """Of hidden values [..., units]."""
    flat = hidden.flatten(0, -2)
    dead = flat.amax(0) == flat.amin(0)
    return Units(dead=float(dead.double().mean()), zeros=float((flat == 0).double().mean()))


# -- where to look -----------------------------------------------------------------------------------------------------


@contextmanager
def _watched(blocks: Sequence[Block], seen: Sequence[Inside]) -> Iterator[None]:
    handles = []
    try:
        for block, view in zip(blocks, seen, strict=True):
            for each in block.mixer.modules():
                if isinstance(each, Pass):
                    handles.append(_watch_kernel(each, view))
            handles += _watch_units(block.channel, view)
        yield
    finally:
        for handle in handles:
            handle.remove()


def _watch_kernel(one: Pass, view: Inside) -> torch.utils.hooks.RemovableHandle:
    if one.plan.form is Form.TOEPLITZ:

        def convolution(_: nn.Module, given: tuple[Flow, ...], __: Tensor) -> None:
            filter_module = one.inputs[0]
            assert isinstance(filter_module, Filter)
            view.kernels.append(_toeplitz_rows(filter_module, given[0]))

        return one.register_forward_hook(convolution)

    def kernel(_: nn.Module, given: tuple[Flow, ...], matrix: Tensor) -> None:
        if matrix.dim() == 4 and not matrix.is_complex() and one.plan.form is not Form.CIRCULAR:
            view.kernels.append(rows(matrix, _shown(given[0], matrix.shape[-1])))

    return one.inputs[0].register_forward_hook(kernel)


def _toeplitz_rows(filter_module: Filter, flow: Flow) -> Rows:
    """Of the matrices h_(t-s), one a channel."""
    steps = flow.x.shape[1]
    taps = filter_module.taps(steps)
    lag = torch.arange(steps, device=taps.device)
    lag = lag[:, None] - lag
    lag = lag if flow.pattern.causal else lag.abs()
    return rows(taps[:, lag.clamp(min=0)].masked_fill(lag < 0, 0), _shown(flow, steps))


def _shown(flow: Flow, sources: int) -> Tensor:
    """How many of `sources` keys the pattern shows each token, [T]."""
    steps = flow.x.shape[1]
    if flow.pattern.causal and not flow.pattern.cross:
        return torch.arange(flow.past + 1, flow.past + steps + 1, device=flow.x.device)
    return torch.full((steps,), sources, device=flow.x.device)


def _watch_units(channel: nn.Module | None, view: Inside) -> list[torch.utils.hooks.RemovableHandle]:
    """Hooks that read the hidden units of a channel mixer; none for a kind that is not known."""

    def read(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        view.units = units(given[0])

    def result(_: nn.Module, __: tuple[Tensor, ...], outputs: Tensor) -> None:
        view.units = units(outputs)

    match channel:
        case Mlp() | ChannelScan():  # a gated unit is an Mlp too
            return [channel.down.register_forward_pre_hook(read)]
        case Ensemble():  # a unit of each member

            def members(_: nn.Module, given: tuple[Tensor, ...]) -> None:
                view.units = units(given[0].flatten(-2))

            return [channel.down.register_forward_pre_hook(members)]
        case Kan():  # before the functions on the edges of the second layer
            return [channel.up.register_forward_hook(result)]
        case Ista():  # the code itself
            return [channel.register_forward_hook(result)]
        case Experts():

            def experts(_: nn.Module, given: tuple[Tensor, ...]) -> None:
                view.units = units(_expert_units(channel, given[0]))

            return [channel.register_forward_pre_hook(experts)]
        case _:
            return []


def _expert_units(channel: Experts, x: Tensor) -> Tensor:
    """[B, T, experts x hidden], zero for the tokens that an expert is not chosen for."""
    gates = nn.functional.silu(torch.einsum("btd,ehd->bteh", x, channel.gate))
    hidden = gates * torch.einsum("btd,ehd->bteh", x, channel.up)
    if isinstance(channel, MixtureOfExperts):
        shares = channel.shares(x)
        chosen = torch.zeros_like(shares).scatter(-1, shares.topk(channel.active, -1).indices, 1.0)
        hidden = hidden * chosen.unsqueeze(-1)
    return hidden.flatten(-2)
