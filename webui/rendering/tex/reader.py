"""TeX from left to right: tokens, and the arguments that commands take."""

from __future__ import annotations

import re
from typing import Final

_TOKEN: Final = re.compile(r"\\[a-zA-Z]+\*?|\\.|\s+|.", re.DOTALL)
_BLANK: Final = re.compile(r"\s*")


class TexReader:
    """A place in TeX source. Braces that are not balanced end with the source."""

    def __init__(self, source: str) -> None:
        self.source = source
        self.at = 0

    @property
    def is_done(self) -> bool:
        return self.at >= len(self.source)

    def token(self) -> str:
        """The next command, run of blanks or character; nothing at the end."""
        found = _TOKEN.match(self.source, self.at)
        if found is None:
            return ""
        self.at = found.end()
        return found.group()

    def blanks(self) -> None:
        found = _BLANK.match(self.source, self.at)
        self.at = found.end() if found else self.at

    def follows(self, text: str) -> bool:
        """Whether `text` comes next, behind blanks. If it does, the reader passes it."""
        begin = self.at
        self.blanks()
        if self.source.startswith(text, self.at):
            self.at += len(text)
            return True
        self.at = begin
        return False

    def argument(self) -> str:
        """The content of the braces that follow, or the one token that does."""
        self.blanks()
        if not self.source.startswith("{", self.at):
            return self.token()
        return self._inside("{", "}")

    def option(self) -> str | None:
        """The content of the square brackets that follow directly, if there are any."""
        if not self.source.startswith("[", self.at):
            return None
        return self._inside("[", "]")

    def _inside(self, opening: str, closing: str) -> str:
        self.at += 1
        begin, depth = self.at, 1
        while (piece := self.token()) and depth:
            depth += (piece == opening) - (piece == closing)
            if depth == 0:
                return self.source[begin : self.at - 1]
        return self.source[begin : self.at]


def depth_of(source: str) -> int:
    """How deep brackets and environments nest, counted so that it is never too low."""
    deepest = depth = 0
    for at, char in enumerate(source):
        if char in "{([" or source.startswith("\\begin", at):
            depth += 1
            deepest = max(deepest, depth)
        elif char in "})]":
            depth -= 1
    return deepest
