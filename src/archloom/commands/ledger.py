"""What a store holds: campaigns, leaderboards, failures, events, and any SELECT."""

from typing import Annotated

import typer

from archloom.commands.options import CampaignOption, DebugOption, JsonOption, StoreOption, opened

RungOption = Annotated[
    int | None,
    typer.Option("--rung", min=0, help="The board as of this rung.  [default: the highest]", show_default=False),
]


def status(
    store: StoreOption = None, campaign: CampaignOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Print campaigns and how far each has come."""
    from archloom import display
    from archloom.summary import summarise

    with opened(store) as ledger:
        chosen = ledger.campaigns() if campaign is None else (ledger.campaign(campaign),)
        summaries = [summarise(each, ledger.history(each.name)) for each in chosen]
    if as_json:
        display.json_(summaries)
    elif summaries:
        display.out(display.campaigns(summaries))
    else:
        display.note("the store holds no campaign yet\n  → archloom run FILE")


def top(
    pareto: Annotated[
        str | None,
        typer.Option("--pareto", metavar="A,B", help="Only candidates that none beats in these, as loss,state_bytes."),
    ] = None,
    rung: RungOption = None,
    limit: Annotated[int, typer.Option("-n", min=1, help="Rows.")] = 20,
    larger: Annotated[
        str | None,
        typer.Option("--beside", metavar="CAMPAIGN", help="Does a campaign of models of another size rank alike?"),
    ] = None,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print the best candidates beside the baselines, and whether rungs, or sizes, rank alike."""
    from archloom import display
    from archloom.db import queries
    from archloom.db.ranks import rung_agreement, size_agreement
    from archloom.errors import ConfigError

    with opened(store) as ledger:
        chosen = ledger.campaign(campaign)
        trials, protocol = ledger.history(chosen.name), ledger.protocol(chosen.protocol)
        other = ledger.campaign(larger) if larger is not None else None
        beside = (ledger.history(other.name), ledger.protocol(other.protocol)) if other else None
    try:
        sizes = size_agreement((trials, protocol), beside) if beside else ()
    except ValueError as problem:
        raise ConfigError(f"--beside {larger}: {problem}") from None
    rows = queries.leaderboard(trials, rung=rung)
    if pareto is not None:
        rows = queries.pareto(rows, [name.strip() for name in pareto.split(",")])
    if as_json:
        display.json_({"rows": rows[:limit], "sizes": sizes} if beside else rows[:limit])
    elif rows:
        display.out(display.leaderboard(rows[:limit]))
        for found in (*rung_agreement(trials, protocol), *sizes):
            display.line(display.agreement(found))
    else:
        display.note("no candidate has such a score yet\n  → archloom failures, or archloom status")


def failures(
    store: StoreOption = None, campaign: CampaignOption = None, as_json: JsonOption = False, debug: DebugOption = False
) -> None:
    """Print why candidates failed."""
    from archloom import display
    from archloom.db import queries

    with opened(store) as ledger:
        found = queries.failures(ledger.history(ledger.campaign(campaign).name))
    if as_json:
        display.json_(found)
    elif found:
        display.out(display.failures(found))
    else:
        display.note("no candidate has failed")


def logs(
    limit: Annotated[int, typer.Option("-n", min=1, help="The last so many.")] = 100,
    calls: Annotated[bool, typer.Option("--calls", help="Language-model calls instead of events.")] = False,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print what happened to a campaign."""
    from archloom import display

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        recorded = ledger.calls(name)[-limit:] if calls else ()
        events = () if calls else ledger.events(name, last=limit)
    if as_json:
        display.json_(recorded if calls else events)
    else:
        display.out(display.calls(recorded) if calls else display.events(events))


def sql(
    query: Annotated[str, typer.Argument(metavar="QUERY", help="One SELECT.", show_default=False)],
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Ask the store in SQL, read only."""
    from archloom import display

    with opened(store) as ledger:
        columns, rows = ledger.query(query)
    if as_json:
        display.json_([dict(zip(columns, row, strict=True)) for row in rows])
    else:
        display.out(display.answer(columns, rows))
