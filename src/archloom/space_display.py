"""What the command line draws of the space that is searched: its systems, the seed catalogue, and what a term is."""

from collections import Counter
from collections.abc import Sequence

from rich.table import Table

from archloom.commands.options import Diff
from archloom.display import DASH, count, line, out, pairs, table
from archloom.search_space.catalogue import Row, Standing, State
from archloom.search_space.complexity import Complexity
from archloom.search_space.equations import Equation
from archloom.search_space.explain import Explanation, Neighbour, Use
from archloom.search_space.zoo import Entry

MOST_CHANGES = 8
"""Lines of what tells a known system from a term."""


def zoo(entries: Sequence[tuple[Entry, Complexity]]) -> Table:
    """The systems of the zoo with what they cost; a decoder has a state only where no token sees a later one."""
    rows = []
    for entry, costs in entries:
        decodes = entry.pattern.causal
        decoding = (costs.decoding, size_class(costs), count(costs.state_bytes)) if decodes else (DASH,) * 3
        rows.append((entry.name, entry.title, entry.catalogue, entry.pattern.name, costs.training, *decoding))
    columns = ("name", "title", "row", "pattern", "training", "per token", "state", "state bytes")
    return table(columns, rows, right=("row", "state bytes"))


def size_class(costs: Complexity) -> str:
    return "constant" if costs.constant_state else f"grows, {costs.state}"


def coverage(found: Sequence[tuple[Row, Standing]]) -> Table:
    """Rows of the seed catalogue, whether a term expresses them, and by what."""
    rows = [
        (str(row.number), row.name, " ".join(row.kinds), standing.state.value, " ".join(standing.found),
         " ".join(standing.missing))
        for row, standing in found
    ]  # fmt: skip
    return table(("row", "system", "kinds", "expressed", "by", "missing"), rows, right=("row",))


def covered(found: Sequence[tuple[Row, Standing]], *, kinds: Sequence[str]) -> str:
    """The total of `coverage` in a sentence."""
    states = Counter(standing.state for _, standing in found)
    beside = states.pop(State.ELSEWHERE, 0)
    ends = f"; {beside} more are no matter of terms" if beside else ""
    return (
        f"{states[State.EXPRESSED]} of {states.total()} rows of kinds {', '.join(kinds)} are expressed, "
        f"{states[State.PARTLY]} in part, {states[State.MISSING]} not yet{ends}"
    )


def explanation(about: Explanation, *, diff: Diff) -> None:
    """Print what a term is."""
    line(f"\n{about.text}\n\noperations")
    out(pairs({_operation(each): each.summary for each in about.operations}))
    line(f"\nequations\n{_equations([(each.text, each) for each in about.equations])}")
    line(f"\nin LaTeX\n{_equations([(each.latex, each) for each in about.equations])}")
    if about.complexity is not None:
        line("\ncosts")
        out(pairs(_costs(about.complexity)))
    if about.same_as is not None:
        line(f"\nthis is {about.same_as} of the zoo")
    if about.nearest:
        line("\nnearest systems")
        for neighbour in about.nearest:
            line(_neighbour(neighbour, diff=diff))


def _operation(use: Use) -> str:
    return " ".join([f"  {use.name}", *(f"{name}={value}" for name, value in use.values)])


def _equations(lines: Sequence[tuple[str, Equation]]) -> str:
    """The lines with their notes; a gap after each mixer and block."""
    drawn = [
        f"  {text}{f'    ({each.note})' if each.note else ''}"
        + ("\n" if each.ends and each is not lines[-1][1] else "")
        for text, each in lines
    ]
    return "\n".join(drawn)


def _costs(costs: Complexity) -> dict[str, object]:
    return {
        "  training": f"{costs.training} in the length",
        "  decoding": f"{costs.decoding} per token",
        "  decode state": f"{size_class(costs)}: {count(costs.state_bytes)} bytes at {count(costs.context)} tokens",
        "  parameters": f"{count(costs.parameters)} at width {costs.width}",
        "  passes": "; ".join(costs.passes) or "none",
    }


def _neighbour(neighbour: Neighbour, *, diff: Diff) -> str:
    """`kda, distance 3`, and under it how it becomes the term."""
    match diff:
        case Diff.LINES:
            told = [change.line for change in neighbour.changes[:MOST_CHANGES]]
            rest = len(neighbour.changes) - len(told)
            told += [f"and {rest} more: --diff full shows all"] if rest else []
        case Diff.FULL:
            told = neighbour.unified.splitlines()
        case Diff.NONE:
            told = []
    return "\n".join([f"  {neighbour.name}, distance {neighbour.distance:g}", *(f"    {each}" for each in told)])
