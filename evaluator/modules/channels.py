"""Channel mixers: what happens to each token on its own. x: [B, T, D] -> [B, T, D]."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.experts import GroupedExperts, MixtureOfExperts
from archloom.search_space.costs import Widths
from archloom.search_space.operations.channels import KAN_BASES
from archloom.search_space.terms import Term

KEPT_SHARE = 4
SMALLEST_THRESHOLD = 1e-12
RADIAL_REACH = 2.0
ISTA_STEP, ISTA_SPARSITY = 0.1, 0.1


def keep_largest(x: Tensor) -> Tensor:
    """The largest quarter of the units of each token, rounded up; the others are zero."""
    kept = x.topk(math.ceil(x.shape[-1] / KEPT_SHARE), -1).indices
    return x * torch.zeros_like(x).scatter(-1, kept, 1.0)


def spike(x: Tensor) -> Tensor:
    """Signed spike counts of a threshold, the token's mean magnitude, times it; backward the identity.

    SpikingBrain (2025, arXiv:2509.05276), the collapsed form of its adaptive-threshold neuron with k = 1.
    """
    threshold = x.detach().abs().mean(-1, keepdim=True).clamp(min=SMALLEST_THRESHOLD)
    return x + (threshold * torch.round(x / threshold) - x).detach()


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu2": lambda x: functional.relu(x).square(),
    "silu": functional.silu,
    "relu": functional.relu,
    "sine": torch.sin,
    "topk": keep_largest,
    "spike": spike,
}


class Mlp(nn.Module):
    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__()
        self.up = nn.Linear(widths.model, widths.hidden, bias=False)
        self.down = nn.Linear(widths.hidden, widths.model, bias=False)
        self.activation = ACTIVATIONS[str(term.value("activation"))]

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.down(self.activation(self.up(x)))
        return outputs


class Glu(Mlp):
    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__(term, widths)
        self.gate = nn.Linear(widths.model, widths.hidden, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.down(self.activation(self.gate(x)) * self.up(x))
        return outputs


def radial(x: Tensor) -> Tensor:
    """exp(-((x - c) / d)^2) at KAN_BASES centres c over [-2, 2], d apart; [...] -> [..., KAN_BASES] (FastKAN)."""
    centres = torch.linspace(-RADIAL_REACH, RADIAL_REACH, KAN_BASES, dtype=x.dtype, device=x.device)
    distance = 2 * RADIAL_REACH / (KAN_BASES - 1)
    return torch.exp(-(((x.unsqueeze(-1) - centres) / distance) ** 2))


def fourier(x: Tensor) -> Tensor:
    """cos(n x) and sin(n x) of the frequencies n = 1, 2, ...; [...] -> [..., KAN_BASES]."""
    waves = x.unsqueeze(-1) * torch.arange(1, KAN_BASES // 2 + 1, dtype=x.dtype, device=x.device)
    return torch.cat([waves.cos(), waves.sin()], -1)


BASES: dict[str, Callable[[Tensor], Tensor]] = {"radial": radial, "fourier": fourier}


class Kan(nn.Module):
    """Two layers, D -> hidden -> D: y_j = sum_i (w_ji silu(x_i) + sum_k c_jik b_k(x_i)) (Liu et al. 2024, eq. 2.10)."""

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__()
        self.basis = BASES[str(term.value("basis"))]
        self.up = nn.Linear(widths.model * (KAN_BASES + 1), widths.hidden, bias=False)
        self.down = nn.Linear(widths.hidden * (KAN_BASES + 1), widths.model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs: Tensor = self.down(self.edges(self.up(self.edges(x))))
        return outputs

    def edges(self, x: Tensor) -> Tensor:
        """What an edge sums, [..., C] -> [..., C (1 + KAN_BASES)]: the SiLU and the basis of every channel."""
        return torch.cat([functional.silu(x).unsqueeze(-1), self.basis(x)], -1).flatten(-2)


class Ista(nn.Module):
    """relu(x + eta D^T (x - D x) - eta lambda), D [D, D] (Yu et al. 2023, CRATE, arXiv:2306.01129)."""

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__()
        self.dictionary = nn.Linear(widths.model, widths.model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        left = x - self.dictionary(x)
        return functional.relu(x + ISTA_STEP * (left @ self.dictionary.weight) - ISTA_STEP * ISTA_SPARSITY)


class Ensemble(nn.Module):
    """The mean of the members; a member scales what goes into and comes out of the shared matrices (TabM).

    Members start apart by random signs of their inputs; all other scales start at one.
    """

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__()
        members = term.integer("members")
        self.up = nn.Linear(widths.model, widths.hidden, bias=False)
        self.down = nn.Linear(widths.hidden, widths.model, bias=False)
        self.into_up = nn.Parameter(2.0 * torch.randint(2, (members, widths.model)) - 1)
        self.out_of_up = nn.Parameter(torch.ones(members, widths.hidden))
        self.into_down = nn.Parameter(torch.ones(members, widths.hidden))
        self.out_of_down = nn.Parameter(torch.ones(members, widths.model))

    def forward(self, x: Tensor) -> Tensor:
        hidden = functional.relu(self.up(x.unsqueeze(-2) * self.into_up) * self.out_of_up)
        each: Tensor = self.down(hidden * self.into_down) * self.out_of_down
        return each.mean(-2)


CHANNELS: dict[str, Callable[[Term, Widths], nn.Module]] = {
    "mlp": Mlp,
    "glu": Glu,
    "moe": MixtureOfExperts,
    "grouped_moe": GroupedExperts,
    "kan": Kan,
    "ista": Ista,
    "ensemble": Ensemble,
}


def make_channel(term: Term, widths: Widths) -> nn.Module | None:
    """The module of a channel mixer, or None for `none`."""
    kind = CHANNELS.get(term.operation.name)
    return kind(term, widths) if kind else None
