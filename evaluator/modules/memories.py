"""Recurrences that run token by token on a state [B, H, K, V], for what no kernel of finite rank expresses.

Across sequences a query reads the state at the source's end; where causality is not asked the two directions are
averaged. A decoder keeps the state.
"""

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.served import selective_scan


class Recurrence(Operator):
    """The first argument reads; the others, from the key side, drive the state, the first of them [B, S, H, K]."""

    def run(self, query: Tensor, drive: list[Tensor], state: Tensor | None, *, dense: bool) -> tuple[Tensor, Tensor]:
        """What the queries read [B, T, H, V], and the state after the last token; `dense` asks for the oracle."""
        raise NotImplementedError(type(self).__name__)

    def forward(self, flow: Flow) -> Tensor:
        query = spread(self.inputs[0](flow), self.heads)
        drive = [spread(each(flow.keys), self.heads) for each in list(self.inputs)[1:]]
        if flow.pattern.cross:
            _, end = self.run(drive[0], drive, None, dense=flow.dense)
            return torch.einsum("bthk,bhkv->bthv", query, end)
        state = None if flow.cache is None else flow.cache.get(self)
        ahead, end = self.run(query, drive, state, dense=flow.dense)
        if flow.cache is not None:
            flow.cache[self] = end
        if flow.pattern.causal:
            return ahead
        back, _ = self.run(query.flip(1), [each.flip(1) for each in drive], None, dense=flow.dense)
        return (ahead + back.flip(1)) / 2


class Scan(Recurrence):
    """S6 (Gu and Dao 2023, algorithm 2). Rates start at 1, 2, ..., K, as there."""

    def prepare(self) -> None:
        rates = torch.arange(1, self.shape.key + 1, dtype=torch.get_default_dtype()).log()
        self.rate = nn.Parameter(rates[:, None].repeat(self.heads, 1, self.shape.value))

    def run(self, query: Tensor, drive: list[Tensor], state: Tensor | None, *, dense: bool) -> tuple[Tensor, Tensor]:
        key, step, value = drive
        out = selective_scan(
            query,
            key,
            value,
            step=step,
            rate=-self.rate.exp(),
            initial_state=state,
            return_state=True,
            backend="reference" if dense else "chunked",
        )
        assert isinstance(out, tuple)
        return out


class Erase(Recurrence):
    """Reading, erasing and adding as a neural Turing machine does (Graves et al. 2014, section 3).

    A slot keeps the share 1 - w e of itself, between 0 and 1. No pass serves it: the oracle is the same loop.
    """

    def run(self, query: Tensor, drive: list[Tensor], state: Tensor | None, *, dense: bool) -> tuple[Tensor, Tensor]:
        write, rubber, added = drive
        memory = start(query, added) if state is None else state
        read = []
        for r, w, e, a in zip(*(each.unbind(1) for each in (query, write, rubber.sigmoid(), added)), strict=True):
            w = w.unsqueeze(-1)
            memory = memory * (1 - w * e.unsqueeze(-2)) + w * a.unsqueeze(-2)
            read.append((r.unsqueeze(-1) * memory).sum(-2))
        return torch.stack(read, 1), memory


class Resonance(Recurrence):
    """M_t = (1 - g) M_{t-1} + g rho k v^T with rho = sigmoid(c <M_{t-1}^T k, v> / (1 + |v|^2) + b), 0 < c < 4.

    Bounded: M is a running average of rho k v^T with |k| = 1. Its own feedback multiplies a change of M by at most
    1 - g + g rho (1 - rho) c |v|^2 / (1 + |v|^2) < 1, so that gradients do not grow with the length.
    """

    def prepare(self) -> None:
        self.agreement = nn.Parameter(torch.zeros(self.heads))
        self.bias = nn.Parameter(torch.zeros(self.heads))

    def run(self, query: Tensor, drive: list[Tensor], state: Tensor | None, *, dense: bool) -> tuple[Tensor, Tensor]:
        key, gate, value = drive
        memory = start(query, value) if state is None else state
        strength = 4 * torch.sigmoid(self.agreement) / (1 + value.square().sum(-1))  # [B, T, H]
        read = []
        for q, k, g, v, c in zip(*(each.unbind(1) for each in (query, key, gate, value, strength)), strict=True):
            recalled = (k.unsqueeze(-1) * memory).sum(-2)
            relevance = torch.sigmoid(c * (recalled * v).sum(-1) + self.bias)
            written = (g * relevance)[..., None, None] * k.unsqueeze(-1) * v.unsqueeze(-2)
            memory = (1 - g)[..., None, None] * memory + written
            read.append((q.unsqueeze(-1) * memory).sum(-2))
        return torch.stack(read, 1), memory


def start(key: Tensor, value: Tensor) -> Tensor:
    """An empty memory, [B, H, K, V]."""
    return key.new_zeros(key.shape[0], key.shape[2], key.shape[3], value.shape[3])


MODULES: dict[str, type[Operator]] = {"scan": Scan, "erase": Erase, "resonance": Resonance}
