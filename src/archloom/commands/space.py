"""The space that is searched: its named systems, what of the seed catalogue it can say, and draws from it."""

from typing import TYPE_CHECKING, Annotated

import typer

from archloom.commands.options import CONTEXT, ContextOption, DebugOption, JsonOption
from archloom.errors import ConfigError

if TYPE_CHECKING:
    from archloom.search_space.zoo import Entry

COVERAGE = "coverage"
"""The word in the place of a system's name that asks for the catalogue; no system may have it."""


def zoo(
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="[NAME|coverage]",
            help="One system, or `coverage`: the seed catalogue and what of it is expressed.",
            show_default=False,
        ),
    ] = None,
    operations: Annotated[
        bool, typer.Option("--operations", help="List the operations that terms are made of instead.")
    ] = False,
    every_kind: Annotated[
        bool, typer.Option("--all", help="With coverage: search methods and two-dimensional mixers too.")
    ] = False,
    context: ContextOption = CONTEXT,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the known systems, print one as a term, or show what of the seed catalogue is expressed."""
    if every_kind and name != COVERAGE:
        raise ConfigError("--all belongs to coverage\n  → archloom zoo coverage --all")
    if operations:
        _operations(as_json=as_json)
    elif name == COVERAGE:
        _coverage(every_kind=every_kind, as_json=as_json)
    elif name is None:
        _systems(context=context, as_json=as_json)
    else:
        _system(name, as_json=as_json)


def _operations(*, as_json: bool) -> None:
    from archloom import display
    from archloom.search_space.operations import OPERATIONS

    known = [{"name": each.name, "summary": each.summary, "equation": each.equation} for each in OPERATIONS.values()]
    if as_json:
        display.json_(known)
    else:
        display.out(display.pairs({each["name"]: each["summary"] for each in known}))


def _coverage(*, every_kind: bool, as_json: bool) -> None:
    from archloom import display, space_display
    from archloom.search_space import catalogue

    kinds = catalogue.WIDER if every_kind else catalogue.TERMS
    found = [(row, catalogue.expressed(row)) for row in catalogue.of_kinds(kinds)]
    if as_json:
        display.json_(
            [
                {"row": row, "state": standing.state.value, "found": standing.found, "missing": standing.missing}
                for row, standing in found
            ]
        )
        return
    display.out(space_display.coverage(found))
    display.line(space_display.covered(found, kinds=kinds))


def _systems(*, context: int, as_json: bool) -> None:
    from archloom import display, space_display
    from archloom.search_space import zoo as systems
    from archloom.search_space.complexity import complexity

    entries = [
        (entry, complexity(systems.load(entry.name, depth=systems.own_depth(entry.name)), context=context))
        for entry in map(systems.entry, systems.names())
    ]
    if as_json:
        display.json_(
            [{**display.fields(entry), "pattern": entry.pattern.name, "complexity": costs} for entry, costs in entries]
        )
    else:
        display.out(space_display.zoo(entries))


def _system(name: str, *, as_json: bool) -> None:
    from archloom import display

    entry = found(name)
    if as_json:
        display.json_([{**display.fields(entry), "pattern": entry.pattern.name}])
    else:
        display.line(entry.text.rstrip("\n"))


def found(name: str) -> "Entry":
    """A system of the zoo. Errors: `NotFoundError` with the names that are near."""
    from difflib import get_close_matches

    from archloom.errors import NotFoundError
    from archloom.search_space import zoo as systems

    if name in systems.names():
        return systems.entry(name)
    near = get_close_matches(name, (*systems.names(), COVERAGE), n=3)
    hint = f"did you mean {' or '.join(near)}?" if near else f"it has {', '.join(systems.names())}"
    raise NotFoundError(f"the zoo has no `{name}`; {hint}\n  → archloom zoo lists it")


def sample(
    number: Annotated[int, typer.Option("-n", min=1, max=10_000, help="How many.")] = 5,
    seed: Annotated[int, typer.Option("--seed", min=0, help="The same seed draws the same terms.")] = 0,
    depth: Annotated[int, typer.Option("--depth", min=1, max=64, help="Blocks of an architecture.")] = 2,
    mixer: Annotated[bool, typer.Option("--mixer", help="Mixers instead of whole architectures.")] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """Draw random terms."""
    from random import Random

    from archloom import display
    from archloom.search_space.identity import term_id
    from archloom.search_space.sampling import Sampler
    from archloom.search_space.text import pretty

    rng = Random(seed)
    sampler = Sampler.default(depth=depth)
    terms = [sampler.mixer(rng) if mixer else sampler.architecture(rng) for _ in range(number)]
    if as_json:
        display.json_([{"id": term_id(term), "term": term.text} for term in terms])
    else:
        display.line("\n\n".join(f"# {term_id(term)[:8]}\n{pretty(term)}" for term in terms))
