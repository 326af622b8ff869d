"""The space that is searched: its named systems, and draws from it."""

from typing import Annotated

import typer

from archloom.commands.options import DebugOption, JsonOption


def zoo(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One system.", show_default=False)] = None,
    operations: Annotated[
        bool, typer.Option("--operations", help="List the operations that terms are made of instead.")
    ] = False,
    as_json: JsonOption = False,
    debug: DebugOption = False,
) -> None:
    """List the known systems, or print one as a term."""
    from archloom import display
    from archloom.search_space import zoo as systems
    from archloom.search_space.operations import OPERATIONS

    if operations:
        known = [
            {"name": each.name, "summary": each.summary, "equation": each.equation} for each in OPERATIONS.values()
        ]
        if as_json:
            display.json_(known)
        else:
            display.out(display.pairs({each["name"]: each["summary"] for each in known}))
        return
    chosen = [systems.entry(each) for each in (systems.names() if name is None else (name,))]
    if as_json:
        display.json_(chosen)
    elif name is None:
        display.out(display.zoo(chosen))
    else:
        display.line(chosen[0].text.rstrip("\n"))


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
