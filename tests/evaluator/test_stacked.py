"""Models side by side: what each of them says alone, and its gradients."""

from random import Random

import pytest
import torch
from torch import Tensor, nn

from archloom.evaluator.model import Model
from archloom.evaluator.modules import served
from archloom.evaluator.stacked import Stacked
from archloom.kernels.table import Size, examples
from archloom.kernels.vmapped import vmapping
from archloom.search_space import zoo
from archloom.search_space.costs import solve_widths, target_parameters
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.sampling import Sampler
from archloom.search_space.terms import Term

WIDTH, LENGTH, VOCABULARY, BATCH, REPLICATES = 16, 40, 11, 2, 2
EXACT = 1e-9  # relative to the largest entry: two orders of one sum in float64, up to a few thousand roundings


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def models_of(architecture: Term, pattern: Pattern = CAUSAL) -> list[Model]:
    target = target_parameters(zoo.load("mha"), width=WIDTH, length=LENGTH)
    widths = solve_widths(architecture, target=target, width=WIDTH, length=LENGTH, tolerance=0.3, pattern=pattern)
    return [
        Model(architecture, widths=widths, vocabulary=VOCABULARY, length=LENGTH, pattern=pattern).double()
        for _ in range(REPLICATES)
    ]


def assert_close(found: Tensor, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert (found - expected).abs().max() <= EXACT * expected.abs().max().clamp(min=1)


def check(models: list[Model], *, apart: bool) -> None:
    """Answers and gradients of the stack against those of each model, with inputs of its own or shared ones."""
    count, cross = (REPLICATES if apart else 1), models[0].pattern.cross
    inputs = torch.randint(VOCABULARY, (count, BATCH, LENGTH))
    sources = torch.randint(VOCABULARY, (count, BATCH, LENGTH + 3)) if cross else [None] * count
    stack = Stacked(models)
    found = stack.answers(
        inputs if apart else inputs[0], source=(sources if apart else sources[0]) if cross else None, apart=apart
    )
    weights = torch.randn_like(found)
    (gradients,) = torch.autograd.grad((found * weights).sum(), stack.weights)
    for row, model in enumerate(models):
        n = row if apart else 0
        alone = model(inputs[n], source=sources[n])
        assert_close(found[row], alone)
        parts = torch.autograd.grad((alone * weights[row]).sum(), list(model.parameters()), materialize_grads=True)
        assert_close(gradients[row], torch.cat([part.flatten() for part in parts]))


SOME = {*zoo.STANDARD, "flash", "kmeans_cross", "lla", "mamba", "rwkv7", "squeezeformer", "sse", "tabm"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name in SOME else pytest.mark.long) for name in zoo.names()]
)
def test_the_whole_zoo_runs_side_by_side(name: str) -> None:
    models = models_of(zoo.load(name), zoo.entry(name).pattern)
    check(models, apart=True)
    if name in zoo.STANDARD:
        check(models, apart=False)


def test_sampled_architectures_run_side_by_side() -> None:
    sampler, rng = Sampler.default(depth=2, max_size=40, width=WIDTH, length=LENGTH), Random(5)
    for _ in range(12):
        check(models_of(sampler.architecture(rng)), apart=True)


def test_weights_of_primitives_are_declared_where_modules_call_them() -> None:
    """The examples of a primitive say what belongs to heads or channels."""
    tried = set()
    for each in examples(Size(batch=2, steps=9, heads=2, width=4), dtype=torch.float64):
        call = getattr(served, each.function.__name__, None)
        if call is None:
            continue
        tried.add(each.function.__name__)
        stacked = {name: torch.stack([x.detach(), x.detach() / 2]) for name, x in each.tensors.items()}
        options = {"backend": "chunked", **each.options}
        with vmapping():
            found = torch.vmap(lambda named, call=call, options=options: call(**named, **options))(stacked)
        for n in range(2):
            assert_close(found[n], each.function(**{name: x[n] for name, x in stacked.items()}, **options).detach())
    assert {"linear_attention", "selective_scan", "short_convolution", "long_convolution", "attention"} <= tried


class Mixed(nn.Module):
    """Weights that are trained and not, a scalar, and a buffer; two names for one module."""

    def __init__(self, hidden: int = 4) -> None:
        super().__init__()
        self.read, self.write = nn.Embedding(VOCABULARY, hidden), nn.Linear(hidden, VOCABULARY)
        self.same, self.scale = self.write, nn.Parameter(torch.rand(()))
        self.write.bias.requires_grad_(False)
        self.register_buffer("offset", torch.randn(VOCABULARY))

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.scale * self.same(self.read(inputs)) + self.offset
        return outputs


def test_models_can_be_left_out_and_weights_written_back() -> None:
    models, inputs = [Mixed() for _ in range(3)], torch.randint(VOCABULARY, (BATCH, 5))
    expected = [model(inputs).detach() for model in models]
    stack = Stacked(models)
    assert stack.weights.shape == (3, 4 * VOCABULARY * 2 + 1)
    assert stack.matrices.sum() == 2 * 4 * VOCABULARY
    stack.keep(torch.tensor([2, 0]))
    torch.testing.assert_close(stack.answers(inputs), torch.stack([expected[2], expected[0]]))
    other = Mixed()
    stack.write(0, other)
    torch.testing.assert_close(other(inputs).detach(), expected[2])
    torch.testing.assert_close(models[1](inputs).detach(), expected[1])
    assert other.write.weight.requires_grad


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ([], "no model is given"),
        ([Mixed(), Mixed(5)], r"model 1 differs from the first in read.weight, write.weight"),
        ([Mixed(), nn.Linear(2, 2)], "model 1 differs from the first in"),
        ([Mixed().double(), Mixed()], "torch.float32 on cpu, torch.float64 on cpu; expected one dtype and device"),
        ([Mixed().requires_grad_(False)], "none that asks for a gradient; expected one dtype"),
    ],
)
def test_models_that_are_not_alike_are_refused(models: list[nn.Module], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Stacked(models)
