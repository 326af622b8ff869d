"""A candidate under test, and what its gates share: the models they run, the tokens, the tolerance."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from archloom.db.records import Protocol, Task
from archloom.evaluator.gates.counting import Work, count_work
from archloom.evaluator.model import Model, protocol_widths
from archloom.evaluator.modules import Operator
from archloom.evaluator.modules.passes import Pass
from archloom.evaluator.task_kinds import kind_of
from archloom.search_space.costs import Widths
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.plans import Form
from archloom.search_space.terms import Term

TOLERANCE = 1e-8
"""Of two float64 results or gradients that should be one, relative to the largest entry. It only has to cover rounding,
to which a norm behind something small adds digits."""

BATCH = 2
SHORT = 35
NARROW = Widths(model=16, key=16, value=16, hidden=16)
NARROW_LENGTHS = (128, 131)
"""Whole chunks of 16 to 128 tokens, and three tokens of the next."""

COUNTED = (128, 256, 512)
COUNTED_IF_LINEAR = (512, 1024, 2048)
"""Lengths at which chunks have their full size; the last is also the one that numbers have to survive."""


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A candidate under test. Models are built when first asked for; `make` builds them all.

    `model` has the protocol's widths for its longest task, and `narrow` widths at which sequences of several chunks are
    cheap; both are in float64. `long` is narrow too, in float32 where its range is in doubt.
    """

    architecture: Term
    protocol: Protocol
    seed: int
    make: Callable[..., Model] = Model

    @property
    def task(self) -> Task:
        """The longest of the protocol's causal tasks on symbols, or of all if it has none."""
        tasks = self.protocol.tasks
        plain = [task for task in tasks if kind_of(task).pattern == CAUSAL and not kind_of(task).vectors]
        return max(plain or tasks, key=lambda task: task.length)

    @property
    def patterns(self) -> tuple[Pattern, ...]:
        """The patterns of the protocol's tasks beside the causal one."""
        found = dict.fromkeys(kind_of(task).pattern for task in self.protocol.tasks)
        return tuple(pattern for pattern in found if pattern != CAUSAL)

    @cached_property
    def widths(self) -> Widths:
        return protocol_widths(self.architecture, protocol=self.protocol, length=self.task.length)

    @cached_property
    def model(self) -> Model:
        return self._build(self.widths, length=self.task.length).double()

    @cached_property
    def narrow(self) -> Model:
        return self._build(NARROW, length=NARROW_LENGTHS[-1]).double()

    @cached_property
    def long(self) -> Model:
        return self._build(NARROW, length=self.longest)

    @cached_property
    def linear(self) -> bool:
        """Whether every pass of the model costs time linear in length."""
        linear = (Form.LINEAR, Form.WINDOWED)
        operators = [each for each in self.model.modules() if isinstance(each, Operator)]
        return all(each.plan.form in linear if isinstance(each, Pass) else each.linear_in_length for each in operators)

    @property
    def counted_lengths(self) -> tuple[int, ...]:
        return COUNTED_IF_LINEAR if self.linear else COUNTED

    @property
    def longest(self) -> int:
        return self.counted_lengths[-1]

    @cached_property
    def works(self) -> tuple[Work, ...]:
        """The work at the counted lengths."""
        return count_work(self.long.float().stack, width=NARROW.model, lengths=self.counted_lengths)

    @property
    def lengths(self) -> tuple[int, ...]:
        """An odd length, one across a chunk border, and the task's own."""
        return tuple(sorted({min(each, self.task.length) for each in (7, SHORT, self.task.length)}))

    @property
    def short(self) -> int:
        return min(SHORT, self.task.length)

    def tokens(self, length: int, *, batch: int = BATCH, salt: int = 0) -> Tensor:
        """Random tokens [batch, length]: of one salt, the shorter ones are beginnings of the longer."""
        columns = torch.randint(
            self.task.vocabulary, (COUNTED_IF_LINEAR[-1], batch), generator=self.generator(1000 * salt + batch)
        )
        return columns[:length].T.contiguous()

    @property
    def parting(self) -> tuple[Tensor, int]:
        """Tokens [2, longest], the same in both rows up to a cut. From there the second repeats one token: growth that
        random tokens would average out adds up."""
        (row,), cut = self.tokens(self.longest, batch=1), self.longest // 2 - 12
        return torch.stack([row, torch.cat([row[:cut], row[cut].expand(self.longest - cut)])]), cut

    def generator(self, salt: int) -> torch.Generator:
        return torch.Generator().manual_seed(10_000 * self.seed + salt)

    def posed(self, pattern: Pattern) -> Model:
        """A narrow model in float64 under another pattern than the causal one."""
        model = self.make(
            self.architecture, widths=NARROW, vocabulary=self.task.vocabulary, length=SHORT, pattern=pattern
        )
        return model.double()

    def _build(self, widths: Widths, *, length: int) -> Model:
        return self.make(self.architecture, widths=widths, vocabulary=self.task.vocabulary, length=length)


def distance(found: Tensor, expected: Tensor) -> float:
    """The largest error relative to the largest entry; NaN if any entry is."""
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-30))


def differs(error: float, tolerance: float = TOLERANCE) -> bool:
    """Whether an error is beyond the tolerance; NaN is."""
    return not error <= tolerance
