"""Results for other programs."""

from pathlib import Path
from typing import Annotated

import typer

from archloom.commands.options import CampaignOption, DebugOption, JsonOption, StoreOption, opened


def group() -> None:
    """Write results for other programs."""


def optuna(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The journal file to write.", show_default=False)],
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a campaign as a study into an Optuna journal file, for its dashboard and its analyses."""
    from archloom import display
    from archloom.optuna_study import write_study

    with opened(store) as ledger:
        chosen = ledger.campaign(campaign)
        written = write_study(path, campaign=chosen, trials=ledger.history(chosen.name))
    if as_json:
        display.json_({"path": str(path), "study": chosen.name, "trials": written})
    else:
        display.note(f"{path}: study {chosen.name!r} with {written} trials")


def report(
    path: Annotated[Path, typer.Argument(metavar="PATH", help="The HTML file to write.", show_default=False)],
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Write a campaign's report: one self-contained HTML page."""
    from archloom import display
    from archloom.dashboards.report import page

    with opened(store) as ledger:
        chosen = ledger.campaign(campaign)
        path.write_text(page(chosen, ledger.history(chosen.name)), encoding="utf-8")
    if as_json:
        display.json_({"path": str(path), "campaign": chosen.name})
    else:
        display.note(f"{path}: the report of {chosen.name!r}")
