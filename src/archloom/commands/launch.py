"""`archloom run` and `archloom resume`: a campaign from its file, or from where it stopped."""

import re
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption, SetOption, StoreOption, hint, locate

if TYPE_CHECKING:
    from archloom.config import Config
    from archloom.db.store import Store

ExecutorOption = Annotated[
    str | None, typer.Option("--executor", help="ray, process or inline.  [default: the file's]", show_default=False)
]
RESUMABLE = r"budget\.|executor\.|ray\.|language_model\.models\.\d+\.(base_url|key_variable|deadline_seconds|retries)\b"
"""What may change between the sessions of a campaign without changing what its results mean."""


def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A campaign file.", show_default=False)],
    set_: SetOption = None,
    executor: ExecutorOption = None,
    store: StoreOption = None,
    fresh_name: Annotated[
        bool, typer.Option("--fresh-name", help="If the campaign's name is taken, append a number.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Run a campaign and show what it found."""
    from archloom.arms import require_keys
    from archloom.config import Config
    from archloom.db.store import Store
    from archloom.errors import ConfigError
    from archloom.protocol import to_protocol

    options: dict[str, tuple[object, str]] = {}
    if executor is not None:
        options["executor.kind"] = (executor, "--executor")
    if store is not None:
        options["campaign.store"] = (store, "--store")
    config = Config.load(file, set_ or (), options).config
    require_keys(config)
    to_protocol(config)
    with Store.open(config.campaign.store, create=True) as opened:
        taken = {campaign.name for campaign in opened.campaigns()}
        if fresh_name:
            config = config.renamed(_fresh(config.campaign.name, taken))
        elif config.campaign.name in taken:
            name = config.campaign.name
            again = f"archloom resume {name}{hint(config.campaign.store)}"
            raise ConfigError(
                f"{config.campaign.store} holds a campaign {name!r} already\n  → {again}, or the same with --fresh-name"
            )
        _pursue(config, store=opened, location=config.campaign.store, resume=False, as_json=as_json)


def resume(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A campaign.  [default: the latest]", show_default=False)
    ] = None,
    set_: SetOption = None,
    executor: ExecutorOption = None,
    store: StoreOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Go on with a campaign that was stopped.

    Only its budget, its executor and where its language models are reached may change."""
    from archloom.config import Config
    from archloom.db.store import Store
    from archloom.errors import ConfigError
    from archloom.resolve import amend

    changes = [*(set_ or ()), *([f'executor.kind="{executor}"'] if executor else [])]
    for change in changes:
        if not re.match(RESUMABLE, change.strip()):
            raise ConfigError(
                f"--set {change}: a campaign that has begun can change only budget., executor., ray. and where a "
                "language model is reached\n  → archloom run FILE --fresh-name for another campaign"
            )
    location = locate(store)
    with Store.open(location) as opened:
        stored = Config.from_json(opened.campaign(name).config)
        config = amend(stored, changes) if changes else stored
        _pursue(config, store=opened, location=location, resume=True, as_json=as_json)


def _fresh(name: str, taken: set[str]) -> str:
    number = 2
    fresh = name
    while fresh in taken:
        fresh = f"{name}-{number}"
        number += 1
    return fresh


def _pursue(config: "Config", *, store: "Store", location: str, resume: bool, as_json: bool) -> None:
    """Run the campaign loop to its end, a limit or Ctrl-C; then show what was found."""
    from archloom import campaign, display, interrupts, live
    from archloom.db.records import CampaignState

    with live.following(sys.stderr) as progress, interrupts.counted(display.note) as stopping:
        outcome = campaign.run(config, store=store, resume=resume, progress=progress, stopping=stopping)
    name = config.campaign.name
    if as_json:
        display.json_({"campaign": name, "outcome": outcome})
    else:
        _report(name, store=store, shares=dict(config.search.shares))
    display.note(display.ending(outcome))
    display.note(_next(name, store=store, finished=outcome.state is CampaignState.FINISHED, store_hint=hint(location)))
    match outcome.state:
        case CampaignState.EXHAUSTED:
            raise typer.Exit(5)
        case CampaignState.STOPPED | CampaignState.RUNNING:
            raise typer.Exit(130)
        case CampaignState.FINISHED:
            pass


def _report(name: str, *, store: "Store", shares: dict[str, float]) -> None:
    from archloom import display
    from archloom.db.queries import leaderboard
    from archloom.db.ranks import rung_agreement
    from archloom.db.records import Origin
    from archloom.db.statistics import compare_arms

    trials = store.history(name)
    rows = leaderboard(trials)
    agreements = rung_agreement(trials, store.protocol(store.campaign(name).protocol))
    display.out(display.leaderboard([row for row in rows if row.rank <= 10 or row.candidate.origin is Origin.ZOO]))
    if Origin.RANDOM in shares:
        for arm in (Origin.EVOLUTION, Origin.LANGUAGE_MODEL):
            if arm in shares:
                display.line(display.comparison(compare_arms(trials, arm=arm, control=Origin.RANDOM)))
    for found in agreements:
        display.line(display.agreement(found))


def _next(name: str, *, store: "Store", finished: bool, store_hint: str) -> str:
    """The three commands that make sense now."""
    from archloom.db.queries import leaderboard

    best = next((row.candidate.short for row in leaderboard(store.history(name), limit=1)), None)
    commands = (
        [f"archloom show {best}", f"archloom replay {best} --exact"] if best else ["archloom failures", "archloom logs"]
    )
    chosen = ["archloom top --pareto loss,state_bytes", *commands]
    if not finished:
        chosen = [f"archloom resume {name}", "archloom status", commands[0]]
    return "\n".join(f"  → {command}{store_hint}" for command in chosen)
