"""Answers questions about tokens beside the turns: which tokens a prompt has, and what tokens spell.

The vocabulary is in this process alone. A question reaches no model, so it is no turn, takes no place among them and is
not recorded. But encoding takes time that streams need, so anybody could slow others down by asking. Therefore: a
thread of its own, so that no turn waits behind a question; one question at a time, and after each a pause as long as it
took; few may wait, fewer of one person; the size is bounded as a turn's is.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from datetime import date
from typing import Final

from appliance.engine.connections import Connection
from appliance.engine.harmony import ConversationError, Vocabulary, render_prompt
from appliance.engine.request_limits import check_request, context_exceeded, surely_too_long
from appliance.engine.wire import ProtocolError
from appliance.turns.engine import Answered, CountRequest, Question, TextRequest, TokenCount, Tokens, TokenText
from appliance.turns.events import Failed

MOST_WAITING: Final = 16  # the one that is being answered counts
MOST_OF_ONE_PERSON: Final = 4
_RETRY_AFTER_S: Final = 1.0
_TOO_MANY: Final = "Too many questions about tokens are waiting. Please ask again in a moment."
_TOO_MANY_OF_YOURS: Final = f"{MOST_OF_ONE_PERSON} of your questions about tokens are waiting. Please wait for them."


class TokenQuestions:
    """Questions that wait, and the work of the thread that answers them."""

    def __init__(self, vocabulary: Vocabulary, context_tokens: int, *, today: Callable[[], date]) -> None:
        self._vocabulary = vocabulary
        self._context_tokens = context_tokens
        self._today = today
        self._changed = threading.Condition()
        self._waiting: deque[tuple[Connection, Question]] = deque()  # guarded by _changed, as are the next two
        self._of_person: Counter[str] = Counter()  # those being answered included
        self._is_stopped = threading.Event()

    def put(self, connection: Connection, question: Question) -> None:
        """Have a question answered, or refuse it at once if too many wait. Any thread."""
        with self._changed:
            refusal = self._refusal(_person(question))
            if refusal is None:
                self._of_person[_person(question)] += 1
                self._waiting.append((connection, question))
                self._changed.notify()
        if refusal is not None:
            connection.send(refusal)

    def run(self) -> None:
        """Answer questions until `stop`."""
        while (taken := self._take()) is not None:
            connection, question = taken
            began_s = time.monotonic()
            if not connection.gone:
                connection.send(self._answer(question))
            with self._changed:
                self._of_person -= Counter([_person(question)])
            self._is_stopped.wait(time.monotonic() - began_s)

    def stop(self) -> None:
        """Make `run` end after the question that it is answering. Any thread."""
        self._is_stopped.set()
        with self._changed:
            self._changed.notify()

    def _take(self) -> tuple[Connection, Question] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._is_stopped.is_set())
            return None if self._is_stopped.is_set() else self._waiting.popleft()

    def _refusal(self, person: str) -> Failed | None:
        if self._of_person[person] >= MOST_OF_ONE_PERSON:
            return Failed("too_many_waiting", _TOO_MANY_OF_YOURS, _RETRY_AFTER_S)
        if self._of_person.total() >= MOST_WAITING:
            return Failed("overloaded", _TOO_MANY, _RETRY_AFTER_S)
        return None

    def _answer(self, question: Question) -> Answered | Failed:
        try:
            if isinstance(question, TextRequest):
                return self._text(question.ids)
            check_request(question.request)
            refusal = surely_too_long(question.request, self._context_tokens)
            if refusal is not None:
                return refusal
            ids = tuple(render_prompt(self._vocabulary, question.request, today=self._today()))
        except (ProtocolError, ConversationError) as exc:
            return Failed("bad_request", str(exc))
        if isinstance(question, CountRequest):
            return TokenCount(len(ids), self._context_tokens)
        if len(ids) > self._context_tokens:
            return context_exceeded(f"{len(ids):,} tokens", self._context_tokens)
        texts = tuple(self._vocabulary.decode([token]) for token in ids) if question.with_texts else ()
        return Tokens(ids, self._context_tokens, texts)

    def _text(self, ids: tuple[int, ...]) -> TokenText | Failed:
        if len(ids) > self._context_tokens:
            return context_exceeded(f"{len(ids):,} tokens", self._context_tokens)
        try:
            return TokenText(self._vocabulary.decode(ids))
        except ValueError:
            return Failed("bad_request", "One of the numbers is no token of this model's vocabulary.")


def _person(question: Question) -> str:
    return question.user if isinstance(question, TextRequest) else question.request.user
