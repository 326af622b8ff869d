"""Nonlinear operations and what they would communicate, and energy: against counts and counters that are known."""

import math
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor

from archloom.evaluator.cost import cost_table, nonlinear, parts
from archloom.evaluator.cost.energy import PackageCounters, PowerSamples, energy_of, meter_for
from archloom.evaluator.cost.nonlinear import count_nonlinear
from archloom.evaluator.cost.private import COMPARISON_BYTES, PRODUCT_BYTES, RECIPES, RELU_BYTES, communicated
from archloom.evaluator.model import Model
from archloom.evaluator.modules import Context
from archloom.search_space import zoo
from archloom.search_space.costs import default_widths
from archloom.search_space.patterns import CAUSAL, NONCAUSAL, misfits
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def test_bytes_of_the_ingredients() -> None:
    # 32 x (128 + 14), 32 x (128 + 18) and 2 x 32 x (128 + 16.5) bits
    assert (COMPARISON_BYTES, RELU_BYTES, PRODUCT_BYTES) == (568.0, 584.0, 1156.0)
    assert communicated({"exponential": 2, "comparison": 1}) == 2 * 8 * 1156 + 568
    assert communicated({}) == 0
    # What both papers build on: a softmax entry costs far more than a rectified one.
    assert RECIPES["exponential"].bytes > 10 * RECIPES["relu"].bytes


X = torch.linspace(-1, 1, 12).view(3, 4)
PUBLIC = torch.rand(3, 4) + 1
HIDDEN = torch.ones(3, 4).triu(1).bool()


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        (lambda x: torch.relu(x), {"relu": 12}),
        (lambda x: torch.exp(x[:, :2]), {"exponential": 6}),
        (lambda x: torch.sigmoid(x) + torch.tanh(x), {"sigmoid": 24}),
        (lambda x: torch.nn.functional.gelu(x), {"gated_sigmoid": 12}),
        (lambda x: x * x, {"product": 12}),
        (lambda x: x * PUBLIC, {}),
        (lambda x: x.square(), {"product": 12}),
        (lambda x: x**4, {"product": 24}),
        (lambda x: x / PUBLIC, {}),
        (lambda x: PUBLIC / x, {"division": 12}),
        (lambda x: x / x.sum(-1, keepdim=True), {"division": 3, "product": 12}),
        (lambda x: PUBLIC.exp() * x, {}),
        (lambda x: torch.zeros_like(x).exp(), {}),
        (lambda x: torch.empty(3, 4).copy_(x).exp_(), {"exponential": 12}),
        (lambda x: x.clamp(min=0), {"comparison": 12, "product": 12}),
        (lambda x: x.clamp(min=0, max=1), {"comparison": 24, "product": 24}),
        (lambda x: x.amax(-1), {"comparison": 9, "product": 9}),
        (lambda x: x.max(), {}),
        (lambda x: x.masked_fill(HIDDEN, -torch.inf).exp_(), {"exponential": 6}),
        (lambda x: torch.where(x > 0, x, 0), {"comparison": 12, "product": 12}),
        (lambda x: x.sort(-1), {"comparison": 18, "product": 36}),  # two times three stages of half the elements
        (lambda x: (x @ x.T).cumsum(0), {}),
        # A row: the largest of n, n exponentials, one division, n products. The mask leaves 1, 2 and 3 entries.
        (lambda x: torch.softmax(x, -1), {"comparison": 9, "exponential": 12, "division": 3, "product": 9 + 12}),
        (
            lambda x: torch.softmax(x.masked_fill(HIDDEN, -torch.inf), -1),
            {"comparison": 3, "exponential": 6, "division": 3, "product": 3 + 6},
        ),
        # Of width 4: squares and products with the gain-free root, one root a row.
        (lambda x: torch.nn.functional.rms_norm(x, (4,)), {"inverse_root": 3, "product": 24}),
    ],
)
def test_operations_that_are_counted(run, expected: dict[str, int]) -> None:
    assert count_nonlinear(run, X.clone()) == expected


@pytest.mark.parametrize("causal", [True, False])
def test_fused_attention_counts_as_its_softmax(causal: bool) -> None:
    q, k, v = torch.randn(3, 1, 2, 5, 4).unbind()
    mask = torch.ones(5, 5, dtype=torch.bool)
    mask = mask.tril() if causal else mask

    def plainly(x: Tensor) -> Tensor:
        return torch.softmax((x @ k.mT).masked_fill(~mask, -torch.inf), -1) @ v

    def fused(x: Tensor) -> Tensor:
        return torch.nn.functional.scaled_dot_product_attention(x, k, v, is_causal=causal, scale=1.0)

    assert count_nonlinear(fused, q) == count_nonlinear(plainly, q)


@pytest.mark.parametrize(("width", "length"), [(32, 16), (64, 24)])
def test_attention_by_hand(width: int, length: int) -> None:
    depth, heads = 2, 2
    found = counts_of(zoo.load("mha", depth=depth), width=width, length=length)
    rows, seen = depth * heads * length, depth * heads * length * (length + 1) // 2
    norms = 2 * depth + 1
    assert found == {
        "comparison": seen - rows,
        "division": rows,
        "exponential": seen,
        "gated_sigmoid": depth * 4 * width * length,
        "inverse_root": norms * length,
        "product": 2 * seen - rows + 2 * norms * width * length,
    }


def counts_of(architecture: Term, *, width: int = 16, length: int = 12) -> dict[str, int]:
    model = Model(architecture, widths=default_widths(width), vocabulary=11, length=length)
    return count_nonlinear(model.stack, torch.randn(1, length, width))


def test_exponentials_of_attention_grow_with_the_context_and_of_a_recurrence_do_not() -> None:
    def per_token(name: str, length: int) -> float:
        return communicated(counts_of(zoo.load(name), length=length)) / length

    assert per_token("mha", 128) > 1.5 * per_token("mha", 32)
    assert per_token("retnet", 128) == pytest.approx(per_token("retnet", 32), rel=0.01)
    assert per_token("relu_attention", 64) < per_token("mha", 64)


def unknown(architecture: Term, *, pattern=CAUSAL) -> set[str]:
    """Executed operations on secrets that nobody has said anything about."""
    model = Model(architecture, widths=default_widths(8), vocabulary=5, length=10, pattern=pattern)
    stream, context = torch.randn(1, 10, 8), Context(source=torch.randn(1, 10, 8) if pattern.cross else None)
    tracing = nonlinear.Tracing(stream)
    with torch.no_grad(), tracing:
        model.stack(stream, context)
    return tracing.unknown


def test_no_operation_of_the_zoo_escapes() -> None:
    for pattern in (CAUSAL, NONCAUSAL):
        for name in zoo.names():
            architecture = zoo.load(name, depth=1)
            if not misfits(architecture, pattern):
                assert unknown(architecture, pattern=pattern) == set(), (name, pattern)


def test_no_operation_of_sampled_architectures_escapes() -> None:
    sampler, rng = Sampler.default(depth=2, width=8, length=10), Random(5)
    for _ in range(30):
        architecture = sampler.architecture(rng)
        assert unknown(architecture) == set(), architecture.text


# -- energy ------------------------------------------------------------------------------------------------------------


def package(folder: Path, name: str, *, micro: int, wraps: int = 1_000_000) -> Path:
    (folder / name).mkdir()
    (folder / name / "max_energy_range_uj").write_text(f"{wraps}\n")
    (folder / name / "energy_uj").write_text(f"{micro}\n")
    return folder / name / "energy_uj"


def test_energy_is_absent_where_it_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert meter_for(CPU, powercap=tmp_path / "nothing") is None
    assert meter_for(CPU, powercap=tmp_path) is None
    counter = package(tmp_path, "intel-rapl:0", micro=5)
    counter.write_text("not a number")
    assert meter_for(CPU, powercap=tmp_path) is None

    monkeypatch.setattr(parts, "meter_for", lambda _: None)
    values = cost_table(zoo.load("mha", depth=1), widths=default_widths(8), lengths=[8], seconds=1e-3)
    assert not [each for each in values if "joules" in each.name]


def test_package_counters_are_summed_and_wrap(tmp_path: Path) -> None:
    first = package(tmp_path, "intel-rapl:0", micro=900_000)
    second = package(tmp_path, "intel-rapl:1", micro=0)
    package(tmp_path, "intel-rapl:0:0", micro=0)  # a part of the first package
    meter = meter_for(CPU, powercap=tmp_path)
    assert isinstance(meter, PackageCounters)
    used = iter([(900_000, 0), (950_000, 100_000), (50_000, 200_000)])

    def run() -> None:
        at = next(used)
        first.write_text(str(at[0]))
        second.write_text(str(at[1]))

    meter.start()
    for _ in range(3):
        run()
        meter.sample()
    # 150,000 over the end of the counter, and 200,000 of the other package
    assert meter.joules() == pytest.approx(0.35)


def test_power_is_multiplied_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([10.0, 12.0])
    watts = iter([100.0, 300.0])
    meter = PowerSamples(watts=lambda: next(watts))
    monkeypatch.setattr("archloom.evaluator.cost.energy.time.perf_counter", lambda: next(clock))
    meter.start()
    meter.sample()
    meter.sample()
    assert meter.joules() == 400.0


def test_energy_of_one_run_is_the_mean_of_repeats() -> None:
    class Counting:
        method = "counted"
        runs = 0

        def start(self) -> None:
            self.runs = 0

        def sample(self) -> None:
            self.runs += 1

        def joules(self) -> float:
            return 3.0 * self.runs

    found = energy_of(lambda: None, meter=Counting(), device=CPU, seconds=0.01)
    assert math.isclose(found, 3.0)
