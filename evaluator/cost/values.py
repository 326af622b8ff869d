"""One number that a model costs, with what it needs to mean anything."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class CostValue:
    """`value` in `unit` for sequences of `length` tokens (None where length does not matter).

    `device` is what it was measured on or computed for, `any` where that does not matter; `method` how.
    """

    name: str
    value: float
    unit: str
    length: int | None = None
    device: str = "any"
    method: str
