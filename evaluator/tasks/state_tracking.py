"""State tracking: parity, and the word problem of a group of permutations.

The model reads elements x_1, x_2, ... of a group and says at every position t the product so far,
p_t = x_t p_(t-1): first what came before, then x_t (Liu et al. 2022, arXiv:2210.10749; Merrill, Petty & Sabharwal
2024, arXiv:2404.08819). Training has words of at most `trained` tokens, evaluation longer ones, and the score counts
the positions beyond training alone: there a table of short words is worth nothing.

`parity` is the group of two elements: p_t is the parity of the bits so far. A linear recurrence of finite precision
whose transitions have only positive real eigenvalues does not solve it at all lengths (Grazzi et al. 2024,
arXiv:2411.12537, theorem 1). `permutations` is S3, A5 or S5. S3 is solvable, A5 and S5 are not: no fixed depth of
attention or of diagonal recurrence solves those at all lengths unless TC0 = NC1. An adjacent swap is one Householder
reflection, which one layer of a delta rule with rates up to 2 can make; an arbitrary element of S3 takes two.

An element is a permutation of 0 .. n-1. Its symbol is its place in the lexicographic list of the group's elements, and
0 is the identity.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import permutations

import numpy as np
import torch
from numpy.typing import NDArray

from archloom.db.records import Task
from archloom.evaluator.task_kinds import dials, require
from archloom.evaluator.tasks.interface import EVALUATION_STREAM, TRAINING_STREAM, Batch, Tally, above_chance, parts
from archloom.evaluator.tasks.ramps import grown

Symbols = NDArray[np.int64]

OBJECTS: Mapping[str, int] = {"z2": 2, "s3": 3, "a5": 5, "s5": 5}
"""How many objects each group permutes; `a` groups hold the even permutations alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """`after[x, p]` is the product "p, then x" of two elements [order, order]; `swaps` are the adjacent swaps."""

    name: str
    after: Symbols
    swaps: Symbols

    @property
    def order(self) -> int:
        return len(self.after)


def group_of(name: str) -> Group:
    """A group of `OBJECTS` by name, with its elements in lexicographic order."""
    objects = OBJECTS[name]
    elements = np.array([each for each in permutations(range(objects)) if not (name.startswith("a") and _odd(each))])
    digits = objects ** np.arange(objects)[::-1]  # read as numbers, permutations are in lexicographic order
    codes = elements @ digits
    products = elements[:, elements]  # [x, p, i] -> x[p[i]]
    identity = np.arange(objects)
    swaps = [identity.copy() for _ in range(objects - 1)]
    for place, swap in enumerate(swaps):
        swap[[place, place + 1]] = place + 1, place
    held = [np.searchsorted(codes, swap @ digits) for swap in swaps if swap @ digits in codes]
    return Group(name=name, after=np.searchsorted(codes, products @ digits), swaps=np.array(held, dtype=np.int64))


def _odd(permutation: Sequence[int]) -> bool:
    inversions = sum(later < each for place, each in enumerate(permutation) for later in permutation[place:])
    return inversions % 2 == 1


@dataclass(frozen=True, slots=True, kw_only=True)
class WordProblem:
    """Products so far of elements drawn uniformly from `generators`: words of `trained` tokens, evaluated at `length`.

    Training words grow from one token to `trained` over the part `ramp` of training.
    """

    group: Group
    generators: Symbols
    length: int
    trained: int
    batch: int
    ramp: float
    evaluation: int
    solved: float | None = 0.95
    chance: float = field(init=False)
    """How often the likeliest element of its position is right, on average over the positions beyond training."""

    def __post_init__(self) -> None:
        best = _best_guesses(self.group, generators=self.generators, length=self.length)
        object.__setattr__(self, "chance", float(best[self.trained :].mean()))

    @classmethod
    def parity(cls, task: Task) -> "WordProblem":
        """Raises `ConfigError`."""
        bits = group_of("z2")
        return cls._of(task, bits, generators=np.arange(bits.order))

    @classmethod
    def permutations(cls, task: Task) -> "WordProblem":
        """Raises `ConfigError`."""
        given = dials(task)
        whole = group_of(given.text("group"))
        swapping = given.text("generators") == "transpositions"
        require(
            task,
            (
                not swapping or len(whole.swaps) > 0,
                f"the even permutations of {whole.name} have no swaps: take generators 'all', or group 's5'",
            ),
        )
        return cls._of(task, whole, generators=whole.swaps if swapping else np.arange(whole.order))

    @classmethod
    def _of(cls, task: Task, whole: Group, *, generators: Symbols) -> "WordProblem":
        given = dials(task)
        trained = given.integer("trained")
        require(
            task,
            (
                task.vocabulary >= whole.order,
                f"the vocabulary is {task.vocabulary}: the elements of {whole.name} take at least {whole.order}",
            ),
            (
                trained < task.length,
                f"words of {trained} tokens are trained on and of {task.length} evaluated: take a greater length, or "
                "a smaller option 'trained'",
            ),
        )
        return cls(
            group=whole,
            generators=generators,
            length=task.length,
            trained=trained,
            batch=task.batch,
            ramp=given.number("ramp"),
            evaluation=given.integer("evaluation"),
        )

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, n], where n is what the ramp has reached of `trained`."""
        length = grown(self.trained, step=step, total_steps=total_steps, ramp=self.ramp)
        return self._draw(np.random.default_rng((TRAINING_STREAM, seed, step)), count=self.batch, length=length)

    def evaluation_batches(self) -> Sequence[Batch]:
        """[.., length], with a slice `to_n` for each stretch of `trained` positions, n where it ends."""
        numbers = (self.group.order, len(self.generators), self.length, self.trained)
        rng = np.random.default_rng((EVALUATION_STREAM, *numbers))
        whole = self._draw(rng, count=self.evaluation, length=self.length)
        place = torch.arange(self.length).expand(self.evaluation, -1)
        slices = {
            f"to_{min(first + self.trained, self.length)}": (place >= first) & (place < first + self.trained)
            for first in range(0, self.length, self.trained)
        }
        return parts(Batch(inputs=whole.inputs, targets=whole.targets, slices=slices), self.batch)

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in nats and `accuracy` over all positions, and `accuracy_to_n` of each stretch of `trained`."""
        by_stretch = {f"accuracy_{name}": part.accuracy for name, part in tally.slices.items()}
        return {**tally.numbers(), **by_stretch}

    def score(self, tally: Tally) -> float:
        """Accuracy beyond the trained length, above the chance of the likeliest element."""
        beyond = [part for name, part in tally.slices.items() if name != f"to_{self.trained}"]
        return above_chance(sum(part.correct for part in beyond) / sum(part.scored for part in beyond), self.chance)

    def _draw(self, rng: np.random.Generator, *, count: int, length: int) -> Batch:
        words = rng.choice(self.generators, (count, length))
        products = np.empty_like(words)
        so_far = np.zeros(count, dtype=np.int64)
        for place in range(length):
            products[:, place] = so_far = self.group.after[words[:, place], so_far]
        return Batch(inputs=torch.from_numpy(words), targets=torch.from_numpy(products))


def _best_guesses(whole: Group, *, generators: Symbols, length: int) -> NDArray[np.float64]:
    """[length]: how often the likeliest product of t + 1 generators comes up, exactly.

    After an odd number of swaps only odd permutations remain, so position alone excludes half of the elements.
    """
    step = np.zeros((whole.order, whole.order))  # [to, from]
    for generator in generators:
        step[whole.after[generator], np.arange(whole.order)] += 1 / len(generators)
    likely = np.eye(whole.order)[0]
    best = np.empty(length)
    for place in range(length):
        likely = step @ likely
        best[place] = likely.max()
    return best
