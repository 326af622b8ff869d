"""A checker for the LaTeX of equations: what a mathematics mode would refuse, found without one."""

import re

from archloom.search_space.equations.plain_text import COMMANDS, MARKUP, QUOTIENTS

_TOKEN = re.compile(r"\\(?:[A-Za-z]+|.)|\s+|.", re.DOTALL)


def problems(latex: str) -> list[str]:
    """Everything wrong with an equation: braces, `\\left` and `\\right`, scripts, arguments, unknown commands."""
    tokens = [token for token in _TOKEN.findall(latex) if not token.isspace()]
    return [*_nesting(tokens), *_scripts(tokens), *_commands(tokens)]


def _nesting(tokens: list[str]) -> list[str]:
    closing = {"}": "{", r"\right": r"\left"}
    found, opened = [], []
    for token in tokens:
        if token in ("{", r"\left"):
            opened.append(token)
        elif token in closing and (not opened or opened.pop() != closing[token]):
            found.append(f"{token} closes nothing")
    return found + [f"{token} is never closed" for token in opened]


def _scripts(tokens: list[str]) -> list[str]:
    """A base has at most one subscript and one superscript, and each is a token or a group."""
    found: list[str] = []
    carried: set[str] = set()  # scripts of the base at hand
    outside: list[set[str]] = []
    for index, token in enumerate(tokens):
        if token in ("_", "^"):
            if token in carried:
                found.append(f"double {token} at token {index}")
            carried.add(token)
            if index + 1 == len(tokens) or tokens[index + 1] in ("}", "_", "^"):
                found.append(f"{token} without a script at token {index}")
        elif token == "{":
            outside.append(carried if index and tokens[index - 1] in ("_", "^") else set())
            carried = set()
        elif token == "}":
            carried = outside.pop() if outside else set()
        elif not (index and tokens[index - 1] in ("_", "^")):
            carried = set()
    return found


def _commands(tokens: list[str]) -> list[str]:
    found = []
    for index, token in enumerate(tokens):
        name = token[1:] if token.startswith("\\") else ""
        if token.startswith("\\") and name not in COMMANDS:
            found.append(f"unknown command {token}")
        if name in MARKUP | QUOTIENTS and tokens[index + 1 : index + 2] != ["{"] and not name.endswith("frac"):
            found.append(f"{token} without an argument")
    return found
