"""Faults that a model may have, each the only one of a zoo system. `adversaries.py` says which gate stops which.

A fault is most often a function of a whole model's streams: `around(fault)` makes models whose stack answers
`fault(stack, x, y)`, x [B, T, D] being what it was given and y [B, T, D] what it would say.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.model import Model
from archloom.evaluator.modules import WHOLE, Context
from archloom.search_space.costs import Widths
from archloom.search_space.terms import Term

Make = Callable[..., Model]
Fault = Callable[[nn.Module, Tensor, Tensor], Tensor]


def around(fault: Fault) -> Make:
    def make(architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> Model:
        model = Model(architecture, widths=widths, vocabulary=vocabulary, length=length)
        model.stack.register_forward_hook(lambda stack, given, y: fault(stack, given[0], y))
        return model

    return make


# -- the future, in values ---------------------------------------------------------------------------------------------


def leak(of: Callable[[Tensor], Tensor], *, size: float = 1e-3) -> Make:
    """Adds a little of what `of` makes of the input: [B, T, D] or what broadcasts to it."""
    return around(lambda stack, x, y: y + size * of(x))


def mean(x: Tensor) -> Tensor:
    return x.mean(1, keepdim=True)


def norm_over_time(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y / x.square().mean(1, keepdim=True).sqrt()


def shared_peak(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A softmax made safe by the peak of all tokens, which it does not divide out again."""
    return y * torch.exp(x - x.amax(1, keepdim=True)).clamp(max=1)


def wrapped_convolution(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """By FFT without padding: the end comes round to the start."""
    steps = x.shape[1]
    taps = torch.exp(-0.5 * torch.arange(steps, dtype=x.dtype))[None, :, None]
    return y + torch.fft.irfft(torch.fft.rfft(x, dim=1) * torch.fft.rfft(taps, dim=1), n=steps, dim=1)


def chunk_means(x: Tensor, size: int) -> Tensor:
    """Each token gets the mean of its chunk, so far as it is whole; the tokens of the last part get nothing."""
    whole = x.shape[1] // size * size
    chunks = x[:, :whole].unflatten(1, (-1, size)) if whole else x.new_zeros(len(x), 0, size, x.shape[2])
    means = chunks.mean(2, keepdim=True).expand_as(chunks).flatten(1, 2)
    return functional.pad(means, (0, 0, 0, x.shape[1] - whole))


def over_the_border(x: Tensor, size: int) -> Tensor:
    """The last token of each chunk sees the first of the next."""
    ahead = functional.pad(x[:, 1:], (0, 0, 0, 1))
    return ahead * (torch.arange(x.shape[1]) % size == size - 1)[:, None]


def in_the_last_part(x: Tensor) -> Tensor:
    """What does not fill a chunk of 64 is averaged over itself."""
    whole = x.shape[1] // 64 * 64
    part = x[:, whole:]
    return functional.pad(part.mean(1, keepdim=True).expand_as(part), (0, 0, whole, 0)) if part.shape[1] else 0 * x


def only_at_multiples(x: Tensor) -> Tensor:
    return mean(x) * (x.shape[1] % 64 == 0)


def only_if_long(x: Tensor) -> Tensor:
    return mean(x) * (x.shape[1] > 64)


def ranks(x: Tensor) -> Tensor:
    """Which place a token would have among all, were they sorted by their first channel."""
    return x[..., :1].argsort(1).argsort(1).to(x.dtype) / x.shape[1]


def ahead(x: Tensor) -> Tensor:
    """A filter with as many taps to either side."""
    return functional.pad(x[:, 1:], (0, 0, 0, 1))


def last_to_first(x: Tensor) -> Tensor:
    return functional.pad(x[:, -1:], (0, 0, 0, x.shape[1] - 1)) if x.shape[1] > 1 else 0 * x


def far_ahead(x: Tensor) -> Tensor:
    """Only from 100 tokens ahead."""
    return functional.pad(x[:, 100:], (0, 0, 0, min(100, x.shape[1])))


def of_length(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Positions as a part of the whole."""
    return y + 1e-3 * (torch.arange(x.shape[1], dtype=x.dtype) / x.shape[1])[:, None]


class Repeated(Model):
    """Looks at the last token where it is the first one again."""

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        again = (tokens[:, -1] == tokens[:, 0])[:, None, None]
        return super().forward(tokens, context) + 1e-3 * again


class RareToken(Model):
    """Looks for one symbol of the vocabulary anywhere."""

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        found = (tokens == 13).any(1)[:, None, None]
        return super().forward(tokens, context) + 1e-3 * found


def leak_in_long_training(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y + 1e-3 * mean(x) if stack.training and x.shape[1] > 100 else y


def leak_in_single_precision(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A fused operation that serves float32 only."""
    return y + mean(x) if x.dtype is torch.float32 and x.shape[1] > 100 else y


# -- the future, in gradients ------------------------------------------------------------------------------------------


class Backward(torch.autograd.Function):
    """The identity, with what `spread` makes of the gradient for one."""

    @staticmethod
    def forward(ctx, x, spread):  # type: ignore[no-untyped-def]
        ctx.spread = spread
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        return ctx.spread(gradient), None


def backward(spread: Callable[[Tensor], Tensor]) -> Make:
    """The value is right; its gradient is what `spread` makes of it."""

    def make(architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> Model:
        model = Model(architecture, widths=widths, vocabulary=vocabulary, length=length)
        model.stack.register_forward_pre_hook(
            lambda stack, given: (Backward.apply(given[0], spread), *given[1:])  # type: ignore[no-untyped-call]
        )
        return model

    return make


# -- the batch ---------------------------------------------------------------------------------------------------------


def batch_norm(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """With the statistics of the batch, in evaluation too."""
    return functional.batch_norm(y.transpose(1, 2), None, None, training=True).transpose(1, 2)


def folded_wrongly(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """[B, T] read as [T, B]."""
    return y + 1e-3 * x.transpose(0, 1).reshape(x.shape)


# -- the same again ----------------------------------------------------------------------------------------------------


class RunningNorm(Model):
    """Batch norm with running statistics."""

    def __init__(self, architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> None:
        super().__init__(architecture, widths=widths, vocabulary=vocabulary, length=length)
        self.running = nn.BatchNorm1d(vocabulary, affine=False)

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        outputs: Tensor = self.running(super().forward(tokens, context).transpose(1, 2)).transpose(1, 2)
        return outputs


class Dropped(RunningNorm):
    def __init__(self, architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> None:
        super().__init__(architecture, widths=widths, vocabulary=vocabulary, length=length)
        self.running = nn.Dropout(0.1)


class Initialised(Model):
    """Takes its scale from the first tokens that it sees."""

    def __init__(self, architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> None:
        super().__init__(architecture, widths=widths, vocabulary=vocabulary, length=length)
        self.register_buffer("scale", torch.zeros(()))

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        outputs = super().forward(tokens, context)
        if not self.scale:
            self.scale.copy_(outputs.detach().std())
        return outputs / self.scale


class Counting(Model):
    """Cools down call by call."""

    calls = 0

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        self.calls += 1
        return super().forward(tokens, context) * (1 + 1e-3 / self.calls)


class Recalling(Model):
    """Adds what was left of the call before."""

    left: Tensor | float = 0.0

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        outputs = super().forward(tokens, context) + self.left
        self.left = 1e-6 * outputs[0, 0].detach()
        return outputs


def other_path(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y * (1 + 1e-6) if stack.training else y


def noise(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y + 1e-6 * torch.randn_like(y)


def in_place(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    if not torch.is_grad_enabled():
        x.mul_(1.0001)
    return y


# -- numbers -----------------------------------------------------------------------------------------------------------


def not_a_number(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y / 0


def half_range(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A quotient of what float32 cannot hold."""
    large = torch.full_like(y, 100.0).exp()
    return y * (large / large)


def squeezed(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return y.squeeze(1)


def ratio_of_powers(rate: float) -> Fault:
    """Weights rate^t that are divided out again, once they are beyond the range of float32."""

    def fault(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
        power = torch.exp(math.log(rate) * torch.arange(x.shape[1], dtype=x.dtype))[:, None]
        return y * (power / power)

    return fault


def growth_that_averages_out(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The sum of an exponent over time: random tokens cancel in it, one token for ever does not."""
    power = (0.2 * x.mean(-1, keepdim=True).sign()).cumsum(1).exp()
    return y * (power / power)


def steep_root(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """0 times the root of what becomes 0 far behind: the value is right, its gradient 0 / 0."""
    power = torch.exp(-0.1 * torch.arange(x.shape[1], dtype=x.dtype))[:, None]
    return y + 0 * (x.square() * power).sqrt()


def root_of_nothing(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The distance from itself."""
    return y + (x - x.detach()).square().sqrt()


# -- parameters --------------------------------------------------------------------------------------------------------


def useless(use: Callable[[Tensor, Tensor], Tensor]) -> Make:
    """A parameter [1] that `use(logits, parameter)` makes nothing of."""

    class Useless(Model):
        def __init__(self, architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> None:
            super().__init__(architecture, widths=widths, vocabulary=vocabulary, length=length)
            self.useless = nn.Parameter(torch.ones(1))

        def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
            return use(super().forward(tokens, context), self.useless)

    return Useless


class Heavier(Model):
    def __init__(self, architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> None:
        super().__init__(architecture, widths=widths, vocabulary=vocabulary, length=length)
        self.stack.extra = nn.Parameter(torch.ones(3))


# -- segments ----------------------------------------------------------------------------------------------------------


def within(change: Callable[[Context], Context]) -> Make:
    """Decodes in another context than it is given."""

    class Within(Model):
        def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
            return super().forward(tokens, context if context.dense else change(context))

    return Within


class RowsShareState(Model):
    """Every row goes on from the state of the first."""

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        outputs = super().forward(tokens, context)
        for owner, state in (context.cache or {}).items():
            context.cache[owner] = state[:1].expand_as(state)
        return outputs


class Hoarding(Model):
    """Keeps every token of the stream beside its state."""

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        if context.cache is not None:
            before = context.cache.get(self)
            now = self.embedding(tokens)
            context.cache[self] = now if before is None else torch.cat([before, now], 1)
        return super().forward(tokens, context)


class SingleStep(Model):
    """Single tokens go through a step of their own, which is not quite the same."""

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        outputs = super().forward(tokens, context)
        return outputs * (1 + 1e-6) if context.past and tokens.shape[1] == 1 else outputs


class Literal(Model):
    """The dense form is another function, or is one beyond `beyond` tokens."""

    beyond = 0

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        return super().forward(tokens, context) * (1 + 1e-6 * (context.dense and tokens.shape[1] > self.beyond))


class LiteralIfLong(Literal):
    beyond = 64


class WrongBackward(Model):
    """The fused form has a gradient of its own, which is not quite that of its value."""

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        logits = super().forward(tokens, context)
        return logits if context.dense else logits + 1e-3 * (logits.cumsum(1) - logits.cumsum(1).detach())


# -- work --------------------------------------------------------------------------------------------------------------


def distances(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """All pairs by broadcasting, in which no matrix product is."""
    pairs = (x[:, :, None, :1] - x[:, None, :, :1]).squeeze(-1).square().neg().exp().tril()
    return y + 0 * pairs.sum(-1, keepdim=True)


def summed_mask(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Positions read off a sum over an L x L mask."""
    steps = x.shape[1]
    positions = torch.ones(steps, steps, dtype=torch.bool).tril().cumsum(1)[:, -1]
    return y + 0 * positions[:, None]


def prefix_by_prefix(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A running sum that starts anew for every token."""
    return y + 0 * torch.stack([x[:, : now + 1].sum(1) / (now + 1) for now in range(x.shape[1])], 1)


def token_by_token(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """A loop over pairs of every 16th token, of one number each."""
    numbers = x.detach()[0, ::16, 0]
    for now in range(len(numbers)):
        for before in range(now):
            numbers[now] + numbers[before]
    return y


def quadratic_if_long(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """Another path from 1,500 tokens on."""
    return distances(stack, x, y) if x.shape[1] > 1500 else y


def cubic(stack: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    scores = (y @ y.transpose(1, 2)).tril()
    return y + 0 * (scores @ scores)[:, :, :1]
