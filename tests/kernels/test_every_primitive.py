"""What holds for every primitive of the table: its examples against the oracle, and each way to run them.

Adding a primitive is a folder and a row of the table; the last tests do it.
"""

import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from textwrap import dedent

import pytest
import torch
from torch import Tensor

from archloom.kernels import table
from archloom.kernels.linear_attention import linear_attention
from archloom.kernels.packed import packed
from archloom.kernels.replicated import replicated
from archloom.kernels.table import Example, Size, backends_of, examples, last_input, with_triton
from archloom.kernels.windowed import windowed_resolvent

SMALL = Size(batch=2, steps=21, heads=2, width=4)
LONG = Size(batch=1, steps=150, heads=2, width=4)  # several chunks, the last one cut
NAMES = [each.name for each in examples(SMALL)]
EXACT = 1e-10  # relative to the largest entry, in float64
HALF = {"attention": 3e-2, "windowed": 2e-2, "feature": 2e-2}
"""Of bfloat16 against float64 where rounded inputs leave more than 1e-2: rounding of weights that are kept in it."""


def example(name: str, size: Size = SMALL, dtype: torch.dtype = torch.float64) -> Example:
    return next(each for each in examples(size, dtype=dtype) if each.name == name)


def results(of: Example, **options) -> list[Tensor]:
    """Output, and the gradients of all tensors under fixed weights of the output."""
    out = of(**options)
    generator = torch.Generator().manual_seed(1)
    weights = torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)
    return [out, *torch.autograd.grad(out, list(of.tensors.values()), weights, materialize_grads=True)]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        assert got.isfinite().all()
        assert (got - want).abs().max() <= tolerance * want.abs().max().clamp(min=1)


def equals_the_reference(name: str, size: Size) -> None:
    given = example(name, size)
    assert_close(results(given), results(given, backend="reference"), EXACT)


@pytest.mark.parametrize("size", [SMALL, LONG, Size(batch=1, steps=1, heads=1, width=1)], ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_equals_the_reference(name: str, size: Size) -> None:
    equals_the_reference(name, size)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_inputs_are_summed_in_single(name: str) -> None:
    given = example(name, dtype=torch.bfloat16)
    exact = {key: tensor.detach().double() for key, tensor in given.tensors.items()}
    expected = given.function(**exact, **given.options, backend="reference")
    found = given()
    assert found.dtype == torch.bfloat16
    tolerance = HALF.get(name.split(",")[0].split()[0], 1e-2)
    assert (found.double() - expected).abs().max() <= tolerance * expected.abs().max()


@pytest.fixture
def poisoned() -> Iterator[None]:
    """New memory holds NaN, so that reading what was never written shows."""
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("poisoned")
@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_read_before_it_is_written_and_results_repeat(name: str) -> None:
    given = example(name, LONG, torch.float32)
    once, again = results(given), results(given)
    for first, second in zip(once, again, strict=True):
        assert first.isfinite().all()
        assert torch.equal(first, second)


def hands_over_its_state(name: str, cut: int) -> None:
    given = example(name)
    assert given.state is not None
    state = torch.randn(given.state, dtype=torch.float64)
    whole, last = given(initial_state=state, return_state=True)
    parts = []
    for span in (slice(0, cut), slice(cut, None)):
        sliced = {key: tensor[:, span] for key, tensor in given.inputs.items()}
        out, state = given(**sliced, initial_state=state, return_state=True)
        parts.append(out)
    assert_close([torch.cat(parts, 1), state], [whole, last], EXACT)


@pytest.mark.parametrize("cut", [1, 13])
@pytest.mark.parametrize("name", [each.name for each in examples(SMALL) if each.state is not None])
def test_one_call_is_two_calls(name: str, cut: int) -> None:
    hands_over_its_state(name, cut)


def packs(name: str) -> None:
    """Sequences of several lengths give what each gives alone."""
    lengths, whole = (9, 1, 30), Size(batch=1, steps=40, heads=2, width=4)
    given = example(name, whole)
    bound = partial(given.function, **given.weights, **given.options)
    begins = torch.tensor([0, *lengths]).cumsum(0)
    found = packed(bound, given.inputs, cu_seqlens=begins)
    alone = [
        given(**{key: tensor[:, begin : begin + length] for key, tensor in given.inputs.items()})
        for begin, length in zip(begins.tolist(), lengths, strict=False)
    ]
    assert_close([found], [torch.cat(alone, 1)], EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_packed_sequences_give_what_each_gives_alone(name: str) -> None:
    packs(name)


def replicates(name: str) -> None:
    """Three replicates as more heads give what each gives alone, gradients and states too."""
    given = example(name)
    scales = (1.0, 0.5, 0.25)
    inputs, weights = (
        {key: torch.stack([scale * tensor.detach() for scale in scales]).requires_grad_() for key, tensor in of.items()}
        for of in (given.inputs, given.weights)
    )
    options = dict(given.options) | ({"return_state": True} if given.state is not None else {})
    result = replicated(partial(given.function, **options), inputs, weights)
    each = [
        given(**{key: tensor[n] for key, tensor in (inputs | weights).items()}, **options) for n in range(len(scales))
    ]
    if given.state is None:
        result, each = (result,), [(out,) for out in each]
    for together, *parts in zip(result, *each, strict=True):
        apart = torch.stack(parts)
        assert_close([together], [apart], EXACT)
        tensors = list((inputs | weights).values())
        found, expected = (
            torch.autograd.grad(x.square().sum(), tensors, retain_graph=True, materialize_grads=True)
            for x in (together, apart)
        )
        assert_close(list(found), list(expected), EXACT)


@pytest.mark.parametrize("name", NAMES)
def test_replicates_are_more_heads(name: str) -> None:
    replicates(name)


def test_replicates_differ_in_number() -> None:
    with pytest.raises(ValueError, match=r"first axes are \{'x': 2, 'taps': 3\}; expected one number of replicates"):
        replicated(example(NAMES[0]).function, {"x": torch.ones(2, 1, 1, 1)}, {"taps": torch.ones(3, 1, 1)})


@pytest.mark.parametrize("name", NAMES)
def test_a_state_that_is_the_last_input_is_declared(name: str) -> None:
    given = example(name)
    kept = last_input(given.function)
    if kept is not None:
        _, state = given(return_state=True)
        held = min(state.shape[1], SMALL.steps)
        assert torch.equal(state[:, -held:], given.inputs[kept][:, -held:])


@pytest.mark.long  # seconds for each
@pytest.mark.filterwarnings("ignore:.*autograd.function.Function.*:DeprecationWarning", "ignore:The .grad attribute")
@pytest.mark.parametrize("name", NAMES)
def test_compiled_gives_the_same(name: str) -> None:
    torch.compiler.reset()
    given = example(name)
    compiled = torch.compile(given.function, backend="aot_eager", dynamic=False)
    tensors = given.tensors
    assert_close([compiled(**tensors, **given.options)], [given()], EXACT)
    loss = compiled(**tensors, **given.options).square().sum()
    found = torch.autograd.grad(loss, list(tensors.values()))
    assert_close(list(found), list(torch.autograd.grad(given().square().sum(), list(tensors.values()))), EXACT)


# -- adding one --------------------------------------------------------------------------------------------------------

FOLDER = {
    "__init__.py": """
        from typing import Literal

        from new_primitive import chunked, reference

        LAST_INPUT = None

        def fading_sum(
            x, *, rate, initial_state=None, return_state=False, backend: Literal["chunked", "reference"] = "chunked"
        ):
            form = {"chunked": chunked, "reference": reference}[backend]
            start = x.new_zeros(len(x), *x.shape[2:]) if initial_state is None else initial_state
            out = form.fading_sum(x, rate, start)
            return (out, out[:, -1]) if return_state else out
    """,
    "reference.py": """
        import torch

        def fading_sum(x, rate, state):
            outputs = []
            for now in x.unbind(1):
                state = rate.unsqueeze(-1) * state + now
                outputs.append(state)
            return torch.stack(outputs, 1)
    """,
    "chunked.py": """
        import torch

        def fading_sum(x, rate, state):
            lag = torch.arange(x.shape[1]).unsqueeze(1) - torch.arange(x.shape[1])
            weights = torch.where(lag >= 0, rate[:, None, None] ** lag.clamp(min=0), 0)
            past = rate ** torch.arange(1, x.shape[1] + 1).unsqueeze(1)
            return torch.einsum("hts,bshv->bthv", weights, x) + past[..., None] * state.unsqueeze(1)
    """,
    "examples.py": """
        from archloom.kernels.table import Example
        from new_primitive import fading_sum

        def examples(draw):
            size = draw.size
            yield Example(
                name="fading sum",
                function=fading_sum,
                inputs={"x": draw.each(size.width)},
                weights={"rate": draw.uniform(size.heads)},
                flops=2 * size.tokens * size.width,
                state=(size.batch, size.heads, size.width),
            )
    """,
}


@pytest.fixture
def fading_sum(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A primitive in a folder of its own, and its row in the table."""
    folder = tmp_path / "new_primitive"
    folder.mkdir()
    for name, text in FOLDER.items():
        (folder / name).write_text(dedent(text))
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(table, "PRIMITIVES", (*table.PRIMITIVES, "new_primitive"))
    yield "fading sum"
    for name in [each for each in sys.modules if each.split(".")[0] == "new_primitive"]:
        del sys.modules[name]


def test_a_folder_and_a_row_are_all_that_a_new_primitive_takes(fading_sum: str) -> None:
    equals_the_reference(fading_sum, SMALL)
    hands_over_its_state(fading_sum, 13)
    packs(fading_sum)
    replicates(fading_sum)
    assert "new_primitive" not in with_triton()


def test_backends_are_those_of_the_signature() -> None:
    assert backends_of(linear_attention) == ("chunked", "reference", "triton")
    assert backends_of(windowed_resolvent) == ("chunked", "reference")
    assert "archloom.kernels.linear_attention" in with_triton()


def test_benchmarks_time_a_new_primitive(
    fading_sum: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "benchmarks")
    import bench_kernels

    command = ["bench_kernels", "--only", fading_sum, "--sizes", "1x16x2x4", "--seconds", "0.01", "--device", "cpu"]
    monkeypatch.setattr(sys, "argv", command)
    try:
        bench_kernels.main()
    finally:
        torch.set_flush_denormal(False)
    (row,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith(fading_sum)]
    assert "chunked" in row
