"""Every primitive of the table under `torch.vmap`: replicate by replicate what it gives for each alone, in float64."""

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from archloom.kernels.attention import attention
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.long_convolution import long_convolution
from archloom.kernels.selective_scan import selective_scan
from archloom.kernels.short_convolution import short_convolution
from archloom.kernels.table import Example, Size, examples
from archloom.kernels.vmapped import vmappable, vmapping

SMALL = Size(batch=2, steps=21, heads=2, width=4)
EXAMPLES = {each.name: each for each in examples(SMALL, dtype=torch.float64)}
REPLICATES = (1.0, 0.5, 0.25)
EXACT = 1e-10  # relative to the largest entry, of sums that are made in another order


def replicates_of(tensor: Tensor) -> Tensor:
    """[R, ...]: scaled, which keeps signs, and zeros of routes."""
    return torch.stack([scale * tensor.detach() for scale in REPLICATES]).requires_grad_()


def assert_alike(found: tuple[Tensor, ...], expected: tuple[Tensor, ...], tensors: list[Tensor]) -> None:
    """Outputs and their gradients, under weights of the outputs without a pattern."""
    generator = torch.Generator().manual_seed(1)
    weights = [torch.randn(each.shape, generator=generator, dtype=torch.float64) for each in expected]
    gradients = [
        torch.autograd.grad(outputs, tensors, weights, retain_graph=True, materialize_grads=True)
        for outputs in (found, expected)
    ]
    for got, want in zip((*found, *gradients[0]), (*expected, *gradients[1]), strict=True):
        assert got.shape == want.shape
        assert (got - want).abs().max() <= EXACT * want.abs().max().clamp(min=1)


def check(given: Example, *, shared: frozenset[str] = frozenset(), state: bool = False) -> None:
    """Under vmap and in a loop, with some tensors the same for all replicates."""
    tensors = {
        name: tensor.detach().requires_grad_() if name in shared else replicates_of(tensor)
        for name, tensor in given.tensors.items()
    }
    options = dict(given.options)
    if state:
        assert given.state is not None
        tensors["initial_state"] = replicates_of(torch.randn(given.state, dtype=torch.float64))
        options["return_state"] = True
    apply = vmappable(given.function, weights=tuple(given.weights))

    def call(named: dict[str, Tensor], function: Callable[..., Tensor | tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        result = function(**named, **options)
        return (result,) if isinstance(result, Tensor) else result

    axes = {name: None if name in shared else 0 for name in tensors}
    with vmapping():
        found = torch.vmap(partial(call, function=apply), in_dims=(axes,))(tensors)
    apart = [
        call({name: x if name in shared else x[n] for name, x in tensors.items()}, given.function)
        for n in range(len(REPLICATES))
    ]
    assert_alike(found, tuple(torch.stack(each) for each in zip(*apart, strict=True)), list(tensors.values()))


@pytest.mark.parametrize("name", EXAMPLES)
def test_vmap_gives_what_each_gives_alone(name: str) -> None:
    check(EXAMPLES[name])


@pytest.mark.parametrize("name", [name for name, each in EXAMPLES.items() if each.weights])
def test_weights_may_be_the_same_for_all_or_all_that_differs(name: str) -> None:
    given = EXAMPLES[name]
    check(given, shared=frozenset(given.weights))
    check(given, shared=frozenset(given.inputs))
    check(given, shared=frozenset([next(iter(given.inputs))]))


@pytest.mark.parametrize("name", [name for name, each in EXAMPLES.items() if each.state is not None])
def test_states_are_those_of_each_alone(name: str) -> None:
    check(EXAMPLES[name], state=True)


def test_weights_of_which_one_differs() -> None:
    x, taps, bias = (torch.randn(size, dtype=torch.float64) for size in [(2, 5, 3), (4, 3, 2), (3,)])
    apply = vmappable(short_convolution, weights=("taps", "bias"))
    with vmapping():
        found = torch.vmap(lambda each: apply(x, each, bias=bias))(taps)
    torch.testing.assert_close(found, torch.stack([short_convolution(x, each, bias=bias) for each in taps]))


def test_replicates_may_stand_on_any_axis() -> None:
    x, taps = torch.randn(2, 7, 3, 5, dtype=torch.float64), torch.randn(3, 7, 5, dtype=torch.float64)
    apply = vmappable(long_convolution, weights=("filter",))
    with vmapping():
        found = torch.vmap(apply, in_dims=(3, 2))(x, taps)
    expected = [long_convolution(x[..., n], taps[..., n]) for n in range(5)]
    torch.testing.assert_close(found, torch.stack(expected))


@pytest.mark.parametrize("mapped", [False, True])
def test_what_nothing_differs_in_has_its_own_gradients(mapped: bool) -> None:
    """Inside `vmapping()` without any vmap, and under one whose replicates share every tensor."""
    given = next(each for each in EXAMPLES.values() if each.function is selective_scan)
    apply = vmappable(given.function, weights=tuple(given.weights))
    tensors = {name: tensor.detach().requires_grad_(name != "v") for name, tensor in given.tensors.items()}
    with vmapping():
        out = torch.vmap(lambda _: apply(**tensors))(torch.zeros(2))[1] if mapped else apply(**tensors)
    asked = [tensor for tensor in tensors.values() if tensor.requires_grad]
    assert_alike((out,), (given.function(**tensors),), asked)


def test_outside_the_block_the_primitive_itself_is_called() -> None:
    q = torch.randn(1, 5, 1, 4, requires_grad=True)
    out = vmappable(linear_attention)(q, q, q)
    assert type(out.grad_fn) is type(linear_attention(q, q, q).grad_fn)


def test_a_mask_is_one_for_all() -> None:
    q, masks = torch.randn(2, 1, 3, 1, 4), torch.ones(2, 3, 3, dtype=torch.bool)
    apply = vmappable(attention)
    with vmapping():
        found = torch.vmap(lambda q: apply(q, q, q, mask=masks[0]))(q)
        torch.testing.assert_close(found, torch.stack([attention(each, each, each, causal=False) for each in q]))
        with pytest.raises(ValueError, match="mask differs between replicates"):
            torch.vmap(lambda q, mask: apply(q, q, q, mask=mask))(q, masks)


@pytest.mark.parametrize("name", ["linear attention, head", "short convolution, W 4"])
def test_triton_kernels_are_reached_too(name: str) -> None:
    """In float32, whose rounding is the tolerance; on the CPU by Triton's interpreter."""
    pytest.importorskip("triton")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    known = examples(Size(batch=1, steps=9, heads=2, width=8), device=device)
    given = next(each for each in known if each.name == name)
    tensors = {key: replicates_of(tensor) for key, tensor in given.tensors.items()}
    apply = vmappable(partial(given.function, backend="triton"), weights=tuple(given.weights))
    with vmapping():
        found = torch.vmap(lambda named: apply(**named, **given.options))(tensors)
    apart = [given(**{key: tensor[n] for key, tensor in tensors.items()}) for n in range(len(REPLICATES))]
    expected = torch.stack(apart)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5 * float(expected.detach().abs().max()))
    for got, want in zip(
        torch.autograd.grad(found.square().sum(), list(tensors.values())),
        torch.autograd.grad(expected.square().sum(), list(tensors.values())),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=0, atol=1e-4 * float(want.abs().max().clamp(min=1)))
