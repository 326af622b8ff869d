"""The zoo: architectures of known systems, one text file each.

A file starts with `# title:`, `# source:` and `# catalogue:` (its row in the catalogue of seed systems, or -) and holds
a mixer, a block or a stack. `load` makes an architecture of it: a mixer is put into the standard block beside a GELU
channel mixer, and stacks are set to the asked depth.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from archloom.errors import NotFoundError
from archloom.search_space.identity import canonical
from archloom.search_space.operations import term
from archloom.search_space.terms import Term, build
from archloom.search_space.text import parse
from archloom.search_space.types import Type


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A zoo file: `text` is its term as written."""

    name: str
    title: str
    source: str
    catalogue: str
    text: str


@cache
def names() -> tuple[str, ...]:
    """Every entry's name, sorted."""
    return tuple(sorted(each.name[:-4] for each in files(__name__).iterdir() if each.name.endswith(".txt")))


@cache
def entry(name: str) -> Entry:
    """One entry; NotFoundError lists what there is."""
    if name not in names():
        raise NotFoundError(f"the zoo has no `{name}`; it has: {', '.join(names())}")
    text = files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    head = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("# ") and ": " in line)
    return Entry(name=name, title=head["title"], source=head["source"], catalogue=head["catalogue"], text=text)


@cache
def load(name: str, *, depth: int = 2) -> Term:
    """The canonical architecture of an entry at `depth` blocks."""
    return canonical(as_architecture(parse(entry(name).text), depth=depth))


def as_architecture(part: Term, *, depth: int) -> Term:
    """A mixer or block repeated to `depth` blocks in the standard form; a repeat or hybrid set to that depth."""
    match part.type:
        case Type.MIXER:
            return term("repeat", term("block", part, term("mlp")), times=depth)
        case Type.BLOCK:
            return term("repeat", part, times=depth)
        case Type.STACK if "times" in part.operation.position:
            values = tuple(
                depth if p.name == "times" else v for p, v in zip(part.operation.parameters, part.values, strict=True)
            )
            return build(part.operation, values, part.arguments)
        case _:
            return part
