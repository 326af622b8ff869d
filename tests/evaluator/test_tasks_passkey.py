"""Passkey: one marked key at every depth, asked at the end, at every length that is promised."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, Batch, make_runner
from archloom.evaluator.tasks.passkey import Passkey
from archloom.evaluator.training import evaluate

TASK = Task(
    name="passkey", vocabulary=20, length=100, batch=16, options=(("digits", 3), ("ramp", 0.5), ("trained", 24))
)


def runner(task: Task = TASK) -> Passkey:
    made = make_runner(task)
    assert isinstance(made, Passkey)
    return made


def read(text: list[int], *, digits: int) -> list[int]:
    """The digits behind the first marker of a text, as a person finds them."""
    place = next(place for place, symbol in enumerate(text) if symbol == 10)
    return text[place + 1 : place + 1 + digits]


def check(batch: Batch, *, digits: int, length: int, vocabulary: int = 20) -> None:
    assert batch.inputs.shape == batch.targets.shape == (len(batch.inputs), length)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert all(0 <= symbol < vocabulary for symbol in inputs)
        assert inputs.count(10) == 2
        key = read(inputs, digits=digits)
        assert all(symbol < 10 for symbol in key)
        assert targets == [IGNORED] * (length - digits) + key
        assert inputs[length - digits :] == [10, *key[:-1]]


class Reader(nn.Module):
    """Reads what follows the first marker, token by token; `reach` is how far back it can look."""

    def __init__(self, *, digits: int, vocabulary: int, reach: int | None = None) -> None:
        super().__init__()
        self.digits, self.vocabulary, self.reach = digits, vocabulary, reach

    def forward(self, inputs: Tensor) -> Tensor:
        logits = torch.zeros(*inputs.shape, self.vocabulary)
        length = inputs.shape[1]
        for row, text in enumerate(inputs.tolist()):
            for which, place in enumerate(range(length - self.digits, length)):
                marker = text.index(10)
                if self.reach is None or place - marker < self.reach:
                    logits[row, place, text[marker + 1 + which]] = 50.0
                else:
                    logits[row, place, 0] = 50.0
        return logits


@pytest.mark.parametrize(("digits", "trained", "length"), [(1, 3, 3), (3, 24, 100), (5, 40, 80)])
def test_sequences_follow_the_definition(digits: int, trained: int, length: int) -> None:
    options = (("digits", digits), ("ramp", 0.0), ("trained", trained))
    one = runner(replace(TASK, length=length, options=options))
    check(one.training_batch(3, total_steps=10, seed=1), digits=digits, length=trained)
    lengths = [batch.inputs.shape[1] for batch in one.evaluation_batches()]
    assert sorted(set(lengths)) == list(one.lengths)
    for batch, tokens in zip(one.evaluation_batches(), lengths, strict=True):
        check(batch, digits=digits, length=tokens)
        (mask,) = batch.slices.values()
        assert set(batch.slices) == {f"at_{tokens}"}
        assert torch.equal(mask, batch.targets != IGNORED)


@pytest.mark.parametrize(("length", "lengths"), [(24, (24,)), (47, (24,)), (48, (24, 48)), (100, (24, 48, 96))])
def test_lengths_double_up_to_that_of_the_record(length: int, lengths: tuple[int, ...]) -> None:
    one = runner(replace(TASK, length=length))
    assert one.lengths == lengths
    assert sum(len(batch.inputs) for batch in one.evaluation_batches()) == 128 * len(lengths)


def test_texts_grow_over_the_ramp() -> None:
    lengths = [runner().training_batch(step, total_steps=40, seed=0).inputs.shape[1] for step in range(40)]
    assert lengths[0] == 7
    assert lengths == sorted(lengths)
    assert lengths[19] < 24
    assert set(lengths[20:]) == {24}
    for step in (0, 7, 19):
        check(runner().training_batch(step, total_steps=40, seed=0), digits=3, length=lengths[step])


def test_every_depth_comes_alike_and_filler_holds_decoys() -> None:
    one = runner(replace(TASK, batch=20_000, options=(("decoys", 0.25), ("ramp", 0.0), ("trained", 24))))
    inputs = one.training_batch(0, total_steps=1, seed=0).inputs
    depths = np.bincount((inputs == 10).int().argmax(dim=1).numpy())
    assert len(depths) == 18  # 24 tokens, less the second marker and digits of 3, less the key's own digits
    np.testing.assert_allclose(depths / 20_000, 1 / 18, atol=5 * np.sqrt(1 / 18 / 20_000))
    digits = (inputs[:, :21] < 10).sum() - 3 * 20_000
    filler = 17 * 20_000
    assert digits / filler == pytest.approx(0.25, abs=5 * np.sqrt(0.25 / filler))


def test_a_reader_solves_it_at_every_length() -> None:
    one = runner()
    tally = evaluate(Reader(digits=3, vocabulary=20), one.evaluation_batches())
    assert one.score(tally) == 1.0
    assert one.metrics(tally)["accuracy_at_96"] == 1.0


def test_a_reader_of_short_reach_fails_beyond_it() -> None:
    one = runner()
    tally = evaluate(Reader(digits=3, vocabulary=20, reach=24), one.evaluation_batches())
    found = {name: part.accuracy for name, part in tally.slices.items()}
    assert found["at_24"] == 1.0
    assert found["at_24"] > found["at_48"] + 0.2 > found["at_96"] + 0.4
    assert 1 / 3 < one.score(tally) < 0.8


def test_a_constant_answer_is_at_chance() -> None:
    """One digit in ten is right: three standard errors of 128 keys of three digits, at each of three lengths."""
    one = runner()
    tally = evaluate(Reader(digits=3, vocabulary=20, reach=0), one.evaluation_batches())
    assert tally.accuracy == pytest.approx(0.1, abs=3 * np.sqrt(0.09 / tally.scored))
    assert one.score(tally) < 0.05


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> Tensor:
        return runner().training_batch(step, total_steps=10, seed=seed).inputs

    torch.manual_seed(1)
    first = draw(8, 7)
    np.random.seed(2)  # the global generator is to play no part
    assert torch.equal(first, draw(8, 7))
    assert not torch.equal(first, draw(8, 8))
    assert not torch.equal(first, draw(9, 7))
    for left, right in zip(runner().evaluation_batches(), runner().evaluation_batches(), strict=True):
        assert torch.equal(left.inputs, right.inputs)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": (("digits", 0),)}, "is 0: it should be at least 1"),
        ({"options": (("trained", 6),)}, "'trained' is 6: .* at least 7"),
        ({"length": 31}, "at least 'trained', 32"),
        ({"vocabulary": 11}, "at least 12"),
        ({"options": (("decoys", 1.5),)}, "from 0 to 1"),
        ({"options": (("ramp", -0.1),)}, "from 0 to 1"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(TASK, **{"options": (), **change}))
