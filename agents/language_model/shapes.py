"""What an answer is made of: one description that gives its JSON schema and reads what came.

A value that a shape takes is kept as the shape says, so that no text, list or number of an answer exceeds its bounds.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, assert_never

from archloom.agents.language_model.quoting import plain
from archloom.search_space.terms import TermError


@dataclass(frozen=True, slots=True)
class Prose:
    """A text for people, kept as one plain line of at most `most` characters."""

    most: int


@dataclass(frozen=True, slots=True)
class Code:
    """A text in the language of terms, kept as it is; one of more than `most` characters is a mistake."""

    most: int


@dataclass(frozen=True, slots=True)
class Number:
    """A finite number, brought between `least` and `most`."""

    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Truth:
    """True or false."""


@dataclass(frozen=True, slots=True)
class Many:
    """A list. What exceeds `most` is left out where `cut` says so, else it is a mistake."""

    of: "Shape"
    most: int
    cut: bool


@dataclass(frozen=True, slots=True)
class Fields:
    """An object with these fields and no others."""

    parts: Mapping[str, "Shape"]


Shape = Prose | Code | Number | Truth | Many | Fields


def schema(shape: Shape) -> dict[str, Any]:
    """The JSON schema of a shape: every field is required, no other is allowed."""
    match shape:
        case Prose() | Code():
            return {"type": "string"}
        case Number():
            return {"type": "number"}
        case Truth():
            return {"type": "boolean"}
        case Many():
            return {"type": "array", "items": schema(shape.of)}
        case Fields():
            parts = {name: schema(part) for name, part in shape.parts.items()}
            return {"type": "object", "properties": parts, "required": list(parts), "additionalProperties": False}
    assert_never(shape)


def read(value: object, shape: Shape, name: str) -> Any:
    """A value as its shape keeps it. Errors: `TermError`, with `name`, if it has another shape."""
    match shape, value:
        case Prose(most), str():
            return plain(value, length=most)
        case Code(most), str():
            code = value.strip()
            if len(code) > most:
                raise TermError(f'"{name}" has {len(code)} characters; at most {most} are read: write less')
            return code
        case Number(least, most), int() | float() if _is_number(value):
            return float(min(max(value, least), most))
        case Truth(), bool():
            return value
        case Many(of, most, cut), list():
            if len(value) > most and not cut:
                raise TermError(f'"{name}" has {len(value)} entries; at most {most} are read: write fewer')
            return tuple([read(each, of, f"{name}[{number}]") for number, each in enumerate(value[:most])])
        case Fields(parts), dict():
            return {part: read(value.get(part), of, f"{name}.{part}") for part, of in parts.items()}
    raise TermError(f'"{name}" is {_kind(value)}; it must be {_wanted(shape)}')


def _is_number(value: float) -> bool:
    return not isinstance(value, bool) and (isinstance(value, int) or math.isfinite(value))


def _kind(value: object) -> str:
    match value:
        case None:
            return "missing"
        case bool():
            return "true or false"
        case int() | float():
            return "a number" if isinstance(value, int) or math.isfinite(value) else "no finite number"
        case str():
            return "a text"
        case list():
            return "a list"
    return "an object"


def _wanted(shape: Shape) -> str:
    match shape:
        case Prose() | Code():
            return "a text"
        case Number():
            return f"a finite number between {shape.least:g} and {shape.most:g}"
        case Truth():
            return "true or false"
        case Many():
            return "a list"
        case Fields():
            return "an object with " + " and ".join(f'"{name}"' for name in shape.parts)
    assert_never(shape)
