"""`archloom bench arms`: random search, evolution and the language model at equal cost."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption

if TYPE_CHECKING:
    from archloom.config import Config

CANDIDATES = 16


def arms(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]",
            help="A campaign file whose arms, name and store are replaced.  [default: a small campaign on the suite]",
            show_default=False,
        ),
    ] = None,
    suite: Annotated[
        str | None,
        typer.Option(
            "--suite", help="The suite without a FILE, see `archloom tasks`.  [default: smoke]", show_default=False
        ),
    ] = None,
    replicates: Annotated[int, typer.Option("--replicates", min=2, max=100, help="Campaigns of each arm.")] = 3,
    candidates: Annotated[
        int | None,
        typer.Option(
            "--candidates",
            min=1,
            help=f"New candidates of each campaign.  [default: {CANDIDATES}, or the FILE's]",
            show_default=False,
        ),
    ] = None,
    device_price: Annotated[
        float,
        typer.Option("--device-price", min=0.0, help="Of an hour of a device, in the currency of the model's prices."),
    ] = 1.0,
    workers: Annotated[
        int | None,
        typer.Option(
            "--workers",
            min=0,
            help="Workers; 0 is one for every core.  [default: 0, or the FILE's]",
            show_default=False,
        ),
    ] = None,
    record: Annotated[
        Path, typer.Option("--record", help="Folder of the campaigns; an interrupted measurement goes on from it.")
    ] = Path("arms"),
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Is the language model worth its cost? Random search, evolution and the model, each alone, at equal cost.

    A real model is the one of ARCHLOOM_LLM_BASE_URL, with ARCHLOOM_LLM_MODEL, ARCHLOOM_LLM_PROMPT_PRICE and
    ARCHLOOM_LLM_COMPLETION_PRICE (per million tokens) and, if it needs one, ARCHLOOM_LLM_KEY; or those of the FILE.
    Without any, a scripted one answers, which proves the plumbing and says nothing of language models."""
    import os

    from archloom import arms_bench, arms_display, display, interrupts, live
    from archloom.db.store import Store

    base = _base(file, suite=suite, candidates=candidates, workers=workers)
    with arms_bench.answered(base, os.environ) as config, Store.open(record / "arms.db", create=True) as store:
        if arms_bench.is_scripted(config):
            display.note(arms_bench.PLUMBING)
        with live.following(sys.stderr) as progress, interrupts.counted(display.note) as stopping:
            whole = arms_bench.measure(config, replicates=replicates, store=store, progress=progress, stopping=stopping)
        if not whole:
            display.note("interrupted\n  → the same command goes on from the record")
            raise typer.Exit(130)
        found = arms_bench.report(config, replicates=replicates, store=store, device_price=device_price)
    if as_json:
        display.json_(found)
        return
    if found.notice:
        display.line(found.notice)
    display.line(arms_display.compared(found))
    display.out(arms_display.arms(found.arms))
    display.out(arms_display.differences(found.differences))


def _base(file: str | None, *, suite: str | None, candidates: int | None, workers: int | None) -> "Config":
    """The campaign that every arm runs, at its own name and seed."""
    from archloom import arms_bench
    from archloom.config import Config
    from archloom.errors import ConfigError

    if file is not None and suite is not None:
        raise ConfigError("a campaign file and a suite are both given\n  → leave one of them out")
    if file is None:
        base, candidates = arms_bench.small(suite or "smoke"), candidates or CANDIDATES
    else:
        base = Config.load(file, ()).config
    budget, executor = base.budget, base.executor
    if candidates is not None:
        budget = budget.model_copy(update={"candidates": candidates})
    if workers is not None:
        executor = executor.model_copy(update={"workers": workers})
    return base.model_copy(update={"budget": budget, "executor": executor})
