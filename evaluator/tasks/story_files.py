"""Stories from files, as TinyStories is published (Eldan & Li 2023, arXiv:2305.07759): text in UTF-8 with
`<|endoftext|>` between stories.

Words are lower-cased runs of letters, digits and apostrophes, or single signs. Files are read in the order of their
names and only as far as the words asked for, so that two gigabytes of stories cost no more than the first million
words. Every twentieth story is for validation.
"""

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from archloom.errors import ConfigError, EnvironmentProblem

DELIMITER = b"<|endoftext|>"
SUFFIX = ".txt"
READ_AT_ONCE = 1 << 20
LONGEST_STORY = 1 << 24
"""Bytes. A file without delimiters is refused after so many, not read whole."""

VALIDATION_EVERY = 20
WORD = re.compile(r"\w+(?:['’]\w+)*|[^\w\s]")

UNKNOWN, END = 0, 1
"""Symbols of a word outside the vocabulary and of the end of a story."""

Symbols = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class StoryWords:
    """Words for training [N] and for validation [M], as places in `words`, which opens with two that stand for an
    unknown word and the end of a story; and the SHA-256 of the stories read."""

    source: str
    training: Symbols
    validation: Symbols
    words: tuple[str, ...]
    digest: str
    stories: int


@cache
def load_stories(source: str, *, tokens: int) -> StoryWords:
    """Read stories until `tokens` words are there for training, ends of stories included; once per process.

    `source` is a file or a folder of files ending in `.txt`. Raises `EnvironmentProblem` for a path that is missing or
    unreadable, and `ConfigError` for a folder without such files, for bytes that are not UTF-8 and for too few words.
    """
    places = {"": UNKNOWN, DELIMITER.decode(): END}
    kept: dict[bool, list[int]] = {True: [], False: []}
    digest, stories = hashlib.sha256(), 0
    try:
        for text in _stories(source):
            training = stories % VALIDATION_EVERY != VALIDATION_EVERY // 2
            kept[training] += [places.setdefault(word, len(places)) for word in WORD.findall(text.lower())]
            kept[training].append(END)
            digest.update(f"{len(text)}\0{text}".encode())
            stories += 1
            if len(kept[True]) >= tokens and stories > VALIDATION_EVERY:
                break
    except OSError as error:
        raise EnvironmentProblem(
            f"stories {source!r} cannot be read: {error}. Mend its permissions, or name another in option `source`."
        ) from error
    if len(kept[True]) < tokens or not kept[False]:
        raise ConfigError(
            f"stories {source!r} have {len(kept[True])} words for training in {stories} stories, and {tokens} are "
            f"asked for, from at least {VALIDATION_EVERY} stories; lower the option `tokens`, or name a longer text "
            f"with {DELIMITER.decode()} between stories in option `source`"
        )
    return StoryWords(
        source=source,
        training=np.array(kept[True]),
        validation=np.array(kept[False]),
        words=tuple(places),
        digest=digest.hexdigest(),
        stories=stories,
    )


def encoded(corpus: StoryWords, *, vocabulary: int) -> tuple[Symbols, Symbols, tuple[str, ...]]:
    """Training and validation words as symbols below `vocabulary`, and each symbol's word.

    After `UNKNOWN` and `END` come the most frequent words of the training stories, equals in the alphabet's order.
    """
    counts = np.bincount(corpus.training, minlength=len(corpus.words))
    ranked = sorted(range(END + 1, len(corpus.words)), key=lambda place: (-counts[place], corpus.words[place]))
    chosen = [UNKNOWN, END, *ranked[: vocabulary - 2]]
    symbols = np.full(len(corpus.words), UNKNOWN)
    symbols[chosen] = np.arange(len(chosen))
    return symbols[corpus.training], symbols[corpus.validation], tuple(corpus.words[place] for place in chosen)


def _stories(source: str) -> Iterator[str]:
    """Every story that is not empty, in order."""
    root = Path(source)
    if not root.exists():
        raise EnvironmentProblem(f"stories {source!r} do not exist; set the task's option `source` to a path")
    files = [root] if root.is_file() else sorted(root.glob(f"*{SUFFIX}"))
    if not files:
        raise ConfigError(f"folder {source!r} has no file that ends in {SUFFIX}; name another in option `source`")
    for file in files:
        for start, story in _pieces(file):
            try:
                text = story.decode().strip()
            except UnicodeDecodeError as error:
                raise ConfigError(
                    f"stories in {str(file)!r} are not UTF-8: byte {start + error.start} is "
                    f"0x{story[error.start]:02x}. Convert the file to UTF-8, or name another in option `source`."
                ) from error
            if text:
                yield text


def _pieces(file: Path) -> Iterator[tuple[int, bytes]]:
    """The stretches of a file between delimiters, each with the place of its first byte."""
    with file.open("rb") as stream:
        start, held = 0, b""
        while read := stream.read(READ_AT_ONCE):
            *whole, held = (held + read).split(DELIMITER)
            for piece in whole:
                yield start, piece
                start += len(piece) + len(DELIMITER)
            if len(held) > LONGEST_STORY:
                raise ConfigError(
                    f"{str(file)!r} has no {DELIMITER.decode()} in the {len(held)} bytes from byte {start} on: put it "
                    "between stories, or name another file in option `source`"
                )
        yield start, held
