"""One candidate: what it is, where it came from, and whether its results can be had again."""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from archloom.commands.options import (
    CONTEXT,
    CampaignOption,
    ContextOption,
    DebugOption,
    Diff,
    JsonOption,
    StoreOption,
    opened,
)
from archloom.commands.space import found
from archloom.errors import ConfigError, NotFoundError

IdArgument = Annotated[
    str,
    typer.Argument(metavar="ID", help="The beginning of a candidate's id, or a baseline's name.", show_default=False),
]


DiffOption = Annotated[
    Diff, typer.Option("--diff", help="How the nearest systems differ: in lines, as texts in full, or not at all.")
]


def show(
    id_: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]", help="The beginning of a candidate's id, or a baseline's name.", show_default=False
        ),
    ] = None,
    term: Annotated[
        str | None,
        typer.Option("--term", metavar="TERM", help="Show this term instead of a candidate; a file, or - for stdin."),
    ] = None,
    system: Annotated[
        str | None, typer.Option("--zoo", metavar="NAME", help="Show a system of the zoo instead.")
    ] = None,
    context: ContextOption = CONTEXT,
    diff: DiffOption = Diff.LINES,
    dot: Annotated[bool, typer.Option("--dot", help="Print the term's graph in the DOT language instead.")] = False,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Explain a candidate, a term or a known system.

    Prints the term, its operations, the equations it stands for, what it costs, and the known systems nearest to it; of
    a candidate also where it comes from, its results and notes."""
    if sum(each is not None for each in (id_, term, system)) != 1:
        raise ConfigError("show takes an ID, --term or --zoo, and one of them\n  → archloom top prints the ids")
    text = found(system).text if system is not None else None if term is None else written(term)
    if dot:
        _show_graph(text, id_=id_, store=store, campaign=campaign)
    elif text is not None:
        _show_term(text, context=context, diff=diff, as_json=as_json)
    elif id_ is not None:
        _show_candidate(id_, store=store, campaign=campaign, context=context, diff=diff, as_json=as_json)


def written(term: str) -> str:
    """The text of `--term`: the term itself, or what a file or stdin holds.

    Errors: `ConfigError` for a path that leads to no text.
    """
    if term == "-":
        return sys.stdin.read()
    path = Path(term)
    if "(" in term or not (path.suffix or len(path.parts) > 1 or os.path.isfile(term)):
        return term
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"--term {term}: not UTF-8 at byte {error.start}; a term is text") from None
    except OSError as error:
        raise ConfigError(f"--term {term}: neither a term nor a file that can be read: {error.strerror}") from None


def _show_term(text: str, *, context: int, diff: Diff, as_json: bool) -> None:
    from archloom import display, space_display
    from archloom.search_space.explain import explain
    from archloom.search_space.text import parse

    about = explain(parse(text), context=context)
    if as_json:
        display.json_(about)
    else:
        display.out(display.pairs({"id": about.id, "type": about.type}))
        space_display.explanation(about, diff=diff)


def _show_graph(text: str | None, *, id_: str | None, store: str | None, campaign: str | None) -> None:
    from archloom import display
    from archloom.search_space.graph import to_dot
    from archloom.search_space.text import parse

    if text is None:
        assert id_ is not None
        with opened(store) as ledger:
            text = ledger.candidate(id_, campaign=ledger.campaign(campaign).name).term
    display.line(to_dot(parse(text)).rstrip("\n"))


def _show_candidate(
    prefix: str, *, store: str | None, campaign: str | None, context: int, diff: Diff, as_json: bool
) -> None:
    from archloom import display, space_display
    from archloom.search_space.explain import explain
    from archloom.search_space.text import parse

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        candidate = ledger.candidate(prefix, campaign=name)
        trials = ledger.history(name)
        notes = ledger.notes(name, candidate.id)
    trial = next(trial for trial in trials if trial.candidate.id == candidate.id)
    about = explain(parse(candidate.term), context=context)
    if as_json:
        display.json_({"candidate": candidate, "results": trial.results, "notes": notes, "explanation": about})
        return
    display.out(display.about(trial, known={each.candidate.id: each.candidate for each in trials}))
    space_display.explanation(about, diff=diff)
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
    id_: Annotated[
        str | None,
        typer.Argument(
            metavar="[ID]",
            help="The beginning of a candidate's id, or a baseline's name.  [default: what the campaign proposed]",
            show_default=False,
        ),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Demand the very same numbers, on the kind of machine that gave them.")
    ] = False,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Train a candidate again, or propose a campaign's candidates again, and compare.

    Proposals are made from the record alone, with no network. The exit code is 6 if something differs."""
    if id_ is None:
        _replay_proposals(store, campaign, exact=exact, as_json=as_json)
    else:
        _replay_results(id_, store, campaign, exact=exact, as_json=as_json)


def _replay_results(id_: str, store: str | None, campaign: str | None, *, exact: bool, as_json: bool) -> None:
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


def _replay_proposals(store: str | None, campaign: str | None, *, exact: bool, as_json: bool) -> None:
    from archloom import display
    from archloom.arms import recorded_arms
    from archloom.config import Config
    from archloom.db.records import Origin
    from archloom.protocol import check_version
    from archloom.rehearsal import repeat

    if exact:
        raise ConfigError("--exact is about a candidate's numbers\n  → archloom replay ID --exact")
    with opened(store) as ledger:
        record = ledger.campaign(campaign)
        protocol = ledger.protocol(record.protocol)
        check_version(protocol)
        config = Config.from_json(record.config)
        stored = sum(candidate.origin is not Origin.ZOO for candidate in ledger.candidates(record.name))
        repeated = list(repeat(ledger, record.name, recorded_arms(config, ledger, protocol=protocol)))
    same = sum(each.equal for each in repeated)
    if as_json:
        display.json_({"ok": same == stored, "candidates": stored, "equal": same, "rows": repeated})
    else:
        display.line(f"{same} of {stored} candidates are proposed again as they were")
    if same != stored:
        told = "it ended before them"
        if repeated and not repeated[-1].equal:
            last = repeated[-1]
            told = f"number {last.recorded.index} was {last.recorded.short} and is {last.proposed.short} now"
        display.note(f"error: the replay of campaign {record.name!r} differs from its record: {told}")
        raise typer.Exit(6)
