"""The zoo: architectures of known systems, one text file each.

A file starts with `# title:`, `# source:` and `# catalogue:` (its row in the catalogue of seed systems, or -), may have
a `# pattern:` (causal if it has none), and holds a mixer, a block or a stack. `load` makes an architecture of it: a
mixer is put into the standard block beside a GELU channel mixer, and stacks are set to the asked depth.
"""

from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from archloom.errors import NotFoundError
from archloom.search_space.identity import canonical
from archloom.search_space.operations import term
from archloom.search_space.patterns import CAUSAL, PATTERNS, Pattern
from archloom.search_space.terms import Term, build
from archloom.search_space.terms import depth as count_blocks
from archloom.search_space.text import parse
from archloom.search_space.types import Type

STANDARD = (
    "based",
    "deltanet",
    "gated_deltanet",
    "gla",
    "gqa",
    "hyena",
    "just_dense",
    "kda",
    "linear_attention",
    "mamba2",
    "mha",
    "mha_conv",
    "no_mixer",
    "retnet",
    "sliding_window",
)
"""The causal systems that a campaign is measured against unless it names others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A zoo file: `text` is its term as written, `pattern` the one it is published under."""

    name: str
    title: str
    source: str
    catalogue: str
    pattern: Pattern
    text: str


@cache
def names(pattern: Pattern | None = None) -> tuple[str, ...]:
    """The names of all entries, or of those published under one pattern, sorted."""
    known = sorted(each.name[:-4] for each in files(__name__).iterdir() if each.name.endswith(".txt"))
    return tuple(name for name in known if pattern is None or entry(name).pattern == pattern)


@cache
def entry(name: str) -> Entry:
    """One entry; NotFoundError lists what there is."""
    if name not in names():
        raise NotFoundError(f"the zoo has no `{name}`; it has: {', '.join(names())}")
    text = files(__name__).joinpath(f"{name}.txt").read_text(encoding="utf-8")
    head = dict(line[2:].split(": ", 1) for line in text.splitlines() if line.startswith("# ") and ": " in line)
    return Entry(
        name=name,
        title=head["title"],
        source=head["source"],
        catalogue=head["catalogue"],
        pattern=PATTERNS[head.get("pattern", CAUSAL.name)],
        text=text,
    )


@cache
def load(name: str, *, depth: int = 2) -> Term:
    """The canonical architecture of an entry at `depth` blocks."""
    return canonical(as_architecture(parse(entry(name).text), depth=depth))


def own_depth(name: str) -> int:
    """The blocks that show all of an entry: as many as its text has, and two at least."""
    return max(2, count_blocks(parse(entry(name).text)))


def as_architecture(part: Term, *, depth: int) -> Term:
    """An architecture of `depth` blocks: a mixer or block is repeated in the standard form, a stack is stretched.

    A repeat or hybrid of plain blocks takes the depth; a stack after another shares it in proportion, one block each at
    least; a block made of a stack stands alone, and its stack takes the depth.
    """
    match part.type:
        case Type.MIXER:
            return term("repeat", term("block", part, term("mlp")), times=depth)
        case Type.BLOCK if part.arguments[0].type is Type.STACK:
            inner = as_architecture(part.arguments[0], depth=depth)
            return term("repeat", build(part.operation, part.values, (inner,)), times=1)
        case Type.BLOCK:
            return term("repeat", part, times=depth)
        case Type.STACK if part.operation.name == "then":
            one, other = (count_blocks(each) for each in part.arguments)
            first = max(1, min(depth - 1, round(depth * one / (one + other))))
            shares = (first, max(1, depth - first))
            stretched = [as_architecture(each, depth=n) for each, n in zip(part.arguments, shares, strict=True)]
            return build(part.operation, part.values, tuple(stretched))
        case Type.STACK if any(count_blocks(block) > 1 for block in part.arguments):
            return as_architecture(part.arguments[0], depth=depth)
        case Type.STACK:
            values = tuple(
                depth if p.name == "times" else v for p, v in zip(part.operation.parameters, part.values, strict=True)
            )
            return build(part.operation, values, part.arguments)
        case _:
            return part
