"""Mixers, channel mixers, blocks and stacks: everything above the heads. x: [B, T, D] -> [B, T, D]."""

from collections.abc import Callable

from torch import Tensor, nn
from torch.nn import functional

from archloom.evaluator.modules.base import Cache, Flow
from archloom.evaluator.modules.table import compile_mixer
from archloom.search_space.costs import Widths
from archloom.search_space.plans import heads_of
from archloom.search_space.stacks import layers
from archloom.search_space.terms import Term

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "gelu": functional.gelu,
    "relu2": lambda x: functional.relu(x).square(),
    "silu": functional.silu,
}


class Mixer(nn.Module):
    """Heads joined and projected back to the stream."""

    def __init__(self, term: Term, *, widths: Widths, length: int) -> None:
        super().__init__()
        heads = term.integer("heads")
        shape = widths.shape(heads, length)
        self.body = compile_mixer(term, widths=widths, length=length)
        self.output = nn.Linear(heads_of(term.arguments[0], heads) * shape.value, shape.width, bias=False)

    def forward(self, x: Tensor, past: int = 0, cache: Cache | None = None, *, dense: bool = False) -> Tensor:
        outputs: Tensor = self.output(self.body(Flow(x=x, past=past, cache=cache, dense=dense)).flatten(2))
        return outputs


class Together(nn.Module):
    def __init__(self, term: Term, *, widths: Widths, length: int) -> None:
        super().__init__()
        self.parts = nn.ModuleList(make_mixer(each, widths=widths, length=length) for each in term.arguments)

    def forward(self, x: Tensor, past: int = 0, cache: Cache | None = None, *, dense: bool = False) -> Tensor:
        outputs: list[Tensor] = [part(x, past, cache, dense=dense) for part in self.parts]
        return outputs[0] + outputs[1]


class Chain(Together):
    def forward(self, x: Tensor, past: int = 0, cache: Cache | None = None, *, dense: bool = False) -> Tensor:
        for part in self.parts:
            x = part(x, past, cache, dense=dense)
        return x


MIXER_MODULES = {"mix": Mixer, "pointwise": Mixer, "together": Together, "chain": Chain}


def make_mixer(term: Term, *, widths: Widths, length: int) -> nn.Module:
    return MIXER_MODULES[term.operation.name](term, widths=widths, length=length)


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


CHANNEL_MODULES: dict[str, type[Mlp] | None] = {"mlp": Mlp, "glu": Glu, "none": None}


class Block(nn.Module):
    """Pre-norm residual block; `parallel` lets both mixers read the same normalised input."""

    def __init__(self, term: Term, *, widths: Widths, length: int) -> None:
        super().__init__()
        mixer, channel = term.arguments
        kind = CHANNEL_MODULES[channel.operation.name]
        self.parallel = term.operation.name == "parallel"
        self.mixer_norm = nn.RMSNorm(widths.model, eps=1e-6)
        self.mixer = make_mixer(mixer, widths=widths, length=length)
        self.channel = kind(channel, widths) if kind else None
        self.channel_norm = nn.RMSNorm(widths.model, eps=1e-6) if kind and not self.parallel else None

    def forward(self, x: Tensor, past: int = 0, cache: Cache | None = None, *, dense: bool = False) -> Tensor:
        normed = self.mixer_norm(x)
        y: Tensor = x + self.mixer(normed, past, cache, dense=dense)
        if self.channel is None:
            return y
        change: Tensor = self.channel(normed if self.channel_norm is None else self.channel_norm(y))
        return y + change


class Stack(nn.Module):
    """The blocks of an architecture and the final norm. `cache` is filled for the next segment when given."""

    def __init__(self, term: Term, *, widths: Widths, length: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(each, widths=widths, length=length) for each in layers(term))
        self.norm = nn.RMSNorm(widths.model, eps=1e-6)

    def forward(self, x: Tensor, past: int = 0, cache: Cache | None = None, *, dense: bool = False) -> Tensor:
        for block in self.blocks:
            x = block(x, past, cache, dense=dense)
        outputs: Tensor = self.norm(x)
        return outputs
