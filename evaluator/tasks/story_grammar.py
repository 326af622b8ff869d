"""Little stories from a grammar, in which a part of the words can be known only by who reads the story so far.

They stand in for TinyStories (Eldan & Li 2023, arXiv:2305.07759) where there is no network; the grammar is our own. A
story has a few characters; each has a name, a thing, the thing's colour and a spot where it lies, and no two share any
of them. A story opens, says of every character in turn what it has, says in another order where that was put, and from
there on comes back to what was said, in sentences on one character at a time.

A slot of a sentence is written `{class}` where its word is free, and `{class!}` where the sentence so far and the story
before it leave one word only. Those words are recalled. Who knows the sentence but not the story must guess among all
words of the class, and that is chance.

A recalling sentence names a thing and asks within four words for what belongs to it, so a short convolution and one
look back suffice. With more kinds of questions two-layer models of width 32 had not learnt within 300 steps whose word
it is, only that the story has it.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from archloom.evaluator.tasks.choosing import subsets

ENTITIES = {
    "name": ["anna", "ben", "clara", "dan", "ella", "finn", "grace", "hugo"],
    "thing": ["ball", "kite", "drum", "hat", "cup", "book", "boat", "doll"],
    "colour": ["red", "blue", "green", "yellow", "white", "black", "pink", "brown"],
    "spot": ["box", "barn", "garden", "kitchen", "cave", "tree", "well", "shed"],
}
"""The words of each class."""

SENTENCES = {
    "opening": (
        "once upon a time some friends met .",
        "one day some friends came together .",
    ),
    "having": (
        "{name} had a {colour} {thing} .",
        "the {colour} {thing} was for {name} .",
    ),
    "hiding": (
        "they hid the {thing} in the {spot} .",
        "they left the {thing} by the {spot} .",
    ),
    "recalling": (
        "the {thing} was {colour!} .",
        "the {thing} made {name!} happy .",
        "the {thing} lay near the {spot!} .",
    ),
    "pause": (
        "it was a warm day .",
        "they played and laughed .",
    ),
}
"""Sentences by their part in a story."""

RECALLING = 0.9
"""How many of the sentences after the introductions recall, beside the first; the rest are pauses."""

Symbols = NDArray[np.int64]
Reals = NDArray[np.float64]


def _words() -> tuple[str, ...]:
    """Every word once: entities by class, then the others in order of appearance."""
    entities = [word for words in ENTITIES.values() for word in words]
    spoken = (word for group in SENTENCES.values() for sentence in group for word in sentence.split())
    return tuple(dict.fromkeys([*entities, *(word for word in spoken if not word.startswith("{"))]))


WORDS = _words()
"""The vocabulary: a word's symbol is its place here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forms:
    """All sentences as arrays [sentences, longest]: symbols, -1 in slots and -2 behind the end; the class of a slot;
    the log of the class's size where a slot is recalled, else 0. `first` and `count` locate each part of a story."""

    symbols: Symbols
    classes: Symbols
    costs: Reals
    first: dict[str, int]
    count: dict[str, int]


def _forms() -> _Forms:
    sentences = [sentence.split() for group in SENTENCES.values() for sentence in group]
    shape = (len(sentences), max(map(len, sentences)))
    symbols, classes, costs = np.full(shape, -2), np.zeros(shape, dtype=np.int64), np.zeros(shape)
    names = list(ENTITIES)
    for row, sentence in enumerate(sentences):
        for column, word in enumerate(sentence):
            slot = word.strip("{!}")
            symbols[row, column] = -1 if word.startswith("{") else WORDS.index(word)
            if word.startswith("{"):
                classes[row, column] = names.index(slot)
                costs[row, column] = np.log(len(ENTITIES[slot])) if word.endswith("!}") else 0.0
    sizes = [len(group) for group in SENTENCES.values()]
    return _Forms(
        symbols=symbols,
        classes=classes,
        costs=costs,
        first=dict(zip(SENTENCES, np.cumsum([0, *sizes[:-1]]).tolist(), strict=True)),
        count=dict(zip(SENTENCES, sizes, strict=True)),
    )


FORMS = _forms()


def introduction(characters: int) -> int:
    """The most words of a story up to the end of its first recalling sentence."""
    longest = {part: max(len(sentence.split()) for sentence in group) for part, group in SENTENCES.items()}
    return longest["opening"] + characters * (longest["having"] + longest["hiding"]) + longest["recalling"]


def tell(rng: np.random.Generator, *, count: int, length: int, characters: int) -> tuple[Symbols, Reals]:
    """`count` stories, cut at `length` words: symbols [count, length], and what a recalled word costs who has not read
    the story, in nats, 0 for other words [count, length]."""
    entities = _characters(rng, count=count, characters=characters)
    forms, about = _plot(rng, count=count, length=length, characters=characters)
    symbols, classes, costs = FORMS.symbols[forms], FORMS.classes[forms], FORMS.costs[forms]
    told = entities[np.arange(count)[:, None, None], about[:, :, None], classes]
    symbols = np.where(symbols == -1, told, symbols).reshape(count, -1)
    kept = np.argsort(symbols == -2, axis=1, kind="stable")[:, :length]
    return np.take_along_axis(symbols, kept, axis=1), np.take_along_axis(costs.reshape(count, -1), kept, axis=1)


def _characters(rng: np.random.Generator, *, count: int, characters: int) -> Symbols:
    """Symbols of each character's name, thing, colour and spot: [count, characters, classes]."""
    columns, first = [], 0
    for words in ENTITIES.values():
        columns.append(first + subsets(rng, count, of=len(words), size=characters))
        first += len(words)
    return np.stack(columns, axis=-1)


def _plot(rng: np.random.Generator, *, count: int, length: int, characters: int) -> tuple[Symbols, Symbols]:
    """Which sentences tell a story, and on whom: two arrays [count, sentences]."""
    shortest = min(len(sentence.split()) for part in ("pause", "recalling") for sentence in SENTENCES[part])
    rest = -(-length // shortest)
    parts = ["opening", *["having"] * characters, *["hiding"] * characters, *["recalling"] * rest]
    first = np.array([FORMS.first[part] for part in parts])
    sizes = np.array([FORMS.count[part] for part in parts])
    pausing = np.zeros((count, len(parts)), dtype=bool)
    pausing[:, 1 - rest :] = rng.random((count, rest - 1)) >= RECALLING
    forms = np.where(pausing, FORMS.first["pause"], first) + (
        rng.random((count, len(parts))) * np.where(pausing, FORMS.count["pause"], sizes)
    ).astype(np.int64)
    order = np.argsort(rng.random((2, count, characters)), axis=-1)
    nobody = np.zeros((count, 1), dtype=np.int64)
    return forms, np.hstack([nobody, order[0], order[1], rng.integers(characters, size=(count, rest))])
