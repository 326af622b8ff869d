"""Patterns: which tokens a mixer may look at. An attribute that a term inherits from where it is used.

The same term means another operator under each pattern:

                      causal                                noncausal
    self       s <= t of the same sequence            every s of the same sequence
    cross      every s of the source, target causal   every s of the source

A cross mixer takes what stands on the key side (keys, values and their decays and gates) from the source, the rest from
the target. Where causality is not asked a recurrence runs both ways. An operation that has no meaning under a pattern
says so in its row, and `misfits` finds it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archloom.search_space.terms import Term


@dataclass(frozen=True, slots=True)
class Pattern:
    """`axes` counts the dimensions along which tokens lie: 1 for sequences, the only one that exists so far."""

    causal: bool = True
    cross: bool = False
    axes: int = 1

    @property
    def name(self) -> str:
        return ("causal" if self.causal else "noncausal") + (" cross" if self.cross else "")


CAUSAL = Pattern()
NONCAUSAL = Pattern(causal=False)
CAUSAL_CROSS = Pattern(cross=True)
NONCAUSAL_CROSS = Pattern(causal=False, cross=True)

EVERY = frozenset((CAUSAL, NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS))
SELF = frozenset((CAUSAL, NONCAUSAL))
ONLY_CAUSAL = frozenset((CAUSAL,))
ONLY_NONCAUSAL = frozenset((NONCAUSAL,))

PATTERNS = {each.name: each for each in (CAUSAL, NONCAUSAL, CAUSAL_CROSS, NONCAUSAL_CROSS)}


def misfits(term: Term, pattern: Pattern) -> list[str]:
    """Names of the operations of a term that have no meaning under the pattern, in order of first use."""
    from archloom.search_space.terms import walk

    found = [node.operation.name for node in walk(term) if pattern not in node.operation.patterns]
    return list(dict.fromkeys(found))
