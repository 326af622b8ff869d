"""Channel mixers: what happens to each token on its own. x: [B, T, D] -> [B, T, D]."""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.experts import GroupedExperts, MixtureOfExperts
from archloom.search_space.costs import Widths
from archloom.search_space.operations.channels import KAN_BASES, SCAN_STATES
from archloom.search_space.terms import Term

KEPT_SHARE = 4
SMALLEST_THRESHOLD = 1e-12
RADIAL_REACH = 2.0
ISTA_STEP, ISTA_SPARSITY = 0.1, 0.1
STEP_BIAS = -2.0


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


def running_average(kept: Tensor, new: Tensor) -> Tensor:
    """h_c = kept_c h_{c-1} + (1 - kept_c) new_c along the first axis, from zero; `kept` lies in [0, 1]."""
    state, states = torch.zeros_like(new[0]), []
    for share, each in zip(kept.unbind(), new.unbind(), strict=True):
        state = torch.lerp(each, state, share)
        states.append(state)
    return torch.stack(states)


class ChannelScan(nn.Module):
    """W_3 ((y + g u) * silu(W_2 x)) with u = silu(W_1 x): the selective channel mixer of MambaMixer (Behrouz et al.
    2024, arXiv:2403.19888) on one token, whose hidden channels take the place of the steps.

    y_c = C_c (h_c + h'_c) sums a scan from the first channel and one from the last, each with N decay rates r = e^a:
    h_c = e^(-r s_c) h_{c-1} + (1 - e^(-r s_c)) B_c u_c, the exact discretisation of dh = r (B u - h). B = tanh(b u),
    C = tanh(c u) and the step s = softplus(d u + e) depend on the channel's own u. So |h| and |y| / 2 N are at most the
    largest |u|, and the output grows as that of a gated unit.

    Channels stand first and tokens last, [M, N, B T]: each of the M steps is one operation on neighbours in memory.
    """

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__()
        self.up = nn.Linear(widths.model, widths.hidden, bias=False)
        self.gate = nn.Linear(widths.model, widths.hidden, bias=False)
        self.down = nn.Linear(widths.hidden, widths.model, bias=False)
        self.rate = nn.Parameter(torch.arange(1.0, SCAN_STATES + 1).log().repeat(2, 1))
        self.step = nn.Parameter(torch.ones(widths.hidden))
        self.step_bias = nn.Parameter(torch.full((widths.hidden,), STEP_BIAS))
        self.write = nn.Parameter(torch.randn(widths.hidden, SCAN_STATES))
        self.read = nn.Parameter(torch.randn(widths.hidden, SCAN_STATES))
        self.skip = nn.Parameter(torch.ones(widths.hidden))

    def forward(self, x: Tensor) -> Tensor:
        u = functional.silu(self.up(x))
        scanned = self.scan(u.flatten(0, -2).T.contiguous()).T.view_as(u)
        outputs: Tensor = self.down((scanned + self.skip * u) * functional.silu(self.gate(x)))
        return outputs

    def scan(self, u: Tensor) -> Tensor:
        """y [M, P] of u [M, P]."""
        step = functional.softplus(self.step.unsqueeze(-1) * u + self.step_bias.unsqueeze(-1)).unsqueeze(1)
        written, read = (torch.tanh(weight.unsqueeze(-1) * u.unsqueeze(1)) for weight in (self.write, self.read))
        new = written * u.unsqueeze(1)  # [M, N, P]
        ahead, back = (torch.exp(-rate.exp().unsqueeze(-1) * step) for rate in self.rate)
        state = running_average(ahead, new) + running_average(back.flip(0), new.flip(0)).flip(0)
        return (read * state).sum(1)


CHANNELS: dict[str, Callable[[Term, Widths], nn.Module]] = {
    "mlp": Mlp,
    "glu": Glu,
    "moe": MixtureOfExperts,
    "grouped_moe": GroupedExperts,
    "kan": Kan,
    "ista": Ista,
    "ensemble": Ensemble,
    "channel_scan": ChannelScan,
}


def make_channel(term: Term, widths: Widths) -> nn.Module | None:
    """The module of a channel mixer, or None for `none`."""
    kind = CHANNELS.get(term.operation.name)
    return kind(term, widths) if kind else None
