"""Retrieval by meaning beside that by words: vectors of a model of embeddings, and one ranking made of both.

Rankings are joined by reciprocal rank fusion (Cormack, Clarke and Buettcher 2009), which needs no common scale: an item
is worth the sum of 1 / (60 + its place) over the rankings, multiplied by a lesson's score.
"""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from archloom.agents.knowledge.entries import Entry
from archloom.agents.knowledge.retrieval import Hit
from archloom.db.records import Lesson

CONSTANT = 60.0
"""Of reciprocal rank fusion, as its authors found it."""
BATCH = 16
"""Texts of one call: 16 vectors of 4,096 numbers are less than a client reads of an answer."""
MOST_CHARACTERS = 2_000
"""Of a text that is embedded."""

Item = Entry | Lesson
Embed = Callable[[Sequence[str]], NDArray[np.float32]]
"""The vectors [N, D] of texts [N]."""


class Meanings:
    """The vectors of the items met so far, each asked for once."""

    def __init__(self) -> None:
        self._vectors: dict[str, NDArray[np.float32]] = {}

    def ranked(self, query: str, items: Sequence[Item], *, embed: Embed, limit: int) -> tuple[Item, ...]:
        """The items nearest to the query by the cosine of their vectors. Errors: those of `embed`."""
        self._meet(items, embed)
        if not items:
            return ()
        known = np.stack([self._vectors[text_of(item)] for item in items])
        near = known @ _unit(embed([query[:MOST_CHARACTERS]]))[0]
        return tuple(items[place] for place in np.argsort(-near, kind="stable")[:limit])

    def _meet(self, items: Sequence[Item], embed: Embed) -> None:
        """Entries in batches and lessons one by one: the same calls whenever they are met."""
        entries = [text_of(item) for item in items if isinstance(item, Entry)]
        batches = [entries[first : first + BATCH] for first in range(0, len(entries), BATCH)]
        batches += [[text_of(item)] for item in items if isinstance(item, Lesson)]
        for batch in batches:
            if any(text not in self._vectors for text in batch):
                self._vectors.update(zip(batch, _unit(embed(batch)), strict=True))


def fused(by_words: Sequence[Hit], by_meaning: Sequence[Item], *, limit: int) -> tuple[Item, ...]:
    """The items of two rankings, the best first; of equals the one that words found."""
    worth: dict[Item, float] = {}
    for ranking in ([hit.item for hit in by_words], by_meaning):
        for place, item in enumerate(ranking, 1):
            score = item.score if isinstance(item, Lesson) else 1.0
            worth[item] = worth.get(item, 0.0) + score / (CONSTANT + place)
    return tuple(sorted(worth, key=lambda item: -worth[item])[:limit])


def text_of(item: Item) -> str:
    """What is embedded of an item."""
    text = item.text if isinstance(item, Lesson) else f"{item.name}: {item.prose}"
    return text[:MOST_CHARACTERS]


def _unit(vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.divide(vectors, np.where(lengths > 0, lengths, 1), dtype=np.float32)
