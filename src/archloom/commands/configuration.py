"""`archloom config`: what a campaign file comes to."""

from typing import Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption, SetOption

FileArgument = Annotated[str, typer.Argument(metavar="FILE", help="A campaign file.", show_default=False)]


def show(
    file: FileArgument,
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value came from.")] = False,
    set_: SetOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Print every key of a resolved campaign file."""
    from archloom import display
    from archloom.config import Config

    resolved = Config.load(file, set_ or ())
    if as_json and origin:
        display.json_(resolved.values)
    elif as_json:
        typer.echo(resolved.config.to_json())
    else:
        display.out(display.settings(resolved.values, origin=origin))
        display.note(f"sha256 {resolved.config.hash}")


def check(file: FileArgument, set_: SetOption = None, as_json: JsonOption = False, debug: DebugOption = False) -> None:
    """Check a campaign file, the architectures that it names and the text that it reads."""
    from archloom import display
    from archloom.config import Config
    from archloom.protocol import to_protocol

    config = Config.load(file, set_ or ()).config
    protocol = to_protocol(config)
    summary = {
        "campaign": config.campaign.name,
        "candidates": config.budget.candidates,
        "baselines": [name for name, _ in protocol.baselines],
        "protocol": protocol.id,
        "config": config.hash,
    }
    if as_json:
        display.json_(summary)
    else:
        display.out(display.pairs({"file": f"{file}: ok", **summary, "baselines": len(protocol.baselines)}))
