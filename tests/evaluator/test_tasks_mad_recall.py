"""The three recall tasks of MAD: read by plain loops, solved by longest-suffix induction, not to be guessed."""

import time
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, Batch, make_runner
from archloom.evaluator.tasks.mad_recall import DictionaryRecall, blind_accuracy
from archloom.evaluator.training import evaluate

IN_CONTEXT = Task(name="in_context_recall", vocabulary=16, length=64, batch=32, options=(("pairs", 8),))
NOISY = Task(name="noisy_recall", vocabulary=32, length=64, batch=32, options=(("pairs", 8),))
FUZZY = Task(name="fuzzy_recall", vocabulary=16, length=96, batch=32, options=(("motif", 3), ("pairs", 4)))
ALL = pytest.mark.parametrize("task", [IN_CONTEXT, NOISY, FUZZY], ids=lambda task: task.name)

Slot = tuple[int, tuple[int, ...], tuple[int, ...]]


def slots(tokens: list[int], *, keys: int, values_end: int) -> list[Slot]:
    """Where each key of a sequence ends, the key and its value; noise and what fills up are read over."""
    found: list[Slot] = []
    key: list[int] = []
    value: list[int] = []
    for place, token in enumerate([*tokens, -1]):
        if value and not keys <= token < values_end:
            found.append((place - len(value) - 1, tuple(key), tuple(value)))
            key, value = [], []
        if 0 <= token < keys:
            key.append(token)
        elif keys <= token < values_end:
            value.append(token)
    return found


def check(batch: Batch, *, keys: int, values_end: int, pairs: int, motif: int, shortest: int) -> None:
    """Every sequence keeps every rule of the definition, and its targets and slice are what a reader would say."""
    rows = zip(batch.inputs.tolist(), batch.targets.tolist(), batch.slices["opening"].tolist(), strict=True)
    for inputs, targets, opening in rows:
        read = slots(inputs, keys=keys, values_end=values_end)
        seen: dict[tuple[int, ...], tuple[int, ...]] = {}
        expected, first = [IGNORED] * len(inputs), [False] * len(inputs)
        for place, key, value in read:
            if key in seen:
                expected[place : place + len(value)] = value
                first[place] = True
            assert seen.setdefault(key, value) == value
            assert shortest <= len(key) == len(set(key)) <= motif
            assert 1 <= len(value) == len(set(value)) <= motif
        assert targets == expected
        assert opening == first
        assert len(seen) <= pairs
        assert len({value[0] for value in seen.values()}) == len(seen)
        assert first[read[-1][0]]  # the last slot asks


@settings(max_examples=60, deadline=None)
@given(
    pairs=st.integers(2, 6),
    motif=st.integers(1, 3),
    spare=st.integers(0, 5),
    slack=st.integers(0, 9),
    noise=st.sampled_from([0.0, 0.3, 0.9]),
    seed=st.integers(0, 2**32),
)
def test_sequences_follow_the_definition(
    pairs: int, motif: int, spare: int, slack: int, noise: float, seed: int
) -> None:
    runner = DictionaryRecall(
        vocabulary=2 * max(pairs, motif) + spare + (motif > 1) + (3 if noise else 0),
        length=4 * pairs * motif + (slack if motif > 1 else 2 * slack),
        batch=6,
        pairs=pairs,
        motif=motif,
        noise=noise,
        noise_symbols=3 if noise else 0,
        ramp=0.0,
        evaluation=6,
    )
    symbols = runner.vocabulary - runner.noise_symbols - (motif > 1)
    shapes = {"keys": symbols // 2, "values_end": symbols, "pairs": pairs, "motif": motif}
    check(runner.training_batch(2, total_steps=5, seed=seed), **shapes, shortest=1)
    check(runner.evaluation_batches()[0], **shapes, shortest=motif)


def test_noise_stands_in_whole_slots_and_as_often_as_asked() -> None:
    batch = make_runner(replace(NOISY, batch=400, options=(("ramp", 0.0),))).training_batch(0, total_steps=1, seed=0)
    noisy = (batch.inputs >= 16).reshape(400, 32, 2)
    assert torch.equal(noisy[..., 0], noisy[..., 1])
    assert not noisy[:, [0, -1]].any()
    share = noisy[:, 1:-1, 0].double().mean().item()
    assert share == pytest.approx(0.2, abs=4 * sqrt(0.2 * 0.8 / (400 * 30)))  # four standard errors


def test_keys_of_every_length_come_in_training_and_the_longest_alone_in_evaluation() -> None:
    runner = make_runner(FUZZY)
    training = runner.training_batch(99, total_steps=100, seed=0)
    lengths = [len(key) for row in training.inputs.tolist() for _, key, _ in slots(row, keys=7, values_end=15)]
    assert {lengths.count(size) > len(lengths) / 5 for size in (1, 2, 3)} == {True}
    rows = [row for batch in runner.evaluation_batches() for row in batch.inputs.tolist()]
    assert {len(key) for row in rows for _, key, _ in slots(row, keys=7, values_end=15)} == {3}


@pytest.mark.parametrize(("slot_count", "pairs", "noise"), [(4, 2, 0.0), (5, 3, 0.0), (5, 2, 0.4), (6, 3, 0.25)])
def test_chance_is_that_of_the_best_blind_guess_by_enumeration(slot_count: int, pairs: int, noise: float) -> None:
    right = asked = 0.0
    for first in range(pairs):
        for rest in product([None, *range(pairs)], repeat=slot_count - 2):
            weight = 1 / pairs
            seen = {first}
            for shown in rest:
                weight *= noise if shown is None else (1 - noise) / pairs
            for place, shown in enumerate(rest):
                if shown in seen:
                    asked += weight
                    right += weight / len({first, *rest[:place]} - {None})
                seen |= {shown} - {None}
            asked += weight
            right += weight / len(seen)
    assert blind_accuracy(slots=slot_count, pairs=pairs, noise=noise) == pytest.approx(right / asked, rel=1e-12)


class Induction(nn.Module):
    """Says what followed the earlier place whose past agrees longest with the present one's."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary

    def forward(self, inputs: Tensor) -> Tensor:
        same = (inputs[:, :, None] == inputs[:, None, :]).int().tril(-1)  # [B, now, then]
        agree = torch.zeros_like(same)
        for now in range(inputs.shape[1]):
            agree[:, now] = same[:, now]
            agree[:, now, 1:] += same[:, now, 1:] * (agree[:, now - 1, :-1] if now else 0)
        following = agree.argmax(dim=2) + 1
        said = inputs.gather(1, following.clamp(max=inputs.shape[1] - 1))
        return nn.functional.one_hot(said, self.vocabulary).double() * 50


class Says(nn.Module):
    """What a function of the tokens so far says at every place."""

    def __init__(self, answer: Callable[[list[int]], int], vocabulary: int) -> None:
        super().__init__()
        self.answer, self.vocabulary = answer, vocabulary

    def forward(self, inputs: Tensor) -> Tensor:
        said = [[self.answer(row[: place + 1]) for place in range(len(row))] for row in inputs.tolist()]
        return nn.functional.one_hot(torch.tensor(said), self.vocabulary).double()


@ALL
def test_induction_over_the_longest_suffix_solves_it(task: Task) -> None:
    runner = make_runner(replace(task, options=(*task.options, ("evaluation", 64))))
    tally = evaluate(Induction(task.vocabulary), runner.evaluation_batches())
    assert runner.score(tally) == 1.0
    assert runner.metrics(tally)["accuracy"] == runner.metrics(tally)["accuracy_opening"] == 1.0


@ALL
def test_the_latest_value_is_right_as_often_as_chance(task: Task) -> None:
    runner = make_runner(replace(task, options=(*task.options, ("evaluation", 128))))
    assert isinstance(runner, DictionaryRecall)
    keys, values_end = runner.keys, runner.values_end

    def latest(past: list[int]) -> int:
        place = len(past) - 1
        while place > 0 and not (keys <= past[place] < values_end and past[place - 1] < keys):
            place -= 1
        return past[place]

    opening = evaluate(Says(latest, task.vocabulary), runner.evaluation_batches()).slices["opening"]
    error = sqrt(runner.chance * (1 - runner.chance) / opening.scored)
    assert opening.accuracy == pytest.approx(runner.chance, abs=4 * error)
    assert error < 0.02


def test_a_part_of_the_key_does_not_do_in_fuzzy_recall() -> None:
    """Induction on the last symbol alone stays well under the solution: keys share their symbols."""

    def after_the_same_symbol(past: list[int]) -> int:
        places = [place for place in range(len(past) - 1) if past[place] == past[-1]]
        return past[places[-1] + 1] if places else 0

    runner = make_runner(replace(FUZZY, options=(*FUZZY.options, ("evaluation", 64))))
    assert 0.0 < runner.score(evaluate(Says(after_the_same_symbol, 16), runner.evaluation_batches())) < 0.7


@ALL
def test_pairs_grow_over_the_ramp(task: Task) -> None:
    runner = make_runner(replace(task, options=(*task.options, ("ramp", 0.5))))
    assert isinstance(runner, DictionaryRecall)

    def most(step: int) -> int:
        rows = runner.training_batch(step, total_steps=100, seed=0).inputs.tolist()
        return max(
            len({key for _, key, _ in slots(row, keys=runner.keys, values_end=runner.values_end)}) for row in rows
        )

    found = [most(step) for step in (0, 20, 50, 99)]
    assert found == [1, 1 + 20 * runner.pairs // 50, runner.pairs, runner.pairs]


@ALL
def test_data_is_a_function_of_seed_and_step_alone(task: Task) -> None:
    def draw(step: int, seed: int) -> Tensor:
        return make_runner(task).training_batch(step, total_steps=10, seed=seed).inputs

    assert torch.equal(draw(5, 7), draw(5, 7))
    assert not torch.equal(draw(8, 7), draw(8, 6))
    assert not torch.equal(draw(8, 7), draw(9, 7))
    fixed = [make_runner(task).evaluation_batches()[0].inputs for _ in range(2)]
    assert torch.equal(*fixed)
    assert not torch.equal(fixed[0], draw(9, 0))


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        (IN_CONTEXT, {"options": (("pairs", 1),)}, "is 1: it should be at least 2"),
        (IN_CONTEXT, {"options": (("pairs", 9),)}, "at least 18 symbols"),
        (IN_CONTEXT, {"length": 30}, "at least 32"),
        (IN_CONTEXT, {"length": 65}, "even"),
        (IN_CONTEXT, {"options": (("motif", 2),)}, "no option 'motif'"),
        (NOISY, {"vocabulary": 30}, "at least 32 symbols"),
        (NOISY, {"options": (("noise", 0.95),)}, "should be from 0 to 0.9"),
        (FUZZY, {"options": (("motif", 9),)}, "should be from 2 to 8"),
        (FUZZY, {"options": (("pairs", 8),)}, "at least 17 symbols"),
        (FUZZY, {"length": 47}, "at least 48"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(task: Task, change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(task, **change))


@pytest.mark.benchmark
@ALL
def test_time_of_a_batch(task: Task) -> None:
    runner = make_runner(task)
    started = time.perf_counter()
    for _ in range(100):
        tokens = runner.training_batch(90, total_steps=100, seed=0).inputs.numel()
    print(f"{1e6 * (time.perf_counter() - started) / 100 / tokens:.3f} ms per 1,000 tokens")
