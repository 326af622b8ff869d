"""Parity and the word problems: groups are groups, answers are products, solved by hand-set recurrences."""

import itertools
import time
from dataclasses import replace
from math import sqrt

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import make_runner
from archloom.evaluator.tasks.state_tracking import WordProblem, group_of
from archloom.evaluator.training import evaluate

PARITY = Task(name="parity", vocabulary=2, length=64, batch=64)
SWAPS = Task(name="permutations", vocabulary=6, length=48, batch=64)
S3 = replace(SWAPS, options=(("generators", "all"),))
A5 = replace(SWAPS, vocabulary=60, options=(("generators", "all"), ("group", "a5")))
S5 = replace(SWAPS, vocabulary=120, options=(("generators", "transpositions"), ("group", "s5")))
WORDS = pytest.mark.parametrize("task", [SWAPS, S3, A5, S5], ids=["s3 swaps", "s3", "a5", "s5 swaps"])
EVERY = pytest.mark.parametrize("task", [PARITY, SWAPS, S3, A5, S5], ids=["parity", "s3 swaps", "s3", "a5", "s5 swaps"])

Permutation = tuple[int, ...]


def elements(name: str) -> list[Permutation]:
    """Elements in lexicographic order; a permutation is even where its objects less its cycles are even."""
    whole = sorted(itertools.permutations(range({"z2": 2, "s3": 3, "a5": 5, "s5": 5}[name])))
    return [each for each in whole if name != "a5" or (len(each) - cycles(each)) % 2 == 0]


def cycles(permutation: Permutation) -> int:
    left, count = set(range(len(permutation))), 0
    while left:
        count, place = count + 1, left.pop()
        while (place := permutation[place]) in left:
            left.remove(place)
    return count


@pytest.mark.parametrize(("name", "order", "swaps"), [("z2", 2, 1), ("s3", 6, 2), ("a5", 60, 0), ("s5", 120, 4)])
def test_products_are_those_of_permutations(name: str, order: int, swaps: int) -> None:
    whole, named = group_of(name), elements(name)
    assert whole.order == order == len(named)
    for left, right in itertools.product(range(order), repeat=2):
        composed = tuple(named[left][place] for place in named[right])
        assert named[whole.after[left, right]] == composed
    assert len(whole.swaps) == swaps
    for place, swap in enumerate(whole.swaps):
        expected = list(range(len(named[0])))
        expected[place], expected[place + 1] = place + 1, place
        assert named[swap] == tuple(expected)


@pytest.mark.parametrize(("name", "sizes"), [("s3", [6, 3, 1]), ("a5", [60, 60]), ("s5", [120, 60, 60])])
def test_the_derived_series_tells_solvable_from_unsolvable(name: str, sizes: list[int]) -> None:
    """Commutators, closed under products: down to the identity for S3, stuck at A5 for the others."""
    after = group_of(name).after
    inverse = (after == 0).argmax(axis=1)
    members = set(range(len(after)))
    assert len(members) == sizes[0]
    for size in sizes[1:]:
        pairs = itertools.product(members, repeat=2)
        derived = {int(after[after[a, b], after[inverse[a], inverse[b]]]) for a, b in pairs}
        while len(closed := derived | {int(after[a, b]) for a in derived for b in derived}) > len(derived):
            derived = closed
        members = derived
        assert len(members) == size


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), length=st.integers(2, 20))
@EVERY
def test_answers_are_products_so_far(task: Task, seed: int, length: int) -> None:
    options = (*task.options, ("evaluation", 4), ("trained", length - 1))
    runner = make_runner(replace(task, batch=4, length=length, options=options))
    name = str(dict(task.options).get("group", "s3")) if task.name == "permutations" else "z2"
    named = elements(name)
    for batch in (runner.training_batch(0, total_steps=3, seed=seed), *runner.evaluation_batches()):
        for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
            objects = list(range(len(named[0])))
            for read, said in zip(inputs, targets, strict=True):
                objects = [named[read][place] for place in objects]
                assert named[said] == tuple(objects)


def test_parity_is_that_of_the_ones() -> None:
    batch = make_runner(PARITY).evaluation_batches()[0]
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert targets == [sum(inputs[: place + 1]) % 2 for place in range(64)]


def test_words_are_made_of_the_generators() -> None:
    swaps = make_runner(S5).evaluation_batches()[0].inputs
    assert set(swaps.flatten().tolist()) == set(group_of("s5").swaps.tolist())
    assert set(make_runner(S3).evaluation_batches()[0].inputs.flatten().tolist()) == set(range(6))


def test_training_is_shorter_than_evaluation_and_may_grow() -> None:
    runner = make_runner(replace(SWAPS, options=(("ramp", 0.5), ("trained", 16))))
    lengths = [runner.training_batch(step, total_steps=96, seed=0).inputs.shape[1] for step in range(96)]
    assert lengths == [min(16, 1 + step // 3) for step in range(96)]
    whole = make_runner(replace(SWAPS, options=(("ramp", 0.0), ("trained", 16))))
    assert whole.training_batch(0, total_steps=9, seed=0).inputs.shape == (64, 16)
    batch = runner.evaluation_batches()[0]
    assert batch.inputs.shape == (64, 48)
    assert {name: mask[0].nonzero().flatten().tolist() for name, mask in batch.slices.items()} == {
        "to_16": list(range(16)),
        "to_32": list(range(16, 32)),
        "to_48": list(range(32, 48)),
    }


@pytest.mark.parametrize(("name", "swapping"), [("s3", True), ("s3", False), ("a5", False), ("s5", True)])
def test_chance_is_that_of_the_likeliest_product_by_enumeration(name: str, swapping: bool) -> None:
    whole, length = group_of(name), 2 if name == "a5" else 5
    generators = whole.swaps if swapping else torch.arange(whole.order).numpy()
    runner = WordProblem(group=whole, generators=generators, length=length, trained=1, batch=1, ramp=0.0, evaluation=1)
    best = []
    for count in range(2, length + 1):
        found = [0] * whole.order
        for word in itertools.product(generators.tolist(), repeat=count):
            product = 0
            for element in word:
                product = whole.after[element, product]
            found[product] += 1
        best.append(max(found) / len(generators) ** count)
    assert runner.chance == pytest.approx(sum(best) / len(best), rel=1e-12)


class Reflection(nn.Module):
    """One number, turned by every one: the transition 1 - 2 x of a delta rule whose rate reaches 2."""

    def forward(self, inputs: Tensor) -> Tensor:
        state, said = torch.ones(len(inputs)), []
        for bit in inputs.unbind(dim=1):
            state = (1 - 2 * bit) * state
            said.append(torch.stack([state, -state], dim=-1))
        return 50 * torch.stack(said, dim=1)


class Matrices(nn.Module):
    """A product of permutation matrices, compared with each element's."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.matrices = torch.stack([torch.eye(len(each))[:, list(each)] for each in elements(name)])

    def forward(self, inputs: Tensor) -> Tensor:
        state, said = torch.eye(self.matrices.shape[-1]), []
        for element in inputs.unbind(dim=1):
            state = self.matrices[element] @ state
            said.append(torch.einsum("bij,nij->bn", state, self.matrices))
        return 50 * torch.stack(said, dim=1)


class Likeliest(nn.Module):
    """Says the same at every place of a word, or after an odd number of swaps a swap."""

    def __init__(self, order: int, swap: int) -> None:
        super().__init__()
        self.order, self.swap = order, swap

    def forward(self, inputs: Tensor) -> Tensor:
        odd = torch.arange(1, inputs.shape[1] + 1).expand_as(inputs) % 2
        return nn.functional.one_hot(odd * self.swap, self.order).double()


def test_one_reflection_solves_parity() -> None:
    runner = make_runner(PARITY)
    tally = evaluate(Reflection(), runner.evaluation_batches())
    assert runner.score(tally) == 1.0
    assert runner.metrics(tally)["accuracy_to_64"] == 1.0


@WORDS
def test_products_of_matrices_solve_every_word_problem(task: Task) -> None:
    runner = make_runner(task)
    name = str(dict(task.options).get("group", "s3"))
    assert runner.score(evaluate(Matrices(name), runner.evaluation_batches())) == 1.0


@pytest.mark.parametrize(("task", "order", "swap"), [(PARITY, 2, 0), (SWAPS, 6, 1), (S3, 6, 0), (A5, 60, 0)])
def test_the_likeliest_element_is_right_as_often_as_chance(task: Task, order: int, swap: int) -> None:
    runner = make_runner(replace(task, batch=500, options=(*task.options, ("evaluation", 500))))
    assert isinstance(runner, WordProblem)
    tally = evaluate(Likeliest(order, swap), runner.evaluation_batches())
    beyond = [part for name, part in tally.slices.items() if name != f"to_{runner.trained}"]
    accuracy = sum(part.correct for part in beyond) / sum(part.scored for part in beyond)
    # Positions of a word are dependent: as if they were as few as a third of their number.
    error = sqrt(runner.chance * (1 - runner.chance) / (sum(part.scored for part in beyond) / 3))
    assert accuracy == pytest.approx(runner.chance, abs=4 * error)
    assert runner.score(tally) < 0.05


class Window(nn.Module):
    """Right within `width` tokens, then lost: what a table of short words comes to."""

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        self.inner, self.width = Matrices(name), width

    def forward(self, inputs: Tensor) -> Tensor:
        logits = self.inner(inputs)
        logits[:, self.width :] = self.inner(inputs * 0)[:, self.width :]
        return logits


def test_short_words_alone_score_nothing() -> None:
    runner = make_runner(S3)
    tally = evaluate(Window("s3", 16), runner.evaluation_batches())
    assert runner.metrics(tally)["accuracy_to_16"] == 1.0
    assert runner.score(tally) < 0.02


@EVERY
def test_data_is_a_function_of_seed_and_step_alone(task: Task) -> None:
    def draw(step: int, seed: int) -> Tensor:
        return make_runner(task).training_batch(step, total_steps=10, seed=seed).inputs

    assert torch.equal(draw(5, 7), draw(5, 7))
    assert not torch.equal(draw(8, 7), draw(8, 6))
    assert not torch.equal(draw(8, 7), draw(9, 7))
    fixed = [make_runner(task).evaluation_batches()[0].inputs for _ in range(2)]
    assert torch.equal(*fixed)
    assert not torch.equal(fixed[0][:, : draw(9, 0).shape[1]], draw(9, 0))


@pytest.mark.parametrize(
    ("task", "change", "words"),
    [
        (PARITY, {"options": (("trained", 64),)}, "take a greater length"),
        (PARITY, {"options": (("group", "s3"),)}, "no option 'group'"),
        (PARITY, {"vocabulary": 1}, "at least 2"),
        (SWAPS, {"options": (("group", "s4"),)}, "one of s3, a5, s5"),
        (SWAPS, {"options": (("generators", "cycles"),)}, "one of all, transpositions"),
        (SWAPS, {"options": (("group", "s5"),)}, "the elements of s5 take at least 120"),
        (SWAPS, {"vocabulary": 60, "options": (("group", "a5"),)}, "no swaps: take generators 'all', or group 's5'"),
        (SWAPS, {"options": (("trained", 0),)}, "at least 1"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(task: Task, change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(task, **change))


@pytest.mark.benchmark
@EVERY
def test_time_of_a_batch(task: Task) -> None:
    runner = make_runner(task)
    started = time.perf_counter()
    for _ in range(100):
        tokens = runner.training_batch(90, total_steps=100, seed=0).inputs.numel()
    print(f"{1e6 * (time.perf_counter() - started) / 100 / tokens:.3f} ms per 1,000 tokens")
