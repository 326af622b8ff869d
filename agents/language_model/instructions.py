"""What a language model is told: the algebra, the zoo, and what the campaign has learnt. Pure functions to text."""

import math
from collections.abc import Iterable, Sequence

from archloom.agents.evolution import standing
from archloom.db.records import Origin, Trial
from archloom.search_space import GRAMMAR_VERSION, zoo
from archloom.search_space.operations import FAMILIES, Operation, Parameter
from archloom.search_space.patterns import CAUSAL
from archloom.search_space.sampling import Sampler
from archloom.search_space.types import Type

FAILURES = 8
"""How many of the last failures are told."""
REASON_LENGTH = 200
"""Characters of a failure's reason."""
MOST_VALUES = 12
"""A parameter with more values is a range of whole numbers and is written as one."""

_TASK = """\
You invent token mixers: replacements for attention in small sequence models. You write one architecture as a term of
the typed algebra below. It is compiled, checked, trained as a small model beside the systems named here, and scored
from 0 to 1; higher is better. Write something that has not been tried and that you expect to score higher than what
you are shown, and say in a few sentences why.

Answer with one JSON object: "term" holds the text of the term and "rationale" your reason.

Syntax, grammar {version}:
  expr ::= ("let" NAME "=" expr "in")* (NAME | OPERATION ["(" (expr | NAME "=" VALUE), ... ")"])
- A parameter left out takes the first of its values below. An operation without arguments is written bare: x
- `let` binds a stream inside one mixer; all its uses are one tensor with one set of weights. Every `let` is used.
- Two equal subterms that are not bound by a `let` have weights of their own.
- Everything is causal: a kernel reads no token after its own.
- Write a mixer, mix(...), which is put into a standard block with an MLP and repeated; or a block; or a whole stack of
  at most {depth} blocks.
- An architecture has at most {size} operations, at most {lets} `let`s a mixer, and a mixer few large projections: the
  number of parameters is fixed, so each one makes the others narrower.

Operations, by what they make:
{operations}

Known systems:
{systems}"""


def instructions(sampler: Sampler, *, lets: int) -> str:
    """The part that is the same in every call of a campaign: the algebra, its limits, and the zoo."""
    return _TASK.format(
        version=GRAMMAR_VERSION,
        depth=sampler.grammar.depth,
        size=sampler.grammar.max_size,
        lets=lets,
        operations="\n".join(
            f"{family}:\n"
            + "\n".join(f"  {signature(each)}: {each.summary}" for each in members if CAUSAL in each.patterns)
            for family, members in FAMILIES.items()
        ),
        systems="\n\n".join(zoo.entry(name).text.strip() for name in zoo.STANDARD),
    )


def experience(history: Sequence[Trial], *, elites: int) -> str:
    """The best `elites` trials with the rung they reached and their score there, and the last failures with reasons."""
    scored = sorted((trial for trial in history if trial.rung >= 0 and trial.failure is None), key=standing)
    best = [
        f"{_name(trial)}: rung {trial.rung}, score {trial.score(trial.rung):.3f}\n  {trial.candidate.term}"
        for trial in reversed(scored[-elites:] if elites else [])
        if not math.isnan(trial.score(trial.rung))
    ]
    failed = [
        f"{_name(trial)}: {trial.failure.kind}: {' '.join(trial.failure.reason.split())[:REASON_LENGTH]}\n"
        f"  {trial.candidate.term}"
        for trial in history
        if trial.failure is not None
    ][-FAILURES:]
    parts = [
        "The best so far:\n" + ("\n".join(best) or "none yet"),
        "The last that failed, and why:\n" + ("\n".join(failed) or "none yet"),
        "Write one new architecture.",
    ]
    return "\n\n".join(parts)


def signature(operation: Operation) -> str:
    """`unit(feature | positive feature) -> unit feature`; of a parameter's values the default stands first."""
    taken = [_either(operation.accepted(index)) for index in range(operation.arity)]
    taken += [f"{each.name}={_values(each)}" for each in operation.parameters]
    call = f"{operation.name}({', '.join(taken)})" if taken else operation.name
    made: dict[Type, list[Type]] = {}
    for arguments, result in operation.signatures.items():
        made.setdefault(result, []).extend(arguments)
    if operation.arity == 1 and len(made) > 1:
        return f"{call} -> {' | '.join(f'{result.value} (of {_either(of)})' for result, of in made.items())}"
    return f"{call} -> {_either(made)}"


def _values(parameter: Parameter) -> str:
    ordered = [parameter.default, *(each for each in parameter.choices if each != parameter.default)]
    if len(ordered) > MOST_VALUES:
        return f"{ordered[0]}..{ordered[-1]}"
    return "|".join(map(str, ordered))


def _either(types: Iterable[Type]) -> str:
    return " | ".join(each.value for each in types)


def _name(trial: Trial) -> str:
    known = trial.candidate.origin is Origin.ZOO and trial.candidate.name
    return known or trial.candidate.short
