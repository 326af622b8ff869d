"""Mixtures of experts: gated units E_i, weighed token by token by a softmax router. x: [B, T, D] -> [B, T, D]."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.search_space.costs import Widths
from archloom.search_space.operations.channels import GROUP_RANK, GROUPS
from archloom.search_space.terms import Term


class Experts(nn.Module):
    """Gated units side by side, each of the whole hidden width, and their router."""

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__()
        count, width, hidden = term.integer("experts"), widths.model, widths.hidden
        self.router = nn.Linear(width, count, bias=False)
        self.gate = nn.Parameter(spread_evenly(count, hidden, width))
        self.up = nn.Parameter(spread_evenly(count, hidden, width))
        self.down = nn.Parameter(spread_evenly(count, width, hidden))

    def outputs(self, x: Tensor) -> Tensor:
        """What every expert says of every token, [B, T, experts, D]."""
        gates = functional.silu(torch.einsum("btd,ehd->bteh", x, self.gate))
        return torch.einsum("bteh,edh->bted", gates * torch.einsum("btd,ehd->bteh", x, self.up), self.down)

    def shares(self, x: Tensor) -> Tensor:
        """[B, T, experts], a row sums to one."""
        return torch.softmax(self.router(x), -1)


class MixtureOfExperts(Experts):
    """Each token is the sum of its `active` best experts by the router's share, times it (Fedus et al. 2021, eq. 2).

    No expert has a capacity, so a token's output depends on nothing but the token. The experts that a token leaves out
    add nothing to it but get the gradient they would have without the choice (straight through): none ever starves.
    """

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__(term, widths)
        self.active = term.integer("active")

    def forward(self, x: Tensor) -> Tensor:
        shares = self.shares(x)
        chosen = torch.zeros_like(shares).scatter(-1, shares.topk(self.active, -1).indices, 1.0)
        weighed = shares.unsqueeze(-1) * self.outputs(x)
        left_out = (1 - chosen).unsqueeze(-1) * weighed
        outputs: Tensor = (weighed - left_out.detach()).sum(-2)
        return outputs


class GroupedExperts(Experts):
    """Experts in groups; the outputs of one group attend to each other before the router weighs them (MIGA)."""

    def __init__(self, term: Term, widths: Widths) -> None:
        super().__init__(term, widths)
        self.query = nn.Linear(widths.model, GROUP_RANK, bias=False)
        self.key = nn.Linear(widths.model, GROUP_RANK, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        outputs = self.outputs(x)
        outputs = outputs.view(*x.shape[:2], GROUPS, -1, x.shape[-1])  # [B, T, groups, experts of a group, D]
        scores = self.query(outputs) @ self.key(outputs).transpose(-1, -2) / math.sqrt(GROUP_RANK)
        agreed = (torch.softmax(scores, -1) @ outputs).flatten(-3, -2)
        return torch.einsum("bte,bted->btd", self.shares(x), agreed)


def spread_evenly(*shape: int) -> Tensor:
    """Uniform in +-1/sqrt(inputs), as the weights of linear maps start."""
    return torch.empty(shape).uniform_(-1, 1) / math.sqrt(shape[-1])
