"""Gates: checks that are executed before a single training step is paid for, in order of cost.

Each gate of `GATES` takes the candidate as a `Subject` and answers None or why it fails, in words a researcher can act
on; the first failure ends the trial. They run on random weights, in float64 unless the range of float32 is in question,
so that a tolerance only has to cover rounding. A candidate that passes leaves its costs and its functional fingerprint.

    budget.py     depth and parameters that the protocol allows      causality.py    nothing looks ahead
    numbers.py    finite, forward and backward; no dead parameter    growth.py       work against length
    parity.py     the same again, alone, in segments, literally      fingerprints.py the same under another name
    posed.py      under the other patterns of a protocol's tasks     counting.py     what a forward pass executes
    subject.py    the models, tokens and tolerance that gates share

Not seen: work that is not torch's, what happens beyond 2,048 tokens (512 where costs are not linear), and kernels of
other backends than "chunked", which have tests of their own.
"""

import time
from collections.abc import Callable

from archloom.db.records import Failure, FailureKind, Measurement, TrialSpec
from archloom.evaluator.gates.budget import budget, build
from archloom.evaluator.gates.causality import causality
from archloom.evaluator.gates.fingerprints import fingerprint
from archloom.evaluator.gates.growth import cost, exponent
from archloom.evaluator.gates.numbers import forward, gradient, stability
from archloom.evaluator.gates.parity import batch_independence, decode, determinism, lowering
from archloom.evaluator.gates.posed import patterns
from archloom.evaluator.gates.subject import Subject
from archloom.evaluator.training import deterministic, environment
from archloom.search_space.costs import costs
from archloom.search_space.text import parse

__all__ = ["GATES", "Subject", "cost_exponent", "fingerprint", "first_failure", "run_gates"]

GATES: tuple[tuple[FailureKind, Callable[[Subject], str | None]], ...] = (
    (FailureKind.BUDGET, budget),
    (FailureKind.BUILD, build),
    (FailureKind.FORWARD, forward),
    (FailureKind.GRADIENT, gradient),
    (FailureKind.DETERMINISM, determinism),
    (FailureKind.BATCH, batch_independence),
    (FailureKind.CAUSALITY, causality),
    (FailureKind.DECODE, decode),
    (FailureKind.LOWERING, lowering),
    (FailureKind.LOWERING, patterns),
    (FailureKind.STABILITY, stability),
    (FailureKind.COST, cost),
)


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


def cost_exponent(subject: Subject) -> float:
    """Slope of log(matrix FLOPs) over log(length), counted while a narrow stack runs on one sequence."""
    return exponent([work.flops for work in subject.works], subject.counted_lengths)


def _costs(subject: Subject) -> dict[str, float]:
    found = costs(subject.architecture, subject.widths, subject.task.length)
    return {
        "parameters": float(found.parameters),
        "flops": float(found.flops),
        "state_bytes": float(found.state_bytes),
        "cost_exponent": cost_exponent(subject),
    }
