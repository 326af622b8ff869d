"""Suites of proxy tasks: named and versioned, with the rungs they are spent on. No torch here.

A suite is what a protocol is made from, so a change to one that moves scores raises its version. Steps and dials are
those at which the zoo is told apart (`archloom bench proxies`); `docs/log.md` has what was tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archloom.errors import ConfigError
from archloom.evaluator.dials import alike

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


def _stages(steps: Mapping[str, int], *, seeds: Sequence[int]) -> list[Given]:
    return [{"task": task, "steps": count, "seeds": list(seeds)} for task, count in steps.items()]


def _suite(
    name: str,
    version: int,
    about: str,
    *,
    width: int,
    depth: int,
    steps: Mapping[str, int],
    tasks: Mapping[str, Given] | None = None,
    higher: Mapping[str, int] | None = None,
) -> Suite:
    """Tasks by name with their steps, at the dials of their kind but for what `tasks` says; two seeds each.

    `higher` are the steps of a second rung, with two fresh seeds.
    """
    rungs: list[Given] = [{"stages": _stages(steps, seeds=(0, 1))}]
    if higher:
        rungs.append({"stages": _stages(higher, seeds=(2, 3))})
    named = dict.fromkeys((*steps, *(higher or ())))
    return Suite(
        name=name,
        version=version,
        about=about,
        width=width,
        depth=depth,
        tasks=tuple({"name": task, **(tasks or {}).get(task, {})} for task in named),
        rungs=tuple(rungs),
    )


_ALL = (
    _suite(
        "smoke",
        1,
        "seconds: does it train at all",
        width=16,
        depth=1,
        steps={"mqar": 100},
        tasks={"mqar": {"vocabulary": 16, "length": 16, "batch": 32, "pairs": 2, "evaluation": 256}},
    ),
    _suite(
        "recall",
        2,
        "what a mixer can look up in its context, symbols and numbers",
        width=16,
        depth=2,
        steps={
            "mqar": 600,
            "in_context_recall": 200,
            "noisy_recall": 200,
            "passkey": 250,
            "in_context_regression": 300,
        },
    ),
    _suite(
        "mad",
        1,
        "the six tasks of MAD",
        width=16,
        depth=2,
        steps={
            "in_context_recall": 200,
            "fuzzy_recall": 200,
            "noisy_recall": 200,
            "selective_copying": 250,
            "compression": 200,
            "memorisation": 100,
        },
    ),
    _suite(
        "state",
        1,
        "what a mixer can keep track of, beyond the lengths it was trained on",
        width=16,
        depth=2,
        steps={"parity": 200, "permutations": 250},
    ),
    _suite(
        "patterns",
        2,
        "the four attention patterns, scores kept apart: causal or not, self or cross",
        width=16,
        depth=2,
        steps={"mirror": 500, "mqar": 600, "set_recall": 300, "translation": 300},
    ),
    _suite(
        "lm",
        2,
        "language at small scale: stories, the sources of Python, and copying against bigrams",
        width=32,
        depth=2,
        steps={"stories": 400, "text": 300, "bigram_backcopy": 150},
    ),
    _suite(
        "standard",
        2,
        "a causal mixer as a whole: recall, state, selection, learning in context, stories",
        width=16,
        depth=2,
        steps={
            "mqar": 600,
            "permutations": 250,
            "parity": 200,
            "selective_copying": 250,
            "in_context_regression": 300,
            "stories": 400,
        },
        higher={
            "mqar": 600,
            "permutations": 250,
            "parity": 200,
            "selective_copying": 400,
            "in_context_regression": 500,
            "stories": 600,
            "text": 300,
        },
    ),
)

SUITES: Mapping[str, Suite] = {each.name: each for each in _ALL}
"""Every suite, by name."""


def suite_named(name: str) -> Suite:
    """The suite of a name, with or without its version. Raises `ConfigError` with what is wrong with the name."""
    suite = SUITES.get(name.partition("/")[0])
    if suite is None:
        raise ConfigError(f"is {name!r}, and there is no such suite; {alike(name, SUITES)}")
    if name not in (suite.name, suite.title):
        raise ConfigError(f"is {name!r}, and this archloom has {suite.title}")
    return suite
