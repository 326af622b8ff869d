"""Text from people, files and models, as prompts carry it: quoted line by line, of bounded length, and data only.

Each line of a quotation begins with `MARKER`, and no other line of a prompt does: whatever the text holds, it can
neither end its quotation nor begin one, since all that breaks a line or moves a cursor is gone before the marker comes.
"""

MARKER = "> "
CUT = "…"


def plain(text: str, *, length: int) -> str:
    """One line of at most `length` characters: control, formatting and surrogate characters are blanks."""
    text = text[: 4 * length]
    if not text.isprintable():
        text = "".join(each if each.isprintable() else " " for each in text)
    line = " ".join(text.split())
    return line if len(line) <= length else f"{line[: length - 1].rstrip()}{CUT}"


def quoted(text: str, *, length: int) -> str:
    """The text behind markers, of at most `length` characters beside them; empty lines are left out."""
    lines = []
    for line in text[: 4 * length].splitlines():
        if length > 0 and (said := plain(line, length=length)):
            lines.append(f"{MARKER}{said}")
            length -= len(said)
    return "\n".join(lines) or f"{MARKER}(nothing)"
