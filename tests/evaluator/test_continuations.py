"""Continuations: words are drawn as a plain loop draws them, after beginnings that are held out, by the model that was
measured."""

import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import accumulate
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import EvaluationKey, Protocol, Rung, Stage, Task, Training, TrialSpec
from archloom.errors import ConfigError, EnvironmentProblem
from archloom.evaluator.continuations import (
    Language,
    Sampling,
    beginnings,
    continued,
    drawn_luck,
    language,
    tell,
    written,
)
from archloom.evaluator.tasks.stories import GeneratedStories, StoredStories, stories
from archloom.evaluator.tasks.story_files import END, load_stories
from archloom.evaluator.trial import run_trial
from archloom.search_space import GRAMMAR_VERSION, zoo

TERM = zoo.load("mha", depth=1).text
TASK = Task(name="stories", vocabulary=64, length=48, batch=4, options=(("characters", 2), ("evaluation", 8)))
SAMPLING = Sampling(stories=4, beginning=24, words=24, temperature=1.0, seed=3)
DELIMITER = "<|endoftext|>"


class Chain(nn.Module):
    """The next word by the last word and by the first, of which the second shows that all words are read."""

    def __init__(self, vocabulary: int) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.by_last = nn.Parameter(2 * torch.randn(vocabulary, vocabulary, generator=rng))
        self.by_first = nn.Parameter(2 * torch.randn(vocabulary, vocabulary, generator=rng))

    def forward(self, inputs: Tensor) -> Tensor:
        return self.by_last[inputs] + self.by_first[inputs[:, :1]]


def drawn(model: Chain, begun: list[int], numbers: list[float], *, sayable: list[int], temperature: float) -> list[int]:
    """What is to be drawn, word by word: the first whose share of the law, with those before it, exceeds the number."""
    last, first = model.by_last.detach().double().numpy(), model.by_first.detach().double().numpy()
    told = list(begun)
    for number in numbers:
        weights = [np.exp((last[told[-1]][word] + first[told[0]][word]) / temperature) for word in sayable]
        passed = accumulate(weight / sum(weights) for weight in weights)
        word = next(word for word, share in zip(sayable, passed, strict=True) if share > number)
        told.append(word)
    return told[len(begun) :]


@pytest.mark.parametrize("temperature", [0.3, 1.0, 4.0])
def test_words_are_drawn_as_a_plain_loop_draws_them(temperature: float) -> None:
    """Logits are float32 here and there, the rest float64: no number of 60 is so near a border that they differ."""
    model = Chain(9)
    spoken = Language(words=("?", "end", *"abcd"), unknown=0, end=1)  # of nine symbols three have no word
    begun = torch.tensor([[2, 3], [5, 4], [3, 3]])
    luck = drawn_luck(7, places=range(3), words=20)
    told = continued(model, begun, spoken=spoken, words=20, temperature=temperature, luck=luck)
    for row in range(3):
        wanted = drawn(model, begun[row].tolist(), luck[row].tolist(), sayable=[1, 2, 3, 4, 5], temperature=temperature)
        assert told[row].tolist() == wanted
    assert model.training
    assert {1, 2, 3, 4, 5} >= set(told.flatten().tolist())


def test_a_low_temperature_says_what_is_likeliest_and_the_ends_of_luck_are_words() -> None:
    model, spoken = Chain(6), Language(words=tuple("abcdef"))
    begun = torch.tensor([[0], [4]])
    cold = continued(model, begun, spoken=spoken, words=5, temperature=1e-3, luck=drawn_luck(0, places=(0, 1), words=5))
    text = begun
    for _ in range(5):
        text = torch.cat([text, model(text)[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    assert torch.equal(cold, text[:, 1:])
    ends = np.array([[0.0], [np.nextafter(1.0, 0.0)]])
    assert continued(model, begun, spoken=spoken, words=1, temperature=1.0, luck=ends).flatten().tolist() == [0, 5]


def test_luck_is_of_the_seed_and_the_place() -> None:
    all_, some = drawn_luck(5, places=range(4), words=9), drawn_luck(5, places=(2,), words=9)
    assert np.array_equal(all_[2], some[0])
    assert len(np.unique(all_)) == 36
    assert not np.array_equal(some, drawn_luck(6, places=(2,), words=9))
    assert ((all_ >= 0) & (all_ < 1)).all()


def test_a_text_ends_with_its_story_and_its_signs_stand_close() -> None:
    spoken = Language(words=("", "", "tom's", "dog", "ran", ".", "!", "'"), unknown=0, end=1)
    assert written([2, 3, 0, 4, 5, 4, 6], spoken=spoken) == "tom's dog _ ran. ran!"
    assert written([3, 4, 5, 1, 2], spoken=spoken) == "dog ran."
    assert written([1, 2], spoken=spoken) == ""
    assert written([3, 7, 4], spoken=spoken) == "dog ' ran"
    assert written([0, 1], spoken=Language(words=("a", "b"))) == "a b"


# -- beginnings -------------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Iterator[Path]:
    """Two hundred stories; the first word of each is its number, and it has 20 to 59 words more, each two times."""
    rng = np.random.default_rng(0)
    told = []
    for number in range(200):
        half = " ".join(f"w{place:02d}" for place in rng.permutation(40)[: 10 + number % 20])
        told.append(f"{number} {half} {half} .")
    path = tmp_path / "stories.txt"
    path.write_text(f"\n{DELIMITER}\n".join(told))
    yield path
    load_stories.cache_clear()


def of_files(path: Path) -> Task:
    options: dict[str, int | str] = {"source": str(path), "tokens": 5000, "common": 5, "evaluation": 8}
    return Task(name="stories", vocabulary=400, length=40, batch=4, options=tuple(sorted(options.items())))


def test_stored_stories_begin_where_stories_for_validation_begin(file: Path) -> None:
    runner = stories(of_files(file))
    assert isinstance(runner, StoredStories)
    spoken = language(runner)
    text = [each.split() for each in file.read_text().split(DELIMITER)]
    held_out = [words for number, words in enumerate(text) if number % 20 == 10 and len(words) > 12]
    begun = [[spoken.words[symbol] for symbol in row] for row in beginnings(runner, count=4, words=12).tolist()]
    assert all(any(row == words[:12] for words in held_out) for row in begun)
    assert len({tuple(row) for row in begun}) == 4
    assert all(END not in row for row in beginnings(runner, count=4, words=12).tolist())
    with pytest.raises(ConfigError, match=r"50 stories are asked for.*ask for fewer"):
        beginnings(runner, count=50, words=12)
    with pytest.raises(ConfigError, match="holds 0 out that go on after 100 words"):
        beginnings(runner, count=1, words=100)


def test_a_story_that_ends_with_its_beginning_is_none_to_go_on_with(file: Path) -> None:
    runner = stories(of_files(file))
    assert isinstance(runner, StoredStories)
    symbols = [5, 6, 7, END, 5, 6, 7, 8, END, 9, 6, 7, 8, 5, END]
    cut = replace(runner, validation=np.array(symbols))
    assert beginnings(cut, count=2, words=3).tolist() == [[5, 6, 7], [9, 6, 7]]
    with pytest.raises(ConfigError, match="holds 2 out"):
        beginnings(cut, count=3, words=3)


def test_generated_stories_begin_as_the_evaluation_set_does_and_in_no_training_batch() -> None:
    runner = stories(TASK)
    assert isinstance(runner, GeneratedStories)
    begun = beginnings(runner, count=6, words=24)
    evaluated = torch.cat([batch.inputs for batch in runner.evaluation_batches()])
    assert torch.equal(begun, evaluated[:6, :24])
    assert written(begun[0].tolist(), spoken=language(runner)).startswith(("once upon a time", "one day"))
    trained = {tuple(row[:24]) for step in range(50) for row in _inputs(runner, step)}
    assert not trained & set(map(tuple, begun.tolist()))
    with pytest.raises(ConfigError, match="holds 8 out"):
        beginnings(runner, count=9, words=24)


def _inputs(runner: GeneratedStories, step: int) -> list[list[int]]:
    rows: list[list[int]] = runner.training_batch(step, total_steps=50, seed=0).inputs.tolist()
    return rows


# -- a candidate tells ------------------------------------------------------------------------------------------------


def spec(task: Task, *, rates: tuple[tuple[str, tuple[float, ...]], ...] = ()) -> TrialSpec:
    protocol = Protocol(
        version=2,
        grammar=GRAMMAR_VERSION,
        reference=TERM,
        width=16,
        depth=1,
        tasks=(task,),
        rungs=(Rung(stages=(Stage(task="stories", steps=6, seeds=(4,)),)),),
        training=Training(warmup=2, rates=rates),
    )
    key = EvaluationKey(candidate="c", task="stories", rung=0, seed=4)
    return TrialSpec(key=key, term=TERM, protocol=protocol, steps=6)


@pytest.mark.parametrize("stored", [False, True], ids=["generated", "files"])
def test_the_model_that_tells_is_the_one_that_was_measured(stored: bool, file: Path) -> None:
    asked = spec(of_files(file) if stored else TASK, rates=(("attention", (1e-3, 3e-2)),))
    sampling = replace(SAMPLING, beginning=12, words=28) if stored else SAMPLING
    measured = run_trial(asked)
    rate = measured.metrics["learning_rate"]
    score, told = tell(asked, learning_rate=rate, sampling=sampling, places=range(4))
    assert score == measured.score  # the same bits
    again = tell(asked, learning_rate=rate, sampling=sampling, places=(1, 3))
    assert again == (score, (told[1], told[3]))
    other = tell(asked, learning_rate=rate, sampling=replace(sampling, seed=8), places=range(4))
    assert [story.beginning for story in other[1]] == [story.beginning for story in told]
    assert [story.continuation for story in other[1]] != [story.continuation for story in told]
    for story in told:
        assert story.seed == 4
        assert 0 < len(re.findall(r"\w+|[^\w\s]", story.continuation)) <= sampling.words
        assert story.continuation.split()[0].strip(".") in language(stories(asked.protocol.tasks[0])).words


def test_a_run_that_fails_this_time_tells_nothing() -> None:
    with pytest.raises(EnvironmentProblem, match=r"(?s)seed 4 has a score on record and fails.*archloom replay c"):
        tell(replace(spec(TASK), timeout_seconds=0.0), learning_rate=0.01, sampling=SAMPLING, places=range(4))
