"""Where a campaign stands, for the one who designs its next candidate: what to build on, and what to avoid.

Trials are compared within the highest rung that they completed, by their mean score on each of its tasks. One dominates
another if it is better on one task and as good on all; what nothing dominates is a Pareto set.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import ge

from archloom.agents.language_model.board import Board, Digest
from archloom.db.records import Protocol, Trial

ELITES = 6
NEAR_MISSES = 3
FAILURES = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """`parents` are of the Pareto sets, from the highest rung down; `near_misses` come next to them. `failures` are the
    last, latest first, and `kinds` (kind, how many) of all. `best` are for each rung the best baseline of each task and
    its score, None where there is none."""

    protocol: Protocol
    tasks: tuple[tuple[str, ...], ...]
    parents: tuple[Digest, ...]
    near_misses: tuple[Digest, ...]
    baselines: tuple[Digest, ...]
    failures: tuple[Digest, ...]
    kinds: tuple[tuple[str, int], ...]
    best: tuple[tuple[tuple[str, float] | None, ...], ...]


def situation(
    history: Sequence[Trial], *, protocol: Protocol, elites: int = ELITES, board: Board | None = None
) -> Situation:
    """Where a campaign with these trials stands. `board` is one that a caller keeps from call to call, to save time.

    Errors: `ValueError` for the board of another protocol.
    """
    board = Board(protocol) if board is None else board
    if board.protocol != protocol:
        raise ValueError(f"the board is of protocol {board.protocol.id} and the history of {protocol.id}; make another")
    board.hold(history)
    parents: list[Digest] = []
    missed: list[Digest] = []
    for rung in reversed(range(len(board.tasks))):
        if len(parents) == elites and len(missed) == NEAR_MISSES:
            break
        contenders = board.contenders(rung)
        front = pareto(contenders)
        chosen = _chosen(front, elites - len(parents))
        parents += chosen
        missed += _nearest(contenders, front=front, without=chosen, most=NEAR_MISSES - len(missed))
    baselines = board.baselines()
    return Situation(
        protocol=protocol,
        tasks=tuple(map(tuple, board.tasks)),
        parents=tuple(parents),
        near_misses=tuple(missed),
        baselines=tuple(baselines),
        failures=tuple(board.failed(FAILURES)),
        kinds=tuple(board.kinds()),
        best=tuple(
            tuple(_best(baselines, rung=rung, place=place) for place in range(len(tasks)))
            for rung, tasks in enumerate(board.tasks)
        ),
    )


def dominates(one: Digest, other: Digest) -> bool:
    """Whether one is better than the other on some task and as good on all; both of one rung."""
    return one.scores != other.scores and all(map(ge, one.scores, other.scores))


def pareto(digests: Sequence[Digest]) -> list[Digest]:
    """Those that nothing dominates, of digests in the order of `Board.contenders`: no dominator comes later."""
    front: list[Digest] = []
    for each in digests:
        if not any(dominates(other, each) for other in front):
            front.append(each)
    return front


def _chosen(front: Sequence[Digest], most: int) -> list[Digest]:
    """The best by its sum, then the best on each task, then by the sum; in the order of the front."""
    tasks = range(len(front[0].scores) if front else 0)
    first = [*front[:1], *(max(front, key=lambda each: each.scores[place]) for place in tasks), *front]
    picked = list({each.candidate.id: each for each in first})[: max(0, most)]
    return [each for each in front if each.candidate.id in picked]


def _nearest(
    contenders: Sequence[Digest], *, front: Sequence[Digest], without: Sequence[Digest], most: int
) -> list[Digest]:
    """Those left: first what was cut from the Pareto set, then what needs the least more on every task to be in it."""
    shown, in_front = ({each.candidate.id for each in group} for group in (without, front))
    cut = [each for each in front if each.candidate.id not in shown]
    if len(cut) < most:
        below = [each for each in contenders if each.candidate.id not in in_front]
        cut += sorted(below, key=lambda each: _shortfall(each, front))
    return cut[: max(0, most)]


def _shortfall(one: Digest, front: Sequence[Digest]) -> float:
    above = [other for other in front if dominates(other, one)]
    return max(min(a - b for a, b in zip(other.scores, one.scores, strict=True)) for other in above)


def _best(baselines: Sequence[Digest], *, rung: int, place: int) -> tuple[str, float] | None:
    having = [
        (each.candidate.name or each.candidate.short, each.ladder[rung][place])
        for each in baselines
        if each.ladder[rung]
    ]
    return max(having, key=lambda each: each[1], default=None)
