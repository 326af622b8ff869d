"""Knowledge by meaning: the nearest vectors, joined with what words find, on the record like every other call."""

import json
import math
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from archloom.agents.knowledge.entries import Entry, entries
from archloom.agents.knowledge.meaning import BATCH, CONSTANT, Meanings, fused, text_of
from archloom.agents.knowledge.retrieval import Hit
from archloom.agents.language_model.answers import usage, vectors
from archloom.agents.language_model.endpoints import CallFailed, Reply
from archloom.agents.language_model.proposer import LanguageModelProposer, Settings
from archloom.agents.language_model.record import Record
from archloom.agents.proposer import ProposerFailed
from archloom.db.records import Lesson, Role

from .laboratory import FAR, GOOD, PROTOCOL, SAMPLER, WHEN, Kept, Voice, model, proposal, trial

EMBEDDER = model("vectors", prompt_price=1.0, completion_price=1.0, max_tokens=0)


def direction(text: str) -> list[float]:
    """A fixed vector of a text."""
    rng = Random(text)
    return [rng.gauss(0, 1) for _ in range(8)]


def lesson(text: str, *, score: float = 1.0) -> Lesson:
    evidence = (trial(GOOD, 0, None).results[0].key,)
    return Lesson(text=text, candidate="c", evidence=evidence, score=score, when=WHEN)


class Embedder:
    """A server of embeddings, which keeps what it was asked."""

    def __init__(self, *, failure: CallFailed | None = None) -> None:
        self.failure = failure
        self.asked: list[list[str]] = []

    def complete(self, body: Mapping[str, Any], *, again: object = None) -> Reply:
        self.asked.append(body["input"])
        if self.failure is not None:
            raise self.failure
        rows = [{"index": place, "embedding": direction(text)} for place, text in enumerate(body["input"])]
        Random(0).shuffle(rows)
        return Reply(text=json.dumps({"data": rows, "usage": {"prompt_tokens": 9, "total_tokens": 9}}), seconds=0.0)


def test_the_nearest_by_cosine_come_first() -> None:
    items = [*entries()[:40], lesson("one"), lesson("two")]
    asked: list[list[str]] = []

    def embed(texts: Any) -> NDArray[np.float32]:
        asked.append(list(texts))
        return np.array([direction(text) for text in texts], dtype=np.float32) * 7

    found = Meanings().ranked("a query", items, embed=embed, limit=5)

    def cosine(text: str) -> float:
        one, other = direction(text), direction("a query")
        return sum(a * b for a, b in zip(one, other, strict=True)) / math.hypot(*one) / math.hypot(*other)

    assert list(found) == sorted(items, key=lambda item: -cosine(text_of(item)))[:5]
    assert [len(each) for each in asked] == [BATCH, BATCH, 8, 1, 1, 1]


def test_what_was_met_is_asked_for_once() -> None:
    kept, sizes = Meanings(), []

    def embed(texts: Any) -> NDArray[np.float32]:
        sizes.append(len(texts))
        return np.array([direction(text) for text in texts], dtype=np.float32)

    items = list(entries()[:20])
    first = kept.ranked("a", items, embed=embed, limit=3)
    again = kept.ranked("a", [*items, lesson("new")], embed=embed, limit=30)
    assert sizes == [16, 4, 1, 1, 1]
    assert [item for item in again if not isinstance(item, Lesson)][:3] == list(first)
    assert kept.ranked("a", [], embed=embed, limit=3) == ()


def test_rankings_are_joined_by_their_places() -> None:
    one, two, three = entries()[:3]
    low = lesson("low", score=0.5)
    hits = [Hit(item=one, relevance=9.0), Hit(item=two, relevance=1.0), Hit(item=low, relevance=0.5)]
    assert fused(hits, [three, two, low], limit=9) == (two, one, three, low)
    assert 1 / (CONSTANT + 2) + 1 / (CONSTANT + 2) > 1 / (CONSTANT + 1) > 0.5 * 2 / (CONSTANT + 3)
    assert fused(hits, [three], limit=2) == (one, three)
    assert fused((), (), limit=3) == ()


def arm(record: Record, *, lessons: tuple[Lesson, ...] = (), known: tuple[Entry, ...]) -> LanguageModelProposer:
    return LanguageModelProposer(
        Settings(goal="recall", critic=False, analyst=False),
        record=record,
        models=[model()],
        sampler=SAMPLER,
        protocol=PROTOCOL,
        about={},
        entries=known,
        embedder=EMBEDDER,
        lessons=lessons,
    )


def test_the_arm_shows_what_is_near_in_meaning_and_the_record_repeats_it() -> None:
    known, kept, server = entries()[:10], Kept(), Embedder()
    voice = Voice({"researcher": [proposal(GOOD), proposal(FAR)]})
    strange = lesson("zyzzyva")  # shares no word with any query
    record = Record({"tiny": voice, "vectors": server}, reserve=kept.reserve, settle=kept.settle)  # type: ignore[dict-item]
    live = arm(record, lessons=(strange,), known=known)
    first = [live.ask([], 1, Random(seed)) for seed in range(2)]
    assert "zyzzyva" in voice.told(0)
    assert [len(each) for each in server.asked] == [10, 1, 1]  # the second query is the first
    embedded = [call for call in kept.calls.values() if call.role is Role.EMBEDDER]
    assert [(call.prompt_tokens, call.completion_tokens, call.cost) for call in embedded] == [(9, 0, 9_000)] * 3
    offline = arm(Record({}, known=kept.calls.values()), lessons=(strange,), known=known)
    assert [offline.ask([], 1, Random(seed)) for seed in range(2)] == first


def test_embeddings_that_fail_leave_the_words() -> None:
    server, voice = (
        Embedder(failure=CallFailed("no such model", status=404)),
        Voice({"researcher": [proposal(GOOD)] * 2}),
    )
    record = Record({"tiny": voice, "vectors": server})  # type: ignore[dict-item]
    one = arm(record, known=entries())
    for seed in range(2):
        one.ask([], 1, Random(seed))
    assert "(operations: " in voice.told(0).split("Knowledge:")[1]
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "data",
    [
        [],
        [{"index": 0, "embedding": [1.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": [1.0, 2.0]}],
        [{"index": 0, "embedding": [1.0]}, {"index": 1, "embedding": ["x"]}],
        [{"index": 0, "embedding": []}, {"index": 1, "embedding": []}],
        [{"index": 0, "embedding": [1e999]}, {"index": 1, "embedding": [1.0]}],
        "no list",
    ],
)
def test_vectors_of_another_form_are_refused(data: object) -> None:
    with pytest.raises(ProposerFailed, match="has no 2 vectors"):
        vectors(json.dumps({"data": data}), count=2)


def test_tokens_of_embeddings_are_counted() -> None:
    assert usage('{"usage": {"prompt_tokens": 5, "total_tokens": 5}}') == (5, 0)
    assert usage('{"usage": {"prompt_tokens": 5, "total_tokens": 4}}') is None
