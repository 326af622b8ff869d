"""The knowledge base: its entries cover the catalogue and name what there is; retrieval is BM25, and only quicker."""

import math
from collections import Counter
from datetime import UTC, datetime, timedelta
from importlib.resources import files

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from archloom.agents.knowledge import retrieval
from archloom.agents.knowledge.entries import FILES, MOST_CHARACTERS, Entry, entries, find, parse
from archloom.agents.knowledge.retrieval import NAMES_COUNT, Hit, Index, search, searched
from archloom.db.records import EvaluationKey, Lesson
from archloom.errors import ConfigError, NotFoundError
from archloom.search_space import catalogue, zoo
from archloom.search_space.operations import OPERATIONS

START = datetime(2026, 1, 1, tzinfo=UTC)


SHOWN = EvaluationKey(candidate="one", task="mqar", rung=0, seed=0)


def lesson(text: str, *, score: float = 1.0, minute: int = 0) -> Lesson:
    return Lesson(text=text, candidate="one", evidence=(SHOWN,), score=score, when=START + timedelta(minutes=minute))


def texts(found: tuple[Hit, ...]) -> list[str]:
    return [hit.item.text for hit in found if isinstance(hit.item, Lesson)]


# The entries of the catalogue


def test_every_row_has_one_entry_of_its_name_and_kinds() -> None:
    rows = [(row.number, row.name, row.kinds) for row in catalogue.rows()]
    assert [(entry.row, entry.name, entry.kinds) for entry in entries()] == rows
    assert len(rows) == 167


@pytest.mark.parametrize(("kind", "name"), FILES.items())
def test_an_entry_lies_in_the_file_of_its_first_kind_and_files_are_in_order(kind: str, name: str) -> None:
    found = parse(files("archloom.agents.knowledge").joinpath(name).read_text("utf-8"), where=name)
    assert [entry.row for entry in found] == [row.number for row in catalogue.rows() if row.kinds[0] == kind]


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: str(entry.row))
def test_an_entry_names_what_there_is_and_says_enough_but_no_more(entry: Entry) -> None:
    assert set(entry.operations) <= set(OPERATIONS)
    assert set(entry.zoo) <= set(zoo.names())
    assert len(set(entry.operations)) == len(entry.operations)
    least, most = (80, 150) if entry.kinds[0] in "MBSE" else (40, 110)
    assert least <= len(entry.prose.split()) <= most
    assert all(text.endswith(".") for text in (entry.mechanism, entry.strengths, entry.weaknesses, entry.use) if text)
    assert entry.equation.isascii()
    assert 2015 < entry.year < 2027
    if entry.kinds[0] in "MB":
        assert entry.strengths
        assert entry.weaknesses
        assert entry.operations
    else:
        assert entry.use


def test_the_zoo_and_the_entries_name_each_other() -> None:
    headed = {(row, name) for name in zoo.names() for row in catalogue.headed(zoo.entry(name).catalogue)}
    told = {(entry.row, name) for entry in entries() for name in entry.zoo}
    landed = {(row.number, place[4:]) for row in catalogue.rows() for place in row.lands if place.startswith("zoo:")}
    assert headed <= told
    assert told <= headed | landed


def test_an_entry_names_the_operations_that_its_row_lands_as() -> None:
    for row in catalogue.rows():
        landed = {place[10:] for place in row.lands if place.startswith("operation:")} & set(OPERATIONS)
        assert landed <= set(entries()[row.number - 1].operations), row.name


# Reading


GOOD = 'name = "Mine"\ntitle = "A mixer of mine"\nyear = 2026\nmechanism = "It mixes."\n'


def test_a_text_becomes_records_without_its_line_breaks() -> None:
    written = GOOD + 'use = """\nTwo\n  lines."""\noperations = ["resolve"]\nzoo = ["kda"]\nkinds = "M"\n'
    (entry,) = parse(f"[[entry]]\n{written}", where="mine.toml")
    assert entry == Entry(
        row=None,
        name="Mine",
        kinds="M",
        title="A mixer of mine",
        year=2026,
        mechanism="It mixes.",
        use="Two lines.",
        operations=("resolve",),
        zoo=("kda",),
    )


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[[entry]", "not TOML"),
        ("", "a table under [[entry]]"),
        ('entry = "x"', "a table under [[entry]]"),
        ("entry = [1]", "a table under [[entry]]"),
        (f"[[entry]]\n{GOOD}[[lesson]]\n", "nothing stands beside it"),
        (f'[[entry]]\n{GOOD}streng = "x"', "no field `streng`; did you mean strengths?"),
        (f"[[entry]]\n{GOOD}[[entry]]\n", "entry 2: name and title and mechanism missing"),
        ("[[entry]]\n" + GOOD.replace("It mixes.", "  "), "mechanism missing or empty"),
        ("[[entry]]\n" + GOOD.replace("year = 2026\n", ""), "year missing"),
        ("[[entry]]\n" + GOOD.replace("2026", '"2026"'), "year is '2026' and should be a whole number"),
        (f"[[entry]]\n{GOOD}row = true", "row is True"),
        (f"[[entry]]\n{GOOD}use = 3", "use is 3 and should be a text"),
        (f'[[entry]]\n{GOOD}kinds = "Q"', "letters of S"),
        (f'[[entry]]\n{GOOD}operations = "resolve"', "list of names"),
        (f'[[entry]]\n{GOOD}operations = ["resolv"]', "no `resolv`; did you mean resolve"),
        (f'[[entry]]\n{GOOD}operations = ["qqqq"]', "archloom zoo --operations"),
        (f'[[entry]]\n{GOOD}zoo = ["kdaa"]', "did you mean kda"),
        (f'[[entry]]\n{GOOD}use = "{"x" * MOST_CHARACTERS}"', "shorten"),
    ],
)
def test_what_is_wrong_with_a_text_is_told(text: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text, where="mine.toml")
    assert words in str(caught.value)
    assert str(caught.value).startswith("mine.toml")


@pytest.mark.parametrize(
    ("asked", "row"),
    [("3", 3), ("Kimi Linear", 3), ("kimi-linear", 3), ("kda", 3), ("mamba", 99), ("XSQA", 153), ("tabm", 149)],
)
def test_an_entry_is_found_by_row_name_and_system(asked: str, row: int) -> None:
    assert find(asked, among=entries()).row == row


def test_every_entry_is_found_by_its_own_name_and_by_its_systems() -> None:
    for entry in entries():
        assert all(find(name, among=entries()) == entry for name in (entry.name, *entry.zoo)), entry.name


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ("168", "its rows are 1 to 167"),
        ("0", "its rows are 1 to 167"),
        ("kimmi", "did you mean kimi_linear"),
        ("gated delta net", "did you mean gated_deltanet"),
        ("deltanet", "archloom show --zoo deltanet"),
        ("what is it", "archloom knowledge search 'what is it'"),
    ],
)
def test_what_is_not_found_is_told_with_what_is_near(asked: str, words: str) -> None:
    with pytest.raises(NotFoundError) as caught:
        find(asked, among=entries())
    assert words in str(caught.value)


# Lessons


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"text": " "}, "no text"),
        ({"evidence": ()}, "no evidence"),
        ({"score": -0.5}, "score is -0.5"),
        ({"score": math.nan}, "score is nan"),
        ({"when": datetime(2026, 1, 1)}, "no time zone"),
    ],
)
def test_a_lesson_has_a_text_evidence_a_score_and_a_time(changed: dict[str, object], words: str) -> None:
    given_ = {"text": "Decay helps.", "candidate": "one", "evidence": (SHOWN,), "score": 1.0, "when": START, **changed}
    with pytest.raises(ValueError, match=words):
        Lesson(**given_)  # type: ignore[arg-type]


# Retrieval


def bm25(words: list[str], documents: list[tuple[list[str], list[str]]]) -> list[float]:
    """Robertson and Zaragoza 2009, equation 3.15, with a weight for words in the first field; written from the paper.

    A word that more than half of the documents have counts next to nothing, as SQLite has it.
    """
    k1, b = 1.2, 0.75
    lengths = [len(names) + len(body) for names, body in documents]
    average = sum(lengths) / len(lengths)
    scores = [0.0] * len(documents)
    for word in words:
        having = sum(word in names or word in body for names, body in documents)
        rarity = math.log((len(documents) - having + 0.5) / (having + 0.5))
        rarity = rarity if rarity > 0 else 1e-6
        for number, (names, body) in enumerate(documents):
            count = NAMES_COUNT * Counter(names)[word] + Counter(body)[word]
            scores[number] += rarity * count * (k1 + 1) / (count + k1 * (1 - b + b * lengths[number] / average))
    return scores


VOCABULARY = ("bab", "dud", "gag", "kik", "mom", "pop", "tat", "zuz")
"""Words that stemming leaves alone."""
PHRASES = st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=6).map(" ".join)


@settings(max_examples=60, deadline=None)
@given(
    named=st.lists(st.tuples(PHRASES, PHRASES), max_size=4, unique=True),
    learnt=st.lists(PHRASES, min_size=1, max_size=6, unique=True),
    query=st.lists(st.sampled_from(VOCABULARY), min_size=1, max_size=4, unique=True),
)
def test_relevance_is_bm25(named: list[tuple[str, str]], learnt: list[str], query: list[str]) -> None:
    """Against an own BM25; 1e-9 since both are in double precision."""
    known = [Entry(row=None, name=name, kinds="", title="t", year=2026, mechanism=text) for name, text in named]
    lessons = [lesson(text) for text in learnt]
    documents = [([*name.split(), "t"], text.split()) for name, text in named]
    documents += [([], text.split()) for text in learnt]
    wanted = dict(zip([*known, *lessons], bm25(query, documents), strict=True))
    found = search(" ".join(query), entries=known, lessons=lessons, limit=100)
    assert {hit.item for hit in found} == {item for item, score in wanted.items() if score > 0}
    assert [hit.relevance for hit in found] == pytest.approx([wanted[hit.item] for hit in found], rel=1e-9)
    assert [hit.relevance for hit in found] == sorted((hit.relevance for hit in found), reverse=True)


LESSONS = st.builds(
    lesson,
    PHRASES,
    score=st.sampled_from((0.0, 0.5, 1.0, 2.0)),
    minute=st.integers(0, 2),
)


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.lists(LESSONS, max_size=6), min_size=1, max_size=4), query=PHRASES, limit=st.integers(1, 4))
def test_a_kept_index_finds_what_a_new_one_would(steps: list[list[Lesson]], query: str, limit: int) -> None:
    kept = Index()
    for lessons in steps:
        found = search(query, entries=(), lessons=lessons, limit=limit, index=kept)
        assert found == search(query, entries=(), lessons=lessons[::-1], limit=limit)


def test_adding_is_the_same_as_holding_more() -> None:
    first, second = lesson("bab dud"), lesson("bab bab", minute=1)
    grown = Index([first])
    grown.add([second, first])
    assert len(grown) == 2
    assert grown.search("bab", limit=9) == Index([first, second]).search("bab", limit=9)


def test_a_score_multiplies_and_a_faded_lesson_is_not_found() -> None:
    lessons = [lesson("bab dud", score=score) for score in (0.5, 2.0, 0.0)]
    others = [lesson("kik mom", minute=minute) for minute in range(5)]
    better, worse = search("bab", entries=(), lessons=[*lessons, *others], limit=9)
    assert (better.item, worse.item) == (lessons[1], lessons[0])
    assert better.relevance == pytest.approx(4 * worse.relevance, rel=1e-12)


def test_the_newest_of_equals_comes_first() -> None:
    lessons = [lesson("bab", minute=minute) for minute in (1, 3, 2)]
    assert [hit.item for hit in search("bab", entries=(), lessons=lessons, limit=2)] == [lessons[1], lessons[2]]


def test_words_are_compared_by_their_stems_and_parts() -> None:
    lessons = [lesson("Decayed scores win."), lesson("Use decayed_dot here.", minute=1), lesson("Norms do not matter.")]
    assert texts(search("DECAYS", entries=(), lessons=lessons, limit=9)) == [lessons[0].text, lessons[1].text]
    assert texts(search("decayed_dot", entries=(), lessons=lessons, limit=1)) == [lessons[1].text]


@pytest.mark.parametrize(
    "query",
    [
        '"',
        "NEAR(bab, 2)",
        "bab*",
        "words: bab",
        "bab\0dud",
        "(",
        "-",
        "bab AND",
        "'; DROP TABLE held; --",
        "{a b}: c",
        "🙂",
    ],
)
def test_a_query_is_words_and_never_an_instruction(query: str) -> None:
    index = Index([lesson("bab dud"), lesson("kik", minute=1), lesson("mom", minute=2)])
    assert set(texts(index.search(query, limit=9))) <= {"bab dud"}
    assert texts(index.search("kik", limit=9)) == ["kik"]


def test_a_long_query_is_cut() -> None:
    assert len(searched(" ".join(f"w{number}" for number in range(10_000)))) == retrieval.MOST_WORDS
    assert searched("What IS the Delta-rule, the delta_rule?") == ("delta", "rule")
    assert search("the of", entries=entries(), lessons=(), limit=3) == ()


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("associative recall with many queries", 102),
        ("delta rule with a decay per channel", 3),
        ("state size against recall", 41),
        ("attention sinks", 62),
        ("filter that depends on the data, long convolution", 11),
        ("merging the weights of two parents", 135),
        ("random search as a control", 117),
        ("boosted trees that predict accuracy", 123),
        ("rotary positions that follow the input", 105),
        ("ratio of linear to full attention in hybrids", 25),
        ("training diverges: entropy collapse, spectral norm", 45),
        ("gated residual for reinforcement learning", 8),
        ("write only to the top rows of a sparse state", 48),
        ("fewer query heads", 153),
        ("one dense matrix in place of any mixer", 141),
    ],
)
def test_questions_of_a_designer_lead_to_the_entry_that_answers(query: str, row: int) -> None:
    found = search(query, entries=entries(), lessons=(), limit=2)
    assert row in [hit.item.row for hit in found if isinstance(hit.item, Entry)]
