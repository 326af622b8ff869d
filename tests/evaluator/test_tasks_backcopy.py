"""Bigram-backcopy: copies after triggers, the stated bigrams elsewhere, and losses measured from an oracle's."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import Batch, Tally, make_runner
from archloom.evaluator.tasks.backcopy import BigramBackcopy, entropy, stationary, transitions
from archloom.evaluator.training import evaluate

TASK = Task(name="bigram_backcopy", vocabulary=24, length=40, batch=32, options=(("triggers", 3),))


def runner(task: Task = TASK) -> BigramBackcopy:
    made = make_runner(task)
    assert isinstance(made, BigramBackcopy)
    return made


class Oracle(nn.Module):
    """Log-probabilities of the definition: the bigram's row, or after a trigger the symbol before it."""

    def __init__(self, task: BigramBackcopy, *, copies: bool) -> None:
        super().__init__()
        self.triggers = task.triggers
        self.copies = copies
        table = torch.from_numpy(transitions(task)).log().clamp(min=-60.0)
        table[1 : 1 + task.triggers] = torch.from_numpy(stationary(task)).log().clamp(min=-60.0)
        self.register_buffer("table", table)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.table[inputs].float()
        if not self.copies:
            return logits
        before = torch.cat([inputs[:, :1], inputs[:, :-1]], dim=1)
        copied = (torch.nn.functional.one_hot(before, logits.shape[-1]) - 1.0) * 60.0
        return torch.where(((inputs >= 1) & (inputs <= self.triggers))[..., None], copied, logits)


@pytest.mark.parametrize(("triggers", "vocabulary", "share"), [(1, 4, 0.5), (3, 24, 0.15), (8, 64, 0.9)])
def test_sequences_follow_the_definition(triggers: int, vocabulary: int, share: float) -> None:
    task = replace(TASK, vocabulary=vocabulary, options=(("share", share), ("triggers", triggers)))
    batch = runner(task).training_batch(3, total_steps=10, seed=1)
    assert batch.inputs.shape == batch.targets.shape == (32, 40)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    assert set(batch.slices) == {"copied", "bigram"}
    assert torch.equal(batch.slices["copied"], ~batch.slices["bigram"])
    for inputs, targets, copied in zip(
        batch.inputs.tolist(), batch.targets.tolist(), batch.slices["copied"].tolist(), strict=True
    ):
        whole = [*inputs, targets[-1]]
        assert whole[1:] == targets
        assert whole[0] == 0
        assert whole[1] > triggers
        for place, (symbol, following, slice_) in enumerate(zip(inputs, targets, copied, strict=True)):
            assert 1 <= following < vocabulary
            assert slice_ == (1 <= symbol <= triggers)
            if slice_:
                assert following == inputs[place - 1] > triggers


def test_bigrams_have_the_stated_frequencies() -> None:
    """Every row that is met often is met by draws of a multinomial: five standard errors for each of its cells."""
    task = replace(TASK, batch=4000, vocabulary=12)
    one = runner(task)
    batch = one.training_batch(0, total_steps=1, seed=0)
    at = batch.slices["bigram"]
    pairs = Counter(zip(batch.inputs[at].tolist(), batch.targets[at].tolist(), strict=True))
    matrix = transitions(one)
    for row in (0, *range(4, 12)):
        count = sum(pairs[row, column] for column in range(12))
        assert count > 1000
        found = np.array([pairs[row, column] for column in range(12)]) / count
        margin = 5 * np.sqrt(matrix[row] * (1 - matrix[row]) / count) + 1e-9
        assert np.all(np.abs(found - matrix[row]) <= margin)


def test_triggers_follow_at_their_share_and_alike() -> None:
    matrix = transitions(runner())
    np.testing.assert_allclose(matrix[4:].sum(axis=1), 1.0, atol=1e-12)
    np.testing.assert_allclose(matrix[4:, 1:4], 0.15 / 3)
    assert np.all(matrix[0, :4] == 0)


def test_the_stationary_law_is_that_of_a_long_walk() -> None:
    """By taking a thousand steps of Q from anywhere."""
    one = runner()
    chain = transitions(one)[4:, 4:] / (1 - 0.15)
    np.testing.assert_allclose(stationary(one)[4:], np.linalg.matrix_power(chain, 1000)[0], atol=1e-9)


def test_the_oracle_solves_it_and_who_forgets_is_at_chance() -> None:
    one = runner()
    batches = one.evaluation_batches()
    solved = evaluate(Oracle(one, copies=True), batches)
    assert one.score(solved) == pytest.approx(1.0, abs=1e-6)
    metrics = one.metrics(solved)
    assert metrics["copied_accuracy"] == 1.0
    assert metrics["copied_excess"] == pytest.approx(0.0, abs=1e-6)
    assert metrics["bigram_excess"] == pytest.approx(0.0, abs=1e-5)  # float32 logits
    blind = evaluate(Oracle(one, copies=False), batches)
    positions = blind.slices["copied"].scored
    assert one.score(blind) < 3 / np.sqrt(positions)  # the loss of a draw has a standard deviation below the entropy
    assert one.metrics(blind)["bigram_excess"] == pytest.approx(0.0, abs=1e-5)


def test_a_uniform_guess_scores_nothing_and_pays_for_bigrams() -> None:
    one = runner()
    uniform = nn.Sequential(nn.Embedding.from_pretrained(torch.zeros(24, 24)))
    tally = evaluate(uniform, one.evaluation_batches())
    assert one.score(tally) == 0.0
    assert one.metrics(tally)["copied_excess"] == pytest.approx(np.log(24))
    assert one.metrics(tally)["bigram_excess"] > 0.5


def test_the_score_is_the_part_of_the_entropy_saved() -> None:
    one = runner()
    nats = entropy(stationary(one))
    assert 0 < nats < np.log(20)
    half = Tally(total=0.0, correct=0, scored=20, slices={"copied": Tally(total=5 * nats, correct=0, scored=10)})
    assert one.score(half) == pytest.approx(0.5)


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> Batch:
        return runner().training_batch(step, total_steps=10, seed=seed)

    torch.manual_seed(1)
    first = draw(5, 7).inputs
    np.random.seed(2)  # the global generator is to play no part
    assert torch.equal(first, draw(5, 7).inputs)
    assert not torch.equal(first, draw(5, 8).inputs)
    assert not torch.equal(first, draw(6, 7).inputs)
    one, other = runner().evaluation_batches(), runner().evaluation_batches()
    assert sum(len(batch.inputs) for batch in one) == 256
    for left, right in zip(one, other, strict=True):
        assert torch.equal(left.inputs, right.inputs)
        assert not torch.equal(left.inputs, first)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": (("triggers", 0),)}, "is 0: it should be at least 1"),
        ({"options": (("share", 0.95),)}, "from 0.01 to 0.9"),
        ({"options": (("concentration", 0),)}, "from 0.01 to 100"),
        ({"vocabulary": 5}, "take at least 6"),
        ({"length": 3}, "at least 4"),
        ({"length": 4, "options": (("evaluation", 1), ("share", 0.01))}, "no trigger comes"),
        ({"options": (("pairs", 8),)}, "no option 'pairs'"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(TASK, **change))
