"""Programs about a scene, in combinations that were not trained: compositional generalisation in the cross pattern.

After generic COG (Ito et al. 2024, arXiv:2401.15030). The target is a program (`programs.py` has the language) and the
source a scene, with the program behind it, since a mixer that reads across sequences reads nothing else. An object is
two symbols, its colour and its shape, and stands in a random one of M + 2 places, M being the most objects there can
be; two zeros are an empty place. Binding the two takes a look at the neighbour, which short convolutions give.

The model answers in the place of the operator; so it does for the programs within a program, without which small
models find no foothold. Only whole programs count in the score, by slices of the evaluation set:

    trained      programs of at most `depth`, each kind as often, about 3 to `objects` objects
    distractor   the same about `distractors` objects, more than were trained
    systematic   programs of depth 1 with features that their operator was not trained with, though others were
    productive   programs one deeper than were trained, about 3 to `objects` objects

Chance is what the commonest answer of each type (yes or no, colours, shapes) gets in a slice. The score is the mean of
the four accuracies, each as a part of what lies above its chance. Programs of depth 1 come first: the depth grows over
the first part of training (dial `ramp`).

What differs from the original: it asks for places too, which most mixers cannot tell; its scenes are vectors.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from statistics import fmean

import numpy as np
import torch

from archloom.db.records import Task
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.choosing import subsets
from archloom.evaluator.tasks.interface import (
    EVALUATION_STREAM,
    IGNORED,
    TRAINING_STREAM,
    Batch,
    Tally,
    above_chance,
    parts,
)
from archloom.evaluator.tasks.programs import FEATURES, HELD, Program, Symbols, ask, programs
from archloom.evaluator.tasks.ramps import grown

FEWEST = HELD + 1
"""Objects of the smallest scene, and features of a kind that the largest leaves out: one may be asked about."""
EMPTY = 2
"""Places that stay empty in the largest scene."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Compositional:
    """Programs of at most `depth` about scenes of at most `objects` objects, out of `features` colours and shapes."""

    length: int
    batch: int
    features: int
    objects: int
    distractors: int
    depth: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95

    @classmethod
    def from_task(cls, task: Task) -> "Compositional":
        """Raises `ConfigError`."""
        given = dials(task)
        features, depth = given.integer("features"), given.integer("depth")
        objects, distractors = given.integer("objects"), given.integer("distractors")
        kinds = distractors + FEWEST
        symbols, longest = FEATURES + 2 * features, max(each.size for each in programs(depth + 1))
        require(
            task,
            (distractors > objects, f"option 'distractors' is {distractors}: take more than 'objects', {objects}"),
            (features >= kinds, f"option 'features' is {features}: {distractors} objects take at least {kinds}"),
            (task.vocabulary >= symbols, f"the vocabulary is {task.vocabulary}: the symbols are at least {symbols}"),
            (task.length >= longest, f"the length is {task.length}: programs of depth {depth + 1} take {longest}"),
        )
        return cls(
            length=task.length,
            batch=task.batch,
            features=features,
            objects=objects,
            distractors=distractors,
            depth=depth,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """Programs [batch, longest trained] about sources [batch, 2 (distractors + EMPTY) + longest trained]."""
        return self._draw(
            np.random.default_rng((TRAINING_STREAM, seed, step)),
            _up_to(grown(self.depth, step=step, total_steps=total_steps, ramp=self.ramp)),
            count=self.batch,
            length=max(each.size for each in _up_to(self.depth)),
        )

    def evaluation_batches(self) -> Sequence[Batch]:
        return _evaluation(self)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats over all answers, the accuracy of every slice, and `accuracy`, their mean."""
        found = {name: part.accuracy for name, part in tally.slices.items()}
        return {"loss": tally.loss, "accuracy": fmean(found.values()), **found}

    def score(self, tally: Tally) -> float:
        """The mean over the slices of accuracy above chance."""
        chances = _chances(self)
        return fmean(above_chance(part.accuracy, chances[name]) for name, part in tally.slices.items())

    def _slices(self) -> Mapping[str, Batch]:
        """The evaluation set; whole programs are marked."""
        rng = np.random.default_rng((EVALUATION_STREAM, self.features, self.objects, self.distractors, self.depth))
        most, trained, deeper = self.distractors, _up_to(self.depth), programs(self.depth + 1)
        drawn = {
            "trained": self._draw(rng, trained, count=self.evaluation, length=self.length),
            "distractor": self._draw(rng, trained, count=self.evaluation, length=self.length, objects=(most, most)),
            "systematic": self._draw(rng, programs(1), count=self.evaluation, length=self.length, held=True),
            "productive": self._draw(rng, deeper, count=self.evaluation, length=self.length),
        }
        whole = torch.zeros(self.evaluation, self.length, dtype=torch.bool)
        whole[:, 0] = True
        return {
            name: Batch(inputs=each.inputs, targets=each.targets, source=each.source, slices={name: whole})
            for name, each in drawn.items()
        }

    def _draw(
        self,
        rng: np.random.Generator,
        kinds: Sequence[Program],
        *,
        count: int,
        length: int,
        objects: tuple[int, int] | None = None,
        held: bool = False,
    ) -> Batch:
        """Programs of each kind, as many of one as of another, padded to `length`."""
        fewest, most = objects or (FEWEST, self.objects)
        scene, partner = self._scenes(rng, rng.integers(fewest, most + 1, size=(count, 1)), held=held)
        want = rng.random(count) < 0.5
        inputs = np.zeros((count, length), dtype=np.int64)
        targets = np.full_like(inputs, IGNORED)
        for place, kind in enumerate(kinds):
            rows = slice(place, count, len(kinds))
            asked = ask(kind, partner[rows], want=want[rows], held=held, rng=rng)
            inputs[rows, : kind.size], targets[rows, : kind.size] = asked.symbols, asked.answers
        return Batch(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(targets),
            source=torch.from_numpy(np.hstack([scene, inputs])),
        )

    def _scenes(self, rng: np.random.Generator, objects: Symbols, *, held: bool) -> tuple[Symbols, Symbols]:
        """Scenes of `objects` [B, 1] objects: symbols [B, 2 (distractors + EMPTY)], and `partner` as `programs` has it.

        Where `held` is set, each operator has a feature there that it was not trained with, and `exist` one missing.
        """
        rows, size = np.arange(len(objects)), self.features
        colours, shapes = (self._features(rng, len(objects), held=held) for _ in range(2))
        there = np.arange(size) < objects
        shapes = np.take_along_axis(shapes, np.argsort(rng.random(shapes.shape) + ~there, axis=1), axis=1)
        partner = np.full((len(objects), 2 * size), -1)
        partner[rows[:, None], colours] = np.where(there, size + shapes, -1)
        partner[rows[:, None], size + shapes] = np.where(there, colours, -1)

        pairs = np.zeros((len(objects), self.distractors + EMPTY, 2), dtype=np.int64)
        seen = np.stack([colours, size + shapes], axis=2) + FEATURES
        pairs[:, : self.distractors] = np.where(there[..., None], seen, 0)[:, : self.distractors]
        places = np.argsort(rng.random(pairs.shape[:2]), axis=1)
        return pairs[rows[:, None], places].reshape(len(objects), -1), partner

    def _features(self, rng: np.random.Generator, count: int, *, held: bool) -> Symbols:
        """Colours or shapes in random order, [count, features]; the first ones of it will be there."""
        order = rng.random((count, self.features))
        if held:
            chosen = subsets(rng, count, of=HELD, size=HELD)
            rows = np.arange(count)
            order[rows, chosen[:, 0]] = -1.0
            order[rows, HELD + chosen[:, 0]], order[rows, HELD + chosen[:, 1]] = -1.0, 2.0
        return np.argsort(order, axis=1)


def _up_to(depth: int) -> tuple[Program, ...]:
    return tuple(each for level in range(1, depth + 1) for each in programs(level))


@cache
def _evaluation(task: Compositional) -> tuple[Batch, ...]:
    return tuple(part for whole in task._slices().values() for part in parts(whole, task.batch))


@cache
def _chances(task: Compositional) -> Mapping[str, float]:
    """What the commonest answer of each type gets in each slice."""
    return {name: commonest(whole.targets[:, 0].numpy(), task.features) for name, whole in task._slices().items()}


def commonest(answers: Symbols, features: int) -> float:
    """The part of answers [B] that are the commonest of their type: yes or no, colours, shapes."""
    kinds = np.digitize(answers, (FEATURES, FEATURES + features))
    return sum(int(np.bincount(answers[kinds == kind], minlength=1).max()) for kind in range(3)) / len(answers)
