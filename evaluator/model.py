"""A language model around an architecture: embedding, stack, head, at the widths that match the protocol's target."""

import torch
from torch import Tensor, nn

from archloom.db.records import Protocol, Task
from archloom.evaluator.modules import WHOLE, Context, Stack
from archloom.search_space.costs import Widths, solve_widths, target_parameters
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

EMBEDDING_SCALE = 1.0


class Model(nn.Module):
    """tokens [B, T] -> logits [B, T, vocabulary]. `stack_parameters` counts what the protocol matches."""

    def __init__(self, architecture: Term, *, widths: Widths, vocabulary: int, length: int) -> None:
        super().__init__()
        self.widths = widths
        self.length = length
        self.embedding = nn.Embedding(vocabulary, widths.model)
        nn.init.normal_(self.embedding.weight, std=EMBEDDING_SCALE)
        self.stack = Stack(architecture, widths=widths, length=length)
        self.head = nn.Linear(widths.model, vocabulary, bias=False)

    def features(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        """Final-norm outputs [B, T, D]. With a cache in the context it is carried on to the next segment."""
        outputs: Tensor = self.stack(self.embedding(tokens), context)
        return outputs

    def forward(self, tokens: Tensor, context: Context = WHOLE) -> Tensor:
        logits: Tensor = self.head(self.features(tokens, context))
        return logits

    @property
    def stack_parameters(self) -> int:
        return sum(each.numel() for each in self.stack.parameters())


def protocol_widths(architecture: Term, *, protocol: Protocol, length: int) -> Widths:
    """The widths at which the architecture has as many parameters as the protocol's reference."""
    target = target_parameters(parse(protocol.reference), width=protocol.width, length=length)
    return solve_widths(architecture, target=target, width=protocol.width, length=length, tolerance=protocol.tolerance)


def build_model(term: str, *, protocol: Protocol, task: Task, seed: int) -> Model:
    """The model of a term for one task, with weights drawn from `seed`; the global generator is left as it was."""
    architecture = parse(term)
    widths = protocol_widths(architecture, protocol=protocol, length=task.length)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(architecture, widths=widths, vocabulary=task.vocabulary, length=task.length)
