"""From a campaign file and the command line to one configuration, with the origin of every value.

Later wins: the default, the file, `--set`, the command line's own options. An error names the place of the value, what
was given and what is allowed.
"""

import difflib
import json
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from archloom import positions
from archloom.config import Config
from archloom.errors import ConfigError

Key = positions.Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """A resolved value and where it came from: `default`, `file:line`, `--set` or an option of the command line."""

    key: str
    value: object
    origin: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolved:
    config: Config
    values: tuple[Value, ...]

    def origin(self, key: str) -> str:
        """Where the value of a dotted key came from."""
        return next(value.origin for value in self.values if value.key == key)


def load(path: str, *, overrides: Sequence[str], options: Mapping[str, tuple[object, str]]) -> Resolved:
    """Read the campaign file at `path`, then apply `--set` overrides (`a.b=v`) and options (key: value, origin).

    Errors: `ConfigError` with file and line for an unknown key, a wrong type, a value out of range, or bad TOML.
    """
    text = _read(path)
    data = _parse(path, text)
    origins: dict[Key, str] = {key: f"{path}:{line}" for key, line in positions.lines(text).items()}
    _override(data, overrides, origins=origins)
    for name, (value, origin) in options.items():
        key = tuple(name.split("."))
        _assign(data, key, value=value, given=origin)
        _mark(origins, key, origin=origin)
    config = _checked(data, origins=origins, path=path)
    return Resolved(config=config, values=tuple(_values(config, given=data, origins=origins)))


def amend(config: Config, overrides: Sequence[str]) -> Config:
    """A stored configuration with `--set` overrides; errors as `load`."""
    data: dict[str, Any] = json.loads(config.to_json())
    origins: dict[Key, str] = {}
    _override(data, overrides, origins=origins)
    return _checked(data, origins=origins, path="the stored configuration")


def _override(data: dict[str, Any], overrides: Sequence[str], *, origins: dict[Key, str]) -> None:
    for override in overrides:
        key, value = _split(override)
        _assign(data, key, value=value, given=f"--set {override}")
        _mark(origins, key, origin=f"--set {override}")


def _checked(data: Mapping[str, Any], *, origins: Mapping[Key, str], path: str) -> Config:
    try:
        return Config.model_validate_json(json.dumps(data, default=str), strict=True)
    except ValidationError as error:
        # A list whose items all failed is also reported as too short; that is no news.
        details = [detail for detail in error.errors() if detail["type"] != "too_short" or not detail["input"]]
        raise ConfigError("\n".join(_explain(detail, origins=origins, path=path) for detail in details)) from None


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: not UTF-8 at byte {error.start}; TOML files are UTF-8") from None
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None


def _parse(path: str, text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        place = re.search(r" \(at (?:line (\d+), column (\d+)|end of document)\)$", str(error))
        end = str(text.count("\n") + 1), str(len(text) - text.rfind("\n"))
        line, column = (place[1], place[2]) if place and place[1] else end
        message = str(error)[: place.start()] if place else str(error)
        raise ConfigError(f"{path}:{line}:{column}: not TOML: {message}") from None


def _split(override: str) -> tuple[Key, object]:
    """`a.b=v` as a path and a TOML value; what is no TOML value is a string."""
    name, equals, text = override.partition("=")
    if not equals or not all(name.strip().split(".")):
        raise ConfigError(f"--set {override}: should be key=value, for example --set budget.candidates=20")
    key = tuple(int(part) if part.isdecimal() else part for part in name.strip().split("."))
    try:
        return key, tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return key, text.strip()


def _assign(data: dict[str, Any], key: Key, *, value: object, given: str) -> None:
    """Put a value at its path; tables on the way are made, elements of arrays must be there."""
    place: Any = data
    for depth, part in enumerate(key):
        if isinstance(place, list):
            if not isinstance(part, int) or part >= len(place):
                name = dotted(key[:depth])
                raise ConfigError(f"{given}: {name} has no element {part!r} in the file; it has {len(place)}")
        elif not isinstance(place, dict):
            raise ConfigError(f"{given}: {dotted(key[:depth])} is a value, not a section")
        elif isinstance(part, int):
            where = dotted(key[:depth]) or "the file"
            raise ConfigError(
                f"{given}: {where} has no element {part}; only what the file lists can be changed by index"
            )
        if depth == len(key) - 1:
            place[part] = value
        elif isinstance(place, dict):
            place = place.setdefault(part, {})
        else:
            place = place[part]


def _mark(origins: dict[Key, str], key: Key, *, origin: str) -> None:
    for known in [known for known in origins if known[: len(key)] == key]:
        del origins[known]
    origins[key] = origin


def dotted(key: Key) -> str:
    """`("tasks", 0, "name")` as `tasks[0].name`."""
    name = ""
    for part in key:
        name += f"[{part}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def _values(config: Config, *, given: Mapping[str, Any], origins: Mapping[Key, str]) -> Iterator[Value]:
    for key, value in _leaves(config, key=()):
        origin = _nearest(key, origins) if _holds(given, key) else "default"
        yield Value(key=dotted(key), value=value, origin=origin)


def _leaves(value: object, *, key: Key) -> Iterator[tuple[Key, object]]:
    if isinstance(value, BaseModel):
        for name in (*type(value).model_fields, *(value.model_extra or ())):
            yield from _leaves(getattr(value, name), key=(*key, name))
    elif isinstance(value, tuple) and value and isinstance(value[0], BaseModel):
        for index, item in enumerate(value):
            yield from _leaves(item, key=(*key, index))
    else:
        yield key, value


def _holds(given: object, key: Key) -> bool:
    """Whether the document has a value at this path."""
    for part in key:
        match given, part:
            case dict(), str() if part in given:
                given = given[part]
            case list(), int() if part < len(given):
                given = given[part]
            case _:
                return False
    return True


def _nearest(key: Key, origins: Mapping[Key, str]) -> str:
    """The origin of a key, or of the closest thing around it that has one."""
    return next((origins[key[:end]] for end in range(len(key), 0, -1) if key[:end] in origins), "")


def _explain(detail: ErrorDetails, *, origins: Mapping[Key, str], path: str) -> str:
    context = detail.get("ctx", {})
    key = (*detail["loc"], *context.get("path", ()))
    where = _nearest(key, origins) or path
    given = detail["input"]
    match detail["type"]:
        case "extra_forbidden":
            return f"{where}: {dotted(key)}: unknown key; {_hint(str(key[-1]), _section(key))}"
        case "missing":
            return f"{where}: {dotted(key)} is missing"
        case "misplaced":
            return f"{where}: {dotted(key)}: {detail['msg']}"
        case _:
            rule = detail["msg"].removeprefix("Input ").removeprefix("Value error, ")
            shown = "" if isinstance(given, BaseModel) else f" = {json.dumps(given, default=str)}"
            return f"{where}: {dotted(key)}{shown}: {rule}"


def _section(key: Key) -> type[BaseModel]:
    """The section that a path leads to."""
    section: type[BaseModel] = Config
    for part in key:
        if field := section.model_fields.get(str(part)):
            section = next(iter(_models(field.annotation)), section)
    return section


def _models(annotation: Any) -> tuple[type[BaseModel], ...]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    return tuple(model for argument in get_args(annotation) for model in _models(argument))


def _hint(name: str, section: type[BaseModel]) -> str:
    known = sorted(section.model_fields)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.6)
    return f"did you mean {close[0]!r}?" if close else f"known here: {', '.join(known)}"
