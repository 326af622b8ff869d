"""`archloom claim`: is it a discovery?"""

import sys
from typing import Annotated

import typer

from archloom.commands.options import CampaignOption, DebugOption, JsonOption, StoreOption, locate


def claim(
    ids: Annotated[
        list[str] | None,
        typer.Argument(metavar="[ID]...", help="Candidates, by the beginning of an id.  [default: the best]"),
    ] = None,
    seeds: Annotated[int, typer.Option("--seeds", min=2, max=100, help="Fresh seeds; fewer than 5 prove nothing.")] = 5,
    executor: Annotated[
        str | None, typer.Option("--executor", help="ray, process or inline.  [default: the campaign's]")
    ] = None,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Measure candidates, all baselines and the best of luck on fresh seeds; say whether they are a discovery.

    Exits with 1 if every candidate is refused."""
    from archloom import display, interrupts, live
    from archloom.claims import put
    from archloom.db.store import Store

    with Store.open(locate(store)) as ledger:
        name = ledger.campaign(campaign).name
        chosen = [ledger.candidate(each, campaign=name).id for each in ids or ()]
        with live.following(sys.stderr) as progress, interrupts.counted(display.note) as stopping:
            verdict = put(
                ledger, name, candidates=chosen, seeds=seeds, executor=executor, progress=progress, stopping=stopping
            )
        names = {trial.candidate.id: trial.candidate for trial in ledger.history(name)}
    if as_json:
        display.json_(verdict)
    else:
        display.out(display.judgements(verdict.judgements, names))
        for each in verdict.judgements:
            for reason in each.reasons:
                display.line(f"{display.label(names[each.candidate])}: {reason}")
    display.note(display.ending(verdict.outcome))
    if not verdict.judgements:
        display.note("the claim is not measured whole yet\n  → the same command takes it up again")
        raise typer.Exit(130)
    if all(each.ruling == "refused" for each in verdict.judgements):
        raise typer.Exit(1)
