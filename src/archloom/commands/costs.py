"""`archloom cost`: what an architecture costs to store, run, train and decode, each with its device and method."""

from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption
from archloom.errors import ConfigError

if TYPE_CHECKING:
    from archloom.search_space.patterns import Pattern
    from archloom.search_space.terms import Term

LENGTHS = "128,512,2048"


def cost(
    system: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="A system of the zoo.", show_default=False)
    ] = None,
    term: Annotated[
        str | None, typer.Option("--term", metavar="TERM", help="This term instead; a file, or - for stdin.")
    ] = None,
    lengths: Annotated[str, typer.Option("--lengths", metavar="T,T,...", help="Tokens to measure at.")] = LENGTHS,
    width: Annotated[int, typer.Option("--width", min=4, max=8192, help="Model width.")] = 64,
    depth: Annotated[int, typer.Option("--depth", min=1, max=64, help="Blocks.")] = 2,
    batch: Annotated[int, typer.Option("--batch", min=1, help="Sequences of a prefill and a training step.")] = 1,
    device: Annotated[str, typer.Option("--device", help="cpu or cuda.")] = "cpu",
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Count and measure what an architecture costs: parameters, FLOPs, state, latency, memory, energy, rooflines."""
    from archloom import display
    from archloom.evaluator.cost import cost_table
    from archloom.evaluator.training import deterministic
    from archloom.search_space.costs import default_widths

    architecture, pattern = _architecture(system, term, depth=depth)
    _check_device(device)
    with deterministic(0, threads=1):
        values = cost_table(
            architecture,
            widths=default_widths(width),
            lengths=_lengths(lengths),
            batch=batch,
            device=device,
            pattern=pattern,
        )
    if as_json:
        display.json_(values)
        return
    rows = [
        (each.name, "" if each.length is None else str(each.length), f"{each.value:.4g}", each.unit, each.device,
         each.method)
        for each in values
    ]  # fmt: skip
    display.out(display.table(("cost", "tokens", "value", "unit", "device", "method"), rows, right=("tokens", "value")))


def _architecture(system: str | None, term: str | None, *, depth: int) -> tuple["Term", "Pattern"]:
    from archloom.commands.candidates import written
    from archloom.commands.space import found
    from archloom.search_space import zoo
    from archloom.search_space.patterns import CAUSAL
    from archloom.search_space.text import parse

    if (system is None) == (term is None):
        raise ConfigError("cost takes a NAME of the zoo or --term, and one of them\n  → archloom zoo lists the names")
    if term is not None:
        return zoo.as_architecture(parse(written(term)), depth=depth), CAUSAL
    entry = found(system or "")
    return zoo.load(entry.name, depth=depth), entry.pattern


def _lengths(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(each) for each in text.split(","))
    except ValueError:
        raise ConfigError(f"--lengths {text}: give numbers of tokens with commas between, as {LENGTHS}") from None


def _check_device(device: str) -> None:
    import torch

    if device not in ("cpu", "cuda"):
        raise ConfigError(f"--device {device}: take cpu or cuda")
    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda: torch sees no GPU here; take cpu")
