"""Retrieval: the entries and lessons that a query is about, by BM25, offline.

The index is SQLite's full-text search (FTS5) in memory: what is added costs itself alone, where a library that computes
all scores beforehand has to compute them anew. Relevance is BM25 (Robertson and Zaragoza 2009) over word stems with
k1 = 1.2 and b = 0.75, where a word among an entry's names counts `NAMES_COUNT` times, multiplied by a lesson's score.
The text of queries, entries and lessons is data: nothing in it is an instruction to the search.
"""

import re
import sqlite3
import weakref
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import assert_never

from archloom.agents.knowledge.entries import Entry
from archloom.db.records import Lesson
from archloom.errors import EnvironmentProblem

NAMES_COUNT = 3.0
MOST_WORDS = 64
"""Different words of a query that are searched for; the rest is left out."""
_FUNCTION_WORDS = """
a an and are as at be but by can do does for from has have how if in into is it its more no not of on or our so than
that the their them then there these they this to was we were what when where which while who why will with
"""
PASSED_OVER = frozenset(_FUNCTION_WORDS.split())
"""Words of a query that say nothing of its subject."""

_WORD = re.compile(r"[^\W_]+")
_SEARCH = """
SELECT held.rowid, -bm25(held, ?, 1.0) * worth.score AS relevance
FROM held JOIN worth ON worth.row = held.rowid
WHERE held MATCH ? ORDER BY relevance DESC, worth.tie DESC LIMIT ?
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hit:
    """What was found. `relevance` is larger for what fits better, and comparable within one search only."""

    item: Entry | Lesson
    relevance: float


class Index:
    """Entries and lessons made ready for searching. It only saves time: it finds what a new one would find.

    Errors: `EnvironmentProblem` if this Python's SQLite has no full-text search. Not for several threads at once.
    """

    def __init__(self, items: Iterable[Entry | Lesson] = ()) -> None:
        self._database = _empty()
        weakref.finalize(self, self._database.close)
        self._rows: dict[Entry | Lesson, int] = {}
        self._items: dict[int, Entry | Lesson] = {}
        self._next = 1
        self.hold(items)

    def __len__(self) -> int:
        return len(self._rows)

    def hold(self, items: Iterable[Entry | Lesson]) -> None:
        """Make these the items that are searched. The time goes into those that come or go."""
        wanted = dict.fromkeys(item for item in items if _worth(item) > 0)
        with self._database:
            for item in [item for item in self._rows if item not in wanted]:
                self._drop(item)
        self.add(wanted)

    def add(self, items: Iterable[Entry | Lesson]) -> None:
        """Search these as well. A lesson whose score is 0 has faded and is not added."""
        with self._database:
            for item in items:
                if item not in self._rows and _worth(item) > 0:
                    self._put(item)

    def search(self, query: str, *, limit: int) -> tuple[Hit, ...]:
        """The items that share words with the query, the most relevant first; the newest or last named of equals."""
        if not (words := searched(query)) or limit < 1:
            return ()
        found = self._database.execute(_SEARCH, (NAMES_COUNT, " OR ".join(f'"{word}"' for word in words), limit))
        return tuple(Hit(item=self._items[row], relevance=relevance) for row, relevance in found)

    def _put(self, item: Entry | Lesson) -> None:
        row, self._next = self._next, self._next + 1
        self._database.execute("INSERT INTO held (rowid, names, words) VALUES (?, ?, ?)", (row, *_columns(item)))
        self._database.execute("INSERT INTO worth VALUES (?, ?, ?)", (row, _worth(item), _tie(item)))
        self._rows[item], self._items[row] = row, item

    def _drop(self, item: Entry | Lesson) -> None:
        row = self._rows.pop(item)
        del self._items[row]
        self._database.execute("DELETE FROM held WHERE rowid = ?", (row,))
        self._database.execute("DELETE FROM worth WHERE row = ?", (row,))


def search(
    query: str, *, entries: Sequence[Entry], lessons: Sequence[Lesson], limit: int, index: Index | None = None
) -> tuple[Hit, ...]:
    """The `limit` entries and lessons that a query is about, the most relevant first.

    `index` is one that a caller keeps from search to search, which spares it the building of another.
    """
    index = Index() if index is None else index
    index.hold((*entries, *lessons))
    return index.search(query, limit=limit)


def searched(query: str) -> tuple[str, ...]:
    """The words of a query that are searched for, in small letters, each once."""
    words = dict.fromkeys(word for word in _WORD.findall(query.lower()) if word not in PASSED_OVER)
    return tuple(words)[:MOST_WORDS]


def _empty() -> sqlite3.Connection:
    database = sqlite3.connect(":memory:", check_same_thread=False)
    try:
        database.execute("CREATE VIRTUAL TABLE held USING fts5(names, words, tokenize = 'porter unicode61')")
    except sqlite3.OperationalError as error:
        database.close()
        raise EnvironmentProblem(
            f"the SQLite {sqlite3.sqlite_version} of this Python has no full-text search ({error})\n"
            "  → use a Python whose SQLite is built with FTS5, as those of python.org, conda and Debian are"
        ) from None
    database.execute("CREATE TABLE worth (row INTEGER PRIMARY KEY, score REAL NOT NULL, tie TEXT NOT NULL)")
    return database


def _columns(item: Entry | Lesson) -> tuple[str, str]:
    match item:
        case Entry():
            return " ".join((item.name, item.title, *item.zoo, *item.operations)), f"{item.prose} {item.equation}"
        case Lesson():
            return "", item.text
        case _:
            assert_never(item)


def _worth(item: Entry | Lesson) -> float:
    return item.score if isinstance(item, Lesson) else 1.0


def _tie(item: Entry | Lesson) -> str:
    """What orders items of equal relevance, whatever the order they came in."""
    match item:
        case Entry():
            return item.name
        case Lesson():
            return f"{item.when.isoformat()} {item.text} {item.evidence} {item.score}"
        case _:
            assert_never(item)
