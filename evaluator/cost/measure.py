"""Everything a model costs, as one table of `CostValue`s: analytic, counted and measured side by side.

    parameters                      of the stack, as the protocol matches them
    flops_analytic                  of the term (`search_space.costs`), forward, of one sequence
    flops_matrix, _transform, _elementwise      counted while it runs (`counting`)
    state_bytes_analytic, _measured             what a decoder carries after `length` tokens, of one sequence
    prefill_seconds                 `batch` sequences at once (`latency`)
    decode_seconds                  the `length`-th token alone, from the cache of those before
    peak_bytes_prefill, _training   `memory`; training is one forward and backward pass of `batch` sequences
    prefill_joules                  where the machine tells (`energy`), else absent
    roofline_prefill_seconds, roofline_decode_seconds       on every device of `roofline.DEVICES`, of one sequence
    nonlinear_KIND, private_inference_bytes     per token (`nonlinear`, `private`)
    kernel_zeros, hidden_zeros      shares of exact zeros (`inside`), up to `DENSE_LENGTH` tokens

Embedding and head are left out of what is analytic or counted, and the head of what is timed: they are alike in all
architectures. Symbols are random, and in `cost_table` weights are too, which moves only zeros and choices by value.
Decoding is for causal self attention alone. A number that cannot be had is absent, never zero.
"""

from collections.abc import Iterator, Sequence

import torch

from archloom.errors import ConfigError
from archloom.evaluator.cost import parts
from archloom.evaluator.cost.subject import Subject
from archloom.evaluator.cost.values import CostValue
from archloom.evaluator.model import Model
from archloom.search_space.costs import Widths
from archloom.search_space.patterns import CAUSAL, Pattern, misfits
from archloom.search_space.terms import Term

SECONDS = 0.3
"""How long each piece of work is timed, about."""


def cost_table(
    architecture: Term,
    *,
    widths: Widths,
    lengths: Sequence[int],
    batch: int = 1,
    vocabulary: int = 256,
    device: str = "cpu",
    pattern: Pattern = CAUSAL,
    seconds: float = SECONDS,
) -> tuple[CostValue, ...]:
    """Build the architecture for the longest of `lengths` with random weights and measure it at each.

    The global random generator is left as it was. Raises `ConfigError` for no or unusable lengths, a batch of none, or
    an operation that has no meaning under the pattern.
    """
    if not lengths or min(lengths) < 1:
        raise ConfigError(f"lengths are {list(lengths)}: give at least one, each of 1 token or more")
    if batch < 1:
        raise ConfigError(f"the batch is {batch}: take 1 sequence or more")
    if odd := misfits(architecture, pattern):
        raise ConfigError(f"{', '.join(odd)} has no meaning under the {pattern.name} pattern; name another pattern")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Model(architecture, widths=widths, vocabulary=vocabulary, length=max(lengths), pattern=pattern)
    subject = Subject(model=model.to(device), architecture=architecture, batch=batch, vocabulary=vocabulary)
    return measure_cost(subject, lengths=lengths, seconds=seconds)


def measure_cost(subject: Subject, *, lengths: Sequence[int], seconds: float = SECONDS) -> tuple[CostValue, ...]:
    """Measure a model where it is, at each length in turn; each timing takes about `seconds`.

    Its weights, gradients and mode are left as they were, and no random number is drawn from the global generator.
    Raises `ValueError` for a length that the model was not built for.
    """
    model = subject.model
    if max(lengths) > model.length:
        raise ValueError(f"the model was built for {model.length} tokens and cannot be measured at {max(lengths)}")
    training = model.training
    model.eval()
    try:
        return tuple(_values(subject, lengths, seconds))
    finally:
        model.train(training)


def _values(subject: Subject, lengths: Sequence[int], seconds: float) -> Iterator[CostValue]:
    counted = float(subject.model.stack_parameters)
    yield CostValue(name="parameters", value=counted, unit="numbers", method="weights of the built stack")
    for length in dict.fromkeys(lengths):
        yield from parts.flops(subject, length)
        yield from parts.state(subject, length)
        yield from parts.prefill_latency(subject, length, seconds=seconds)
        yield from parts.decode_latency(subject, length, seconds=seconds)
        yield from parts.memory(subject, length)
        yield from parts.energy(subject, length)
        yield from parts.roofline(subject, length)
        yield from parts.private_inference(subject, length)
        yield from parts.sparsity(subject, length)
