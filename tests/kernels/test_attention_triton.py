"""The Triton form of attention against the dense one, in values and all gradients: in the interpreter on the CPU, where
tensors are small and float32, and compiled on a GPU (`-m gpu`)."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton")

from archloom.kernels.attention import PositionalMask, attention, blocks
from archloom.kernels.attention.blocks import Blocks

# float32 sums of up to 110 terms, relative to the largest entry: about 1e-6 is seen
SINGLE = 2e-5
NORMALISERS = ("softmax", "softmax_plus_one", "sigmoid", "relu", "relu2")


@pytest.fixture(autouse=True)
def poisoned_memory(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Memory that is not initialised holds NaN, so that reading it shows."""
    empty, empty_like = torch.empty, torch.empty_like

    def poisoned(x: Tensor) -> Tensor:
        return x.fill_(torch.nan) if x.is_floating_point() else x

    monkeypatch.setattr(torch, "empty", lambda *sizes, **options: poisoned(empty(*sizes, **options)))
    monkeypatch.setattr(torch, "empty_like", lambda *given, **options: poisoned(empty_like(*given, **options)))
    yield
    monkeypatch.undo()


def make_inputs(
    steps: int,
    sources: int | None = None,
    *,
    batch: int = 1,
    heads: int = 2,
    groups: int = 1,
    width: int = 16,
    value: int = 16,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> list[Tensor]:
    sources = steps if sources is None else sources
    shapes = ((batch, steps, heads, width), (batch, sources, groups, width), (batch, sources, groups, value))
    return [torch.randn(*shape, device=device, dtype=dtype).requires_grad_() for shape in shapes]


def with_sides(inputs: list[Tensor], *, decay: bool = False, lags: int | None = None) -> tuple[dict, list[Tensor]]:
    (heads, (batch, sources)), device = (inputs[0].shape[2], inputs[1].shape[:2]), inputs[0].device
    sides = {}
    if decay:
        sides["log_decay"] = (-torch.rand(batch, sources, heads, device=device)).requires_grad_()
    if lags is not None:
        sides["lag_bias"] = torch.randn(heads, lags, device=device).requires_grad_()
    return sides, list(sides.values())


@pytest.mark.parametrize("steps", [1, 17, 64, 65, 100])
def test_odd_lengths(assert_equal_backends, steps):
    inputs = make_inputs(steps)
    assert_equal_backends(lambda backend: attention(*inputs, backend=backend), inputs, SINGLE, "triton")


SWITCHES = {
    "cached keys": {},
    "all keys": {"causal": False},
    "window": {"window": 9},
    "decay": {"decay": True},
    "decay, all keys": {"decay": True, "causal": False},
    "table": {"lags": 12},
    "one entry": {"lags": 1},
    "table, all keys": {"lags": 13, "causal": False},
    "cap": {"soft_cap": 1.5},
    **{name: {"normaliser": name} for name in NORMALISERS[1:]},
    "dilated": {"mask": PositionalMask(window=20, dilation=3)},
    "chunk, all keys": {"mask": PositionalMask(chunk=12), "causal": False},
    "sinks and window": {"mask": PositionalMask(first=5, window=7)},
    "strided": {"mask": PositionalMask(stride=5)},
    "mask": {"mask": True},
}
TOGETHER = {
    "everything": {"decay": True, "lags": 30, "soft_cap": 2.0, "window": 40},
    **{
        f"everything, {name}": {"normaliser": name, "decay": True, "lags": 9, "soft_cap": 2.0, "causal": False}
        for name in NORMALISERS
    },
    "window of all keys": {"decay": True, "lags": 15, "mask": PositionalMask(window=25, first=3), "causal": False},
    "mask, decay, table": {"mask": True, "decay": True, "lags": 31, "normaliser": "softmax_plus_one"},
}


def make_form(form: dict, inputs: list[Tensor]) -> tuple[dict, list[Tensor]]:
    """Arguments of attention and those to differentiate by. Some queries of a mask, and a block, see nothing."""
    arguments = {name: value for name, value in form.items() if name not in ("decay", "lags")}
    sides, leaves = with_sides(inputs, decay=form.get("decay", False), lags=form.get("lags"))
    if arguments.get("mask") is True:
        steps, sources = inputs[0].shape[1], inputs[1].shape[1]
        arguments["mask"] = torch.rand(steps, sources, device=inputs[0].device) < 0.1
        arguments["mask"][steps // 4] = False
        arguments["mask"][steps - steps // 3 :] = False
    return arguments | sides, leaves


@pytest.mark.parametrize("name", SWITCHES)
def test_each_switch_alone(assert_equal_backends, name):
    inputs = make_inputs(34, 41)
    arguments, leaves = make_form(SWITCHES[name], inputs)
    assert_equal_backends(
        lambda backend: attention(*inputs, **arguments, backend=backend), [*inputs, *leaves], SINGLE, "triton"
    )


@pytest.mark.parametrize("name", TOGETHER)
def test_switches_together(assert_equal_backends, monkeypatch, name):
    monkeypatch.setattr(blocks, "INTERPRETED", Blocks(16, 32, 4, 1))
    inputs = make_inputs(50, 67, width=9, value=20)
    arguments, leaves = make_form(TOGETHER[name], inputs)
    assert_equal_backends(
        lambda backend: attention(*inputs, **arguments, backend=backend), [*inputs, *leaves], SINGLE, "triton"
    )


@pytest.mark.parametrize(("heads", "groups"), [(3, 3), (3, 1), (4, 2)])
def test_grouped_heads_and_batches(assert_equal_backends, heads, groups):
    inputs = make_inputs(20, 35, batch=2, heads=heads, groups=groups, width=5, value=33)
    sides, leaves = with_sides(inputs, decay=True, lags=4)
    assert_equal_backends(
        lambda backend: attention(*inputs, **sides, backend=backend), [*inputs, *leaves], SINGLE, "triton"
    )


@pytest.mark.parametrize("sizes", [(16, 64), (64, 16)])
def test_tiles_of_any_shape(assert_equal_backends, monkeypatch, sizes):
    """The tiles that are visited, and those that are taken to be wholly visible, for tiles that are not square."""
    monkeypatch.setattr(blocks, "INTERPRETED", Blocks(*sizes, 4, 1))
    inputs = make_inputs(70, 90, heads=1)
    for mask, causal in (
        (PositionalMask(window=40), False),
        (PositionalMask(window=40, first=20), True),
        (PositionalMask(chunk=24), True),
    ):
        assert_equal_backends(
            lambda backend, mask=mask, causal=causal: attention(*inputs, mask=mask, causal=causal, backend=backend),
            inputs, SINGLE, "triton",
        )  # fmt: skip


def test_more_queries_than_keys(assert_equal_backends):
    (q, _, _), (_, k, v) = make_inputs(40), make_inputs(9)
    mask = torch.rand(40, 9) < 0.4
    for seen in (None, mask):
        assert_equal_backends(
            lambda backend, seen=seen: attention(q, k, v, causal=False, mask=seen, backend=backend), [q, k, v],
            SINGLE, "triton",
        )  # fmt: skip


def test_blocks_of_keys_that_are_hidden_are_not_read():
    """A NaN that is read stays one, even with a weight of zero."""
    inputs = make_inputs(32, 200)
    with torch.no_grad():
        for x in inputs[1:]:
            x[:, 32:128] = torch.nan
    for mask in (PositionalMask(window=20, first=10), PositionalMask(chunk=32, first=1)):
        out = attention(*inputs, mask=mask, backend="triton")
        slopes = torch.autograd.grad(out.sum(), inputs)
        assert out.isfinite().all()
        assert slopes[0].isfinite().all()
        assert slopes[1][:, 32:128].count_nonzero() == 0
    seen = torch.ones(32, 200, dtype=torch.bool)
    seen[:, 32:128] = False
    assert attention(*inputs, mask=seen, backend="triton").isfinite().all()


@pytest.mark.parametrize("normaliser", NORMALISERS)
@pytest.mark.parametrize("cap", [None, 30.0])
def test_very_large_scores(assert_equal_backends, normaliser, cap):
    """Scores of up to 40,000, whole numbers, so that the dense form has them without rounding."""
    inputs = [x.detach().mul(30).round().requires_grad_() for x in make_inputs(20)]
    inputs[2] = inputs[2].detach().div(30).requires_grad_()
    # counted in powers of two a score of 40,000 is rounded to within 0.004
    assert_equal_backends(
        lambda backend: attention(*inputs, scale=1.0, soft_cap=cap, normaliser=normaliser, backend=backend), inputs,
        1e-2, "triton",
    )  # fmt: skip


def test_decays_keep_their_digits_far_from_the_start():
    """After 60 steps of -2000 the cumulative decay is -120,000, whose float32 spacing is 0.008."""
    inputs = [x.detach() for x in make_inputs(100)]
    g = torch.full((1, 100, 2), -2000.0)
    g[:, 60:] = -0.001 * torch.rand(1, 40, 2)
    out = attention(*inputs, log_decay=g, backend="triton")
    exact = attention(*(x.double() for x in inputs), log_decay=g.double(), backend="reference")
    torch.testing.assert_close(out.double(), exact, rtol=SINGLE, atol=SINGLE)


def test_results_do_not_depend_on_the_run():
    inputs = make_inputs(40, heads=4)
    sides, leaves = with_sides(inputs, decay=True, lags=7)
    runs = []
    for _ in range(2):
        out = attention(*inputs, **sides, backend="triton")
        runs.append([out, *torch.autograd.grad(out.square().sum(), [*inputs, *leaves])])
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


def test_inputs_need_not_be_contiguous(assert_equal_backends):
    packed = torch.randn(1, 20, 3, 4, 16, requires_grad=True)
    q, k, v = packed.unbind(2)
    assert_equal_backends(lambda backend: attention(q, k, v, backend=backend), [packed], SINGLE, "triton")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"normaliser": "sparsemax"}, r'"sparsemax" has no Triton kernel; backend="chunked"'),
        ({"top_k": 2}, r'top_k is 2, which has no Triton kernel; backend="chunked"'),
        ({"bias": torch.zeros(2, 5, 5)}, r'bias .* has no Triton kernel; give lag_bias, or backend="chunked"'),
        ({name: torch.zeros(1, 5, 2, 8).double() for name in "qkv"}, "q has dtype torch.float64"),
        ({"v": torch.zeros(1, 5, 2, 257)}, "K = 8, V = 257; the Triton kernels take up to 256"),
        ({"k": torch.zeros(1, 4, 2, 8), "v": torch.zeros(1, 4, 2, 8)}, "k has S = 4 positions, q has T = 5"),
    ],
)
def test_refuses_what_it_does_not_serve(change, message):
    arguments = {name: torch.zeros(1, 5, 2, 8) for name in "qkv"} | change
    with pytest.raises(ValueError, match=message):
        attention(**arguments, backend="triton")


# -- on a GPU ---------------------------------------------------------------------------------------------------------

SIZES = {
    "width 64": {"heads": 8, "groups": 8, "width": 64, "value": 64},
    "grouped, width 128": {"heads": 8, "groups": 2, "width": 128, "value": 128},
    "width 256": {"heads": 4, "groups": 1, "width": 256, "value": 256},
    "odd widths": {"heads": 4, "groups": 4, "width": 80, "value": 40},
}
REALISTIC = {
    "causal": {},
    "window": {"window": 300},
    "everything": {"decay": True, "lags": 64, "soft_cap": 20.0, "window": 700},
    "all keys": {"causal": False, "lags": 65},
    "mask": {"mask": True},
    **{name: {"normaliser": name, "decay": True} for name in NORMALISERS[1:]},
}


@pytest.mark.gpu
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("form", REALISTIC)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_realistic_sizes(size, form, dtype):
    """RMS of the error over RMS of the float64 reference: 0.005 for bfloat16, whose numbers are rounded by 0.002."""
    inputs = make_inputs(1000, 1037, batch=2, **SIZES[size], device="cuda", dtype=dtype)
    arguments, _ = make_form(REALISTIC[form], inputs)
    results = []
    for kind in (dtype, torch.float64):
        given = [x.detach().to(kind).requires_grad_() for x in inputs]
        wide = torch.float64 if kind == torch.float64 else torch.float32
        sides = {
            name: x.detach().to(wide).requires_grad_()
            for name, x in arguments.items()
            if name in ("log_decay", "lag_bias")
        }
        backend = "triton" if kind == dtype else "reference"
        out = attention(*given, **(arguments | sides), backend=backend)
        weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).cuda()
        results.append([out, *torch.autograd.grad((out * weight).sum(), [*given, *sides.values()])])
    for got, want in zip(*results, strict=True):
        assert got.isfinite().all()
        ratio = (got.double() - want).square().mean().sqrt() / want.square().mean().sqrt()
        assert ratio < (5e-3 if dtype == torch.bfloat16 else 1e-4), float(ratio)
