"""Generated stories: a reader in plain Python knows every recalled word, and only who reads does."""

import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from archloom.db.records import Task
from archloom.errors import ConfigError
from archloom.evaluator.task_table import KINDS
from archloom.evaluator.tasks import IGNORED, make_runner
from archloom.evaluator.tasks.stories import GeneratedStories
from archloom.evaluator.tasks.story_grammar import ENTITIES, WORDS, introduction, tell
from archloom.evaluator.training import evaluate

TASK = Task(name="stories", vocabulary=96, length=72, batch=16, options=(("characters", 2), ("evaluation", 48)))

CLASS_OF = {word: name for name, words in ENTITIES.items() for word in words}


def runner(task: Task = TASK) -> GeneratedStories:
    made = make_runner(task)
    assert isinstance(made, GeneratedStories)
    return made


class Reader:
    """Keeps what is said of each character, and says which word must come next, if one must."""

    def __init__(self) -> None:
        self.sentence: list[str] = []
        self.people: list[dict[str, str]] = []

    def hear(self, word: str) -> None:
        if word != ".":
            self.sentence.append(word)
            return
        said = {CLASS_OF[each]: each for each in self.sentence if each in CLASS_OF}
        if said:
            known = [person for person in self.people if any(person.get(name) == each for name, each in said.items())]
            assert len(known) <= 1, "a sentence is on one character"
            if known:
                known[0].update(said)
            else:
                self.people.append(said)
        self.sentence = []

    def next_word(self) -> str | None:
        begun = " ".join(self.sentence)
        wanted = next((name for pattern, name in FORCED.items() if re.fullmatch(pattern, begun)), None)
        mentioned = [word for word in self.sentence if word in CLASS_OF]
        if wanted is None or not mentioned:
            return None
        known = [person for person in self.people if mentioned[0] in person.values()]
        return known[0].get(wanted) if known else None


FORCED = {
    r"the \w+ was": "colour",
    r"the \w+ made": "name",
    r"the \w+ lay near the": "spot",
}
"""How a sentence may begin where one word only can follow, and the class of that word."""


def spoken(symbols: list[int]) -> list[str]:
    return [WORDS[symbol] for symbol in symbols]


@pytest.mark.parametrize("characters", [1, 2, 3, 8])
def test_a_reader_knows_every_recalled_word(characters: int) -> None:
    length = introduction(characters) + 60
    symbols, costs = tell(np.random.default_rng(5), count=40, length=length, characters=characters)
    assert symbols.shape == costs.shape == (40, length)
    for story, cost in zip(symbols.tolist(), costs.tolist(), strict=True):
        reader, recalled = Reader(), 0
        for word, nats in zip(spoken(story), cost, strict=True):
            if nats:
                assert word == reader.next_word(), (reader.sentence, word)
                assert nats == pytest.approx(np.log(len(ENTITIES[CLASS_OF[word]])))
                recalled += 1
            else:
                assert word != reader.next_word(), (reader.sentence, word)
            reader.hear(word)
        assert recalled >= 4
        assert len(reader.people) == characters
        for name in ENTITIES:
            assert len({person[name] for person in reader.people}) == characters


def test_the_dial_allows_as_many_characters_as_there_are_words_for() -> None:
    (dial,) = [dial for dial in KINDS["stories"].dials if dial.name == "characters"]
    assert dial.most == min(map(len, ENTITIES.values()))


def test_words_are_told_in_whole_sentences_of_the_grammar() -> None:
    assert len(set(WORDS)) == len(WORDS) <= 96
    symbols, _ = tell(np.random.default_rng(0), count=10, length=80, characters=2)
    for story in symbols.tolist():
        sentences = " ".join(spoken(story)).split(" . ")
        assert all(2 < len(sentence.split()) < 12 for sentence in sentences[:-1])
        assert re.fullmatch(r"(once|one day) .*(met|together)", sentences[0])


class ByReading(nn.Module):
    """A model that reads, or one that knows the grammar alone and guesses in the class of the word to come."""

    def __init__(self, *, remembers: bool) -> None:
        super().__init__()
        self.remembers = remembers

    def forward(self, inputs: Tensor) -> Tensor:
        logits = torch.zeros(*inputs.shape, 96)
        for row, story in enumerate(inputs.tolist()):
            reader = Reader()
            for place, word in enumerate(spoken(story)):
                reader.hear(word)
                if (known := reader.next_word()) is not None:
                    guesses = [known] if self.remembers else ENTITIES[CLASS_OF[known]]
                    logits[row, place, [WORDS.index(guess) for guess in guesses]] = 50.0
        return logits


def test_who_reads_solves_it_and_who_knows_the_grammar_alone_is_at_chance() -> None:
    """Chance is exact: the guesser loses the logarithm of the class's size at every recalled word."""
    one = runner()
    batches = one.evaluation_batches()
    solved = evaluate(ByReading(remembers=True), batches)
    assert one.score(solved) == pytest.approx(1.0, abs=1e-6)
    assert one.metrics(solved)["recalled_accuracy"] == 1.0
    guessed = evaluate(ByReading(remembers=False), batches)
    assert one.score(guessed) == pytest.approx(0.0, abs=1e-6)
    uniform = evaluate(nn.Embedding.from_pretrained(torch.zeros(96, 96)), batches)
    assert one.score(uniform) == 0.0
    assert one.metrics(uniform)["recalled_loss"] == pytest.approx(np.log(96))


def test_training_counts_recalled_words_and_a_part_of_the_others() -> None:
    task = replace(TASK, batch=500, options=(("others", 0.3), ("ramp", 0.0)))
    batch = runner(task).training_batch(0, total_steps=10, seed=0)
    recalled = batch.slices["recalled"]
    counted = batch.targets != IGNORED
    assert bool(counted[recalled].all())
    total = int((~recalled).sum())
    assert float(counted[~recalled].float().mean()) == pytest.approx(0.3, abs=5 * np.sqrt(0.21 / total))
    assert torch.equal(batch.inputs[:, 1:][counted[:, :-1]], batch.targets[:, :-1][counted[:, :-1]])
    assert all(bool((each.targets != IGNORED).all()) for each in runner().evaluation_batches())


def test_the_shortest_length_has_a_recalled_word_in_every_story() -> None:
    _, costs = tell(np.random.default_rng(0), count=2000, length=introduction(3), characters=3)
    assert bool((costs > 0).any(axis=1).all())


def test_characters_grow_over_the_ramp() -> None:
    task = replace(TASK, length=120, options=(("characters", 4), ("ramp", 0.5)))

    def names(step: int) -> set[int]:
        inputs = runner(task).training_batch(step, total_steps=40, seed=0).inputs
        return {len(set(story) & set(range(8))) for story in inputs.tolist()}  # the names are the first symbols

    assert [names(step) for step in (0, 4, 5, 10, 15, 20, 39)] == [{1}, {1}, {2}, {3}, {4}, {4}, {4}]


def test_data_is_a_function_of_seed_and_step_alone() -> None:
    def draw(step: int, seed: int) -> Tensor:
        return runner().training_batch(step, total_steps=10, seed=seed).inputs

    torch.manual_seed(1)
    first = draw(8, 7)
    np.random.seed(2)  # the global generator is to play no part
    assert torch.equal(first, draw(8, 7))
    assert not torch.equal(first, draw(8, 8))
    assert not torch.equal(first, draw(9, 7))
    one, other = runner().evaluation_batches(), runner().evaluation_batches()
    assert sum(len(batch.inputs) for batch in one) == 48
    assert all(torch.equal(left.inputs, right.inputs) for left, right in zip(one, other, strict=True))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"options": (("characters", 1),)}, "from 2 to 8"),
        ({"options": (("characters", 9),)}, "from 2 to 8"),
        ({"length": 44}, "2 characters recalls after 45 words"),
        ({"vocabulary": 61}, f"the grammar has {len(WORDS)} words"),
        ({"options": (("others", 2),)}, "from 0 to 1"),
        ({"options": (("digest", "ab"),)}, "leave it empty"),
    ],
)
def test_a_wrong_task_is_refused_with_its_remedy(change: dict[str, object], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        make_runner(replace(TASK, **change))
