"""Readouts: ways to mix values that are no kernel applied to them."""

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.masks import shown
from archloom.evaluator.modules.scores import lags
from archloom.evaluator.modules.served import linear_attention


class LocalLinear(Operator):
    """Local linear attention (Zuo et al. 2025, arXiv:2510.01450). The ridge is exp(log_ridge), in units of |k|^2."""

    linear_in_length = False

    def prepare(self) -> None:
        self.log_ridge = nn.Parameter(torch.zeros(self.heads))
        self.values = nn.Identity()  # owner of the values' history

    def forward(self, flow: Flow) -> Tensor:
        q = spread(self.inputs[0](flow), self.heads)
        k = flow.keys.history(self, spread(self.inputs[1](flow.keys), self.heads))
        v = flow.keys.history(self.values, spread(self.inputs[2](flow.keys), self.heads))
        return local_linear(q, k, v, ridge=self.log_ridge.exp(), mask=shown(flow))


def local_linear(q: Tensor, k: Tensor, v: Tensor, *, ridge: Tensor, mask: Tensor) -> Tensor:
    """The value at q_t of the weighted ridge regression of v on k: [B, T, H, V].

    q [B, T, H, K], k [B, S, H, K], v [B, S, H, V], ridge [H], mask [T, S]. With softmax weights p, mu and Sigma are the
    mean and the second moment of k - q, rho solves (Sigma + ridge I) rho = mu, and value s weighs
    p (1 - <k - q, rho>) / (1 - <mu, rho>).
    """
    scores = torch.einsum("bthk,bshk->bhts", q, k) / math.sqrt(q.shape[-1])
    weights = torch.softmax(scores.masked_fill(~mask, -torch.inf), -1)
    query, key = q.transpose(1, 2), k.transpose(1, 2)
    mean = weights @ key  # [B, H, T, K]
    squares = (key.unsqueeze(-1) * key.unsqueeze(-2)).flatten(-2)
    second = (weights @ squares).view(*mean.shape, -1)
    cross = mean.unsqueeze(-1) * query.unsqueeze(-2)
    moment = second - cross - cross.mT + query.unsqueeze(-1) * query.unsqueeze(-2)
    eye = torch.eye(key.shape[-1], dtype=q.dtype, device=q.device)
    offset = mean - query
    slope = torch.linalg.solve(moment + ridge[:, None, None, None] * eye, offset)
    slant = 1 + (query * slope).sum(-1, keepdim=True) - slope @ key.mT  # 1 - <k_s - q_t, rho_t>
    out: Tensor = (weights * slant) @ v.transpose(1, 2) / (1 - (offset * slope).sum(-1, keepdim=True))
    return out.transpose(1, 2)


class Spans(Operator):
    """Combiner with fixed spans (Ren et al. 2021, arXiv:2107.05768, section 4.1), all logits scaled by K^-1/2.

    A summary's key is the channelwise maximum of a span's keys; its value is attended to by the maximum of the span's
    queries. Where causality is not asked, later spans are summarised too.
    """

    linear_in_length = False

    def prepare(self) -> None:
        self.span = self.term.integer("span")
        self.open = nn.Identity()  # owner of the span that is not full yet

    def forward(self, flow: Flow) -> Tensor:
        q, k, v = (spread(each(flow), self.heads) for each in self.inputs)
        widths = [q.shape[-1], k.shape[-1], v.shape[-1]]
        joined = torch.cat([q, k, v], -1)
        before = None if flow.cache is None else flow.cache.get(self.open)
        rest = 0 if before is None else before.shape[1]
        whole = joined if before is None else torch.cat([before, joined], 1)
        length = whole.shape[1]
        missing = -length % self.span
        blocks = functional.pad(whole, (0, 0, 0, 0, 0, missing)).view(len(q), -1, self.span, self.heads, sum(widths))
        seen = torch.arange(length + missing, device=q.device).view(-1, self.span) < length  # [N, span]
        queries, keys, values = torch.split(blocks.transpose(2, 3), widths, -1)  # [B, N, H, span, C]
        summaries = self.summaries(queries, keys, values, seen)  # [B, N, H, K + V]
        full = length // self.span
        kept = (
            summaries
            if flow.cache is None
            else self.remembered(flow, summaries[:, :full], whole[:, full * self.span :])
        )
        out = self.attend(queries, keys, values, seen, kept, flow)
        return out.transpose(2, 3).flatten(1, 2)[:, rest:length]

    def summaries(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor) -> Tensor:
        """The key and the value of each span, [B, N, H, K + V]."""
        hidden = ~seen[:, None, :, None]
        query, key = (each.masked_fill(hidden, -torch.inf).amax(-2) for each in (q, k))
        scores = torch.einsum("bnhk,bnhsk->bnhs", query, k) / math.sqrt(k.shape[-1])
        weights = torch.softmax(scores.masked_fill(hidden[..., 0], -torch.inf), -1)
        return torch.cat([key, torch.einsum("bnhs,bnhsv->bnhv", weights, v)], -1)

    def remembered(self, flow: Flow, fresh: Tensor, rest: Tensor) -> Tensor:
        """All summaries so far; what is left of the last span waits for the next segment."""
        assert flow.cache is not None
        flow.cache[self.open] = rest
        return flow.history(self, fresh)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, seen: Tensor, summaries: Tensor, flow: Flow) -> Tensor:
        """One softmax over the own span and the summaries of the others: [B, N, H, span, V]."""
        scale = 1 / math.sqrt(k.shape[-1])
        inside = seen[:, None, :].expand(-1, self.span, -1)
        first = flow.past // self.span
        span = torch.arange(first, first + q.shape[1], device=q.device)[:, None]
        other = torch.arange(summaries.shape[1], device=q.device)
        if flow.pattern.causal:
            inside = inside & torch.ones(self.span, self.span, dtype=torch.bool, device=q.device).tril()
        outside = other < span if flow.pattern.causal else other != span  # [N, M]
        keys, values = torch.split(summaries, [k.shape[-1], v.shape[-1]], -1)
        direct = (q @ k.mT * scale).masked_fill(~inside[:, None], -torch.inf)
        indirect = torch.einsum("bnhsk,bmhk->bnhsm", q, keys) * scale
        indirect = indirect.masked_fill(~outside[:, None, None], -torch.inf)
        weights = torch.softmax(torch.cat([direct, indirect], -1), -1)
        near, far = torch.split(weights, [self.span, other.numel()], -1)
        out: Tensor = near @ v + torch.einsum("bnhsm,bmhv->bnhsv", far, values)
        return out


class Covariance(Operator):
    """Cross-covariance attention (El-Nouby et al. 2021, arXiv:2106.09681, eq. 2) over the tokens so far.

    The channels of q and k are correlated along time, and their softmax mixes the channels of v at each token. The
    state holds the V x V second moments, and in two more columns the squared lengths of the channels.
    """

    def prepare(self) -> None:
        self.temperature = nn.Parameter(torch.ones(self.heads))

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        q, k, v = (spread(each, self.heads) for each in arguments)
        moments = torch.cat([q.unsqueeze(-1) * k.unsqueeze(-2), q.square()[..., None], k.square()[..., None]], -1)
        moments = moments.cumsum(1) if flow.pattern.causal else moments.sum(1, keepdim=True)
        if flow.cache is not None:
            before = flow.cache.get(self)
            moments = moments if before is None else moments + before
            flow.cache[self] = moments[:, -1:]
        product, rows, columns = moments[..., :-2], moments[..., -2, None], moments[..., -1].unsqueeze(-2)
        correlation = product * torch.rsqrt(rows + 1e-6) * torch.rsqrt(columns + 1e-6)
        weights = torch.softmax(self.temperature[:, None, None] * correlation, -1)
        return (weights @ v.unsqueeze(-1)).squeeze(-1)


class AttentionFree(Operator):
    """AFT (Zhai et al. 2021, arXiv:2105.14103, eq. 2), its position biases by lag and zero beyond the window.

    The far past is one recurrence scaled by the largest exponent so far; the window is written out. Where causality is
    not asked a bias depends on the distance to either side.
    """

    def prepare(self) -> None:
        self.window = self.term.integer("window")
        self.bias = nn.Parameter(torch.zeros(self.heads, self.window))
        self.peak = nn.Identity()  # owners of what is kept beside the state
        self.recent = nn.Identity()

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        exponent, value = (spread(each, self.heads) for each in arguments)
        if not flow.pattern.causal or (flow.dense and flow.cache is None):
            return self.pairwise(flow, exponent, value)
        return self.recurrent(flow, exponent, value)

    def pairwise(self, flow: Flow, exponent: Tensor, value: Tensor) -> Tensor:
        """Every pair of tokens, [H, T, S]."""
        distance = lags(flow).abs()
        bias = self.bias[:, distance.clamp(max=self.window - 1)].masked_fill(distance >= self.window, 0)
        pairs = bias.exp() * shown(flow)
        weights = (exponent - exponent.amax(1, keepdim=True).detach()).exp()
        total = torch.einsum("hts,bshv->bthv", pairs, weights)
        outputs: Tensor = torch.einsum("hts,bshv->bthv", pairs, weights * value) / total
        return outputs

    def recurrent(self, flow: Flow, exponent: Tensor, value: Tensor) -> Tensor:
        batch, steps, heads, width = value.shape
        peak, growth = self.peaks(flow, exponent.detach())
        recent = flow.history(self.recent, torch.cat([exponent, value], -1), keep=self.window)
        missing = (0, 0, 0, 0, self.window + steps - recent.shape[1], 0)
        exponents = functional.pad(recent[..., :width], missing, value=-torch.inf)  # [B, W + T, H, V]
        values = functional.pad(recent[..., width:], missing)
        weigh = [(exponents.narrow(1, self.window - lag, steps) - peak).exp() for lag in range(self.window + 1)]
        columns = functional.pad(values.unsqueeze(-1), (0, 1), value=1.0)  # a column of ones sums the weights
        key = weigh[-1].reshape(batch, steps, heads * width, 1)
        out = linear_attention(
            torch.ones_like(key),
            key,
            columns[:, :steps].flatten(2, 3),
            log_decay=growth.flatten(2),
            initial_state=None if flow.cache is None else flow.cache.get(self),
            return_state=flow.cache is not None,
        )
        if flow.cache is not None:
            out, flow.cache[self] = out
        assert isinstance(out, Tensor)
        sums = out.view(batch, steps, heads, width, 2)
        for lag in range(self.window):
            near = (self.bias[:, lag, None].exp() * weigh[lag]).unsqueeze(-1)
            sums = sums + near * columns.narrow(1, self.window - lag, steps)
        return sums[..., 0] / sums[..., 1]

    def peaks(self, flow: Flow, exponent: Tensor) -> tuple[Tensor, Tensor]:
        """The largest exponent so far, and the log decay that brings the state from the peak before to this one."""
        before = None if flow.cache is None else flow.cache.get(self.peak)
        peak = exponent.cummax(1).values
        peak = peak if before is None else peak.maximum(before)
        if flow.cache is not None:
            flow.cache[self.peak] = peak[:, -1:]
        earlier = torch.cat([peak[:, :1] if before is None else before, peak[:, :-1]], 1)
        return peak, earlier - peak


class Maximum(Operator):
    """The running maximum; the mean of those from either end where causality is not asked."""

    def compute(self, flow: Flow, *arguments: Tensor) -> Tensor:
        (x,) = arguments
        peak = x.cummax(1).values
        if not flow.pattern.causal:
            return (peak + x.flip(1).cummax(1).values.flip(1)) / 2
        if flow.cache is not None:
            before = flow.cache.get(self)
            peak = peak if before is None else peak.maximum(before)
            flow.cache[self] = peak[:, -1:]
        return peak


MODULES: dict[str, type[Operator]] = {
    "local_linear": LocalLinear,
    "spans": Spans,
    "covariance": Covariance,
    "aft": AttentionFree,
    "maximum": Maximum,
}
