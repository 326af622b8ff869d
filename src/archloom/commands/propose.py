"""`archloom propose`: what a language model would be asked next, and an answer given by hand."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import CampaignOption, DebugOption, JsonOption, SetOption, StoreOption, opened

if TYPE_CHECKING:
    from archloom.by_hand import Step


def propose(
    file: Annotated[
        str | None,
        typer.Argument(
            metavar="[FILE]", help="A campaign file, for a campaign that has not begun.", show_default=False
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the prompt that would be sent.")] = False,
    from_file: Annotated[
        Path | None,
        typer.Option("--from-file", metavar="ANSWER", help="Read the model's answer from a file, - for stdin."),
    ] = None,
    set_: SetOption = None,
    store: StoreOption = None,
    campaign: CampaignOption = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Play the language model of a campaign by hand.

    --dry-run prints the next request, and sends nothing. --from-file answers it: the answer goes on the campaign's
    record, and `archloom resume` takes it from there. The exit code is 1 if nothing can be made of the answer."""
    from archloom.errors import ConfigError

    if dry_run == (from_file is not None):
        raise ConfigError(
            "propose prints a prompt or reads an answer\n  → archloom propose --dry-run, or --from-file ANSWER"
        )
    if file is not None and (store is not None or campaign is not None):
        raise ConfigError("a campaign file and a campaign of a store are both given\n  → leave one of them out")
    answer = None if from_file is None else _read(from_file)
    step = _of_file(file, set_ or [], answer) if file is not None else _of_store(store, campaign, answer)
    _tell(step, as_json=as_json)
    if step.refused:
        raise typer.Exit(1)


def _of_file(file: str, overrides: list[str], answer: str | None) -> "Step":
    from archloom import by_hand
    from archloom.config import Config
    from archloom.protocol import to_protocol

    config = Config.load(file, overrides).config
    return by_hand.first_step(config, to_protocol(config), answers=() if answer is None else (answer,))


def _of_store(store: str | None, campaign: str | None, answer: str | None) -> "Step":
    from archloom import by_hand

    with opened(store) as ledger:
        name = ledger.campaign(campaign).name
        return by_hand.next_step(ledger, name) if answer is None else by_hand.answer(ledger, name, answer)


def _read(path: Path) -> str:
    import sys

    from archloom.errors import ConfigError

    try:
        return sys.stdin.read() if str(path) == "-" else path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; an answer is text") from None
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from None


def _tell(step: "Step", *, as_json: bool) -> None:
    import json

    from archloom import display

    request = None if step.wanted is None else json.loads(step.wanted.request)
    if as_json:
        role = None if step.wanted is None else step.wanted.role
        told = {"due": step.due, "role": role, "request": request, "candidate": step.candidate or None}
        display.json_({**told, "term": step.term or None, "refused": step.refused or None})
        return
    if step.wanted is not None and request is not None:
        for message in request["messages"]:
            display.line(f"# {message['role']}\n\n{message['content']}\n")
        display.note(
            f"a request to the {step.wanted.role} ({step.wanted.prompt}) of {step.wanted.model}, about "
            f"{step.wanted.prompt_tokens // 3:,} tokens\n  → archloom propose --from-file ANSWER"
        )
    elif step.candidate:
        display.line(step.term)
        display.note(f"candidate {step.candidate[:8]}\n  → archloom resume")
    else:
        display.note(f"error: nothing is proposed: {step.refused}")
    if step.due is not None and step.due != "language_model":
        display.note(f"it is the {step.due} arm's turn: by the language model's, more may be known")
