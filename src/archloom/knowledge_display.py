"""What the command line draws of the knowledge base."""

from collections.abc import Sequence
from textwrap import shorten

from rich.table import Table

from archloom.agents.knowledge.entries import Entry
from archloom.agents.knowledge.retrieval import Hit
from archloom.db.records import Lesson
from archloom.display import DASH, line, out, pairs, table
from archloom.search_space.catalogue import KINDS

SHOWN = 100
"""Characters of what is found that a line of a table shows."""


def hits(found: Sequence[Hit]) -> Table:
    """What a search found, the most relevant first."""
    return table(
        ("row", "name", "year", "relevance", "what it is"), [_hit(hit) for hit in found], right=("row", "relevance")
    )


def _hit(hit: Hit) -> tuple[str, ...]:
    relevance = f"{hit.relevance:.2f}"
    match hit.item:
        case Entry() as entry:
            told = shorten(entry.mechanism, SHOWN, placeholder=" …")
            return DASH if entry.row is None else str(entry.row), entry.name, str(entry.year), relevance, told
        case Lesson() as lesson:
            return DASH, lesson.name, str(lesson.when.year), relevance, shorten(lesson.text, SHOWN, placeholder=" …")


def entry(of: Entry) -> None:
    """Print an entry."""
    line(f"{of.title} ({of.year})")
    told = {
        "name": of.name,
        "row": "" if of.row is None else str(of.row),
        "kinds": ", ".join(KINDS[kind] for kind in of.kinds),
        "mechanism": of.mechanism,
        "equation": of.equation,
        "good at": of.strengths,
        "bad at": of.weaknesses,
        "use": of.use,
        "operations": ", ".join(of.operations),
        "zoo": ", ".join(of.zoo),
    }
    out(pairs({f"  {name}": text for name, text in told.items() if text}))
