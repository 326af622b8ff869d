"""The kinds of cost, one function each: a subject and a length in, values out. `measure.py` says what they are."""

from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import torch
from torch import Tensor

from archloom.evaluator.cost.counting import count_flops
from archloom.evaluator.cost.energy import energy_of, meter_for
from archloom.evaluator.cost.latency import Timing, time_of
from archloom.evaluator.cost.memory import ON_CPU, ON_GPU, carried_bytes, peak_bytes
from archloom.evaluator.cost.nonlinear import count_nonlinear
from archloom.evaluator.cost.private import communicated
from archloom.evaluator.cost.roofline import DEVICES, decode_seconds, prefill_seconds
from archloom.evaluator.cost.subject import Subject
from archloom.evaluator.cost.values import CostValue
from archloom.evaluator.inside import look
from archloom.evaluator.modules import Cache, Context
from archloom.search_space.costs import costs
from archloom.search_space.patterns import CAUSAL

EXECUTED = "counted in executed operations"
DENSE_LENGTH = 512
"""Kernels of longer sequences are not written out to count their zeros."""


def flops(subject: Subject, length: int) -> Iterator[CostValue]:
    model = subject.model
    analytic = costs(subject.architecture, model.widths, length, pattern=model.pattern).flops
    yield CostValue(name="flops_analytic", value=analytic, unit="FLOPs", length=length, method="analytic")
    stream, context = subject.stream(length)
    found = count_flops(lambda: model.stack(stream, context))
    by_kind = {"matrix": found.matrix, "transform": found.transform, "elementwise": found.elementwise}
    for name, value in by_kind.items():
        yield CostValue(name=f"flops_{name}", value=value, unit="FLOPs", length=length, method=EXECUTED)


def state(subject: Subject, length: int) -> Iterator[CostValue]:
    if subject.model.pattern != CAUSAL:
        return
    analytic = costs(subject.architecture, subject.model.widths, length).state_bytes
    carried = carried_bytes(subject.cache_after(length))
    for name, value, method in (
        ("state_bytes_analytic", analytic, "analytic, float32"),
        ("state_bytes_measured", carried, "tensors of the cache"),
    ):
        yield CostValue(name=name, value=value, unit="bytes", length=length, method=method)


def prefill_latency(subject: Subject, length: int, *, seconds: float) -> Iterator[CostValue]:
    symbols, source = subject.inputs(length, batch=subject.batch)
    with torch.no_grad():
        timing = time_of(lambda: subject.model.features(symbols, source=source), device=subject.device, seconds=seconds)
    yield _timed(subject, "prefill_seconds", timing, length, batch=subject.batch)


def decode_latency(subject: Subject, length: int, *, seconds: float) -> Iterator[CostValue]:
    """Every repeat is the same token: a step leaves the tensors of the cache that it is given as they are."""
    if subject.model.pattern != CAUSAL:
        return
    before, (last, _) = subject.cache_after(length - 1), subject.inputs(1, batch=1)

    def step() -> Tensor:
        cache = Cache()
        cache.update(before)
        return subject.model.features(last, Context(past=length - 1, cache=cache))

    with torch.no_grad():
        timing = time_of(step, device=subject.device, seconds=seconds)
    yield _timed(subject, "decode_seconds", timing, length, batch=1)


def _timed(subject: Subject, name: str, timing: Timing, length: int, *, batch: int) -> CostValue:
    return CostValue(
        name=name,
        value=timing.seconds,
        unit="s",
        length=length,
        device=subject.machine,
        method=f"{timing.method}, batch {batch}",
    )


def memory(subject: Subject, length: int) -> Iterator[CostValue]:
    model = subject.model
    symbols, source = subject.inputs(length, batch=subject.batch)

    def prefill() -> None:
        with torch.no_grad():
            model.features(symbols, source=source)

    def training() -> None:
        weights = [each for each in model.stack.parameters() if each.requires_grad]
        outputs = model.features(symbols, source=source)
        torch.autograd.grad(outputs.square().sum(), weights, allow_unused=True)

    runs: dict[str, Callable[[], None]] = {"prefill": prefill, "training": training}
    for name, run in runs.items():
        yield CostValue(
            name=f"peak_bytes_{name}",
            value=peak_bytes(run, model=model, device=subject.device),
            unit="bytes",
            length=length,
            device=subject.machine,
            method=f"{ON_GPU if subject.device.type == 'cuda' else ON_CPU}, batch {subject.batch}",
        )


def energy(subject: Subject, length: int) -> Iterator[CostValue]:
    meter = meter_for(subject.device)
    if meter is None:
        return
    symbols, source = subject.inputs(length, batch=subject.batch)
    with torch.no_grad():
        joules = energy_of(lambda: subject.model.features(symbols, source=source), meter=meter, device=subject.device)
    yield CostValue(
        name="prefill_joules",
        value=joules,
        unit="J",
        length=length,
        device=subject.machine,
        method=f"{meter.method}, batch {subject.batch}",
    )


def roofline(subject: Subject, length: int) -> Iterator[CostValue]:
    architecture, widths, pattern = subject.architecture, subject.model.widths, subject.model.pattern
    for name, device in DEVICES.items():
        least = {"prefill": prefill_seconds(architecture, widths, length, device=device, pattern=pattern)}
        if pattern == CAUSAL:
            least["decode"] = decode_seconds(architecture, widths, length, device=device)
        for what, seconds in least.items():
            yield CostValue(
                name=f"roofline_{what}_seconds",
                value=seconds,
                unit="s",
                length=length,
                device=name,
                method="roofline of analytic FLOPs and bytes, batch 1",
            )


def private_inference(subject: Subject, length: int) -> Iterator[CostValue]:
    stream, context = subject.stream(length)
    counts = count_nonlinear(lambda x: subject.model.stack(x, context), stream)
    for kind, number in counts.items():
        yield CostValue(
            name=f"nonlinear_{kind}", value=number / length, unit="operations/token", length=length, method=EXECUTED
        )
    yield CostValue(
        name="private_inference_bytes",
        value=communicated(counts) / length,
        unit="bytes/token",
        length=length,
        device="two parties without a dealer",
        method="model: counts of nonlinear operations times published bytes",
    )


def sparsity(subject: Subject, length: int) -> Iterator[CostValue]:
    if length > DENSE_LENGTH:
        return
    symbols, source = subject.inputs(length, batch=1)
    seen = look(subject.model, symbols, source=source)
    zeros: dict[str, Sequence[float]] = {
        "kernel_zeros": [rows.zeros for block in seen for rows in block.kernels],
        "hidden_zeros": [block.units.zeros for block in seen if block.units is not None],
    }
    for name, shares in zeros.items():
        if shares:
            yield CostValue(
                name=name, value=fmean(shares), unit="share", length=length, method="exact zeros of the dense form"
            )
