"""Byte-level language modelling on real text: by default the standard library of the running Python, or any text files.

Every machine has the standard library, so nothing is downloaded; it differs between versions of Python, so a protocol
stores the digest of its corpus (`corpus_digest`) and a run on other text is refused. A folder is split by file: the
twentieth of its files whose names hash lowest is for validation. A single file is cut into 100 contiguous blocks, of
which five, evenly spread, are for validation.
"""

import hashlib
import math
import os
import sysconfig
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from archloom.db.records import Task
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.task_kinds import dials
from archloom.evaluator.tasks.interface import TRAINING_STREAM, Batch, Tally

STANDARD_LIBRARY = "stdlib"
"""The `source` that stands for the standard library's Python sources; any other source is a path."""

TEXT_SUFFIXES = frozenset(
    {".c", ".cc", ".cpp", ".css", ".csv", ".go", ".h", ".hpp", ".html", ".ini", ".java", ".js", ".json", ".log", ".md"}
    | {".py", ".pyi", ".rs", ".rst", ".sh", ".tex", ".toml", ".ts", ".tsv", ".txt", ".xml", ".yaml", ".yml"}
)
NOT_SOURCES = frozenset({"__pycache__", "dist-packages", "idle_test", "site-packages", "test", "tests", "turtledemo"})
"""Folders left out of the standard library: tests, demonstrations and what was installed later."""
BUILD_RECORDS = ("_sysconfigdata", "config-")
"""First letters of the standard library's files and folders that record how and where it was built."""

BYTES = 256
BLOCKS = 100
VALIDATION_EVERY = 20

Bytes = NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Corpus:
    """Bytes for training [N] and for validation [M] (uint8) and the SHA-256 of every file's name and content."""

    source: str
    training: Bytes
    validation: Bytes
    digest: str
    files: int


def corpus_digest(source: str = STANDARD_LIBRARY) -> str:
    """SHA-256 over the relative names and the contents of the files of `source`; raises as `load_corpus` does."""
    return load_corpus(source).digest


@cache
def load_corpus(source: str = STANDARD_LIBRARY) -> Corpus:
    """Read a corpus, once per process (about 0.1 s for the standard library's 11 MB).

    `source` is `STANDARD_LIBRARY`, a folder or a file; a relative path counts from the working directory. Raises
    `EnvironmentProblem` for a path that is missing or unreadable and `ConfigError` for a folder without text.
    """
    root = Path(sysconfig.get_path("stdlib") if source == STANDARD_LIBRARY else source)
    try:
        if not root.exists():
            raise EnvironmentProblem(f"text source {source!r} does not exist; set the task's option `source` to a path")
        contents = {name: (root / name).read_bytes() for name in _names(root, sources_only=source == STANDARD_LIBRARY)}
    except OSError as error:
        raise EnvironmentProblem(
            f"text source {source!r} cannot be read: {error}. Mend its permissions, or name another in option `source`."
        ) from error
    contents = {name: content for name, content in contents.items() if content}
    if not contents:
        raise ConfigError(
            f"text source {source!r} has no text: no file that is not empty with one of the suffixes "
            f"{' '.join(sorted(TEXT_SUFFIXES))}. Name another file or folder in option `source`."
        )
    digest = hashlib.sha256()
    for name, content in contents.items():
        digest.update(f"{name}\0{len(content)}\0".encode())
        digest.update(content)
    training, validation = _split(contents)
    return Corpus(
        source=source, training=training, validation=validation, digest=digest.hexdigest(), files=len(contents)
    )


def _names(root: Path, *, sources_only: bool) -> list[str]:
    """Names relative to `root` with forward slashes, sorted; "." for `root` itself where it is a file."""
    if root.is_file():
        return ["."]
    suffixes = frozenset({".py"}) if sources_only else TEXT_SUFFIXES
    names = (path.relative_to(root) for path in _walk(root) if path.suffix in suffixes)
    return sorted(name.as_posix() for name in names if not (sources_only and _left_out(name)))


def _left_out(name: Path) -> bool:
    return not NOT_SOURCES.isdisjoint(name.parts) or name.parts[0].startswith(BUILD_RECORDS)


def _walk(root: Path) -> Iterator[Path]:
    """Every file under `root` outside hidden folders and installed packages; raises `OSError` for a closed folder."""

    def refuse(error: OSError) -> None:
        raise error

    for folder, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if name != "site-packages" and not name.startswith(".")]
        yield from (Path(folder, name) for name in files)


def _split(contents: Mapping[str, bytes]) -> tuple[Bytes, Bytes]:
    """Training and validation bytes of files by name: by file, or by block where there is only one."""
    if len(contents) == 1:
        (whole,) = contents.values()
        blocks = np.array_split(np.frombuffer(whole, dtype=np.uint8), BLOCKS)
        chosen = set(range(VALIDATION_EVERY // 2, BLOCKS, VALIDATION_EVERY))
        parts = dict(enumerate(blocks))
        return (
            np.concatenate([part for index, part in parts.items() if index not in chosen]),
            np.concatenate([part for index, part in parts.items() if index in chosen]),
        )
    by_hash = sorted(contents, key=lambda name: hashlib.sha256(name.encode()).digest())
    held_out = set(by_hash[: math.ceil(len(by_hash) / VALIDATION_EVERY)])
    training = b"".join(content for name, content in contents.items() if name not in held_out)
    validation = b"".join(content for name, content in contents.items() if name in held_out)
    return np.frombuffer(training, dtype=np.uint8), np.frombuffer(validation, dtype=np.uint8)


@dataclass(frozen=True, slots=True, kw_only=True)
class ByteText:
    """Next-byte prediction on windows of `length` bytes; evaluated on `windows` evenly spread validation windows."""

    corpus: Corpus
    length: int
    batch: int
    windows: int
    ramp: float = 0.0
    solved: float | None = None

    @classmethod
    def from_task(cls, task: Task) -> "ByteText":
        """Options: `source` (the standard library), `digest` (unchecked if empty), `windows` (64).

        Raises `EnvironmentProblem` if the text is missing or is not the text of the digest, `ConfigError` otherwise.
        """
        given = dials(task)
        if task.vocabulary != BYTES:
            raise ConfigError(f"task {task.name!r} is over bytes: set its vocabulary to {BYTES}, not {task.vocabulary}")
        corpus = load_corpus(given.text("source"))
        digest = given.text("digest")
        if digest not in ("", corpus.digest):
            raise EnvironmentProblem(
                f"text source {corpus.source!r} of task {task.name!r} is not this protocol's text: its SHA-256 is "
                f"{corpus.digest}, the protocol has {digest}. Provide the same files (for {STANDARD_LIBRARY!r}, the "
                "same version of Python), or start a campaign whose protocol has the new digest; the two "
                "scores are not comparable."
            )
        for name, part in (("training", corpus.training), ("validation", corpus.validation)):
            if len(part) <= task.length:
                raise ConfigError(
                    f"text source {corpus.source!r} leaves {len(part)} bytes for {name}, and task {task.name!r} reads "
                    f"{task.length + 1} at once; name a longer text, or set a smaller length"
                )
        return cls(corpus=corpus, length=task.length, batch=task.batch, windows=given.integer("windows"))

    def training_batch(self, step: int, *, total_steps: int, seed: int) -> Batch:
        """[batch, length] at starts drawn uniformly; `total_steps` plays no part."""
        rng = np.random.default_rng((TRAINING_STREAM, seed, step))
        return self._windows(
            self.corpus.training, rng.integers(len(self.corpus.training) - self.length, size=self.batch)
        )

    def evaluation_batches(self) -> Sequence[Batch]:
        last = len(self.corpus.validation) - self.length - 1
        starts = np.linspace(0, last, self.windows).astype(np.int64)
        chunks = (starts[first : first + self.batch] for first in range(0, self.windows, self.batch))
        return [self._windows(self.corpus.validation, chunk) for chunk in chunks]

    def metrics(self, tally: Tally) -> Mapping[str, float]:
        """`loss` in bits per byte and `accuracy` of the next byte."""
        return {"loss": tally.loss / math.log(2), "accuracy": tally.accuracy}

    def score(self, tally: Tally) -> float:
        """The part of a byte's eight bits that the model saves: max(0, 1 - loss / 8)."""
        return max(0.0, 1 - tally.loss / math.log(BYTES))

    def _windows(self, data: Bytes, starts: NDArray[np.int64]) -> Batch:
        window = torch.from_numpy(data[starts[:, None] + np.arange(self.length + 1)].astype(np.int64))
        return Batch(inputs=window[:, :-1].contiguous(), targets=window[:, 1:].contiguous())
