"""A conversation part by part: a page opens with its last turns, and earlier ones follow when the reader scrolls up.

Rendering thousands of answers for a page that shows the last two would keep the reader waiting. Paper, exports and the
model get every message; only the page is drawn in parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from appliance.people.conversations import StoredMessage

QUESTIONS_AT_ONCE: Final = 10


@dataclass(frozen=True)
class Part:
    """Messages that stand together, beginning with a question. ``earlier`` names the first of them if others stand
    before it, else it is None."""

    messages: Sequence[StoredMessage]
    earlier: str | None


def last_part(shown: Sequence[StoredMessage], *, before: str | None = None) -> Part:
    """The last turns of a conversation, or those just before the message `before`.

    A message that is no longer shown, since another branch is, has nothing before it.
    """
    if before is not None:
        ids = [message.id for message in shown]
        shown = shown[: ids.index(before)] if before in ids else ()
    questions = [at for at, message in enumerate(shown) if message.role == "user"]
    begin = questions[-QUESTIONS_AT_ONCE] if len(questions) > QUESTIONS_AT_ONCE else 0
    return Part(shown[begin:], shown[begin].id if begin else None)
