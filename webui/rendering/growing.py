"""An answer that is still being written, as safe HTML by its changed blocks."""

from __future__ import annotations

from typing import Final

from webui.rendering.blocks import MESSAGE_S, blocks_with_lines, render_blocks
from webui.rendering.budget import Budget
from webui.rendering.formulae import formula_may_be_open

_SHORT_TAIL_CHARS: Final = 2_000  # if no more of a growing text may still change, every update renders it
_UPDATES_PER_TEXT: Final = 64


class GrowingMarkdown:
    """Renders text that grows at its end, and says which blocks have changed.

    While text is appended only the last blocks can change. So each `update` parses from the beginning of the last block
    but one, or from further up while a formula may be open there. A link reference that is defined after its use takes
    effect in `finish`, which renders the whole text once.

    A block that never ends would make the cost quadratic. So a long one is rendered only when it `has_grown` by a 64th:
    all updates together then parse no more than 64 times the text, besides its first 2,000 characters.
    """

    def __init__(self) -> None:
        self._text = ""
        self._sent: list[str] = []
        self._settled = 0  # so many of `_sent` lie before `_tail_at`
        self._tail_at = 0  # offset in `_text`
        self._rendered_chars = 0  # how much of `_text` the last update rendered

    def append(self, piece: str) -> None:
        """Add text at the end. The next `update` shows it."""
        self._text += piece.replace("\r", "")

    @property
    def has_grown(self) -> bool:
        """Whether another `update` is worth its cost."""
        tail_chars = len(self._text) - self._tail_at
        awaited = tail_chars // _UPDATES_PER_TEXT if tail_chars > _SHORT_TAIL_CHARS else 1
        return len(self._text) - self._rendered_chars >= awaited

    def update(self) -> tuple[int, list[str]]:
        """(keep, blocks): the first `keep` blocks shown so far stand; `blocks` take the place of the rest."""
        tail = self._text[self._tail_at :]
        self._rendered_chars = len(self._text)
        rendered = blocks_with_lines(tail, Budget(MESSAGE_S), growing=True)
        change = self._change([*self._sent[: self._settled], *(block for block, _ in rendered)])
        if len(rendered) > 2 and not formula_may_be_open(tail, rendered[-2][1]):
            self._settled += len(rendered) - 2
            for _ in range(rendered[-2][1]):
                self._tail_at = self._text.index("\n", self._tail_at) + 1
        return change

    def finish(self) -> tuple[int, list[str]]:
        """The same as `update`, for the whole text."""
        return self._change(render_blocks(self._text))

    def _change(self, blocks: list[str]) -> tuple[int, list[str]]:
        keep = 0
        while keep < min(len(blocks), len(self._sent)) and blocks[keep] == self._sent[keep]:
            keep += 1
        self._sent = blocks
        return keep, blocks[keep:]
