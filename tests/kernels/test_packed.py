"""Packed sequences: what each gives is what it gives alone, in values, gradients and states.

float64 throughout: both sides are the same sums, in chunks that may lie otherwise, so only rounding is left.
"""

from collections.abc import Callable, Mapping
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, normalize

from archloom.kernels.attention import attention
from archloom.kernels.banded import banded
from archloom.kernels.feature_toeplitz import feature_toeplitz
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.local_linear import local_linear
from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.packed import packed
from archloom.kernels.resolvent import delta_rule, resolvent
from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.short_convolution import short_convolution

HEADS, WIDTH, TAPS = 2, 4, 3
LENGTHS = {
    "mixed": (7, 1, 40, 3),
    "empty": (0, 5, 0, 0, 9, 0),
    "equal": (6, 6, 6),
    "one token": (1,),
    "far apart": (100, 1, 2, 1),
    "long": (70, 130),
}
TOLERANCE = 1e-10

Case = tuple[Callable[..., Tensor | tuple[Tensor, Tensor]], dict[str, Tensor], tuple[int, ...] | None]


def leaf(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64).requires_grad_()


def case(name: str, total: int) -> Case:
    """The primitive with what is not packed bound, its packed inputs, and the shape of one initial state."""
    q, k, v = (leaf(1, total, HEADS, WIDTH) for _ in range(3))
    head, channel = ((-torch.rand(1, total, HEADS, *width).double()).requires_grad_() for width in ((), (WIDTH,)))
    keys = normalize(k.detach(), dim=-1).requires_grad_()
    taps, x = leaf(HEADS * WIDTH, TAPS), leaf(1, total, HEADS * WIDTH)
    state, given = (HEADS, WIDTH, WIDTH), {"q": q, "k": k, "v": v}
    match name:
        case "linear_attention":
            return partial(linear_attention, return_state=True), given, state
        case "linear_attention, head":
            return partial(linear_attention, return_state=True), {**given, "log_decay": head}, state
        case "linear_attention, channel":
            return partial(linear_attention, return_state=True), {**given, "log_decay": channel}, state
        case "linear_attention, exclusive":
            bound = partial(linear_attention, exclusive=True, bonus=leaf(HEADS, WIDTH), return_state=True)
            return bound, {**given, "log_decay": channel}, state
        case "linear_attention, normalised":
            given = {"q": q.detach().exp().requires_grad_(), "k": k.detach().exp().requires_grad_(), "v": v}
            return partial(linear_attention, normalise=True, return_state=True), given, (HEADS, WIDTH, WIDTH + 1)
        case "resolvent":
            return partial(resolvent, return_state=True), {"b": keys, "k": keys, "x": v, "log_decay": head}, state
        case "delta_rule":
            given = {"q": q, "b": keys, "k": keys, "x": v, "log_decay": channel}
            return partial(delta_rule, return_state=True), given, state
        case "selective_scan":
            rate, step = (-torch.rand(state)).double().requires_grad_(), v.detach().exp().requires_grad_()
            return partial(selective_scan, rate=rate, return_state=True), {**given, "step": step}, state
        case "short_convolution":
            return partial(short_convolution, taps=taps, return_state=True), {"x": x}, (TAPS - 1, HEADS * WIDTH)
        case "short_convolution, one tap":
            return partial(short_convolution, taps=taps[:, :1], return_state=True), {"x": x}, (0, HEADS * WIDTH)
        case "banded":
            band = leaf(1, total, HEADS, TAPS)
            return partial(banded, return_state=True), {"taps": band, "v": v}, (TAPS - 1, HEADS, WIDTH)
        case "long_convolution":
            return partial(long_convolution, filter=leaf(HEADS * WIDTH, 20)), {"x": x}, None
        case "attention":
            return attention, given, None
        case "attention, decay and window":
            return partial(attention, window=5), {**given, "log_decay": logsigmoid(head)}, None
        case "attention, plus one":
            return partial(attention, normaliser="softmax_plus_one"), given, None
        case "feature_toeplitz":
            return partial(feature_toeplitz, taps=leaf(HEADS, 20)), given, None
        case "local_linear":
            return partial(local_linear, ridge=1.0), given, None
    raise AssertionError(name)


CASES = (
    *("linear_attention", "linear_attention, head", "linear_attention, channel", "linear_attention, exclusive"),
    *("linear_attention, normalised", "resolvent", "delta_rule", "selective_scan", "short_convolution"),
    *("short_convolution, one tap", "banded", "long_convolution", "attention", "attention, decay and window"),
    *("attention, plus one", "feature_toeplitz", "local_linear"),
)


def bounds(lengths: tuple[int, ...], dtype: torch.dtype = torch.int64) -> Tensor:
    return torch.tensor((0, *lengths)).cumsum(0).to(dtype)


def alone(
    primitive: Callable[..., Tensor | tuple[Tensor, Tensor]],
    tensors: Mapping[str, Tensor],
    lengths: tuple[int, ...],
    start: Tensor | None,
    size: tuple[int, ...] | None,
) -> tuple[Tensor, Tensor | None]:
    """Each sequence by a call of its own."""
    outputs, states, begin = [], [], 0
    for number, length in enumerate(lengths):
        first = None if start is None else start[number : number + 1]
        if length == 0:
            states.append(first if first is not None else torch.zeros(1, *(size or ()), dtype=torch.float64))
            continue
        given = {name: tensor[:, begin : begin + length] for name, tensor in tensors.items()}
        result = primitive(**given) if first is None else primitive(**given, initial_state=first)
        out, state = (result, torch.zeros(1)) if isinstance(result, Tensor) else result
        outputs.append(out)
        states.append(state)
        begin += length
    return torch.cat(outputs, 1), None if size is None else torch.cat(states)


def assert_alike(
    found: tuple[Tensor, Tensor | None], expected: tuple[Tensor, Tensor | None], inputs: list[Tensor]
) -> None:
    weights = [None if each is None else torch.randn_like(each) for each in expected]
    gradients = []
    for results in (found, expected):
        pairs = [(each, weight) for each, weight in zip(results, weights, strict=True) if each is not None]
        loss = torch.stack([(each * weight).sum() for each, weight in pairs]).sum()
        gradients.append(torch.autograd.grad(loss, inputs, allow_unused=True, materialize_grads=True))
    for got, want in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert (got is None) is (want is None)
        if got is not None and want is not None:
            torch.testing.assert_close(got, want, rtol=TOLERANCE, atol=TOLERANCE)


def bound_tensors(primitive: object) -> list[Tensor]:
    values = primitive.keywords.values() if isinstance(primitive, partial) else ()
    return [value for value in values if isinstance(value, Tensor) and value.requires_grad]


@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("name", CASES)
def test_packed_equals_each_sequence_alone(name: str, lengths: str) -> None:
    sizes = LENGTHS[lengths]
    primitive, tensors, state = case(name, sum(sizes))
    start = None if state is None else leaf(len(sizes), *state)
    for initial in (None,) if start is None else (None, start):
        result = packed(primitive, tensors, cu_seqlens=bounds(sizes), initial_state=initial)
        found = (result, None) if isinstance(result, Tensor) else result
        inputs = [*tensors.values(), *bound_tensors(primitive), *([] if initial is None else [initial])]
        inputs = [each for each in inputs if each.is_leaf]
        assert_alike(found, alone(primitive, tensors, sizes, initial, state), inputs)


@pytest.mark.parametrize("most_padding", [1.0, 1.5, 8.0])
def test_how_sequences_are_grouped_changes_nothing(most_padding: float) -> None:
    sizes = (3, 17, 0, 9, 17, 1, 33)
    primitive, tensors, state = case("delta_rule", sum(sizes))
    found = packed(primitive, tensors, cu_seqlens=bounds(sizes, torch.int32), most_padding=most_padding)
    assert isinstance(found, tuple)
    assert_alike(found, alone(primitive, tensors, sizes, None, state), list(tensors.values()))


@pytest.mark.parametrize("most_padding", [1.0, 1.3, 2.0])
def test_padding_is_bounded(most_padding: float) -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = tuple(torch.randint(0, 300, (40,), generator=generator).tolist())
    run = 0

    def counting(x: Tensor) -> Tensor:
        nonlocal run
        run += x.shape[0] * x.shape[1]
        return x

    x = torch.randn(1, sum(sizes), 2)
    assert torch.equal(packed(counting, {"x": x}, cu_seqlens=bounds(sizes), most_padding=most_padding), x)
    assert sum(sizes) <= run <= most_padding * sum(sizes)


def test_what_is_not_causal_is_served_without_padding() -> None:
    sizes = (5, 3, 5, 1)
    _, tensors, _ = case("attention", sum(sizes))
    primitive = partial(attention, causal=False)
    found = packed(primitive, tensors, cu_seqlens=bounds(sizes), most_padding=1)
    assert_alike((found, None), alone(primitive, tensors, sizes, None, None), list(tensors.values()))
    equal = (7, 7)
    assert isinstance(packed(primitive, tensors, cu_seqlens=bounds(equal)), Tensor)  # nothing to pad either
    with pytest.raises(ValueError, match=r"causal=False .* most_padding=1"):
        packed(primitive, tensors, cu_seqlens=bounds((9, 5)))


def test_half_precision_stays_half_precision() -> None:
    sizes = (4, 9)
    _, tensors, _ = case("linear_attention", sum(sizes))
    half = {name: tensor.bfloat16() for name, tensor in tensors.items()}
    out, state = packed(partial(linear_attention, return_state=True), half, cu_seqlens=bounds(sizes))
    assert (out.dtype, state.dtype) == (torch.bfloat16, torch.float32)


@pytest.mark.parametrize(
    ("cu_seqlens", "message"),
    [
        (torch.tensor([0.0, 4.0]), r"cu_seqlens is torch.float32 .*expected torch.int32 or torch.int64"),
        (torch.tensor([[0, 4]]), r"shape \(1, 2\); expected .*\[N \+ 1\]"),
        (torch.tensor([0]), r"shape \(1,\); expected"),
        (torch.tensor([1, 4]), r"cu_seqlens begins with 1; expected 0"),
        (torch.tensor([0, 3, 2, 4]), r"cu_seqlens falls from 3 to 2 at entry 2; expected"),
        (torch.tensor([0, 3]), r"x has shape \(1, 4, 2\); expected .*T_total = 3"),
        (torch.tensor([0, 5]), r"x has shape \(1, 4, 2\); expected .*T_total = 5"),
    ],
)
def test_cu_seqlens_that_do_not_fit_are_told(cu_seqlens: Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        packed(lambda x: x, {"x": torch.zeros(1, 4, 2)}, cu_seqlens=cu_seqlens)


def test_arguments_that_do_not_fit_are_told() -> None:
    x, two = torch.zeros(1, 4, 2), bounds((1, 3))
    with pytest.raises(ValueError, match=r"x has shape \(2, 4, 2\); expected \[1, T_total"):
        packed(lambda x: x, {"x": torch.zeros(2, 4, 2)}, cu_seqlens=two)
    with pytest.raises(ValueError, match=r"tensors is empty"):
        packed(lambda: x, {}, cu_seqlens=two)
    with pytest.raises(ValueError, match=r"no token"):
        packed(lambda x: x, {"x": x[:, :0]}, cu_seqlens=bounds((0, 0)))
    with pytest.raises(ValueError, match=r"initial_state has shape \(3, 2\); expected .* 2 sequences"):
        packed(lambda x: x, {"x": x}, cu_seqlens=two, initial_state=torch.zeros(3, 2))
    with pytest.raises(ValueError, match=r"most_padding is 0.5"):
        packed(lambda x: x, {"x": x}, cu_seqlens=two, most_padding=0.5)
    with pytest.raises(ValueError, match=r"mask is bound .*not support"):
        packed(partial(attention, mask=torch.ones(4, 4).bool()), {"x": x}, cu_seqlens=two)
    with pytest.raises(ValueError, match=r"initial_state is bound .*packed itself"):
        packed(partial(linear_attention, initial_state=x), {"x": x}, cu_seqlens=two)
