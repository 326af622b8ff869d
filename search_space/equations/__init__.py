"""The equation a term stands for, line by line, in LaTeX and as plain text.

It is made from the templates of the table of operations alone. An argument is written in place where that reads well;
it gets a line and a name of its own where it is a `let`, where it is wanted at another index than the one it is defined
at (`k_s`, `A_{tr}`), where it would stand twice or as a sum in brackets, and where the line would grow too long.
"""

from archloom.search_space.equations.naming import Equation, numbered
from archloom.search_space.equations.plain_text import plain
from archloom.search_space.equations.writing import lines
from archloom.search_space.terms import Term

__all__ = ["Equation", "equations", "plain"]


def equations(term: Term) -> tuple[Equation, ...]:
    """The lines that define a term of any type, what they depend on first; the last is the term itself."""
    return numbered(lines(term))
