"""Where each key of a TOML document stands, which `tomllib` does not tell.

`lines(text)` reads a document that `tomllib` has already accepted, so it needs to recognise the shapes of TOML and
never to judge them. A path is a tuple of keys and array indices: `("protocol", "tasks", 0, "name")`.
"""

import re
import tomllib
from collections import Counter

Path = tuple[str | int, ...]

_BLANK = re.compile(r"(?:\s|#[^\n]*)*")
_STRING = re.compile(
    r'"""(?:\\.|[^\\])*?"{3,5}(?!")' r"|'''.*?'{3,5}(?!')" r'|"(?:\\.|[^"\\\n])*"' r"|'[^'\n]*'", re.DOTALL
)
_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}#\n]+")


def lines(text: str) -> dict[Path, int]:
    """The 1-based line of every table, key and array element of a valid TOML document."""
    return _Scanner(text.replace("\r\n", "\n")).document()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.found: dict[Path, int] = {}
        self.tables: Counter[Path] = Counter()

    def document(self) -> dict[Path, int]:
        base: Path = ()
        while self._blank():
            if self.text.startswith("[[", self.at):
                base = self._header("]]")
            elif self.text.startswith("[", self.at):
                base = self._header("]")
            else:
                self._pair(base)
        return self.found

    def _header(self, closing: str) -> Path:
        """A table header; the arrays of tables on its way stand for their last element."""
        self.at += len(closing)
        self._blank()
        names = self._key()
        self.at += len(closing)
        path: Path = ()
        for depth, name in enumerate(names):
            path = (*path, name)
            self._note(path)
            if closing == "]]" and depth == len(names) - 1:
                self.tables[path] += 1
            if path in self.tables:
                path = (*path, self.tables[path] - 1)
                self._note(path)
        return path

    def _pair(self, base: Path) -> None:
        path = base
        for name in self._key():
            path = (*path, name)
            self._note(path)
        self._skip("=")
        self._value(path)

    def _value(self, path: Path) -> None:
        if string := _STRING.match(self.text, self.at):
            self.at = string.end()
        elif self.text[self.at] == "[":
            self._array(path)
        elif self.text[self.at] == "{":
            self._inline_table(path)
        elif scalar := _SCALAR.match(self.text, self.at):
            self.at = scalar.end()

    def _array(self, path: Path) -> None:
        self._skip("[")
        index = 0
        while self.text[self.at] != "]":
            self._note((*path, index))
            self._value((*path, index))
            index += 1
            self._skip(",")
        self.at += 1

    def _inline_table(self, path: Path) -> None:
        self._skip("{")
        while self.text[self.at] != "}":
            self._pair(path)
            self._skip(",")
        self.at += 1

    def _key(self) -> list[str]:
        names = []
        while True:
            if string := _STRING.match(self.text, self.at):
                names.append(tomllib.loads(f"key = {string.group()}")["key"])
                self.at = string.end()
            elif bare := _BARE_KEY.match(self.text, self.at):
                names.append(bare.group())
                self.at = bare.end()
            self._blank()
            if self.text[self.at] != ".":
                return names
            self._skip(".")

    def _skip(self, mark: str) -> None:
        """Pass blanks, the mark if it stands here, and the blanks after it."""
        self._blank()
        if self.text[self.at] == mark:
            self.at += 1
        self._blank()

    def _blank(self) -> bool:
        """Pass blanks and comments; whether anything is left."""
        blank = _BLANK.match(self.text, self.at)
        if blank is not None:
            self.at = blank.end()
        return self.at < len(self.text)

    def _note(self, path: Path) -> None:
        self.found.setdefault(path, self.text.count("\n", 0, self.at) + 1)
