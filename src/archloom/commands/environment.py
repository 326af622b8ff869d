"""`archloom doctor`: whether this machine can run a campaign."""

import typer

from archloom.commands.options import DebugOption, JsonOption, StoreOption


def doctor(store: StoreOption = None, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check whether this machine can run a campaign.

    Python, PyTorch, Triton, Ray, the store, disk, memory and loopback. The exit code is 7 if one of them fails."""
    from archloom import display
    from archloom.doctor import Verdict, examine

    checks = examine(store)
    if as_json:
        display.json_(checks)
    else:
        display.out(display.checks(checks))
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(7)
