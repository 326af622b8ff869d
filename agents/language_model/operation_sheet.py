"""The operations of the algebra on one sheet: the table of operations as a language model reads it.

Types have short names here, which the sheet explains; errors name them in full.
"""

from collections.abc import Iterable, Mapping

from archloom.search_space.operations import FAMILIES, Operation, Parameter
from archloom.search_space.patterns import CAUSAL, Pattern
from archloom.search_space.types import FEATURES, VALUES, Type

MOST_VALUES = 12
"""A parameter with more values is a range of whole numbers and is written as one."""

SHORT: Mapping[Type, str] = {
    Type.STREAM: "X",
    Type.LATENT: "L",
    Type.FEATURE: "f",
    Type.POSITIVE_FEATURE: "f+",
    Type.FRACTION: "f01",
    Type.UNIT_FEATURE: "fu",
    Type.VALUE: "v",
    Type.MIXED: "m",
    Type.GATE: "g1",
    Type.DOUBLE_GATE: "g2",
    Type.STEP: "g+",
    Type.STEP_CHANNELS: "gv",
    Type.ANGLE: "angle",
    Type.ROUTE: "route",
    Type.HEAD_DECAY: "dh",
    Type.CHANNEL_DECAY: "dc",
    Type.VISIBLE: "M*",
    Type.BAND: "Mb",
    Type.MASK: "M",
    Type.SCORE: "s",
    Type.POSITIVE_SCORE: "s+",
    Type.GRAM: "e1",
    Type.DOUBLE_GRAM: "e2",
    Type.KERNEL: "k",
    Type.POSITIVE_KERNEL: "k+",
    Type.NORMALISED_KERNEL: "kn",
    Type.CONTRACTION: "kc",
    Type.FILTER: "filter",
    Type.SPECTRUM: "spectrum",
    Type.MIXER: "mixer",
    Type.CHANNEL: "channel",
    Type.BLOCK: "block",
    Type.STACK: "stack",
}

GROUPS: Mapping[str, tuple[Type, ...]] = {"F": FEATURES, "V": VALUES}
"""Types that are often accepted together."""


def sheet(pattern: Pattern = CAUSAL) -> str:
    """A legend of the types, then each operation that has a meaning under the pattern, by family, one a line."""
    families = {family: [each for each in members if pattern in each.patterns] for family, members in FAMILIES.items()}
    used = {
        type_
        for members in families.values()
        for each in members
        for arguments, made in each.signatures.items()
        for type_ in (*arguments, made)
    }
    told = [f"{SHORT[each]} {each.value}" for each in Type if each in used and SHORT[each] != each.value]
    told += [f"{name} any of {' '.join(SHORT[each] for each in group)}" for name, group in GROUPS.items()]
    lines = [f"Types: {', '.join(told)}."]
    for family, members in families.items():
        lines += [f"{family}:", *(f"  {signature(each)}: {each.summary}" for each in members)]
    return "\n".join(lines)


def signature(operation: Operation) -> str:
    """`unit(f|f+|f01) -> fu`; of a parameter's values the default stands first, of one argument only what is changed.

    `conv(X|F|V, width=4|2|3) -> f of F, else same`: what is made of an argument that the list does not name is of its
    type.
    """
    taken = [_either(operation.accepted(index)) for index in range(operation.arity)]
    taken += [f"{each.name}={_values(each)}" for each in operation.parameters]
    call = f"{operation.name}({', '.join(taken)})" if taken else operation.name
    return f"{call} -> {_made(operation)}"


def _made(operation: Operation) -> str:
    made: dict[Type, list[Type]] = {}
    for arguments, result in operation.signatures.items():
        made.setdefault(result, []).extend(arguments)
    if operation.arity != 1 or len(made) == 1:
        return _either(made)
    changed = [
        f"{SHORT[result]} of {_either(of)}" for result, of in made.items() if any(each is not result for each in of)
    ]
    named = {each for result, of in made.items() for each in of if any(other is not result for other in of)}
    same = any(of[0] not in named for of in made.values())
    return ", ".join(changed) + (", else same" if same else "") if changed else "same"


def _either(types: Iterable[Type]) -> str:
    found = list(types)
    for name, group in GROUPS.items():
        if set(group) <= set(found):
            first = min(found.index(each) for each in group)
            left = [SHORT[each] for each in found[:first] if each not in group]
            rest = [each for each in found[first:] if each not in group]
            return "|".join([*left, name, *([_either(rest)] if rest else [])])
    return "|".join(SHORT[each] for each in found)


def _values(parameter: Parameter) -> str:
    ordered = [parameter.default, *(each for each in parameter.choices if each != parameter.default)]
    if len(ordered) > MOST_VALUES:
        return f"{ordered[0]}..{ordered[-1]}"
    return "|".join(map(str, ordered))
