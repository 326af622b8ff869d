"""Suites of proxy tasks: named and versioned, with the rungs they are spent on. No torch here.

A suite is what a protocol is made from, so a change to one that moves scores raises its version. Steps and dials are
those at which the zoo is told apart (`archloom bench proxies`); `docs/log.md` has what was tried.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Given = Mapping[str, Any]
"""A task or a stage as a campaign file would write it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """`tasks` and `rungs` are as in a campaign file; `width` and `depth` those of the protocol's reference."""

    name: str
    version: int
    about: str
    width: int
    depth: int
    tasks: tuple[Given, ...]
    rungs: tuple[Given, ...]

    @property
    def title(self) -> str:
        return f"{self.name}/{self.version}"

    def section(self) -> dict[str, Any]:
        """The keys of a `[protocol]` section that the suite gives."""
        return {"width": self.width, "depth": self.depth, "tasks": list(self.tasks), "rungs": list(self.rungs)}


def _one_rung(*stages: Given) -> tuple[Given, ...]:
    return ({"stages": list(stages)},)


_ALL = (
    Suite(
        name="smoke",
        version=1,
        about="seconds: does it train at all",
        width=16,
        depth=1,
        tasks=({"name": "mqar", "vocabulary": 32, "length": 16, "batch": 32, "pairs": 4, "evaluation": 128},),
        rungs=_one_rung({"task": "mqar", "steps": 60}),
    ),
)

SUITES: Mapping[str, Suite] = {each.name: each for each in _ALL}
"""Every suite, by name."""
