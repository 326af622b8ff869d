"""What a model costs: every number against one worked out by hand or by another way."""

import math
from collections.abc import Mapping

import pytest
import torch
from torch import nn

from archloom.errors import ConfigError
from archloom.evaluator.cost import CostValue, cost_table
from archloom.evaluator.cost.counting import count_flops
from archloom.evaluator.cost.latency import LEAST, time_of, undisturbed
from archloom.evaluator.cost.memory import peak_bytes
from archloom.evaluator.cost.roofline import DEVICES, Device, decode_seconds, prefill_seconds, traffic
from archloom.evaluator.cost.subject import Subject
from archloom.evaluator.model import Model
from archloom.evaluator.modules import Cache, Context
from archloom.search_space import zoo
from archloom.search_space.costs import costs, default_widths
from archloom.search_space.patterns import CAUSAL, NONCAUSAL, NONCAUSAL_CROSS
from archloom.search_space.terms import Term
from archloom.search_space.text import parse

CPU = torch.device("cpu")
QUICK = 1e-3
"""Seconds for each timing, where the times themselves do not matter."""


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def table(name: str, *lengths: int, width: int = 32, depth: int = 2) -> dict[tuple[str, int | None, str], CostValue]:
    """By name, length and device."""
    architecture = zoo.load(name, depth=depth)
    values = cost_table(architecture, widths=default_widths(width), lengths=lengths, seconds=QUICK)
    found = {(each.name, each.length, each.device): each for each in values}
    assert len(found) == len(values), "two values have one name"
    return found


def at(found: Mapping[tuple[str, int | None, str], CostValue], name: str, length: int | None) -> float:
    (value,) = [each.value for each in found.values() if (each.name, each.length) == (name, length)]
    return value


def subject(architecture: Term, *, length: int, width: int = 16) -> Subject:
    model = Model(architecture, widths=default_widths(width), vocabulary=11, length=length).eval()
    return Subject(model=model, architecture=architecture, batch=1, vocabulary=11)


# -- parameters, FLOPs and state, by hand ------------------------------------------------------------------------------
#
# D width, L length, H = 2 heads of K = V = D / H; a multiply-add is two FLOPs, a chunk 64 tokens. Beside each mixer
# stand the MLP of hidden width 4 D (8 D^2 weights) and the gains of two norms; a last norm closes the stack.

H, CHUNK = 2, 64


def by_hand(name: str, width: int, length: int) -> tuple[int, int, int]:
    """Weights, FLOPs per token and numbers of state of one mixer."""
    d, per_head = width, width // H
    projections = 8 * d**2  # q, k, v and output: 4 D^2 weights
    match name:
        case "mha":
            rotary, exponentials, products = 6 * d, H * length // 2, 2 * (length // 2) * (d + d)
            return 4 * d**2, projections + rotary + exponentials + products, 2 * length * d
        case "linear_attention":  # a column of ones beside the values sums the rows
            feature_map, columns = 2 * 3 * d, per_head + 1
            scan = H * (4 * per_head * columns + CHUNK * (per_head + columns))
            return 4 * d**2, projections + feature_map + scan, H * per_head * columns
        case "mamba2":  # B and C of one head, D / 2 channels each; four taps for 2 D channels
            weights = 4 * d**2 + 4 * 2 * d + H * (d + 1) + H + d + per_head
            convolutions, silus, norm, rest = 8 * 2 * d, 4 * 3 * d, 5 * d, 4 * d
            scan = H * (4 * per_head**2 + CHUNK * 2 * per_head)
            flops = projections + convolutions + silus + norm + rest + 2 * d * H + H + scan
            return weights, flops, H * per_head**2 + 3 * 2 * d
        case _:  # long_conv: a filter network of width 16 on 5 features; three transforms of 5 / 2 N log2 N, N = 2 L
            weights = 2 * d**2 + d + 16 * 5 + 16 + 16 * 16 + 16 + 16 * d
            transforms = 15 * d * (2 * length - 1).bit_length()
            return weights, 4 * d**2 + 2 * d + 2 * 16 * (5 + 16 + d) + transforms, length * d


@pytest.mark.parametrize(("width", "length", "depth"), [(32, 64, 1), (64, 96, 2)])
@pytest.mark.parametrize("name", ["mha", "linear_attention", "mamba2", "long_conv"])
def test_costs_by_hand(name: str, width: int, length: int, depth: int) -> None:
    weights, flops, state = by_hand(name, width, length)
    found = table(name, length, width=width, depth=depth)
    assert at(found, "parameters", None) == depth * (weights + 8 * width**2 + 2 * width) + width
    assert at(found, "flops_analytic", length) == depth * length * (flops + 16 * width**2)
    assert at(found, "state_bytes_analytic", length) == 4 * depth * state
    assert at(found, "state_bytes_measured", length) == 4 * depth * state


def test_counted_products_of_attention_are_those_of_the_whole_square() -> None:
    width, length, depth = 32, 48, 2
    found = table("mha", length, width=width, depth=depth)
    # Projections and MLP, and both products with scores, of which the counter sees the half that is masked too.
    assert at(found, "flops_matrix", length) == depth * length * (24 * width**2 + 4 * length * width)
    assert at(found, "flops_transform", length) == 0


@pytest.mark.parametrize("name", ["linear_attention", "mamba2", "gated_deltanet", "sliding_window"])
def test_state_of_a_recurrence_or_window_does_not_grow(name: str) -> None:
    found = table(name, 32, 64, 128, depth=1)
    sizes = {at(found, "state_bytes_measured", length) for length in (32, 64, 128)}
    assert len(sizes) == 1


@pytest.mark.parametrize("name", ["mha", "gqa", "long_conv"])
def test_state_of_attention_and_of_convolutions_grows_with_the_context(name: str) -> None:
    found = table(name, 32, 64, 128, depth=1)
    first, second, third = (at(found, "state_bytes_measured", length) for length in (32, 64, 128))
    assert first > 0
    assert (second, third) == (2 * first, 4 * first)


# -- counting ----------------------------------------------------------------------------------------------------------


def test_counted_flops_of_single_operations() -> None:
    x, y, z = torch.randn(8, 64), torch.randn(64, 5), torch.randn(8, 64, dtype=torch.complex64)
    whole = 5 * 8 * 64 * math.log2(64)
    assert count_flops(lambda: x @ y).matrix == 2 * 8 * 64 * 5
    assert count_flops(lambda: torch.fft.fft(z)).transform == whole
    assert count_flops(lambda: torch.fft.rfft(x)).transform == whole / 2
    assert count_flops(lambda: torch.fft.irfft(z[:, :33], n=64)).transform == whole / 2
    assert count_flops(lambda: torch.fft.fft2(z)).transform == 5 * 8 * 64 * math.log2(8 * 64)
    found = count_flops(lambda: (x * 2 + 1).exp().sum().clone())
    assert (found.matrix, found.transform, found.elementwise) == (0, 0, 3 * 8 * 64)


# -- memory and time ---------------------------------------------------------------------------------------------------


def test_peak_memory_counts_what_lives_at_one_time() -> None:
    model = nn.Linear(10, 10)
    weights = 4 * 110

    def two_at_most() -> None:
        x = torch.zeros(1000)
        for _ in range(5):
            x = x + 1

    def three(x: torch.Tensor) -> None:
        y = x + 1
        z = y.view(10, 100).T * 2  # the view takes nothing
        z.add_(y.view(10, 100).T)

    assert peak_bytes(two_at_most, model=model, device=CPU) == weights + 2 * 4000
    x = torch.zeros(1000)
    assert peak_bytes(lambda: three(x), model=model, device=CPU) == weights + 3 * 4000


def test_training_holds_more_than_prefill_and_both_hold_the_weights() -> None:
    found = table("mha", 64)
    weights = 4 * (at(found, "parameters", None) + 256 * 32 * 2)
    assert weights < at(found, "peak_bytes_prefill", 64) < at(found, "peak_bytes_training", 64)


def test_disturbed_repeats_are_left_out() -> None:
    quiet, waited = [(1.0, 1.0)] * LEAST, [(9.0, 1.0)] * 20
    assert undisturbed(waited + quiet) == quiet
    assert undisturbed([*waited, (2.0, 1.9)])[0] == (2.0, 1.9)
    assert len(undisturbed(waited)) == LEAST


def test_a_longer_product_takes_longer() -> None:
    small, large = torch.randn(32, 32), torch.randn(768, 768)
    timings = [time_of(lambda x=x: x @ x, device=CPU, seconds=0.02) for x in (small, large)]
    # 13,824 times the work; ten times the seconds leaves room for a busy machine
    assert timings[1].seconds > 10 * timings[0].seconds
    assert timings[0].repeats >= LEAST


@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_a_decoding_step_leaves_its_cache_as_it_was(name: str) -> None:
    one = subject(zoo.load(name, depth=1), length=12)
    cache = one.cache_after(11)
    kept = {module: state.clone() for module, state in cache.items()}
    with torch.no_grad():
        copy = Cache()
        copy.update(cache)
        one.model.features(one.inputs(1, batch=1)[0], Context(past=11, cache=copy))
    assert copy.keys() == cache.keys()
    assert all(torch.equal(cache[module], state) for module, state in kept.items())


# -- roofline ----------------------------------------------------------------------------------------------------------


def test_traffic_of_attention_by_hand() -> None:
    width = 32
    # Numbers in units of D. Mixer: value, two projections and two rotations read and write the stream, the score reads
    # queries and keys, `apply` reads values and writes, the output projection reads and writes; norm and residual 5.
    mixer = 5 * 2 + 2 + 2 + 2 + 5
    channel = 2 + 2 * 4 + 5  # in and out, the hidden vector of 4 D written and read, norm and residual
    assert traffic(zoo.load("mha", depth=3), default_widths(width), 64) == (3 * (mixer + channel) + 2) * width


def test_a_kernel_that_is_written_out_moves_its_scores() -> None:
    plain = parse("mix(apply(rownorm(masked(exp(dot(project(x), project(x))), visible)), value(x)), heads=1)")
    capped = parse("mix(apply(rownorm(masked(exp(cap(dot(project(x), project(x)))), visible)), value(x)), heads=1)")
    width, length = 32, 64
    less, more = (
        traffic(zoo.as_architecture(each, depth=1), default_widths(width), length) for each in (plain, capped)
    )
    # dot, cap, exp, masked and rownorm are written, and each is read by the next
    assert more - less == 10 * length


def test_roofline_is_the_slower_of_computing_and_moving() -> None:
    architecture, widths, length = zoo.load("mha"), default_widths(32), 64
    found = costs(architecture, widths, length)
    compute = Device(peak=1e6, bandwidth=math.inf, number=2)
    move = Device(peak=math.inf, bandwidth=1e6, number=2)
    moved = 2 * (found.parameters + 3 * length * traffic(architecture, widths, length))
    assert prefill_seconds(architecture, widths, length, device=compute, batch=3) == 3 * found.flops / 1e6
    assert prefill_seconds(architecture, widths, length, device=move, batch=3) == moved / 1e6
    # The last token attends to all L keys, where the mean token sees half of them.
    last = decode_seconds(architecture, widths, length, device=compute) * 1e6
    assert last > found.flops / length
    read = 2 * (found.parameters + found.state_bytes / 4 + traffic(architecture, widths, length))
    assert decode_seconds(architecture, widths, length, device=move) == read / 1e6


@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_every_zoo_entry_has_a_roofline(name: str) -> None:
    architecture, widths = zoo.load(name), default_widths(32)
    for device in DEVICES.values():
        prefill, decode = (roof(architecture, widths, 64, device=device) for roof in (prefill_seconds, decode_seconds))
        assert 0 < decode <= prefill < 1
    assert decode_seconds(architecture, widths, 1, device=DEVICES["h100"]) > 0


# -- the table ---------------------------------------------------------------------------------------------------------


def test_every_value_says_its_unit_device_and_method() -> None:
    found = table("mha", 16, 32, depth=1)
    assert all(each.unit and each.device and each.method for each in found.values())
    assert all(math.isfinite(each.value) and each.value >= 0 for each in found.values())
    named = {name for name, _, _ in found}
    assert {"prefill_seconds", "decode_seconds", "private_inference_bytes", "kernel_zeros", "hidden_zeros"} <= named
    assert {device for name, _, device in found if name == "roofline_decode_seconds"} == set(DEVICES)


def test_a_causal_kernel_is_half_zeros_and_a_rectified_unit_about_half() -> None:
    found = table("relu_attention", 64)
    assert at(table("mha", 64), "kernel_zeros", 64) == pytest.approx(63 / 128, abs=1e-12)  # L (L - 1) / 2 of L^2
    assert at(found, "kernel_zeros", 64) > 0.6


@pytest.mark.parametrize("pattern", [NONCAUSAL, NONCAUSAL_CROSS])
def test_other_patterns_are_measured_without_decoding(pattern) -> None:
    architecture = zoo.load("mha", depth=1)
    found = cost_table(architecture, widths=default_widths(16), lengths=[8], pattern=pattern, seconds=QUICK)
    named = {each.name for each in found}
    assert "prefill_seconds" in named
    assert not {name for name in named if "decode" in name or "state" in name}


def test_measuring_leaves_the_generator_alone() -> None:
    before = torch.random.get_rng_state()
    table("mha", 16, depth=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("lengths", [[], [0], [16, -1]])
def test_unusable_lengths_are_refused(lengths: list[int]) -> None:
    with pytest.raises(ConfigError, match="give at least one, each of 1 token or more"):
        cost_table(zoo.load("mha"), widths=default_widths(16), lengths=lengths)


def test_an_operation_without_a_meaning_is_refused() -> None:
    with pytest.raises(ConfigError, match="has no meaning under the noncausal pattern"):
        cost_table(zoo.load("lina_speech"), widths=default_widths(16), lengths=[8], pattern=NONCAUSAL)
