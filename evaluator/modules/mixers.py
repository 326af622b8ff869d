"""Mixers: heads joined into the stream, and mixers made of mixers. x: [B, T, D] -> [B, T, D]."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import WHOLE, Context, Flow
from archloom.evaluator.modules.table import compile_mixer
from archloom.search_space.costs import Widths
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.plans import heads_of
from archloom.search_space.terms import Term


class Mixer(nn.Module):
    """Heads joined and projected back to the stream."""

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__()
        heads = term.integer("heads")
        shape = widths.shape(heads, length, inner=term.integer("inner"))
        self.pattern = pattern
        self.body = compile_mixer(term, widths=widths, length=length, pattern=pattern)
        self.output = nn.Linear(heads_of(term.arguments[0], heads) * shape.value, shape.width, bias=False)

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        outputs: Tensor = self.output(self.body(self.flow(x, context)).flatten(2))
        return outputs

    def flow(self, x: Tensor, context: Context) -> Flow:
        """The pass through the heads. The source of a cross pattern is read whole with every segment."""
        source = None
        if self.pattern.cross:
            if context.source is None:
                raise ValueError(f"a mixer under the {self.pattern.name} pattern needs a source to read")
            within = replace(self.pattern, cross=False)
            source = Flow(x=context.source, pattern=within, dense=context.dense)
        if context.cache is not None and not self.pattern.causal:
            raise ValueError("a noncausal mixer sees whole sequences only: it has no decode form")
        return Flow(
            x=x,
            pattern=self.pattern,
            source=source,
            earlier=context.earlier,
            past=context.past,
            cache=context.cache,
            dense=context.dense,
        )


class Together(nn.Module):
    """Mixers side by side, summed."""

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__()
        self.parts = nn.ModuleList(
            make_mixer(each, widths=widths, length=length, pattern=pattern) for each in term.arguments
        )

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        outputs: list[Tensor] = [part(x, context) for part in self.parts]
        return outputs[0] + outputs[1]


class Chain(Together):
    """The second mixer reads what the first one gives, and nothing else: also its `earlier` is that."""

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        first, second = self.parts
        outputs: Tensor = second(first(x, context), replace(context, earlier=None))
        return outputs


class Mixture(Together):
    """Mixers side by side, weighed token by token by a softmax router."""

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__(term, widths=widths, length=length, pattern=pattern)
        self.router = nn.Linear(widths.model, len(self.parts), bias=False)

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        shares = torch.softmax(self.router(x), -1)
        first, second = self.parts
        outputs: Tensor = shares[..., :1] * first(x, context) + shares[..., 1:] * second(x, context)
        return outputs


MIXERS: dict[str, type[nn.Module]] = {
    "mix": Mixer,
    "pointwise": Mixer,
    "together": Together,
    "chain": Chain,
    "mixture": Mixture,
}


def make_mixer(term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> nn.Module:
    return MIXERS[term.operation.name](term, widths=widths, length=length, pattern=pattern)
