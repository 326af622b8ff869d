"""Blocks: a mixer and a channel mixer around the residual stream. x: [B, T, D] -> [B, T, D]."""

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import WHOLE, Context
from archloom.evaluator.modules.channels import make_channel
from archloom.evaluator.modules.mixers import make_mixer
from archloom.search_space.costs import Widths
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.terms import Term, walk

EPSILON = 1e-6
UPDATE_BIAS = 2.0
BRANCH_SCALE = 0.1


def rms_norm(width: int) -> nn.Module:
    return nn.RMSNorm(width, eps=EPSILON)


class Block(nn.Module):
    """Pre-norm residual block: the mixer, then the channel mixer. The other blocks differ in norm and residual."""

    norm: Callable[[int], nn.Module] = staticmethod(rms_norm)
    shares_norm = False

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__()
        mixer, channel = term.arguments
        self.reads_earlier = any(node.operation.name == "earlier" for node in walk(mixer))
        self.mixer_norm = self.norm(widths.model)
        self.mixer = make_mixer(mixer, widths=widths, length=length, pattern=pattern)
        self.channel = make_channel(channel, widths)
        self.channel_norm = None
        if self.channel is not None and not self.shares_norm:
            self.channel_norm = self.norm(widths.model)
        self.prepare(widths.model, parts=1 if self.channel is None else 2)

    def prepare(self, width: int, *, parts: int) -> None:
        """Makes the weights of the residuals of the block's parts."""

    def joined(self, part: int, x: Tensor, y: Tensor) -> Tensor:
        """The stream x after part 0 (the mixer) or 1 (the channel mixer) has said y."""
        return x + y

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        y = self.joined(0, x, self.mixer(self.mixer_norm(x), self.told(context)))
        if self.channel is None or self.channel_norm is None:
            return y
        return self.joined(1, y, self.channel(self.channel_norm(y)))

    def told(self, context: Context) -> Context:
        """The context of the mixer, which sees the earlier stream under the norm of its own."""
        if not self.reads_earlier or context.earlier is None:
            return context
        return replace(context, earlier=self.mixer_norm(context.earlier))


class Parallel(Block):
    """Both mixers read the same normalised input."""

    shares_norm = True

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        normed = self.mixer_norm(x)
        y: Tensor = x + self.mixer(normed, self.told(context))
        return y if self.channel is None else y + self.channel(normed)


class GruGate(nn.Module):
    """A GRU cell with state x and input y (Parisotto et al. 2019, section 3.2); the bias starts it near x."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.of_input = nn.Linear(width, 3 * width, bias=False)  # W_r, W_z, W_h
        self.of_stream = nn.Linear(width, 2 * width, bias=False)  # U_r, U_z
        self.of_reset = nn.Linear(width, width, bias=False)  # U_h
        self.bias = nn.Parameter(torch.full((width,), UPDATE_BIAS))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        reset, update, new = self.of_input(y).chunk(3, -1)
        reset_x, update_x = self.of_stream(x).chunk(2, -1)
        z = torch.sigmoid(update + update_x - self.bias)
        new = torch.tanh(new + self.of_reset(torch.sigmoid(reset + reset_x) * x))
        return torch.lerp(x, new, z)


class Gru(Block):
    def prepare(self, width: int, *, parts: int) -> None:
        self.gates = nn.ModuleList(GruGate(width) for _ in range(parts))

    def joined(self, part: int, x: Tensor, y: Tensor) -> Tensor:
        outputs: Tensor = self.gates[part](x, functional.relu(y))
        return outputs


class Scaled(Block):
    """LayerScale (Touvron et al. 2021, arXiv:2103.17239)."""

    def prepare(self, width: int, *, parts: int) -> None:
        self.scales = nn.ParameterList(torch.full((width,), BRANCH_SCALE) for _ in range(parts))

    def joined(self, part: int, x: Tensor, y: Tensor) -> Tensor:
        outputs: Tensor = x + self.scales[part] * y
        return outputs


class Replacing(Block):
    def joined(self, part: int, x: Tensor, y: Tensor) -> Tensor:
        return x + y if part == 0 else y


class ConditionedNorm(nn.Module):
    """RMS norm whose gain lies between two learned ones, s(x) g + (1 - s(x)) g' with s = sigmoid(<w, x / rms(x)> + b).

    The blend of DiMR's time-dependent norm (Liu et al. 2024, arXiv:2406.09416), asked of the token instead of time.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gains = nn.Parameter(torch.empty(2, width).uniform_(0.5, 1.5))  # equal ones would leave nothing to switch
        self.switch = nn.Linear(width, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.rms_norm(x, x.shape[-1:], eps=EPSILON)
        first, second = self.gains
        gain = torch.lerp(second, first, torch.sigmoid(self.switch(x)))
        return x * gain


class Conditioned(Block):
    norm = ConditionedNorm


class BlendedNorm(nn.Module):
    """s g x / rms(x) + (1 - s)(a x + b) with a share s = sigmoid(l), one number, that starts near 1.

    PRepBN (Guo et al. 2024, arXiv:2405.11582) with what its batch norm is once training has ended, an affine map:
    statistics of the batch would tell a token of later ones. The share is learned where the paper anneals it.
    """

    SHARE = 2.0

    def __init__(self, width: int) -> None:
        super().__init__()
        self.share = nn.Parameter(torch.full((1,), self.SHARE))
        self.gain = nn.Parameter(torch.ones(width))
        self.slope = nn.Parameter(torch.ones(width))
        self.offset = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        normed = functional.rms_norm(x, x.shape[-1:], self.gain, eps=EPSILON)
        return torch.lerp(self.slope * x + self.offset, normed, torch.sigmoid(self.share))


class Blended(Block):
    norm = BlendedNorm


BLOCKS: dict[str, type[Block]] = {
    "block": Block,
    "parallel": Parallel,
    "gru": Gru,
    "scaled": Scaled,
    "replacing": Replacing,
    "conditioned": Conditioned,
    "blended": Blended,
}
