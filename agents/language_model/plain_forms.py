"""Plainer forms of a request, for servers that know less of the protocol. Pure functions."""

from collections.abc import Mapping
from typing import Any

PLAINER: Mapping[str, str | None] = {"response_format": None, "max_completion_tokens": "max_tokens", "seed": None}
"""The fields that a server may not know, in the order in which they are given up: their older name, or None to leave
the field out."""


def plainer(body: Mapping[str, Any], *, given_up: frozenset[str]) -> dict[str, Any]:
    """The body of a request without the fields `given_up`, or with them under their older names."""
    named = [(PLAINER[field] if field in given_up else field, value) for field, value in body.items()]
    return {field: value for field, value in named if field is not None}


def next_field(body: Mapping[str, Any], *, given_up: frozenset[str], refusal: str) -> str | None:
    """The field to give up next after a refusal: one that its text names, else the first; None if there is none."""
    fields = [field for field in PLAINER if field in body and field not in given_up]
    return next((field for field in fields if field in refusal), fields[0] if fields else None)
