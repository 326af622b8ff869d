"""Byte-level text: the right files, an honest split, a digest that notices every change, and errors that help."""

import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from archloom.db.records import Task
from archloom.errors import ArchloomError, ConfigError, EnvironmentProblem
from archloom.evaluator.tasks import Tally, corpus_digest, make_runner
from archloom.evaluator.tasks.text import load_corpus

TEXT = Task(name="text", vocabulary=256, length=16, batch=8)


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    yield
    load_corpus.cache_clear()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty files, each of its own letter-free byte, and some that are not text."""
    (tmp_path / "deep").mkdir()
    (tmp_path / ".hidden").mkdir()
    for index in range(40):
        name = f"deep/{index}.txt" if index % 2 else f"{index}.md"
        (tmp_path / name).write_bytes(bytes([100 + index]) * 200)
    for name in ("picture.png", ".hidden/secret.txt"):
        (tmp_path / name).write_bytes(b"\0" * 5000)
    (tmp_path / "empty.txt").touch()
    return tmp_path


def test_the_standard_library_is_there_whole_and_untested() -> None:
    corpus = load_corpus()
    stdlib = Path(sysconfig.get_path("stdlib"))
    text = corpus.training.tobytes() + corpus.validation.tobytes()
    assert corpus.files > 300
    assert len(text) > 5_000_000
    assert 0.02 < len(corpus.validation) / len(text) < 0.2
    for name in ("ast.py", "json/decoder.py"):
        assert (stdlib / name).read_bytes() in text
    for name in ("test/test_ast.py", "idlelib/idle_test/test_run.py", "turtledemo/clock.py"):
        assert not (stdlib / name).exists() or (stdlib / name).read_bytes() not in text
    assert re.fullmatch("[0-9a-f]{64}", corpus_digest())


def test_a_folder_is_split_by_file(folder: Path) -> None:
    corpus = load_corpus(str(folder))
    training, validation = set(corpus.training.tolist()), set(corpus.validation.tolist())
    assert training | validation == set(range(100, 140))
    assert not training & validation
    assert len(validation) == 2
    assert corpus.files == 40


def test_a_file_is_split_by_block(tmp_path: Path) -> None:
    data = np.random.default_rng(0).integers(256, size=100_000).astype(np.uint8)
    (tmp_path / "one.txt").write_bytes(data.tobytes())
    corpus = load_corpus(str(tmp_path / "one.txt"))
    starts = range(10_000, 100_000, 20_000)
    assert np.array_equal(corpus.validation, np.concatenate([data[start : start + 1000] for start in starts]))
    assert len(corpus.training) == 95_000
    assert np.array_equal(corpus.training[:10_000], data[:10_000])


def test_the_digest_notices_a_byte_a_name_and_a_file(folder: Path) -> None:
    def digest() -> str:
        load_corpus.cache_clear()
        return corpus_digest(str(folder))

    seen = [digest()]
    assert digest() == seen[0]
    (folder / "0.md").write_bytes(b"changed")
    seen.append(digest())
    (folder / "0.md").rename(folder / "00.md")
    seen.append(digest())
    (folder / "more.rst").write_bytes(b"more")
    seen.append(digest())
    (folder / "picture.png").unlink()
    assert digest() == seen[-1]
    assert len(set(seen)) == 4


def test_windows_are_pieces_of_the_text(folder: Path) -> None:
    whole = load_corpus(str(folder)).training.tobytes()
    task = replace(TEXT, options=(("source", str(folder)),))
    runner = make_runner(task)
    batch = runner.training_batch(0, total_steps=1, seed=0)
    assert batch.inputs.shape == batch.targets.shape == (8, 16)
    assert torch.equal(batch.inputs[:, 1:], batch.targets[:, :-1])
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        assert bytes([*inputs, targets[-1]]) in whole
    assert torch.equal(batch.inputs, make_runner(task).training_batch(0, total_steps=9, seed=0).inputs)
    assert not torch.equal(batch.inputs, runner.training_batch(0, total_steps=1, seed=1).inputs)


def test_every_byte_of_the_training_text_can_be_drawn(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(bytes(range(20)) * 5)
    task = replace(TEXT, length=4, batch=4000, options=(("source", str(tmp_path)),))
    corpus = load_corpus(str(tmp_path))
    batch = make_runner(task).training_batch(0, total_steps=1, seed=0)
    starts = {bytes(row) for row in torch.cat([batch.inputs, batch.targets[:, -1:]], dim=1).tolist()}
    text = corpus.training.tobytes()
    assert starts == {text[first : first + 5] for first in range(len(text) - 4)}


def test_evaluation_windows_are_fixed_and_span_the_validation_text(folder: Path) -> None:
    task = replace(TEXT, options=(("source", str(folder)), ("windows", 20)))
    batches = make_runner(task).evaluation_batches()
    inputs = torch.cat([batch.inputs for batch in batches])
    assert [len(batch.inputs) for batch in batches] == [8, 8, 4]
    validation = load_corpus(str(folder)).validation
    assert inputs[0].tolist() == validation[:16].tolist()
    assert batches[-1].targets[-1].tolist() == validation[-16:].tolist()


def test_the_score_is_the_part_of_eight_bits_saved() -> None:
    runner = make_runner(TEXT)
    uniform = Tally(total=10 * float(np.log(256)), correct=0, scored=10)
    half = Tally(total=10 * float(np.log(16)), correct=5, scored=10)
    assert runner.score(uniform) == pytest.approx(0.0, abs=1e-12)
    assert runner.metrics(half) == pytest.approx({"loss": 4.0, "accuracy": 0.5})
    assert runner.score(half) == pytest.approx(0.5)
    assert runner.score(Tally(total=1000.0, correct=0, scored=10)) == 0.0


def test_text_of_another_digest_is_refused(folder: Path) -> None:
    source = ("source", str(folder))
    make_runner(replace(TEXT, options=(("digest", corpus_digest(str(folder))), source)))
    with pytest.raises(EnvironmentProblem) as caught:
        make_runner(replace(TEXT, options=(("digest", "0" * 64), source)))
    for words in (str(folder), "0" * 64, corpus_digest(str(folder)), "new digest"):
        assert words in str(caught.value)


@pytest.mark.parametrize(
    ("task", "error", "words"),
    [
        (replace(TEXT, options=(("source", "/no/such/folder"),)), EnvironmentProblem, "option `source`"),
        (replace(TEXT, options=(("source", 3),)), ConfigError, "type str"),
        (replace(TEXT, vocabulary=128), ConfigError, "set its vocabulary to 256"),
        (replace(TEXT, length=100_000_000), ConfigError, "smaller length"),
        (replace(TEXT, options=(("windows", 0),)), ConfigError, "at least 1"),
        (replace(TEXT, options=(("pairs", 8),)), ConfigError, "no option 'pairs'"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(task: Task, error: type[ArchloomError], words: str) -> None:
    with pytest.raises(error, match=words):
        make_runner(task)


def test_a_folder_without_text_is_refused(tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"\0" * 100)
    with pytest.raises(ConfigError, match="has no text"):
        corpus_digest(str(tmp_path))


def test_an_unreadable_file_is_refused(folder: Path) -> None:
    """A link to nowhere cannot be read by anyone, root included."""
    os.symlink(folder / "nowhere", folder / "broken.txt")
    with pytest.raises(EnvironmentProblem, match=r"cannot be read.*broken\.txt"):
        corpus_digest(str(folder))
