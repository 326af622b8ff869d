"""Stacks: blocks one after another, and blocks that are made of a stack. x: [B, T, D] -> [B, T, D]."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from archloom.evaluator.modules.base import WHOLE, Context
from archloom.evaluator.modules.blocks import BLOCKS, rms_norm
from archloom.search_space.costs import Widths
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.stacks import coarse_length, inside, layers
from archloom.search_space.terms import Term


class Layers(nn.Module):
    """The blocks of a stack in order. Each is told what the block before it received."""

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            make_block(each, widths=widths, length=length, pattern=pattern) for each in layers(term)
        )

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        earlier = x
        for block in self.blocks:
            earlier, x = x, block(x, replace(context, earlier=earlier))
        return x


class Averaged(Layers):
    """Each block reads a weighted average of the input and all earlier outputs, which starts as the last one."""

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__(term.arguments[0], widths=widths, length=length, pattern=pattern)
        self.averages = nn.ParameterList(torch.eye(n)[-1] for n in range(2, len(self.blocks) + 1))

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        outputs, earlier = [x], x
        for number, block in enumerate(self.blocks):
            if number:
                x = torch.einsum("n,nbtd->btd", self.averages[number - 1], torch.stack(outputs))
            outputs.append(block(x, replace(context, earlier=earlier)))
            earlier = x
        return outputs[-1]


class Unet(nn.Module):
    """The stack runs on pairs of tokens, blended channel by channel; what it says is added to the stream.

    Where causal, what it says of tokens 2i and 2i + 1 (from 0) is given to the tokens 2i + 1 and 2i + 2, since the pair
    is whole only then; else to its own two, and an odd last token is a pair with nothing.
    """

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__()
        self.causal = pattern.causal
        self.taps = nn.Parameter(torch.full((2, widths.model), 0.5))
        self.layers = Layers(inside(term), widths=widths, length=coarse_length(length, 2, pattern), pattern=pattern)

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        if self.causal:
            return x + self.known_so_far(x, context)
        steps = x.shape[1]
        said = self.layers(self.pairs(nn.functional.pad(x, (0, 0, 0, steps % 2))), context)
        outputs: Tensor = x + said.repeat_interleave(2, 1)[:, :steps]
        return outputs

    def pairs(self, x: Tensor) -> Tensor:
        """[B, 2 n, D] -> [B, n, D]."""
        first, second = self.taps
        blended: Tensor = first * x[:, ::2] + second * x[:, 1::2]
        return blended

    def known_so_far(self, x: Tensor, context: Context) -> Tensor:
        """For every token of the segment, the last coarse token that is known, or zero. [B, T, D]

        The cache keeps the last token, which may wait for its pair, and the last coarse one.
        """
        past, steps, cache = context.past, x.shape[1], context.cache
        kept = None if cache is None else cache.get(self)
        waiting = known = torch.zeros_like(x[:, :1])
        if kept is not None:
            waiting, known = kept[:, :1], kept[:, 1:]
        whole = torch.cat([waiting, x], 1) if past % 2 else x
        if whole.shape[1] > 1:
            complete = whole[:, : whole.shape[1] // 2 * 2]
            known = torch.cat([known, self.layers(self.pairs(complete), replace(context, past=past // 2))], 1)
        if cache is not None:
            cache[self] = torch.cat([x[:, -1:], known[:, -1:]], 1)
        return known[:, (torch.arange(past, past + steps, device=x.device) + 1) // 2 - past // 2]


class Stack(nn.Module):
    """A whole architecture: its blocks and the final norm. A cache is filled for the next segment when given."""

    def __init__(self, term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> None:
        super().__init__()
        self.layers = Layers(term, widths=widths, length=length, pattern=pattern)
        self.norm = rms_norm(widths.model)

    def forward(self, x: Tensor, context: Context = WHOLE) -> Tensor:
        outputs: Tensor = self.norm(self.layers(x, context))
        return outputs


COMPOUND: dict[str, type[nn.Module]] = {"averaged": Averaged, "unet": Unet}


def make_block(term: Term, *, widths: Widths, length: int, pattern: Pattern = CAUSAL) -> nn.Module:
    """The module of a block, made of a mixer and a channel mixer or of a stack."""
    kind = (BLOCKS | COMPOUND)[term.operation.name]
    return kind(term, widths=widths, length=length, pattern=pattern)
