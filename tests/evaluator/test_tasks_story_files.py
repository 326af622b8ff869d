"""Stories from files: read as far as asked, refused with a reason, and judged by Zoology's rule, by plain loops."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.tasks import make_runner, story_files
from archloom.evaluator.tasks.stories import StoredStories
from archloom.evaluator.tasks.story_files import encoded, load_stories
from archloom.evaluator.training import evaluate

END = "<|endoftext|>"


@pytest.fixture(autouse=True)
def fresh_cache() -> Iterator[None]:
    yield
    load_stories.cache_clear()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """200 stories of 30 words, each the same fifteen in the same order twice, of forty words: 6,200 words in all."""
    rng = np.random.default_rng(0)
    stories = []
    for _ in range(200):
        half = " ".join(f"w{place:02d}" for place in rng.permutation(40)[:15])
        stories.append(f"{half} {half}")
    path = tmp_path / "stories.txt"
    path.write_text(f"\n{END}\n".join(stories) + f"\n{END}\n")
    return path


def task(source: Path, **options: int | str) -> Task:
    settings = {"common": 5, "evaluation": 32, "source": str(source), "tokens": 5000, **options}
    return Task(name="stories", vocabulary=64, length=40, batch=16, options=tuple(sorted(settings.items())))


def runner(record: Task) -> StoredStories:
    made = make_runner(record)
    assert isinstance(made, StoredStories)
    return made


def test_stories_become_words_every_twentieth_for_validation(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text(END.join(f"Story {i}: Tom's dog ran!" for i in range(20, 45)))
    (tmp_path / "a.txt").write_text(END.join([*(f"Story {i}: Tom's dog ran!" for i in range(20)), "", " \n"]))
    (tmp_path / "c.md").write_text("not a story")
    corpus = load_stories(str(tmp_path), tokens=240)
    assert corpus.stories == 32  # thirty of 7 words and an end for training, and the eleventh and thirty-first
    held_out = [corpus.words[place] for place in corpus.validation]
    wanted = [word for i in (10, 30) for word in ["story", str(i), ":", "tom's", "dog", "ran", "!", END]]
    assert held_out == wanted
    read = [corpus.words[place] for place in corpus.training]
    assert " ".join(read[:16]) == f"story 0 : tom's dog ran ! {END} story 1 : tom's dog ran ! {END}"
    assert "10" not in read
    assert "21" in read


def test_reading_stops_where_enough_is_read(file: Path) -> None:
    corpus = load_stories(str(file), tokens=1000)
    assert 1000 <= len(corpus.training) < 1000 + 31
    assert corpus.stories == 35  # 33 for training
    with file.open("ab") as stream:
        stream.write(b"\xff")
    load_stories.cache_clear()
    assert load_stories(str(file), tokens=1000).digest == corpus.digest


def test_the_digest_is_that_of_the_stories_read(file: Path) -> None:
    before = load_stories(str(file), tokens=5000).digest
    text = file.read_text()
    for changed, same in ((text.replace("w01", "w02", 1), False), (text.replace(f"\n{END}", END), True)):
        file.write_text(changed)
        load_stories.cache_clear()
        assert (load_stories(str(file), tokens=5000).digest == before) is same
    record = task(file, digest=before)
    assert runner(record).vocabulary == 64
    with pytest.raises(EnvironmentProblem, match="0000"):
        make_runner(task(file, digest="0000"))


def test_a_file_reads_alike_in_pieces_of_any_size(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = load_stories(str(file), tokens=2000)
    monkeypatch.setattr(story_files, "READ_AT_ONCE", 7)  # shorter than the delimiter
    load_stories.cache_clear()
    pieces = load_stories(str(file), tokens=2000)
    assert pieces.digest == whole.digest
    assert np.array_equal(pieces.training, whole.training)


def test_the_vocabulary_is_the_most_frequent_words(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(END.join(["cat cat cat dog dog bird ant ant"] * 10 + ["zebra cat"] + ["dog"] * 10))
    corpus = load_stories(str(tmp_path / "a.txt"), tokens=60)
    training, validation, words = encoded(corpus, vocabulary=5)
    assert words[2:] == ("cat", "dog", "ant")  # 30, 30 and 20 times: the alphabet decides
    assert validation.tolist() == [0, 2, 1]
    assert training[:9].tolist() == [2, 2, 2, 3, 3, 0, 4, 4, 1]
    assert encoded(corpus, vocabulary=50)[2][2:] == ("cat", "dog", "ant", "bird", "zebra")


def test_windows_are_pieces_of_the_stories(file: Path) -> None:
    one = runner(task(file))
    batch = one.training_batch(3, total_steps=10, seed=1)
    assert batch.inputs.shape == batch.targets.shape == (16, 40)
    assert batch.inputs.dtype == batch.targets.dtype == torch.int64
    text = one.training.tolist()
    for inputs, targets in zip(batch.inputs.tolist(), batch.targets.tolist(), strict=True):
        window = [*inputs, targets[-1]]
        assert inputs[1:] == targets[:-1]
        assert any(text[start : start + 41] == window for start in range(len(text) - 40))
    assert torch.equal(batch.inputs, runner(task(file)).training_batch(3, total_steps=9, seed=1).inputs)
    assert not torch.equal(batch.inputs, one.training_batch(4, total_steps=10, seed=1).inputs)
    assert not torch.equal(batch.inputs, one.training_batch(3, total_steps=10, seed=2).inputs)
    first, last = one.evaluation_batches()[0], one.evaluation_batches()[-1]
    assert first.inputs[0].tolist() == one.validation[:40].tolist()
    assert last.targets[-1].tolist() == one.validation[-40:].tolist()


def test_recalled_words_and_chance_are_those_of_the_rule(file: Path) -> None:
    one = runner(replace(task(file), vocabulary=36))
    text = one.training.tolist()
    pairs = Counter(pairwise(text))
    singles = Counter(text)
    least = sorted(pairs.values(), reverse=True)[4]
    common = {divmod(code, 36) for code in one.common.tolist()}
    assert len(common) == 5
    assert all(pairs[pair] >= least for pair in common)
    losses = []
    for batch in one.evaluation_batches():
        for inputs, targets, mask in zip(
            batch.inputs.tolist(), batch.targets.tolist(), batch.slices["recalled"].tolist(), strict=True
        ):
            seen: set[tuple[int, int]] = set()
            for before, after, recalled in zip(inputs, targets, mask, strict=True):
                pair = (before, after)
                assert recalled == (pair in seen and pair not in common and before > 0 and after > 1)
                seen.add(pair)
                if recalled:
                    prior = (singles[after] + 1) / (len(text) + 36)
                    losses.append(-np.log((pairs[pair] + prior) / (singles[before] + 1)))
    assert one.chance() == pytest.approx(np.mean(losses))


class Inducing(nn.Module):
    """Says what followed the last occurrence of a word, or the counts of pairs."""

    def __init__(self, one: StoredStories, *, remembers: bool) -> None:
        super().__init__()
        self.remembers, size = remembers, one.vocabulary
        counts = np.zeros((size, size))
        np.add.at(counts, (one.training[:-1], one.training[1:]), 1)
        prior = (np.bincount(one.training, minlength=size) + 1) / (len(one.training) + size)
        self.register_buffer("table", torch.from_numpy(np.log(counts + prior)).float())

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.table[inputs].clone()
        for row, text in enumerate(inputs.tolist() if self.remembers else []):
            for place, word in enumerate(text):
                if word in text[:place]:
                    last = place - 1 - text[:place][::-1].index(word)
                    logits[row, place, text[last + 1]] = 50.0
        return logits


def test_who_recalls_solves_it_and_who_counts_is_at_chance(file: Path) -> None:
    """Counts as a model differ from chance by the last word's missing successor and by float32."""
    one = runner(task(file))
    assert one.score(evaluate(Inducing(one, remembers=False), one.evaluation_batches())) == pytest.approx(0, abs=1e-2)
    solved = evaluate(Inducing(one, remembers=True), one.evaluation_batches())
    assert one.score(solved) > 0.99
    assert one.metrics(solved)["recalled_accuracy"] > 0.99
    assert solved.slices["recalled"].scored > 300


@pytest.mark.parametrize(
    ("options", "changes", "words"),
    [
        ({"tokens": 1_000_000}, {}, "5890 words for training in 200 stories, and 1000000 are asked"),
        ({"tokens": 0}, {}, "at least 1"),
        ({}, {"length": 400}, "words for validation.*reads 401 at once"),
        ({}, {"vocabulary": 2}, "at least 3"),
        ({}, {"length": 10}, "no recalled word"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(
    file: Path, options: dict[str, int | str], changes: dict[str, int], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(task(file, **options), **changes))


def test_bytes_that_are_not_utf8_are_refused_where_they_stand(file: Path) -> None:
    text = file.read_bytes()
    place = text.index(b"w05", 2000)
    file.write_bytes(text[:place] + b"\xe9" + text[place:])
    with pytest.raises(ConfigError, match=f"byte {place} is 0xe9"):
        make_runner(task(file))


def test_text_without_delimiters_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file.write_text(file.read_text().replace(END, ""))
    with pytest.raises(ConfigError, match=r"in 1 stories.*endoftext"):
        make_runner(task(file))
    monkeypatch.setattr(story_files, "READ_AT_ONCE", 1000)
    monkeypatch.setattr(story_files, "LONGEST_STORY", 5000)
    with pytest.raises(ConfigError, match=r"no <\|endoftext\|> in the 6000 bytes from byte 0"):
        make_runner(task(file))


def test_what_cannot_be_read_is_refused(tmp_path: Path) -> None:
    with pytest.raises(EnvironmentProblem, match=r"nowhere.* option `source`"):
        make_runner(task(tmp_path / "nowhere"))
    with pytest.raises(ConfigError, match=r"no file that ends in \.txt"):
        make_runner(task(tmp_path))
    (tmp_path / "folder.txt").mkdir()  # named like a file, and unreadable as one by anybody
    with pytest.raises(EnvironmentProblem, match=r"cannot be read.*folder\.txt"):
        make_runner(task(tmp_path))
