"""One candidate: what it is, where it came from, and whether its results can be had again."""

from typing import Annotated

import typer

from archloom.commands.options import CampaignOption, DebugOption, JsonOption, StoreOption, opened
from archloom.errors import ConfigError, NotFoundError

IdArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="The beginning of a candidate's id, or a baseline's name.", show_default=False),
]


def show(
    id_: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help="The beginning of a candidate's id, or a baseline's name.", show_default=False
        ),
    ] = None,
    term: Annotated[
        str | None, typer.Option("--term", metavar="TERM", help="Show this term instead of a candidate of a store.")
    ] = None,
    dot: Annotated[bool, typer.Option("--dot", help="Print the term's graph in the DOT language instead.")] = False,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print a candidate: its term, results, costs and notes."""
    if (id_ is None) == (term is None):
        raise ConfigError("show takes an ID or --term, and one of them\n  → archloom top prints the ids")
    if dot:
        _show_graph(term, id_=id_, store=store, campaign=campaign)
    elif term is not None:
        _show_term(term, as_json=as_json)
    elif id_ is not None:
        _show_candidate(id_, store=store, campaign=campaign, as_json=as_json)


def _show_term(text: str, *, as_json: bool) -> None:
    from archloom import display
    from archloom.search_space import identity
    from archloom.search_space.text import parse, pretty

    canonical = identity.canonical(parse(text))
    if as_json:
        display.json_({"id": identity.term_id(canonical), "type": canonical.type.value, "term": canonical.text})
    else:
        display.out(display.pairs({"id": identity.term_id(canonical), "type": canonical.type.value}))
        display.line(f"\n{pretty(canonical)}")


def _show_graph(text: str | None, *, id_: str | None, store: str | None, campaign: str | None) -> None:
    from archloom import display
    from archloom.search_space.graph import to_dot
    from archloom.search_space.text import parse

    if text is None:
        assert id_ is not None
        with opened(store) as ledger:
            text = ledger.candidate(id_, campaign=ledger.campaign(campaign).name).term
    display.line(to_dot(parse(text)).rstrip("\n"))


def _show_candidate(prefix: str, *, store: str | None, campaign: str | None, as_json: bool) -> None:
    from archloom import display
    from archloom.search_space.text import parse, pretty

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        candidate = ledger.candidate(prefix, campaign=name)
        trials = ledger.history(name)
        notes = ledger.notes(name, candidate.id)
    trial = next(trial for trial in trials if trial.candidate.id == candidate.id)
    if as_json:
        display.json_({"candidate": candidate, "results": trial.results, "notes": notes})
        return
    display.out(display.about(trial, known={each.candidate.id: each.candidate for each in trials}))
    display.line(f"\n{pretty(parse(candidate.term))}")
    if trial.results:
        display.out(display.results(trial.results))
    for note in notes:
        display.line(f"note: {note}")


def lineage(
    id_: IdArgument,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print a candidate's ancestors, oldest first."""
    from archloom import display
    from archloom.db import queries

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        candidate = ledger.candidate(id_, campaign=name)
        trials = ledger.history(name)
    line = (*queries.lineage(trials, candidate.id), candidate)
    if as_json:
        display.json_(line)
    else:
        scores = {trial.candidate.id: trial.score(trial.rung) for trial in trials}
        display.out(display.family(line, scores=scores))


def replay(
    id_: IdArgument,
    exact: Annotated[
        bool, typer.Option("--exact", help="Demand the very same numbers, on the kind of machine that gave them.")
    ] = False,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a candidate again and compare.

    The exit code is 6 if the scores differ from the record."""
    from archloom import display
    from archloom import replay as again

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        candidate = ledger.candidate(id_, campaign=name)
        if not any(trial.results for trial in ledger.history(name) if trial.candidate.id == candidate.id):
            raise NotFoundError(f"{candidate.short} has no results to replay\n  → archloom status")
        report = again.replay(ledger, name, candidate.id, exact=exact)
    if as_json:
        display.json_({"ok": report.ok, "rows": report.rows})
    else:
        display.out(display.replay(report))
    if not report.ok:
        display.note(f"error: the replay of {candidate.short} differs from its record")
        raise typer.Exit(6)
