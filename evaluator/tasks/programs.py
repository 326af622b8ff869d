"""Small programs that ask something of a scene of objects: which there are, how they are said, what a scene answers.

    exist f             is there an object of colour or shape f?             yes or no
    colour s, shape c   the colour of the object of shape s, and so on       a colour or a shape
    and p q, or p q     of two programs that say yes or no                   yes or no
    if p u v            what u says where p says yes, else what v says       a colour or a shape

A program is said operators before operands. The operators are those of generic COG (Ito et al. 2024, arXiv:2401.15030)
that need no places, with `and` and `or`.

A scene of n objects out of F colours and F shapes is an array `partner` [B, 2 F] over features, colours [0, F) before
shapes [F, 2 F): the other feature of the object that has this one, or -1 where none has. No two objects share one.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from functools import cache

import numpy as np
from numpy.typing import NDArray

from archloom.evaluator.tasks.interface import IGNORED

Symbols = NDArray[np.int64]
Mask = NDArray[np.bool_]

NO, YES = 1, 2


class Operator(IntEnum):
    """An operator and its symbol; `NO` and `YES` are the symbols of answers, 0 is no symbol."""

    EXIST = 3
    COLOUR = 4
    SHAPE = 5
    AND = 6
    OR = 7
    IF = 8


FEATURES = 9
"""Symbol of the first feature."""
HELD = 2
"""Colours and shapes that an operator is not trained with: the first for `colour` and `shape`, the next for `exist`."""


@dataclass(frozen=True, slots=True)
class Program:
    """An operator and its operands; without operands it asks about one feature, which is drawn with the scene."""

    operator: Operator
    operands: tuple["Program", ...] = ()

    @property
    def size(self) -> int:
        """Symbols of the program when it is said."""
        return 1 + (sum(each.size for each in self.operands) or 1)


EXIST, COLOUR, SHAPE = Program(Operator.EXIST), Program(Operator.COLOUR), Program(Operator.SHAPE)


@cache
def programs(depth: int) -> tuple[Program, ...]:
    """Every program of a depth: one of its operands is one less deep, the others are of depth 1."""
    return _decisions(depth) + _values(depth, COLOUR) + _values(depth, SHAPE)


def _decisions(depth: int) -> tuple[Program, ...]:
    if depth == 1:
        return (EXIST,)
    pairs = [pair for each in _decisions(depth - 1) for pair in ((each, EXIST), (EXIST, each))]
    return _different(Program(joint, pair) for joint in (Operator.AND, Operator.OR) for pair in pairs)


def _values(depth: int, leaf: Program) -> tuple[Program, ...]:
    if depth == 1:
        return (leaf,)
    conditions = [(each, leaf, leaf) for each in _decisions(depth - 1)]
    branches = [way for each in _values(depth - 1, leaf) for way in ((EXIST, each, leaf), (EXIST, leaf, each))]
    return _different(Program(Operator.IF, operands) for operands in conditions + branches)


def _different(found: Iterable[Program]) -> tuple[Program, ...]:
    return tuple(dict.fromkeys(found))


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """A program as it is said, `symbols` [B, size], and what each operator answers in its place, `answers` [B, size];
    `IGNORED` in the place of a feature."""

    symbols: Symbols
    answers: Symbols


def ask(program: Program, partner: Symbols, *, want: Mask, held: bool, rng: np.random.Generator) -> Asked:
    """Ask a program of scenes [B, 2 F]. One that decides says yes where `want` [B] is, and no elsewhere.

    Its features are uniform over those that make it say so, out of those that its operators are not trained with where
    `held` is set, else out of the others. A scene must have both kinds, there and missing. An `and` that says no has
    one, the other or two operands that do, each as often; so has an `or` that says yes.
    """
    operator, operands = program.operator, program.operands
    match operator:
        case Operator.EXIST | Operator.COLOUR | Operator.SHAPE:
            return _ask_one(operator, partner, want=want, held=held, rng=rng)
        case Operator.AND | Operator.OR:
            odd = rng.integers(3, size=len(want))  # among programs that the operands do not decide together
            alike = want if operator is Operator.AND else ~want
            wants = [(alike | (odd == place)) ^ (operator is Operator.OR) for place in (0, 1)]
        case Operator.IF:
            wants = [want, *(rng.random((2, len(want))) < 0.5)]
    parts = [ask(each, partner, want=wanted, held=held, rng=rng) for each, wanted in zip(operands, wants, strict=True)]
    if operator is Operator.IF:
        said = np.where(want, parts[1].answers[:, 0], parts[2].answers[:, 0])
    else:
        said = np.where(want, YES, NO)
    return Asked(
        symbols=np.hstack([np.full((len(want), 1), operator.value), *(part.symbols for part in parts)]),
        answers=np.hstack([said[:, None], *(part.answers for part in parts)]),
    )


def _ask_one(operator: Operator, partner: Symbols, *, want: Mask, held: bool, rng: np.random.Generator) -> Asked:
    there = partner >= 0
    fit = there == want[:, None] if operator is Operator.EXIST else there
    fit = fit & askable(operator, partner.shape[1] // 2, held=held)
    feature = np.argmax(fit * (1 - rng.random(fit.shape)), axis=1)
    said = np.where(want, YES, NO)
    if operator is not Operator.EXIST:
        said = FEATURES + partner[np.arange(len(partner)), feature]
    symbols = np.stack([np.full_like(feature, operator.value), FEATURES + feature], axis=1)
    return Asked(symbols=symbols, answers=np.stack([said, np.full_like(said, IGNORED)], axis=1))


@cache
def askable(operator: Operator, features: int, *, held: bool) -> Mask:
    """Which features [2 F] an operator of depth 1 may ask about: those it is not trained with, or the others."""
    feature = np.arange(2 * features)
    place = feature % features
    match operator:
        case Operator.EXIST:
            fit, kept_back = feature >= 0, (place >= HELD) & (place < 2 * HELD)
        case Operator.COLOUR:
            fit, kept_back = feature >= features, place < HELD
        case Operator.SHAPE:
            fit, kept_back = feature < features, place < HELD
        case _:
            raise ValueError(f"{operator.name} asks about programs, not about a feature; ask its operands")
    return fit & (kept_back if held else ~kept_back)
