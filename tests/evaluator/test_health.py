"""What training health is told by: models whose kernels, units and weights are known by construction."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task, Training
from archloom.evaluator.health import EXACT_SIDE, WATCHED_TOKENS, Recorder, largest_spectral_norm, spectral_norm
from archloom.evaluator.inside import blocks_of, look, rows, units
from archloom.evaluator.model import Model
from archloom.evaluator.modules.channels import CHANNELS
from archloom.evaluator.tasks import make_runner
from archloom.evaluator.tasks.interface import Batch
from archloom.evaluator.training import TrainingResult, deterministic, train
from archloom.search_space import zoo
from archloom.search_space.costs import default_widths
from archloom.search_space.patterns import CAUSAL, CAUSAL_CROSS, NONCAUSAL, NONCAUSAL_CROSS, Pattern
from archloom.search_space.text import parse

VOCABULARY, LENGTH = 16, 24
TASK = Task(name="mqar", vocabulary=VOCABULARY, length=LENGTH, batch=8, options=(("evaluation", 8), ("pairs", 4)))


@pytest.fixture(autouse=True)
def one_thread_and_seed() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def model_of(text: str, *, width: int = 16, depth: int = 2) -> Model:
    """Of a zoo entry or of a mixer or block in text."""
    architecture = zoo.load(text, depth=depth) if text in zoo.names() else None
    architecture = architecture or zoo.as_architecture(parse(text), depth=depth)
    return Model(architecture, widths=default_widths(width), vocabulary=VOCABULARY, length=LENGTH)


def symbols(batch: int = 2) -> Tensor:
    return torch.randint(VOCABULARY, (batch, LENGTH))


# -- kernels -----------------------------------------------------------------------------------------------------------


def test_rows_by_hand() -> None:
    kernel = torch.tensor([[2.0, 0.0, 0.0], [-1.0, 1.0, 0.0], [0.0, 0.0, 3.0]])
    found = rows(kernel, torch.tensor([1, 2, 3]))
    # the first row is shown one key; the second looks at both alike, the third at its own
    assert (found.entropy, found.sink) == (pytest.approx(0.5), pytest.approx(0.25))
    assert found.zeros == pytest.approx(5 / 9)


def test_rows_without_mass_do_not_count() -> None:
    found = rows(torch.zeros(2, 4, 4), torch.arange(1, 5))
    assert math.isnan(found.entropy)
    assert math.isnan(found.sink)
    assert found.zeros == 1


def test_uniform_attention_has_entropy_one_and_the_sink_of_a_mean() -> None:
    found = look(model_of("uniform_attention"), symbols())
    share = sum(1 / seen for seen in range(2, LENGTH + 1)) / (LENGTH - 1)
    assert len(found) == 2
    for block in found:
        assert block.mean(lambda each: each.entropy) == pytest.approx(1, abs=1e-6)  # sums of 24 in float32
        assert block.mean(lambda each: each.sink) == pytest.approx(share, abs=1e-6)


def test_attention_to_the_first_token_is_all_sink() -> None:
    model = model_of(
        "mix(apply(rownorm(masked(exp(dot(project(x), project(x))), visible)), value(x)), heads=1)", depth=1
    )
    (block,) = blocks_of(model)
    kernel = next(each for each in block.mixer.modules() if type(each).__name__ == "Dot")
    query, key = (each.linear for each in kernel.inputs)
    with torch.no_grad():
        # Every symbol has channel 0 set; symbol 0 alone has channel 1. Queries ask with the one for the other.
        model.embedding.weight.zero_()
        model.embedding.weight[:, 0] = 1
        model.embedding.weight[0, 1] = 1
        for linear, channel in ((query, 0), (key, 1)):
            linear.weight.zero_()
            linear.weight[0, channel] = 1000
    tokens = torch.randint(1, VOCABULARY, (2, LENGTH))
    tokens[:, 0] = 0
    (found,) = look(model, tokens)
    (seen,) = found.kernels
    assert (seen.sink, seen.entropy) == (1, 0)


def test_a_long_convolution_shows_its_toeplitz_matrix() -> None:
    model = model_of("mix(apply(exponential, value(x)), heads=1)", depth=1)
    (block,) = blocks_of(model)
    filters = next(each for each in block.mixer.modules() if type(each).__name__ == "ExponentialFilter")
    taps = filters.taps(LENGTH).detach()
    literal = torch.zeros(len(taps), LENGTH, LENGTH)
    for t in range(LENGTH):
        for s in range(t + 1):
            literal[:, t, s] = taps[:, t - s]
    (found,) = look(model, symbols())
    assert found.kernels == [rows(literal, torch.arange(1, LENGTH + 1))]


@pytest.mark.parametrize("name", zoo.names(CAUSAL))
def test_every_zoo_entry_can_be_looked_into(name: str) -> None:
    model = model_of(name, depth=1)
    for block in look(model, symbols(1)):
        for seen in block.kernels:
            # entropies are at most that of a uniform row but for rounding
            assert 0 <= seen.entropy <= 1 + 1e-5
            assert 0 <= seen.sink <= 1 + 1e-5


@pytest.mark.parametrize("pattern", [NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS])
def test_under_other_patterns_every_row_is_shown_every_key(pattern: Pattern) -> None:
    architecture = zoo.load("uniform_attention", depth=1)
    model = Model(architecture, widths=default_widths(8), vocabulary=VOCABULARY, length=LENGTH, pattern=pattern)
    (found,) = look(model, symbols(), source=symbols()[:, :9] if pattern.cross else None)
    (seen,) = found.kernels
    sources = 9 if pattern.cross else LENGTH
    assert (seen.entropy, seen.sink) == (pytest.approx(1, abs=1e-6), pytest.approx(1 / sources))
    assert seen.zeros == 0


# -- hidden units ------------------------------------------------------------------------------------------------------


def test_units_by_hand() -> None:
    hidden = torch.tensor([[0.0, 1.0, 2.0, 0.0], [0.0, 1.0, 3.0, 1.0]])
    found = units(hidden.unsqueeze(0))
    assert (found.dead, found.zeros) == (0.5, 3 / 8)


def test_rectifiers_that_never_open_are_dead() -> None:
    model = model_of("block(mix(apply(dense, value(x)), heads=1), mlp(activation=relu))", depth=1)
    (block,) = blocks_of(model)
    with torch.no_grad():
        model.embedding.weight.abs_()
        block.mixer.output.weight.zero_()  # the stream stays positive
        block.channel.up.weight.fill_(-1)
        half = block.channel.up.weight[: len(block.channel.up.weight) // 2]
        (found,) = look(model, symbols())
        assert found.units is not None
        assert (found.units.dead, found.units.zeros) == (1, 1)
        half.fill_(1).mul_(torch.rand_like(half))
        (found,) = look(model, symbols())
        assert found.units is not None
        assert (found.units.dead, found.units.zeros) == (0.5, 0.5)


@pytest.mark.parametrize("kind", [*CHANNELS, "none"])
def test_every_channel_mixer_shows_its_units(kind: str) -> None:
    model = model_of(f"block(mix(apply(dense, value(x)), heads=1), {kind})", depth=1)
    (found,) = look(model, symbols())
    if kind == "none":
        assert found.units is None
        return
    assert found.units is not None
    assert 0 <= found.units.dead < 0.5
    (block,) = blocks_of(model)
    with torch.no_grad():  # every token is alike, so no unit can tell them apart
        block.mixer.output.weight.zero_()
        model.embedding.weight.copy_(model.embedding.weight[:1].expand_as(model.embedding.weight))
    (found,) = look(model, symbols())
    assert found.units is not None
    assert found.units.dead == 1


def test_an_expert_that_is_never_chosen_is_dead() -> None:
    model = model_of("block(mix(apply(dense, value(x)), heads=1), moe(experts=4, active=1))", depth=1)
    (block,) = blocks_of(model)
    with torch.no_grad():
        model.embedding.weight.abs_()
        block.mixer.output.weight.zero_()
        block.channel.router.weight.zero_()
        block.channel.router.weight[2] = 1
    (found,) = look(model, symbols())
    assert found.units is not None
    assert found.units.dead == 0.75


# -- spectral norms ----------------------------------------------------------------------------------------------------


def test_spectral_norm_of_known_matrices() -> None:
    assert spectral_norm(torch.diag(torch.tensor([3.0, -7.0, 2.0]))) == pytest.approx(7)
    assert spectral_norm(torch.ones(5, 20)) == pytest.approx(10)
    batch = torch.stack([torch.eye(4), 3 * torch.eye(4)])
    assert spectral_norm(batch) == pytest.approx(3)
    assert math.isnan(spectral_norm(torch.full((2, 2), math.inf)))
    assert spectral_norm(torch.zeros(3, 3)) == 0


def test_spectral_norm_of_a_large_matrix_is_that_of_its_singular_values() -> None:
    side = EXACT_SIDE + 44
    u, v = (torch.linalg.qr(torch.randn(side, side))[0] for _ in range(2))
    values = torch.linspace(1, 5, side)
    values[-1] = 9.0
    matrix = u @ torch.diag(values) @ v.T
    # 50 iterations at a ratio of 5/9 squared leave nothing but rounding in float32
    assert spectral_norm(matrix) == pytest.approx(9, rel=1e-4)


def test_the_largest_norm_of_a_model() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
    with torch.no_grad():
        model[0].weight.copy_(2 * torch.eye(4))
        model[0].bias.fill_(100)  # no matrix
        model[2].weight.copy_(5 * torch.eye(4))
    assert largest_spectral_norm(model) == pytest.approx(5)
    assert largest_spectral_norm(nn.LayerNorm(4)) is None
    with torch.no_grad():
        model[2].weight[0, 0] = math.nan
    assert math.isnan(largest_spectral_norm(model) or 0)


# -- the recorder ------------------------------------------------------------------------------------------------------


def batch_of(tokens: Tensor) -> Batch:
    return Batch(inputs=tokens, targets=tokens)


def test_gradient_norms_are_means_of_stretches() -> None:
    recorder = Recorder(steps=60, batch=batch_of(symbols()))
    for step in range(60):
        recorder.stepped(float(step))
    (series,) = recorder.series()
    assert series.name == "gradient_norm"
    assert series.steps == tuple(range(3, 61, 3))
    assert series.values == tuple(float(3 * k + 1) for k in range(20))
    assert recorder.metrics() == {"largest_gradient_norm": 59.0}


def test_observations_become_series_of_the_model_and_of_each_block() -> None:
    model = model_of("block(mix(apply(rownorm(masked(ones, visible)), value(x)), heads=1), none)")
    recorder = Recorder(steps=10, batch=batch_of(symbols()))
    for step in (5, 10):
        recorder.observe(model, step=step)
    found = {each.name: each for each in recorder.series() if each.name != "gradient_norm"}
    assert set(found) == {
        "spectral_norm",
        *("kernel_entropy", "kernel_entropy_block_1", "kernel_entropy_block_2"),
        *("sink_share", "sink_share_block_1", "sink_share_block_2"),
    }  # no channel mixer: dead units are absent
    assert all(each.steps == (5, 10) for each in found.values())
    assert recorder.metrics()["kernel_entropy"] == pytest.approx(1, abs=1e-6)


def test_a_model_of_another_make_has_what_it_has() -> None:
    recorder = Recorder(steps=1, batch=batch_of(symbols()))
    recorder.stepped(2.0)
    recorder.observe(nn.Sequential(nn.Embedding(4, 4)), step=1)
    assert {each.name for each in recorder.series()} == {"gradient_norm", "spectral_norm"}


def test_long_sequences_are_watched_in_part() -> None:
    class Reading(Model):
        def features(self, inputs: Tensor, *others: object, **named: object) -> Tensor:
            read.append(tuple(inputs.shape))
            return super().features(inputs, *others, **named)  # type: ignore[arg-type]

    read: list[tuple[int, ...]] = []
    model = Reading(zoo.load("mha"), widths=default_widths(8), vocabulary=4, length=300)
    Recorder(steps=1, batch=batch_of(torch.zeros(9, 300, dtype=torch.long))).observe(model, step=1)
    assert read == [(2, WATCHED_TOKENS)]


@dataclass
class Watched:
    """A task that looks into the model whenever a batch is asked for."""

    runner: object
    model: Model
    recorder: Recorder | None
    seen: list[int] = field(default_factory=list)

    def __getattr__(self, name: str) -> object:
        return getattr(self.runner, name)

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        if self.recorder is not None:
            self.recorder.observe(self.model, step=step)
            self.seen.append(step)
        return self.runner.training_batch(step, total_steps=total_steps, seed=seed)  # type: ignore[attr-defined]


def trained(name: str, *, watched: bool) -> tuple[TrainingResult, Sequence[Tensor]]:
    runner = make_runner(TASK)
    with deterministic(3):
        model = model_of(name, depth=1)
        recorder = Recorder(steps=12, batch=runner.evaluation_batches()[0]) if watched else None
        task = Watched(runner=runner, model=model, recorder=recorder)
        result = train(model, task, training=Training(), steps=12, seed=0)  # type: ignore[arg-type]
        state = torch.random.get_rng_state()
    assert len(task.seen) == 12 * watched
    return result, [*(each.detach() for each in model.parameters()), state]


@pytest.mark.parametrize("name", ["mha_conv", "gated_deltanet", "mamba", "moe_transformer"])
def test_training_is_bit_identical_with_and_without_health(name: str) -> None:
    alone, weights = trained(name, watched=False)
    beside, same = trained(name, watched=True)
    assert all(torch.equal(one, other) for one, other in zip(weights, same, strict=True))
    assert alone.metrics == beside.metrics
    assert alone.series == beside.series


def test_looking_leaves_no_hook_and_the_mode_as_it_was() -> None:
    model = model_of("deltanet")
    for training in (True, False):
        model.train(training)
        look(model, symbols())
        assert model.training is training
        assert all(each.training is training for each in model.modules())
    assert not any(each._forward_hooks or each._forward_pre_hooks for each in model.modules())
    assert all(each.grad is None for each in model.parameters())
