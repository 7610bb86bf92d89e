"""How much of what the model can read at once a question and its conversation take, and what to leave out.

The engine counts, because it alone has the vocabulary. Special tokens stand between messages, so counts add up: what a
conversation takes is counted once and remembered, and of a question that is being written only its own words are
counted again and again.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from flask import Flask, current_app

from appliance.errors import ApplianceError
from appliance.people.conversations import StoredMessage
from appliance.turns.engine import CountRequest, Engine, EngineUnavailableError, TokenCount
from appliance.turns.events import Failed
from appliance.turns.request import Effort, Message, new_request
from webui.chat.reading import as_developer, as_read

COUNT_LIMIT_S: Final = 5.0
_SHARE_AFTER_CUT: Final = 0.6  # of the context; what is left out once makes room for more than one question
_LEAST_ANSWER_TOKENS: Final = 512  # less room for the answer is worth a word; at most an eighth of the context
_CHARS_PER_TOKEN: Final = 4  # the estimate for a text that is too long to be counted
_REMEMBERED: Final = 512
_SHORTEST: Final = "x"
_KEY: Final = "gpt_oss_appliance.token_counts"


class UncountableError(ApplianceError):
    """The engine cannot count now."""


@dataclass(frozen=True)
class Room:
    """Tokens: of the messages before a question, of the question with what is always read, and of the whole context."""

    earlier: int
    question: int
    context: int

    @property
    def used(self) -> int:
        return self.earlier + self.question

    @property
    def left(self) -> int:
        """For the answer."""
        return self.context - self.used

    @property
    def fits(self) -> bool:
        return self.left > 0

    @property
    def fits_alone(self) -> bool:
        """Whether the question fits if everything before it is left out."""
        return self.question < self.context

    @property
    def is_tight(self) -> bool:
        return self.left < least_answer(self.context)


def least_answer(context: int) -> int:
    """How many tokens an answer should have room for."""
    return min(_LEAST_ANSWER_TOKENS, context // 8)


class TokenCounts:
    """Counts through one engine; remembers what conversations take. Thread-safe."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._lock = threading.Lock()
        self._remembered: OrderedDict[tuple[str, ...], int] = OrderedDict()  # guarded by _lock

    def measure(
        self, user_id: str, earlier: Sequence[StoredMessage], text: str, effort: Effort, *, instructions: str = ""
    ) -> Room:
        """The room of a question `text` after the messages `earlier`.

        Args:
            instructions: what the person has the model read first; counted with the question.
        Raises:
            UncountableError: the engine cannot count now.
        """
        own = self._count(user_id, (*as_developer(instructions), Message("user", text or _SHORTEST)), effort)
        before = self._earlier(user_id, earlier, effort) if earlier else 0
        return Room(before, own.count, own.context_tokens)

    def cut(
        self,
        user_id: str,
        earlier: Sequence[StoredMessage],
        text: str,
        effort: Effort,
        *,
        for_answer: int | None = None,
        instructions: str = "",
    ) -> int | None:
        """How many of the oldest messages to leave out so that a question fits: whole turns, as few as possible.

        Args:
            for_answer: how many tokens must be left; None leaves so many that the conversation can go on for a while.
            instructions: as for `measure`.
        Returns:
            None: the question is too long even alone.
        Raises:
            UncountableError: the engine cannot count now.
        """
        room = self.measure(user_id, earlier, text, effort, instructions=instructions)
        least = room.context - least_answer(room.context)
        most = int(_SHARE_AFTER_CUT * room.context) if for_answer is None else room.context - for_answer
        if room.used <= most:
            return 0
        sizes = [len(message.as_message().content) + _CHARS_PER_TOKEN for message in earlier]
        density = room.earlier / max(1, sum(sizes))
        for start in (index for index, message in enumerate(earlier) if message.role == "user" and index > 0):
            size = sum(sizes[start:])
            if room.question + density * size > most:
                continue
            found = self.measure(user_id, earlier[start:], text, effort, instructions=instructions)
            if found.used <= most:
                return start
            density = found.earlier / size
        return len(earlier) if room.question <= least else None

    def _earlier(self, user_id: str, earlier: Sequence[StoredMessage], effort: Effort) -> int:
        key = (user_id, earlier[0].id, earlier[-1].id, effort)
        with self._lock:
            if key in self._remembered:
                self._remembered.move_to_end(key)
                return self._remembered[key]
        shortest = (Message("user", _SHORTEST),)
        with_them = self._count(user_id, (*as_read(earlier), *shortest), effort)
        count = with_them.count - self._count(user_id, shortest, effort).count
        with self._lock:
            self._remembered[key] = count
            while len(self._remembered) > _REMEMBERED:
                self._remembered.popitem(last=False)
        return count

    def _count(self, user_id: str, messages: tuple[Message, ...], effort: Effort) -> TokenCount:
        try:
            found = self._engine.ask(CountRequest(new_request(user_id, messages, effort=effort)), COUNT_LIMIT_S)
            if isinstance(found, Failed) and found.code == "context_exceeded":  # by far; nobody needs the exact figure
                context = self._engine.status(COUNT_LIMIT_S).context_tokens
                return TokenCount(sum(len(message.content) for message in messages) // _CHARS_PER_TOKEN, context)
        except EngineUnavailableError as exc:
            raise UncountableError(str(exc)) from exc
        if not isinstance(found, TokenCount):
            raise UncountableError(found.message if isinstance(found, Failed) else "another question was answered")
        return found


def install(app: Flask, engine: Engine) -> None:
    """Make what `token_counts()` returns inside `app`."""
    app.extensions[_KEY] = TokenCounts(engine)


def token_counts() -> TokenCounts:
    """The running application's counts; needs an application context."""
    return cast(TokenCounts, current_app.extensions[_KEY])
