"""`archloom knowledge`: what proposers read, for people to search, show and extend."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from archloom.agents.knowledge.entries import Entry
    from archloom.db.records import Lesson

KNOWLEDGE_VARIABLE = "ARCHLOOM_KNOWLEDGE"
"""As `archloom.knowledge_folder.VARIABLE`, with which all entries would have to be imported for `--help`."""

KnowledgeOption = Annotated[
    Path | None,
    typer.Option("--knowledge", metavar="DIR", help="A folder of your own entries.", envvar=KNOWLEDGE_VARIABLE),
]


def search(
    query: Annotated[list[str], typer.Argument(metavar="QUERY...", help="Words in any order.", show_default=False)],
    limit: Annotated[int, typer.Option("-n", "--limit", min=1, max=1000, help="How many.")] = 8,
    knowledge: KnowledgeOption = None,
    store: Annotated[
        str | None,
        typer.Option("--store", help="Search the lessons of this store's campaigns as well.", show_default=False),
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the entries, and the lessons of a store, that a query is about."""
    from archloom import display, knowledge_display
    from archloom.agents.knowledge import retrieval
    from archloom.errors import ConfigError
    from archloom.knowledge_folder import everything

    asked = " ".join(query)
    if not retrieval.searched(asked):
        raise ConfigError(f"`{asked}` has no word to search for\n  → archloom knowledge search delta rule")
    found = retrieval.search(asked, entries=everything(knowledge), lessons=_lessons(store), limit=limit)
    if as_json:
        display.json_([{"relevance": hit.relevance, _kind(hit.item): hit.item} for hit in found])
    elif found:
        display.out(knowledge_display.hits(found))
    else:
        display.note(f"no entry has a word of `{asked}`")


def _lessons(store: str | None) -> "tuple[Lesson, ...]":
    """The lessons of every campaign of a store, as new."""
    if store is None:
        return ()
    from archloom.db.store import Store

    with Store.open(store) as ledger:
        return tuple(lesson for campaign in ledger.campaigns() for lesson in ledger.lessons(campaign.name))


def _kind(item: "Entry | Lesson") -> str:
    from archloom.db.records import Lesson

    return "lesson" if isinstance(item, Lesson) else "entry"


def show(
    name: Annotated[
        str, typer.Argument(metavar="ROW|NAME", help="A row, a name, or a system of the zoo.", show_default=False)
    ],
    knowledge: KnowledgeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print an entry."""
    from archloom import display, knowledge_display
    from archloom.agents.knowledge.entries import find
    from archloom.knowledge_folder import everything

    entry = find(name, among=everything(knowledge))
    if as_json:
        display.json_(entry)
    else:
        knowledge_display.entry(entry)


def add(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Entries as TOML.", show_default=False)],
    knowledge: KnowledgeOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check a file of entries and copy it into your folder."""
    from archloom import display
    from archloom.errors import ConfigError
    from archloom.knowledge_folder import add as take_in

    if knowledge is None:
        raise ConfigError(
            f"no folder is named that {file} could be added to\n  → add --knowledge DIR, or set {KNOWLEDGE_VARIABLE}"
        )
    added = take_in(file, to=knowledge)
    if as_json:
        display.json_(added)
    else:
        display.line(f"{knowledge}: {', '.join(entry.name for entry in added)}")
