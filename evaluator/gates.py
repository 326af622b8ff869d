"""Gates: checks that are executed before a single training step is paid for, in order of cost.

Each gate of `GATES` takes the candidate as a `Subject` and answers None or why it fails, in words a researcher can act
on; the first failure ends the trial. They run in float64 on random weights, so a tolerance only has to cover rounding:
`TOLERANCE` relative to the largest output. A candidate that passes leaves its costs and its functional fingerprint.
"""

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from archloom.db.records import Failure, FailureKind, Measurement, Protocol, Task, TrialSpec
from archloom.errors import ConfigError
from archloom.evaluator.model import Model, protocol_widths
from archloom.evaluator.modules import Cache, Context, Operator, Stack
from archloom.evaluator.modules.passes import Pass
from archloom.evaluator.training import deterministic, environment
from archloom.search_space.costs import Widths, costs
from archloom.search_space.plans import Form
from archloom.search_space.terms import Term, depth
from archloom.search_space.text import parse

TOLERANCE = 1e-8
BATCH = 2
COST_LENGTHS = (128, 256, 512)
LINEAR_EXPONENT = 1.15
LARGEST_EXPONENT = 2.1
FINGERPRINT_WIDTHS = Widths(model=16, key=16, value=16, hidden=16)
FINGERPRINT_LENGTH = 12


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A candidate under test. The model is built when first asked for, at the protocol's longest task, in float64."""

    architecture: Term
    protocol: Protocol
    seed: int

    @property
    def task(self) -> Task:
        return max(self.protocol.tasks, key=lambda task: task.length)

    @cached_property
    def widths(self) -> Widths:
        return protocol_widths(self.architecture, protocol=self.protocol, length=self.task.length)

    @cached_property
    def model(self) -> Model:
        model = Model(self.architecture, widths=self.widths, vocabulary=self.task.vocabulary, length=self.task.length)
        return model.double()

    @cached_property
    def cost_exponent(self) -> float:
        return cost_exponent(self.architecture)

    def tokens(self, length: int, *, batch: int = BATCH, salt: int = 0) -> Tensor:
        """Random tokens [batch, min(length, task length)]."""
        generator = torch.Generator().manual_seed(self.seed + 1000 * salt + length)
        size = (batch, min(length, self.task.length))
        return torch.randint(self.task.vocabulary, size, generator=generator)

    @property
    def lengths(self) -> tuple[int, ...]:
        """An odd length, one across a chunk border, and the task's own."""
        return tuple(sorted({min(each, self.task.length) for each in (7, 35, self.task.length)}))


def run_gates(spec: TrialSpec) -> Measurement:
    """All gates of one candidate: a measurement without a score, with a failure if one gate failed."""
    started = time.monotonic()
    with deterministic(spec.key.seed, threads=spec.protocol.threads):
        subject = Subject(architecture=parse(spec.term), protocol=spec.protocol, seed=spec.key.seed)
        failure = first_failure(subject)
        metrics = {} if failure else _costs(subject)
        mark = None if failure else fingerprint(subject.architecture)
        surroundings = environment()
    return Measurement(
        key=spec.key,
        score=None,
        metrics=metrics,
        environment=surroundings,
        seconds=time.monotonic() - started,
        failure=failure,
        fingerprint=mark,
    )


def first_failure(subject: Subject) -> Failure | None:
    """The first gate that the subject does not pass."""
    for kind, gate in GATES:
        reason = gate(subject)
        if reason is not None:
            return Failure(kind=kind, reason=reason)
    return None


def _costs(subject: Subject) -> dict[str, float]:
    found = costs(subject.architecture, subject.widths, subject.task.length)
    return {
        "parameters": float(found.parameters),
        "flops": float(found.flops),
        "state_bytes": float(found.state_bytes),
        "cost_exponent": subject.cost_exponent,
    }


# -- the gates ---------------------------------------------------------------------------------------------------------


def budget(subject: Subject) -> str | None:
    """Depth within the protocol's, and widths that match its parameter count for every task."""
    blocks = depth(subject.architecture)
    if blocks > subject.protocol.depth:
        return f"{blocks} blocks; the protocol allows {subject.protocol.depth}"
    for task in subject.protocol.tasks:
        try:
            protocol_widths(subject.architecture, protocol=subject.protocol, length=task.length)
        except ConfigError as problem:
            return f"task {task.name}: {problem}"
    return None


def build(subject: Subject) -> str | None:
    """The module has exactly the parameters that the algebra counts."""
    counted = costs(subject.architecture, subject.widths, subject.task.length).parameters
    built = subject.model.stack_parameters
    return None if built == counted else f"built with {built} parameters where the term counts {counted}"


def forward(subject: Subject) -> str | None:
    """Finite logits of the right shape at every length, in float64 and float32."""
    for dtype in (torch.float32, torch.float64):
        model = subject.model.to(dtype)
        for length in (1, *subject.lengths):
            tokens = subject.tokens(length)
            logits = model(tokens)
            if logits.shape != (*tokens.shape, subject.task.vocabulary):
                return f"logits {tuple(logits.shape)} for tokens {tuple(tokens.shape)}"
            if not torch.isfinite(logits).all():
                return f"not finite at length {length} in {dtype}"
    return None


def causality(subject: Subject) -> str | None:
    """No output moves with a later token, and no gradient flows from an output to a later input."""
    model = subject.model
    for length in subject.lengths:
        tokens, other = subject.tokens(length), subject.tokens(length, salt=1)
        steps = tokens.shape[1]
        inputs = model.embedding(tokens).detach().requires_grad_()
        outputs = model.stack(inputs)
        for cut in sorted({1, steps // 2, steps - 1} - {0, steps}):
            moved = torch.cat([tokens[:, :cut], other[:, cut:]], 1)
            leak = _relative(model.features(moved)[:, :cut], outputs[:, :cut])
            if leak > TOLERANCE:
                return f"changing tokens from {cut} on changes outputs before it by {leak:.1e} at length {steps}"
            (gradient,) = torch.autograd.grad(outputs[:, :cut].square().sum(), inputs, retain_graph=True)
            if gradient[:, cut:].abs().max() > TOLERANCE * gradient.abs().max():
                return f"outputs before token {cut} have a gradient in later inputs at length {steps}"
    return None


def batch_independence(subject: Subject) -> str | None:
    """A row alone gives what it gives in a batch."""
    tokens = subject.tokens(35)
    together, alone = subject.model(tokens), torch.cat([subject.model(row[None]) for row in tokens])
    error = _relative(alone, together)
    return None if error <= TOLERANCE else f"a row alone differs from the row in a batch by {error:.1e}"


def decode(subject: Subject) -> str | None:
    """Twelve single tokens and then the rest, and uneven segments, give what the whole sequence gives."""
    tokens = subject.tokens(35)
    whole = subject.model(tokens)
    for wanted in ([1] * 12, [3, 1, 16, 5, 1]):
        sizes = _segments(wanted, tokens.shape[1])
        cache = Cache()
        parts, past = [], 0
        for size in sizes:
            parts.append(subject.model(tokens[:, past : past + size], Context(past=past, cache=cache)))
            past += size
        error = _relative(torch.cat(parts, 1), whole)
        if error > TOLERANCE:
            return f"decoding in {len(sizes)} segments differs from the whole sequence by {error:.1e}"
    return None


def lowering(subject: Subject) -> str | None:
    """The lowered passes give what the literal L x L operators give."""
    tokens = subject.tokens(35)
    error = _relative(subject.model(tokens), subject.model(tokens, Context(dense=True)))
    return None if error <= TOLERANCE else f"lowered and dense forms differ by {error:.1e}"


def gradient(subject: Subject) -> str | None:
    """A finite gradient reaches every parameter."""
    reached: dict[str, bool] = {name: False for name, _ in subject.model.named_parameters()}
    for salt in range(3):
        subject.model.zero_grad()
        tokens = subject.tokens(subject.task.length, salt=salt)
        # A random projection: a sum of squares would be constant behind a normalisation.
        logits = subject.model(tokens)
        generator = torch.Generator().manual_seed(subject.seed + salt)
        (logits * torch.randn(logits.shape, generator=generator, dtype=logits.dtype)).sum().backward()
        for name, parameter in subject.model.named_parameters():
            if parameter.grad is not None:
                if not torch.isfinite(parameter.grad).all():
                    return f"the gradient of {name} is not finite"
                reached[name] |= bool(parameter.grad.abs().max() > 0)
        if all(reached.values()):
            return None
    return f"no gradient reaches {', '.join(name for name, seen in reached.items() if not seen)}"


def cost(subject: Subject) -> str | None:
    """Executed operations grow no faster with length than the lowering promises."""
    promised = LINEAR_EXPONENT if _linear(subject.model) else LARGEST_EXPONENT
    found = subject.cost_exponent
    return None if found <= promised else f"operations grow with length^{found:.2f}; at most {promised} was promised"


GATES: tuple[tuple[FailureKind, Callable[[Subject], str | None]], ...] = (
    (FailureKind.BUDGET, budget),
    (FailureKind.BUILD, build),
    (FailureKind.FORWARD, forward),
    (FailureKind.BATCH, batch_independence),
    (FailureKind.CAUSALITY, causality),
    (FailureKind.DECODE, decode),
    (FailureKind.LOWERING, lowering),
    (FailureKind.GRADIENT, gradient),
    (FailureKind.COST, cost),
)


# -- measures ----------------------------------------------------------------------------------------------------------


def cost_exponent(architecture: Term) -> float:
    """Slope of log(executed matrix FLOPs) over log(length), counted while a narrow stack runs on one sequence."""
    stack = Stack(architecture, widths=FINGERPRINT_WIDTHS, length=COST_LENGTHS[-1])
    points = []
    for length in COST_LENGTHS:
        # The counter does not see inside fused attention; FFTs it does not count at all.
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            stack(torch.zeros(1, length, FINGERPRINT_WIDTHS.model))
        points.append((math.log(length), math.log(max(1, counter.get_total_flops()))))
    (x0, y0), (x1, y1) = points[0], points[-1]
    return (y1 - y0) / (x1 - x0)


def fingerprint(architecture: Term) -> str:
    """What the architecture computes, as a hash: outputs in float64 at small widths with weights fixed by their roles.

    A role is the operation's name and its number among its like, so two spellings of one function agree. Outputs are
    rounded to six digits before hashing.
    """
    stack = Stack(architecture, widths=FINGERPRINT_WIDTHS, length=FINGERPRINT_LENGTH).double()
    counts: dict[str, int] = {}
    for module in stack.modules():
        own = dict(module.named_parameters(recurse=False))
        if not own:
            continue
        role = module.term.operation.name if isinstance(module, Operator) else type(module).__name__
        counts[role] = counts.get(role, 0) + 1
        for name, parameter in own.items():
            _fill(parameter, f"{role} {counts[role]} {name}")
    inputs = torch.empty(1, FINGERPRINT_LENGTH, FINGERPRINT_WIDTHS.model, dtype=torch.float64)
    _fill(nn.Parameter(inputs), "input")
    with torch.no_grad():
        outputs = stack(inputs)
    rounded = [f"{value:.6g}" for value in (outputs / outputs.abs().max()).flatten().tolist()]
    return hashlib.sha256(" ".join(rounded).encode()).hexdigest()


def _fill(parameter: nn.Parameter, role: str) -> None:
    seed = int.from_bytes(hashlib.sha256(role.encode()).digest()[:6], "big")
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype)
    parameter.data.copy_(noise / math.sqrt(max(1, parameter.shape[-1])))


def _linear(model: Model) -> bool:
    """Whether every pass of the model costs time linear in length."""
    linear = (Form.LINEAR, Form.WINDOWED)
    operators = [each for each in model.modules() if isinstance(each, Operator)]
    return all(each.plan.form in linear if isinstance(each, Pass) else each.linear_in_length for each in operators)


def _relative(found: Tensor, expected: Tensor) -> float:
    return float((found - expected).detach().abs().max() / expected.detach().abs().max().clamp(min=1e-30))


def _segments(wanted: list[int], total: int) -> list[int]:
    """The wanted sizes as far as the total allows, and what is left as one more."""
    sizes: list[int] = []
    for size in (*wanted, total):
        sizes.append(min(size, total - sum(sizes)))
    return [size for size in sizes if size > 0]
