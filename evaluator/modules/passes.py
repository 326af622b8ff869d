"""Lowering: `apply` and `resolve` choose a pass by the attributes of their kernel (see `search_space/plans.py`).

Each pass is one call of a kernel-library function with its own state. The reader and writer of a delta rule that share
keys and decay are fused into one. Under `flow.dense` everything runs as the literal L x L operator.
"""

import math

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import Flow, Operator, spread
from archloom.evaluator.modules.scores import Filter, widen
from archloom.kernels.attention import attention
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.resolvent import delta_rule, resolvent
from archloom.search_space.plans import Form, Plan, fuses, plan
from archloom.search_space.terms import Term


class Pass(Operator):
    """`apply` or `resolve`. The modules of the plan's parts are those of the kernel's own tree."""

    inner: Plan | None = None

    def bind(self, modules: dict[int, Operator]) -> None:
        """Reads the plan off the term and finds its parts among the mixer's modules, by term node."""
        self.plan = plan(self.term.arguments[0])
        body = self.term.arguments[1]
        if body.operation.name == "resolve":
            inner = plan(body.arguments[0])
            self.inner = inner if self.term.operation.name == "apply" and fuses(self.plan, inner) else None
        parts = [part for each in (self.plan, self.inner) if each is not None for part in each.parts]
        self.parts = {id(node): modules[id(node)] for node in parts}

    def forward(self, flow: Flow) -> Tensor:
        if flow.dense:
            return self.densely(flow)
        match self.plan.form:
            case Form.LINEAR if self.inner is not None:
                return self.delta(flow, self.inner)
            case Form.LINEAR:
                return self.linear(flow)
            case Form.SOFTMAX:
                return self.softmax(flow)
            case Form.TOEPLITZ:
                return self.convolve(flow)
            case Form.DENSE:
                return self.densely(flow)

    # -- the parts of a plan ----------------------------------------------------------------------------------------

    def part(self, flow: Flow, node: Term | None) -> Tensor:
        assert node is not None
        return self.parts[id(node)](flow)

    def head_decay(self, flow: Flow, the: Plan) -> Tensor | None:
        """The summed head decays, [B, T, H]."""
        parts = [self.part(flow, each) for each in the.head_decays]
        return sum(parts[1:], parts[0]) if parts else None

    def log_decay(self, flow: Flow, the: Plan) -> Tensor | None:
        """All decays: None, [B, T, H] or [B, T, H, K]."""
        head = self.head_decay(flow, the)
        if the.channel_decay is None:
            return head
        channel = self.part(flow, the.channel_decay)
        return channel if head is None else channel + head.unsqueeze(-1)

    def query_and_key(self, flow: Flow, the: Plan) -> tuple[Tensor, Tensor]:
        """Both [B, T, H, rank]; the query carries the scale K^-1/2 of `dot`, or the gate of `gram`."""
        k = spread(self.part(flow, the.key), self.heads)
        # A gram reads one node twice: running it twice would advance its state twice.
        q = k if the.query is the.key else spread(self.part(flow, the.query), self.heads)
        if the.taylor:
            return taylor_features(q), taylor_features(k)
        if the.gate is not None:
            return q * self.part(flow, the.gate).unsqueeze(-1), k
        return q / math.sqrt(q.shape[-1]), k

    # -- the passes ---------------------------------------------------------------------------------------------------

    def linear(self, flow: Flow) -> Tensor:
        q, k = self.query_and_key(flow, self.plan)
        value = spread(self.inputs[1](flow), self.heads)
        state = None if flow.cache is None else flow.cache.get(self)
        decay = self.log_decay(flow, self.plan)
        if self.term.operation.name == "resolve":
            out = resolvent(q, k, value, log_decay=decay, initial_state=state, return_state=flow.cache is not None)
        else:
            out = linear_attention(
                q,
                k,
                value,
                log_decay=decay,
                normalise=self.plan.normalised,
                initial_state=state,
                return_state=flow.cache is not None,
            )
        return self.kept(flow, out)

    def delta(self, flow: Flow, inner: Plan) -> Tensor:
        q, k = self.query_and_key(flow, self.plan)
        writer = self.inputs[1]
        assert isinstance(writer, Pass)
        b = spread(self.part(flow, inner.key), self.heads) * self.part(flow, inner.gate).unsqueeze(-1)
        value = spread(writer.inputs[1](flow), self.heads)
        state = None if flow.cache is None else flow.cache.get(self)
        return self.kept(
            flow,
            delta_rule(
                q,
                b,
                k,
                value,
                log_decay=self.log_decay(flow, self.plan),
                initial_state=state,
                return_state=flow.cache is not None,
            ),
        )

    def kept(self, flow: Flow, out: Tensor | tuple[Tensor, Tensor]) -> Tensor:
        if flow.cache is None:
            assert isinstance(out, Tensor)
            return out
        result, flow.cache[self] = out
        return result

    def softmax(self, flow: Flow) -> Tensor:
        q = spread(self.part(flow, self.plan.query), self.heads)
        keep = None if self.plan.window is None else self.plan.window - 1
        k = flow.history(self.keys, self.part(flow, self.plan.key), keep=keep)
        v = flow.history(self.values, self.inputs[1](flow), keep=keep)
        groups = max(k.shape[2], v.shape[2])
        decay = self.head_decay(flow, self.plan)
        return attention(
            q,
            spread(k, groups),
            spread(v, groups),
            log_decay=None if decay is None else flow.history(self.decays, decay, keep=keep),
            window=self.plan.window,
        )

    def convolve(self, flow: Flow) -> Tensor:
        filter_module = self.inputs[0].inputs[0]
        assert isinstance(filter_module, Filter)
        value = spread(self.inputs[1](flow), self.heads).flatten(2)
        whole = flow.history(self.values, value)
        mixed = long_convolution(
            value,
            filter_module.taps(whole.shape[1]),
            history=whole[:, : flow.past] if flow.past else None,
            backend="reference" if flow.dense else "chunked",
        )
        return mixed.view(*mixed.shape[:2], self.heads, -1)

    def densely(self, flow: Flow) -> Tensor:
        if self.plan.form is Form.TOEPLITZ:
            return self.convolve(flow)
        kernel = widen(self.inputs[0](flow), self.heads)  # [B, H, T, S]
        value = spread(self.inputs[1](flow), self.heads)
        if self.term.operation.name == "apply":
            return torch.einsum("bhts,bshv->bthv", kernel, flow.history(self.values, value))
        return self.resolve_densely(flow, kernel, value)

    def resolve_densely(self, flow: Flow, kernel: Tensor, value: Tensor) -> Tensor:
        """(I + strict(K)) z = x by forward substitution, given the z of earlier segments."""
        x, past = value.transpose(1, 2), flow.past
        if past:
            assert flow.cache is not None
            x = x - kernel[..., :past] @ flow.cache[self.values].transpose(1, 2)
        strict = kernel[..., past:].tril(-1)
        eye = torch.eye(strict.shape[-1], dtype=x.dtype, device=x.device)
        solved: Tensor = torch.linalg.solve_triangular(eye + strict, x, upper=False, unitriangular=True)
        z = solved.transpose(1, 2)
        flow.history(self.values, z)
        return z

    def prepare(self) -> None:
        # Owners of the histories this pass keeps: a module may own only one cache entry.
        self.keys, self.values, self.decays = nn.Identity(), nn.Identity(), nn.Identity()


def taylor_features(x: Tensor) -> Tensor:
    """[..., K] -> [..., 1 + K + K^2] with <f(q), f(k)> = 1 + s + s^2 / 2 at s = <q, k> / sqrt(K)."""
    x = x / x.shape[-1] ** 0.25
    square = (x.unsqueeze(-1) * x.unsqueeze(-2)).flatten(-2) / math.sqrt(2)
    return torch.cat([torch.ones_like(x[..., :1]), x, square], -1)
