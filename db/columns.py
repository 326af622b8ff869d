"""Column types that bring back exactly what was stored, on SQLite and on PostgreSQL.

Without them SQLite turns NaN into NULL and forgets time zones, and JSON as both databases read it has no word for NaN
or infinity. The text of PostgreSQL, besides, can hold neither NUL nor half of a surrogate pair, and both turn up in
tracebacks and in what language models write.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import JSON, DateTime, Dialect, Double, Text
from sqlalchemy.types import TypeDecorator

Point = tuple[int, float]


class Utc(TypeDecorator[datetime]):
    """A moment: aware on the way in (`ValueError` otherwise), UTC on the way out."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a stored time must carry its time zone, got {value!r}")
        return value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Real(TypeDecorator[float]):
    """A double, NaN and ±inf included. NaN sorts above all numbers; on SQLite it is the text 'nan'.

    SQLite keeps no sign of zero: -0.0 comes back as 0.0.
    """

    impl = Double
    cache_ok = True

    def bind_processor(self, dialect: Dialect) -> Callable[[float | None], Any] | None:
        # Overridden whole: after process_bind_param the type beneath would make the text a float again.
        if dialect.name != "sqlite":
            return super().bind_processor(dialect)
        return lambda value: value if value is None else "nan" if math.isnan(value) else float(value)

    def process_result_value(self, value: float | None, dialect: Dialect) -> float | None:
        return None if value is None else float(value)


class Prose(TypeDecorator[str]):
    """Text from outside. What no database can hold is kept visible as a backslash escape (see `storable`)."""

    impl = Text
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else storable(value)


class Metrics(TypeDecorator[Mapping[str, float]]):
    """Named numbers as a JSON object, in which NaN and ±inf are the strings "nan", "inf" and "-inf"."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Mapping[str, float] | None, dialect: Dialect) -> dict[str, float | str] | None:
        return None if value is None else {name: _encoded(number) for name, number in value.items()}

    def process_result_value(self, value: dict[str, float | str] | None, dialect: Dialect) -> dict[str, float] | None:
        return None if value is None else {name: _decoded(number) for name, number in value.items()}


class Points(TypeDecorator[Sequence[Point]]):
    """A series as one JSON array of [step, value]: written, and nearly always read, as a whole."""

    impl = JSON
    cache_ok = True

    def process_bind_param(self, value: Sequence[Point] | None, dialect: Dialect) -> list[list[float | str]] | None:
        return None if value is None else [[int(step), _encoded(number)] for step, number in value]

    def process_result_value(self, value: list[list[Any]] | None, dialect: Dialect) -> tuple[Point, ...] | None:
        return None if value is None else tuple((step, _decoded(number)) for step, number in value)


class Tuples(TypeDecorator[Sequence[Any]]):
    """Texts and finite numbers in tuples as JSON arrays; NULL, as older ledgers have it, is none."""

    impl = JSON(none_as_null=True)
    cache_ok = True

    def process_bind_param(self, value: Sequence[Any] | None, dialect: Dialect) -> list[Any] | None:
        return [_listed(each) for each in value] if value else None

    def process_result_value(self, value: list[Any] | None, dialect: Dialect) -> tuple[Any, ...]:
        return tuple(_tupled(each) for each in value or ())


def storable(text: str) -> str:
    """`text` with NUL and lone surrogates written as backslash escapes; any other text comes back unchanged."""
    return text.replace("\0", "\\x00").encode("utf-8", "backslashreplace").decode()


def _encoded(number: float) -> float | str:
    if isinstance(number, int):
        return number
    return float(number) if math.isfinite(number) else str(float(number))


def _decoded(number: float | str) -> float:
    return float(number) if isinstance(number, str) else number


def _listed(value: Any) -> Any:
    match value:
        case str():
            return storable(value)
        case tuple():
            return [_listed(each) for each in value]
        case _:
            return value


def _tupled(value: Any) -> Any:
    return tuple(map(_tupled, value)) if isinstance(value, list) else value
