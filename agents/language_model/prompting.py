"""The prompts: versioned texts with named places, one file for each role, `prompts/<role>.md`.

A file begins with the line `version N`, which rises with every change of its text, so that a recorded call names the
text that it was made with. `# system` and `# user` begin the two parts; a role that goes on with a conversation has no
system part. A place is `$name`, as in `string.Template`, and what is put there is not read for places again.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from string import Template

from archloom.db.records import Role

_FILE = re.compile(
    r"version (?P<version>[1-9]\d*)\n\n(?:# system\n\n(?P<system>.+?)\n\n)?# user\n\n(?P<user>.+)\n", re.S
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """What a role is told: `system` is the same in every call of a campaign, `user` is not. Both have places."""

    role: Role
    version: int
    system: str
    user: str

    @property
    def title(self) -> str:
        """`researcher/1`: what a recorded call names it by."""
        return f"{self.role.value}/{self.version}"


@cache
def prompt(role: Role) -> Prompt:
    """The prompt of a role. Errors: `ValueError` for a role that has none."""
    file = files("archloom.agents.language_model").joinpath("prompts", f"{role.value}.md")
    if not file.is_file():
        raise ValueError(f"the role {role.value!r} has no prompt; write prompts/{role.value}.md")
    return read(file.read_text("utf-8"), role=role)


def read(text: str, *, role: Role) -> Prompt:
    """The prompt that a file's text holds. Errors: `ValueError` for a text of another form."""
    found = _FILE.fullmatch(text)
    if found is None:
        raise ValueError(
            f"the prompt of {role.value} has another form; it begins with `version N`, an empty line and `# system` or "
            "`# user`, and ends with one line break"
        )
    return Prompt(role=role, version=int(found["version"]), system=found["system"] or "", user=found["user"])


def filled(template: str, places: Mapping[str, str]) -> str:
    """The text with every place filled. Errors: `ValueError` for a place that is unknown, missing or badly written."""
    form = Template(template)
    if not form.is_valid():
        raise ValueError("the text has a `$` that begins no place; write `$$` for the character itself")
    known = set(form.get_identifiers())
    if unknown := sorted(set(places) - known):
        raise ValueError(f"the text has no place {', '.join(unknown)}; it has {', '.join(sorted(known)) or 'none'}")
    if missing := sorted(known - set(places)):
        raise ValueError(f"nothing is given for the places {', '.join(missing)}")
    return form.substitute(places)
