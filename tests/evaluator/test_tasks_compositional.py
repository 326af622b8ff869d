"""Programs about scenes: an interpreter in plain loops answers every operator; slices hold what training leaves out."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.tasks import IGNORED, Batch, make_runner
from archloom.evaluator.tasks.compositional import commonest
from archloom.evaluator.tasks.programs import programs
from archloom.evaluator.training import evaluate

FEATURES, PLACES, LENGTH = 8, 7, 12
COMPOSITIONAL = Task(
    name="compositional",
    vocabulary=25,
    length=LENGTH,
    batch=64,
    options=(("features", FEATURES), ("objects", 3), ("distractors", 5), ("depth", 2), ("evaluation", 128)),
)
NAMES = {3: "exist", 4: "colour", 5: "shape", 6: "and", 7: "or", 8: "if"}
OPERANDS = {"and": 2, "or": 2, "if": 3}
Scene = list[tuple[int, int]]
Node = tuple[int, str, int | None, int, int]
"""Place of an operator, its name, the feature it is of, its answer, its depth."""


def scene_of(source: list[int], *, features: int = FEATURES, places: int = PLACES) -> Scene:
    pairs = list(zip(source[: 2 * places : 2], source[1 : 2 * places : 2], strict=True))
    assert all((colour == 0) == (shape == 0) for colour, shape in pairs)
    objects = [pair for pair in pairs if pair != (0, 0)]
    assert all(9 <= colour < 9 + features <= shape < 9 + 2 * features for colour, shape in objects)
    assert len({colour for colour, _ in objects}) == len({shape for _, shape in objects}) == len(objects)
    return objects


def interpret(program: list[int], scene: Scene) -> list[Node]:
    """Every operator of a program, the whole program first."""
    nodes: list[Node] = []

    def run(place: int) -> tuple[int, int, int]:
        """The answer, the place behind the program, its depth."""
        name, at = NAMES[program[place]], len(nodes)
        nodes.append((place, name, None, 0, 0))
        if name in OPERANDS:
            answers, depths, end, feature = [], [], place + 1, None
            for _ in range(OPERANDS[name]):
                answer, end, depth = run(end)
                answers.append(answer)
                depths.append(depth)
            said = [answer == 2 for answer in answers]
            if name == "if":
                answer = answers[1] if said[0] else answers[2]
            else:
                answer = 2 if (all(said) if name == "and" else any(said)) else 1
            depth = 1 + max(depths)
        else:
            feature, end, depth = program[place + 1], place + 2, 1
            if name == "exist":
                answer = 2 if any(feature in pair for pair in scene) else 1
            elif name == "colour":
                (answer,) = (colour for colour, shape in scene if shape == feature)
            else:
                (answer,) = (shape for colour, shape in scene if colour == feature)
        nodes[at] = (place, name, feature, answer, depth)
        return answer, end, depth

    _, end, _ = run(0)
    assert not any(program[end:])
    return nodes


def rows(batch: Batch, *, features: int, places: int) -> Iterator[tuple[Scene, list[Node], list[int]]]:
    assert batch.source is not None
    for inputs, source, targets in zip(
        batch.inputs.tolist(), batch.source.tolist(), batch.targets.tolist(), strict=True
    ):
        assert source[2 * places :] == inputs
        scene = scene_of(source, features=features, places=places)
        yield scene, interpret(inputs, scene), targets


def check(batch: Batch, *, features: int = FEATURES, places: int = PLACES) -> list[tuple[int, list[Node]]]:
    """Objects and operators of every row, when all answers are right."""
    found = []
    for scene, nodes, targets in rows(batch, features=features, places=places):
        answers = {place: answer for place, _, _, answer, _ in nodes}
        assert targets == [answers.get(place, IGNORED) for place in range(len(targets))]
        found.append((len(scene), nodes))
    return found


def untrained(node: Node, *, features: int = FEATURES) -> bool:
    _, name, feature, _, _ = node
    if feature is None:
        return False
    place = (feature - 9) % features
    return place in (2, 3) if name == "exist" else place in (0, 1)


def slice_of(name: str) -> list[tuple[int, list[Node]]]:
    found = []
    for batch in make_runner(COMPOSITIONAL).evaluation_batches():
        if name in batch.slices:
            whole = torch.zeros_like(batch.scored)
            whole[:, 0] = True
            assert torch.equal(batch.slices[name], whole)
            assert batch.inputs.shape[1] == LENGTH
            found += check(batch)
    assert len(found) == 128
    return found


def test_training_answers_are_right_and_leave_out_what_is_held() -> None:
    runner = make_runner(replace(COMPOSITIONAL, batch=700))
    for step, depth in ((0, 1), (99, 2)):
        found = check(runner.training_batch(step, total_steps=100, seed=1))
        assert {objects for objects, _ in found} == {3}
        assert max(node[4] for _, nodes in found for node in nodes) == depth
        assert not any(untrained(node) for _, nodes in found for node in nodes)


def test_training_asks_everything_else_and_in_balance() -> None:
    found = check(make_runner(replace(COMPOSITIONAL, batch=7000)).training_batch(99, total_steps=100, seed=1))
    asked = {(name, feature) for _, nodes in found for _, name, feature, _, _ in nodes if feature is not None}
    assert len(asked) == 12 + 6 + 6
    for name in ("exist", "and", "or"):
        answers = [nodes[0][3] for _, nodes in found if nodes[0][1] == name]
        assert len(answers) == 1000  # each kind of program as often
        assert answers.count(2) / 1000 == pytest.approx(0.5, abs=0.064)  # four standard errors
    conditions = [nodes[1][3] for _, nodes in found if nodes[0][1] == "if"]
    assert conditions.count(2) / len(conditions) == pytest.approx(0.5, abs=0.045)


def test_each_slice_has_what_its_name_says() -> None:
    trained, distractor = slice_of("trained"), slice_of("distractor")
    systematic, productive = slice_of("systematic"), slice_of("productive")
    assert {objects for objects, _ in trained + systematic + productive} == {3}
    assert {objects for objects, _ in distractor} == {5}
    assert {nodes[0][4] for _, nodes in trained + distractor} == {1, 2}
    assert {nodes[0][4] for _, nodes in productive} == {3}
    assert all(untrained(nodes[0]) for _, nodes in systematic)
    assert not any(untrained(node) for part in (trained, distractor, productive) for _, nodes in part for node in nodes)


@settings(max_examples=15, deadline=None)
@given(
    objects=st.integers(3, 6),
    more=st.integers(1, 4),
    spare=st.integers(3, 5),
    depth=st.integers(2, 3),
    seed=st.integers(0, 999),
)
def test_answers_are_right_at_every_dial(objects: int, more: int, spare: int, depth: int, seed: int) -> None:
    places, features = objects + more + 2, objects + more + spare
    dials = (("objects", objects), ("distractors", objects + more), ("features", features), ("depth", depth))
    options = (*dials, ("evaluation", 40))
    runner = make_runner(replace(COMPOSITIONAL, vocabulary=9 + 2 * features, length=20, batch=40, options=options))
    training = check(runner.training_batch(9, total_steps=10, seed=seed), features=features, places=places)
    assert not any(untrained(node, features=features) for _, nodes in training for node in nodes)
    for batch in runner.evaluation_batches():
        found = check(batch, features=features, places=places)
        if "systematic" in batch.slices:
            assert all(untrained(nodes[0], features=features) for _, nodes in found)


def test_programs_of_a_depth() -> None:
    """Depth 2: two joints, two conditionals. Depth 3: of each joint four, of each conditional two and two."""
    assert [len(programs(depth)) for depth in (1, 2, 3)] == [3, 4, 16]
    assert max(each.size for each in programs(3)) == LENGTH


class Answering(nn.Module):
    """A model that says what a plain function says of every row."""

    def __init__(self, answer: Callable[[list[int], list[int]], list[int]]) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, inputs: Tensor, *, source: Tensor) -> Tensor:
        said = torch.tensor([self.answer(*pair) for pair in zip(inputs.tolist(), source.tolist(), strict=True)])
        return nn.functional.one_hot(said, 25).float() * 50


def test_an_interpreter_solves_it() -> None:
    def solve(program: list[int], source: list[int]) -> list[int]:
        answers = {place: answer for place, _, _, answer, _ in interpret(program, scene_of(source))}
        return [answers.get(place, 0) for place in range(len(program))]

    runner = make_runner(COMPOSITIONAL)
    tally = evaluate(Answering(solve), runner.evaluation_batches())
    assert runner.score(tally) == 1.0
    assert set(runner.metrics(tally)) == {"loss", "accuracy", "trained", "distractor", "systematic", "productive"}
    assert runner.metrics(tally)["accuracy"] == 1.0
    assert {part.scored for part in tally.slices.values()} == {128}


def test_an_answer_without_the_scene_is_chance() -> None:
    """Yes to what decides, the first colour, the first shape: no better than the commonest of each type."""

    def guess(program: list[int], source: list[int]) -> list[int]:
        types = {"colour": 9, "shape": 17}
        leaf = next((NAMES[each] for each in program[2:] if NAMES.get(each) in types), "")
        name = NAMES[program[0]]
        return [types.get(leaf if name == "if" else name, 2)] * len(program)

    runner = make_runner(COMPOSITIONAL)
    tally = evaluate(Answering(guess), runner.evaluation_batches())
    assert runner.score(tally) < 0.03
    assert 0.2 < runner.metrics(tally)["accuracy"] < 0.5


def test_the_commonest_answers_of_each_type_are_chance() -> None:
    answers = np.array([1, 1, 2, 9, 10, 10, 17, 17, 18, 24])
    assert commonest(answers, FEATURES) == (2 + 2 + 2) / 10
    assert commonest(np.array([2, 2]), FEATURES) == 1.0


def test_the_score_is_the_mean_over_slices_above_chance() -> None:
    """A model that knows `trained` and `distractor` alone, and elsewhere never answers."""

    def solve(program: list[int], source: list[int]) -> list[int]:
        nodes = interpret(program, scene_of(source))
        if nodes[0][4] > 2 or untrained(nodes[0]):
            return [0] * len(program)
        return [nodes[0][3]] * len(program)

    runner = make_runner(COMPOSITIONAL)
    assert runner.score(evaluate(Answering(solve), runner.evaluation_batches())) == 0.5


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> Tensor:
        source = make_runner(COMPOSITIONAL).training_batch(step, total_steps=10, seed=seed).source
        assert source is not None
        return source

    first = draw(5, 7)
    torch.manual_seed(3)
    assert torch.equal(first, draw(5, 7))
    assert not torch.equal(first, draw(5, 8))
    assert not torch.equal(draw(8, 7), draw(9, 7))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": (("objects", 5), ("distractors", 5))}, "take more than 'objects', 5"),
        ({"options": (("features", 7), ("objects", 3), ("distractors", 5))}, "5 objects take at least 8"),
        ({"vocabulary": 24}, "at least 25"),
        ({"length": 11}, "programs of depth 3 take 12"),
        ({"options": (("depth", 1),)}, "from 2 to 3"),
        ({"options": (("objects", 2),)}, "at least 3"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(COMPOSITIONAL, **change))
