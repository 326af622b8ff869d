"""A model around an architecture: embedding, stack, head, at the widths that match the protocol's target."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from archloom.db.records import Protocol, Task
from archloom.errors import ConfigError
from archloom.evaluator.modules import WHOLE, Context, Stack
from archloom.evaluator.task_kinds import kind_of
from archloom.search_space.costs import Widths, solve_widths, target_parameters
from archloom.search_space.patterns import CAUSAL, Pattern, misfits
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

EMBEDDING_SCALE = 1.0


class Model(nn.Module):
    """Symbols [B, T] -> logits [B, T, vocabulary]; or where `vectors` is set, vectors [B, T, vocabulary] to such.

    Under a cross pattern it is given a source of the same kind, [B, S] or [B, S, vocabulary]. `stack_parameters` counts
    what the protocol matches.
    """

    def __init__(
        self,
        architecture: Term,
        *,
        widths: Widths,
        vocabulary: int,
        length: int,
        pattern: Pattern = CAUSAL,
        vectors: bool = False,
    ) -> None:
        super().__init__()
        self.widths = widths
        self.length = length
        self.pattern = pattern
        self.embedding: nn.Module
        if vectors:
            self.embedding = nn.Linear(vocabulary, widths.model)
        else:
            self.embedding = nn.Embedding(vocabulary, widths.model)
            nn.init.normal_(self.embedding.weight, std=EMBEDDING_SCALE)
        self.stack = Stack(architecture, widths=widths, length=length, pattern=pattern)
        self.head = nn.Linear(widths.model, vocabulary, bias=False)

    def features(self, inputs: Tensor, context: Context = WHOLE, *, source: Tensor | None = None) -> Tensor:
        """Final-norm outputs [B, T, D]. With a cache in the context it is carried on to the next segment."""
        if source is not None:
            context = replace(context, source=self.embedding(source))
        outputs: Tensor = self.stack(self.embedding(inputs), context)
        return outputs

    def forward(self, inputs: Tensor, context: Context = WHOLE, *, source: Tensor | None = None) -> Tensor:
        answers: Tensor = self.head(self.features(inputs, context, source=source))
        return answers

    @property
    def stack_parameters(self) -> int:
        return sum(each.numel() for each in self.stack.parameters())


def protocol_widths(architecture: Term, *, protocol: Protocol, length: int, pattern: Pattern = CAUSAL) -> Widths:
    """The widths at which the architecture has as many parameters as the protocol's reference."""
    target = target_parameters(parse(protocol.reference), width=protocol.width, length=length)
    return solve_widths(
        architecture,
        target=target,
        width=protocol.width,
        length=length,
        tolerance=protocol.tolerance,
        pattern=pattern,
    )


def build_model(term: str, *, protocol: Protocol, task: Task, seed: int) -> Model:
    """The model of a term for one task, with weights drawn from `seed`; the global generator is left as it was.

    Raises `ConfigError` for a term that cannot match the protocol's parameters, or has an operation that has no meaning
    under the task's pattern.
    """
    architecture, kind = parse(term), kind_of(task)
    if odd := misfits(architecture, kind.pattern):
        raise ConfigError(
            f"task {task.name!r} is {kind.pattern.name}, under which {', '.join(odd)} has no meaning; leave the task "
            "out, or the operation"
        )
    widths = protocol_widths(architecture, protocol=protocol, length=task.length, pattern=kind.pattern)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Model(
            architecture,
            widths=widths,
            vocabulary=task.vocabulary,
            length=task.length,
            pattern=kind.pattern,
            vectors=kind.vectors,
        )
