"""Convolutions whose taps or filters are more than fixed weights."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator
from archloom.evaluator.modules.features import ShortConvolution
from archloom.evaluator.modules.kernels import Kernel
from archloom.evaluator.modules.scores import lags


class Taps(Kernel):
    """Dynamic convolution (Wu et al. 2019, arXiv:1901.10430, eq. 5): each token predicts softmax weights of a band.

    Weights that fall outside the sequence are lost. Where causality is not asked the band reaches to both sides.
    """

    def prepare(self) -> None:
        self.width = self.term.integer("width")
        self.linear = nn.Linear(self.shape.width, self.shape.heads * self.width, bias=False)

    def ahead(self, flow: Flow) -> int:
        """How far the band reaches past the present."""
        return 0 if flow.pattern.causal else self.width // 2

    def weights(self, flow: Flow) -> Tensor:
        """[B, T, H, width]; the first belongs to the token furthest ahead."""
        logits: Tensor = self.linear(self.inputs[0](flow))
        return torch.softmax(logits.view(*logits.shape[:2], self.shape.heads, self.width), -1)

    def lag(self, flow: Flow) -> Tensor:
        """Which tap joins each pair, [T, S]; outside [0, width) none does."""
        return lags(flow) + self.ahead(flow)

    def mask(self, flow: Flow) -> Tensor:
        lag = self.lag(flow)
        return (lag >= 0) & (lag < self.width)

    def forward(self, flow: Flow) -> Tensor:
        weights = self.weights(flow).transpose(1, 2)
        tap = self.lag(flow).clamp(0, self.width - 1).expand(*weights.shape[:2], -1, -1)
        return weights.gather(-1, tap).masked_fill(~self.mask(flow), 0)


class SpacedConvolution(ShortConvolution):
    """Taps at learned positions (Hassani, Pellegrini, Masquelier 2023, arXiv:2112.03740), interpolated linearly.

    A tap between two steps is shared by them. The first tap starts at the present, so that nothing is out of sight from
    the beginning; the others start uniform over the reach. None can leave it.
    """

    def prepare(self) -> None:
        self.reach = self.term.integer("reach")
        size = (self.heads * self.channels, self.term.integer("taps"))
        self.taps = nn.Parameter(torch.empty(size).uniform_(-1, 1) / math.sqrt(size[1]))
        self.positions = nn.Parameter(torch.empty(size).uniform_(0, self.reach - 1))
        nn.init.constant_(self.positions[:, 0], 0 if self.shape.pattern.causal else self.reach // 2)

    def filter(self) -> Tensor:
        steps = torch.arange(self.reach, device=self.taps.device, dtype=self.taps.dtype)
        distance = (self.positions.clamp(0, self.reach - 1).unsqueeze(-1) - steps).abs()
        return torch.einsum("cn,cnt->ct", self.taps, (1 - distance).clamp(min=0))


class Conditioned(Operator):
    """Orchid's conditioning network of type I (Karami and Ghodsi 2024, arXiv:2402.18508, section 3).

    A magnitude spectrum does not change when the sequence is shifted around its ends, so neither does the filter. Its
    width-3 convolution runs over the frequencies 0 ... T/2. A unitary transform keeps the size of the spectrum
    independent of the length.
    """

    def prepare(self) -> None:
        self.taps = nn.Parameter(torch.empty(self.heads, self.shape.value, 3).uniform_(-1, 1) / math.sqrt(3))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        magnitude = torch.fft.rfft(arguments[0], dim=1, norm="ortho").abs().permute(0, 2, 3, 1)  # [B, H, V, F]
        count = magnitude.shape[-1]
        padded = functional.pad(magnitude, (1, 1))
        terms = [self.taps[..., j, None] * padded[..., 2 - j : 2 - j + count] for j in range(3)]
        return terms[0] + terms[1] + terms[2]


class Modal(Operator):
    """MultiHyena's filter of a head in modal form (Massaroli et al. 2023, arXiv:2310.18780, sections 3 and 4).

    Modes are real; time constants start log-uniform from 1 to 64 tokens, and weights positive, so that scores keep the
    signs they have.
    """

    def prepare(self) -> None:
        size = (self.heads, self.term.integer("order"))
        self.log_rates = nn.Parameter(torch.empty(size).uniform_(-math.log(64), 0))
        self.weights = nn.Parameter(torch.empty(size).uniform_(0.5, 1.5) / size[1])

    def forward(self, flow: Flow) -> Tensor:
        lag = lags(flow)
        lag = lag.clamp(min=0) if flow.pattern.causal else lag.abs()
        taps = torch.exp(-self.log_rates.exp()[..., None] * torch.arange(int(lag.max()) + 1, device=lag.device))
        return self.inputs[0](flow) * torch.einsum("hn,hnt->ht", self.weights, taps)[:, lag]


class ToeplitzProjection(Operator):
    """x [B, T, D] -> [B, T, heads, channels] by a matrix of constant diagonals: ConvShareViT's shared convolution."""

    def prepare(self) -> None:
        outputs, inputs = self.heads * self.channels, self.shape.width
        self.taps = nn.Parameter(torch.empty(inputs + outputs - 1).uniform_(-1, 1) / math.sqrt(inputs))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        outputs = self.heads * self.channels
        matrix = self.taps.unfold(0, self.shape.width, 1).flip(0)  # row i reads c_(j - i + outputs - 1)
        return functional.linear(x, matrix).view(*x.shape[:2], self.heads, outputs // self.heads)


MODULES: dict[str, type[Operator]] = {
    "taps": Taps,
    "spaced": SpacedConvolution,
    "conditioned_filter": Conditioned,
    "modal": Modal,
    "toeplitz": ToeplitzProjection,
    "toeplitz_value": ToeplitzProjection,
}
