"""Lowering: `apply` and `resolve` choose a pass by the attributes of their kernel (see `search_space/plans.py`).

Each pass is one call of a kernel-library function with its own state. The reader and writer of a delta rule that share
keys and decay are fused into one. Under `flow.dense` everything runs as the literal L x L operator.

A recurrence runs forward where causal. Across sequences it is read at the source's end; where causality is not asked it
runs both ways, and a resolvent is the mean of its two directions.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Flow, Operator, Shared, spread
from archloom.evaluator.modules.convolutions import Taps
from archloom.evaluator.modules.filters import Filter
from archloom.evaluator.modules.kernels import SMALLEST_ROW_SUM
from archloom.evaluator.modules.recurrences import STRONGEST_DECAY, Lrpe, over_slots, slot_decay
from archloom.evaluator.modules.scores import Quad, Temper, quad_features, taylor_features, visible_count, widen
from archloom.evaluator.modules.served import (
    attention,
    attention_resolvent,
    delta_rule,
    linear_attention,
    long_convolution,
    resolvent,
    sparse_state,
    unmasked_softmax,
    windowed_linear_attention,
    windowed_resolvent,
)
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.plans import Form, Plan, Product, fuses, latent_of, plan, remembered
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
        attends = self.plan.form in (Form.SOFTMAX, Form.SCORES)
        applied = body if self.term.operation.name == "apply" else None
        self.remembered = remembered(self.plan, applied, self.shape) if attends else ()
        self.parts = {id(node): modules[id(node)] for node in (*parts, *self.remembered, body)}
        self.owners = nn.ModuleList(nn.Identity() for _ in self.remembered)
        self.keys = nn.ModuleList(nn.Identity() for _ in self.plan.products)

    def forward(self, flow: Flow) -> Tensor:
        if self.term.operation.name == "resolve" and flow.pattern.cross:
            flow = self.within(flow)
        if flow.dense:
            return self.densely(flow)
        match self.plan.form:
            case Form.LINEAR if self.term.operation.name == "resolve":
                return self.resolve(flow)
            case Form.LINEAR if flow.pattern.cross:
                return self.read_end(flow)
            case Form.LINEAR if not flow.pattern.causal:
                return self.both_ways(flow)
            case Form.LINEAR if self.inner is not None:
                return self.delta(flow, self.inner)
            case Form.LINEAR if self.plan.route is not None and not self.plan.head_decays:
                return self.in_slots(flow)
            case Form.LINEAR:
                return self.linear(flow)
            case Form.WINDOWED if flow.pattern == CAUSAL:
                return self.in_window(flow)
            case Form.SOFTMAX if flow.pattern == CAUSAL and self.term.operation.name == "resolve":
                return self.resolve_attention(flow)
            case Form.SOFTMAX | Form.SCORES if flow.pattern == CAUSAL and self.term.operation.name == "apply":
                return self.attend(flow)
            case Form.SOFTMAX if not (self.plan.window or self.plan.head_decays or self.plan.damp):
                return self.unmasked_softmax(flow)
            case Form.TOEPLITZ:
                return self.convolve(flow)
            case Form.CIRCULAR:
                return self.convolve_around(flow)
            case Form.TAPS:
                return self.banded(flow)
            case _:
                return self.densely(flow)

    def within(self, flow: Flow) -> Flow:
        """The target on its own: a resolvent relates the tokens of one sequence."""
        cache = None if flow.cache is None else flow.cache.beside(self)
        pattern = replace(flow.pattern, cross=False)
        return Flow(x=flow.x, pattern=pattern, past=flow.past, cache=cache, dense=flow.dense)

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
        if the.route is not None:
            channel = slot_decay(channel, self.part(flow, the.route), self.shape.key)
        return channel if head is None else channel + head.unsqueeze(-1)

    def query_and_key(self, flow: Flow, the: Plan) -> tuple[Tensor, Tensor]:
        """Queries [B, T, H, rank] with the K^-1/2 of `dot` or the gate of `gram`, and keys [B, S, H, rank]."""
        q, k = self.joined_features(flow, the)
        k = spread(k, self.heads)
        if the.taylor:
            return taylor_features(q), taylor_features(k)
        if the.quad is not None:
            module = self.parts[id(the.quad)]
            assert isinstance(module, Quad)
            return quad_features(q, k, spread(module.shift[None, None, :, None], self.heads))
        if the.gate is not None:
            return q * self.part(flow, the.gate).unsqueeze(-1), k
        if the.rate is not None:
            return q, k * spread(self.part(flow, the.rate), self.heads)
        if the.turned is not None:
            turning = self.parts[id(the.turned)]
            assert isinstance(turning, Lrpe)
            return turning.turn(q, flow.past), turning.turn(k, flow.past)
        if the.route is not None:
            return over_slots(q, self.part(flow, the.route)), over_slots(k, self.part(flow.keys, the.route))
        return q, k

    def joined_features(self, flow: Flow, the: Plan) -> tuple[Tensor, Tensor]:
        """The features of all inner products side by side: queries [B, T, H, rank] with their K^-1/2, keys
        [B, S, G, rank]."""
        products = zip(the.products, self.keys, strict=True)
        queries, keys = zip(*[self.features(flow, each, the, owner) for each, owner in products], strict=True)
        return torch.cat(queries, -1), side_by_side(keys)

    def features(self, flow: Flow, product: Product, the: Plan, owner: nn.Module) -> tuple[Tensor, Tensor]:
        """Queries and keys of one inner product, in a window behind the keys that are still in it."""
        keep = the.held
        if product.key is None:
            sources = flow.keys.x.shape[1] + (0 if keep is None else min(flow.past, keep))
            return self.query(flow, product, the), flow.keys.x.new_ones(len(flow.keys.x), sources, 1, 1)
        k = self.part(flow.keys, product.key)
        # A gram reads one node twice: running it twice would advance its state twice.
        same = product.query is product.key and flow is flow.keys
        q = self.query(flow, product, the, known=k if same else None)
        return q, k if keep is None else flow.history(owner, k, keep=keep)

    def query(self, flow: Flow, product: Product, the: Plan, *, known: Tensor | None = None) -> Tensor:
        """The queries of one inner product with its K^-1/2 and temperatures, or ones for a constant."""
        if product.query is None:
            q = flow.x.new_ones(*flow.x.shape[:2], self.heads, 1)
        else:
            q = spread(self.part(flow, product.query) if known is None else known, self.heads)
        if the.gate is None and not the.exclusive:
            q = q / math.sqrt(q.shape[-1])
        for node in product.tempers:
            module = self.parts[id(node)]
            assert isinstance(module, Temper)
            q = q * spread(module.log_gain.exp()[None, None, :, None], self.heads)
        return q

    # -- the passes ---------------------------------------------------------------------------------------------------

    def linear(self, flow: Flow) -> Tensor:
        q, k = self.query_and_key(flow, self.plan)
        value = spread(self.inputs[1](flow), self.heads)
        divides = self.plan.normalised and not self.plan.sink  # the kernel itself
        out = self.kept(
            flow,
            linear_attention(
                q,
                k,
                value if divides else self.columns(value),
                log_decay=self.log_decay(flow, self.plan),
                normalise=divides,
                exclusive=self.plan.exclusive,
                initial_state=None if flow.cache is None else flow.cache.get(self),
                return_state=flow.cache is not None,
            ),
        )
        return out if divides else self.divided(flow, out)

    def in_slots(self, flow: Flow) -> Tensor:
        """Partitions: a state for each slot that tokens are routed to."""
        q, k = self.joined_features(flow, self.plan)
        route = self.part(flow, self.plan.route)
        out = sparse_state(
            q,
            spread(k, self.heads),
            self.columns(spread(self.inputs[1](flow), self.heads)),
            read=route,
            write=route,
            log_decay=self.part(flow, self.plan.channel_decay),
            initial_state=None if flow.cache is None else flow.cache.get(self),
            return_state=flow.cache is not None,
        )
        return self.divided(flow, self.kept(flow, out))

    def resolve(self, flow: Flow) -> Tensor:
        b, k = self.query_and_key(flow, self.plan)
        value = spread(self.inputs[1](flow), self.heads)
        decay = self.log_decay(flow, self.plan)
        if self.plan.exclusive:
            assert decay is not None
            decay = decay.clamp(min=STRONGEST_DECAY)
            b = b * torch.exp(-decay)  # takes back the decay of the present token
        if not flow.pattern.causal:
            flipped = None if decay is None else decay.flip(1)
            ahead = resolvent(b, k, value, log_decay=decay)
            back = resolvent(*(each.flip(1) for each in (b, k, value)), log_decay=flipped)
            assert isinstance(ahead, Tensor)
            assert isinstance(back, Tensor)
            return (ahead + back.flip(1)) / 2
        state = None if flow.cache is None else flow.cache.get(self)
        out = resolvent(b, k, value, log_decay=decay, initial_state=state, return_state=flow.cache is not None)
        return self.kept(flow, out)

    def in_window(self, flow: Flow) -> Tensor:
        """Applied or resolved over the tokens that the window still holds."""
        assert self.plan.window is not None
        keep = self.plan.held
        q, k = self.query_and_key(flow, self.plan)
        decay = self.log_decay(flow, self.plan)
        if decay is not None:
            decay = flow.history(self.decays, decay, keep=keep)
        value = self.inputs[1](flow)
        if self.term.operation.name == "apply":
            seen = self.columns(spread(flow.history(self.values, value, keep=keep), self.heads))
            out = windowed_linear_attention(q, k, seen, window=self.plan.window, log_decay=decay)
            return self.divided(flow, out)
        earlier = None if flow.cache is None else flow.cache.get(self.values)
        x = spread(value, self.heads)
        z = windowed_resolvent(q, k, x, window=self.plan.window, log_decay=decay, earlier=earlier)
        flow.history(self.values, z, keep=keep)
        return z

    def read_end(self, flow: Flow) -> Tensor:
        """Every query reads the state at the end of the source."""
        q, k = self.query_and_key(flow, self.plan)
        decay = self.log_decay(flow.keys, self.plan)
        if decay is not None:
            left = decay.sum(1, keepdim=True) - decay.cumsum(1)
            k = k * (left if left.dim() == 4 else left.unsqueeze(-1)).exp()
        state = torch.einsum("bshk,bshv->bhkv", k, self.columns(spread(self.inputs[1](flow.keys), self.heads)))
        return self.divided(flow, torch.einsum("bthk,bhkv->bthv", q, state))

    def both_ways(self, flow: Flow) -> Tensor:
        """A recurrence forward and one backward, the present counted once."""
        q, k = self.query_and_key(flow, self.plan)
        decay, value = self.log_decay(flow, self.plan), self.columns(spread(self.inputs[1](flow), self.heads))
        if decay is None:
            state = torch.einsum("bshk,bshv->bhkv", k, value)
            return self.divided(flow, torch.einsum("bthk,bhkv->bthv", q, state))
        alone = self.plan.exclusive
        ahead = linear_attention(q, k, value, log_decay=decay, exclusive=alone)
        back = linear_attention(*(each.flip(1) for each in (q, k, value)), log_decay=decay.flip(1), exclusive=alone)
        assert isinstance(ahead, Tensor)
        assert isinstance(back, Tensor)
        both = ahead + back.flip(1)
        return self.divided(flow, both if alone else both - (q * k).sum(-1, keepdim=True) * value)

    def columns(self, value: Tensor) -> Tensor:
        """The values, with a column of ones behind them that sums the rows if they are to be normalised."""
        return functional.pad(value, (0, 1), value=1.0) if self.plan.normalised else value

    def divided(self, flow: Flow, out: Tensor) -> Tensor:
        """Rows divided by their sum, which is the last column, or by the number of visible tokens."""
        if self.plan.averaged:
            return out / visible_count(flow).to(out.dtype)[:, None, None]
        if not self.plan.normalised:
            return out
        total = out[..., -1:]
        return out[..., :-1] / (1 + total if self.plan.sink else total.clamp(min=SMALLEST_ROW_SUM))

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

    def attend(self, flow: Flow) -> Tensor:
        q, k, before, decay = self.queries_and_kept(flow)
        v = self.recalled(flow, self.term.arguments[1], before)
        groups = max(k.shape[2], v.shape[2])
        k, v = spread(k, groups), spread(v, groups)
        function, window = self.plan.function, self.plan.window
        if function is None:
            k, v = self.behind_sink(k), self.behind_sink(v)
            out = attention(q, k, v, log_decay=decay, window=window, scale=1.0)
        else:
            v = self.columns(v)
            out = attention(q, k, v, log_decay=decay, window=window, scale=1.0, normaliser=function)
            out = self.divided(flow, out)
        return out if self.plan.damp is None else out * self.part(flow, self.plan.damp).unsqueeze(-1)

    def resolve_attention(self, flow: Flow) -> Tensor:
        q, k, _, decay = self.queries_and_kept(flow)
        z = attention_resolvent(
            q,
            k,
            spread(self.inputs[1](flow), self.heads),
            gate=self.part(flow, self.plan.damp),
            log_decay=decay,
            window=self.plan.window,
            scale=1.0,
            earlier=None if flow.cache is None else flow.cache.get(self.values),
        )
        flow.history(self.values, z, keep=self.plan.held)
        return z

    def queries_and_kept(self, flow: Flow) -> tuple[Tensor, Tensor, dict[int, Tensor], Tensor | None]:
        """Queries with all their products side by side; of all tokens kept and new, the keys likewise, what is
        remembered by term node, and the head decays."""
        q = torch.cat([self.query(flow, each, self.plan) for each in self.plan.products], -1)
        keep = self.plan.held
        before = {
            id(node): flow.history(owner, self.part(flow, node), keep=keep)
            for node, owner in zip(self.remembered, self.owners, strict=True)
        }
        k = side_by_side([self.recalled(flow, each, before) for each in self.plan.keys])
        decay = self.head_decay(flow, self.plan)
        return q, k, before, None if decay is None else flow.history(self.decays, decay, keep=keep)

    def recalled(self, flow: Flow, node: Term, before: dict[int, Tensor]) -> Tensor:
        """Keys or values of all that is kept, some of them expanded from latents only now."""
        source = latent_of(node)
        if source is None or id(source) not in before:
            return before[id(node)]
        expand = self.parts[id(node)]
        while isinstance(expand, Shared):
            expand = expand.inputs[0]
        return expand.compute(flow, before[id(source)])

    def behind_sink(self, x: Tensor) -> Tensor:
        """Keys or values [B, S, G, C] behind one of zeros, whose score is zero, if rows are divided by one plus their
        sum."""
        return functional.pad(x, (0, 0, 0, 0, 1, 0)) if self.plan.sink else x

    def unmasked_softmax(self, flow: Flow) -> Tensor:
        """Noncausal or cross: every query sees every source."""
        q, k = self.joined_features(flow, self.plan)
        k, value = self.behind_sink(k), self.behind_sink(self.inputs[1](flow.keys))
        return unmasked_softmax(*(spread(each, self.heads) for each in (q, k, value)))

    def convolve(self, flow: Flow) -> Tensor:
        """Causal, or with the same filter to both sides."""
        filter_module = self.inputs[0]
        assert isinstance(filter_module, Filter)
        value = spread(self.inputs[1](flow), self.heads).flatten(2)
        whole = flow.history(self.values, value)
        taps = filter_module.taps(whole.shape[1])
        convolved = partial(long_convolution, backend="reference") if flow.dense else long_convolution
        mixed = convolved(value, taps, history=whole[:, : flow.past] if flow.past else None)
        if not flow.pattern.causal:
            back = convolved(value.flip(1), taps).flip(1)
            mixed = mixed + back - taps[:, 0] * value
        return mixed.view(*mixed.shape[:2], self.heads, -1)

    def convolve_around(self, flow: Flow) -> Tensor:
        """Circular convolution: the product of the spectra."""
        value = spread(self.inputs[1](flow), self.heads)
        spectrum = widen(self.inputs[0](flow), self.heads).permute(0, 3, 1, 2)  # [B, T // 2 + 1, H, V]
        outputs: Tensor = torch.fft.irfft(torch.fft.rfft(value, dim=1) * spectrum, n=value.shape[1], dim=1)
        return outputs

    def banded(self, flow: Flow) -> Tensor:
        """The weights of each tap times the values that lie as far back."""
        taps = self.inputs[0]
        assert isinstance(taps, Taps)
        value = self.inputs[1](flow)
        steps, reached = value.shape[1], taps.width - 1
        whole = spread(flow.history(self.values, value, keep=reached), self.heads)
        missing, ahead = reached + steps - whole.shape[1], taps.ahead(flow)
        whole = functional.pad(whole, (0, 0, 0, 0, missing, ahead))
        weights = taps.weights(flow).unbind(-1)
        terms = [
            weight.unsqueeze(-1) * whole.narrow(1, reached + ahead - lag, steps) for lag, weight in enumerate(weights)
        ]
        return sum(terms[1:], terms[0])

    def densely(self, flow: Flow) -> Tensor:
        if self.plan.form is Form.TOEPLITZ:
            return self.convolve(flow)
        if self.plan.form is Form.CIRCULAR:
            return self.convolve_literally(flow)
        kernel = widen(self.inputs[0](flow), self.heads)  # [B, H, T, S]
        value = spread(self.inputs[1](flow.keys), self.heads)
        if self.term.operation.name == "apply":
            outputs: Tensor = torch.einsum("bhts,bshv->bthv", kernel, flow.keys.history(self.values, value))
            return outputs
        if flow.pattern.causal:
            return self.resolve_densely(flow, kernel, value)
        x, eye = value.transpose(1, 2), torch.eye(kernel.shape[-1], dtype=value.dtype, device=value.device)
        ahead, back = (
            torch.linalg.solve_triangular(eye + part, x, upper=upper, unitriangular=True)
            for part, upper in ((kernel.tril(-1), False), (kernel.triu(1), True))
        )
        both: Tensor = (ahead + back) / 2
        return both.transpose(1, 2)

    def convolve_literally(self, flow: Flow) -> Tensor:
        """A circulant matrix for every channel."""
        value = spread(self.inputs[1](flow), self.heads)
        steps = value.shape[1]
        response = torch.fft.irfft(widen(self.inputs[0](flow), self.heads), n=steps)  # [B, H, V, T]
        now = torch.arange(steps, device=value.device)
        matrix = response[..., (now[:, None] - now) % steps]
        outputs: Tensor = torch.einsum("bhvts,bshv->bthv", matrix, value)
        return outputs

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
        # Owners of the histories this pass keeps, as `owners` are: a module may own only one cache entry.
        self.values, self.decays = nn.Identity(), nn.Identity()


def side_by_side(keys: Sequence[Tensor]) -> Tensor:
    """The keys [B, S, G, K] of several products as one, for as many groups as the most of them have."""
    groups = max(each.shape[2] for each in keys)
    return torch.cat([spread(each, groups) for each in keys], -1)
