"""`archloom doctor`: whether this machine can run a campaign, and which chunk lengths suit it."""

from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption, StoreOption

if TYPE_CHECKING:
    from archloom.chunk_lengths import Timing


def doctor(
    file: Annotated[
        str | None,
        typer.Argument(metavar="[FILE]", help="A campaign file, to check the servers it asks.", show_default=False),
    ] = None,
    store: StoreOption = None,
    kernels: Annotated[
        bool, typer.Option("--kernels", help="Time the kernels' chunk lengths on this device instead.")
    ] = False,
    size: Annotated[
        list[str] | None, typer.Option("--size", metavar="BxTxHxK", help="With --kernels: sizes to time, repeatable.")
    ] = None,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Check whether this machine can run a campaign.

    Python, PyTorch, Triton, Ray, the store, disk, memory and loopback; with FILE also its language models' keys and
    servers. The exit code is 7 if one of them fails."""
    from archloom import display
    from archloom.doctor import Verdict, check_models, examine
    from archloom.errors import ConfigError

    if kernels:
        _kernels(size, as_json)
        return
    if size:
        raise ConfigError("--size is given without --kernels; it is the size that is timed\n  → add --kernels")
    checks = examine(store)
    if file is not None:
        from archloom.config import Config

        checks += check_models(Config.load(file).config)
    if as_json:
        display.json_(checks)
    else:
        display.out(display.checks(checks))
    if any(check.verdict is Verdict.FAIL for check in checks):
        raise typer.Exit(7)


def _kernels(sizes: list[str] | None, as_json: bool) -> None:
    from archloom import chunk_lengths, display
    from archloom.doctor import Verdict, check_torch
    from archloom.errors import EnvironmentProblem

    wanted = [chunk_lengths.parse_size(each) for each in sizes or chunk_lengths.SIZES]
    works = check_torch()  # in a process of its own: one that crashes on import is not the end of this one
    if works.verdict is Verdict.FAIL:
        raise EnvironmentProblem(f"torch does not import: {works.finding}\n  → {works.remedy}")
    timings = chunk_lengths.measure(wanted)
    device, path = chunk_lengths.this_device(), chunk_lengths.cache_file()
    try:
        chunk_lengths.keep(timings, device, path)
    except OSError as error:
        display.note(f"{path} cannot be written ({error}); the figures are only shown")
    if as_json:
        display.json_(timings)
        return
    columns = ("primitive", "decay", "BxTxHxK", "default ms", "best ms", "chunk", "better")
    display.out(display.table(columns, [_row(each) for each in timings], right=columns[3:6]))
    display.note(f"{device}; lengths at least {chunk_lengths.GAIN} times as fast as the default are kept in {path}")


def _row(each: "Timing") -> tuple[str, ...]:
    better = "" if each.better is None else f"{each.gain:.2f} times"
    figures = (f"{each.default:.2f}", f"{each.fastest:.2f}", str(each.chunk))
    return (each.primitive, each.decay, each.size, *figures, better)
