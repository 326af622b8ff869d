"""The entry point: which command is which function, and how an error leaves the program.

Exit codes: 0 ok, 1 failure, 2 usage or configuration, 3 not found or ambiguous, 5 budget exhausted, 6 verification
mismatch, 7 environment, 130 interrupted. Plain help without rich keeps `--help` under 0.3 s; rich costs 0.25 s alone.
"""

import sys
import traceback
from types import TracebackType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from archloom import __version__
from archloom.commands import (
    arms,
    bench,
    candidates,
    claim,
    configuration,
    costs,
    environment,
    exports,
    grading,
    knowledge,
    launch,
    ledger,
    propose,
    space,
)
from archloom.commands.options import DEBUG
from archloom.errors import ArchloomError


class Door(TyperGroup):
    """Turns the project's errors into a message and an exit code."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except ArchloomError as error:
            if ctx.meta.get(DEBUG):
                traceback.print_exception(error)
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from None
        except KeyboardInterrupt:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from None


def _application() -> typer.Typer:
    plain: dict[str, Any] = {"rich_markup_mode": None, "no_args_is_help": True, "add_completion": False}
    app = typer.Typer(
        name="archloom",
        cls=Door,
        help="An autonomous laboratory that discovers attention and token-mixer architectures.",
        pretty_exceptions_enable=False,
        **plain,
    )
    app.callback()(_root)
    app.command()(launch.run)
    app.command()(launch.resume)
    app.command()(ledger.status)
    app.command()(ledger.top)
    app.command()(ledger.failures)
    app.command()(ledger.logs)
    app.command()(ledger.sql)
    app.command()(candidates.show)
    app.command()(candidates.lineage)
    app.command()(candidates.replay)
    app.command()(grading.grade)
    app.command()(propose.propose)
    app.command()(claim.claim)
    app.command()(space.zoo)
    app.command()(space.sample)
    config = typer.Typer(help="Show or check a campaign file.", **plain)
    config.command()(configuration.show)
    config.command()(configuration.check)
    app.add_typer(config, name="config")
    export = typer.Typer(help="Write results for other programs.", **plain)
    export.callback()(exports.group)
    export.command()(exports.optuna)
    app.add_typer(export, name="export")
    app.command()(exports.report)
    app.command()(bench.tasks)
    app.command()(costs.cost)
    benches = typer.Typer(help="Measure the measuring.", **plain)
    benches.callback()(bench.group)
    benches.command()(bench.proxies)
    benches.command()(arms.arms)
    app.add_typer(benches, name="bench")
    known = typer.Typer(help="What proposers read of known systems.", **plain)
    known.command()(knowledge.search)
    known.command()(knowledge.show)
    known.command()(knowledge.add)
    app.add_typer(known, name="knowledge")
    app.command()(environment.doctor)
    return app


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"archloom {__version__}")
        raise typer.Exit


def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_print_version, is_eager=True)
    ] = False,
) -> None:
    """An autonomous laboratory that discovers attention and token-mixer architectures."""


def _brief(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """What an unforeseen exception says without --debug."""
    origin = traceback.extract_tb(trace)[-1:]
    place = f" ({origin[0].filename}:{origin[0].lineno})" if origin else ""
    sys.stderr.write(f"error: unforeseen {kind.__name__}: {error}{place}\n  → the same command with --debug\n")


app = _application()


def main() -> None:
    """Run the command line. Never returns."""
    if "--debug" not in sys.argv:
        sys.excepthook = _brief
    get_command(app)(prog_name="archloom")
