"""Log probabilities of the tokens of an answer, for callers who ask for them.

They are those of the model: of its logits as they come, before biases, penalties, masks and the temperature. A token's
is exact among the largest logits, whose normaliser the graph returns; for another token all logits are fetched.

The parser turns tokens into pieces of text, and may hold text back until a message's end shows what it is. So tokens
wait here until their text comes out, and go with it; those of reasoning, calls and headers are dropped.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import replace

from appliance.engine.harmony import Vocabulary
from appliance.engine.harmony_output import Delta
from appliance.engine.sampling import TopLogits
from appliance.turns.events import AnswerDelta, Likelihood, ReasoningDelta, TokenLogprob, ToolCallDelta


class Logprobs:
    """Those of one turn. ``count``: how many of the likeliest tokens are told of each place."""

    def __init__(self, vocabulary: Vocabulary, count: int) -> None:
        self._vocabulary, self._count = vocabulary, count
        self._waiting: deque[TokenLogprob] = deque()  # tokens of the message whose text has not come out in full
        self._begun = 0  # bytes of the first of them that have come out

    def note(self, token: int, top: TopLogits) -> None:
        """The turn has drawn a token of a message's text."""
        likeliest = zip(top.ids[: self._count].tolist(), top.logits[: self._count].tolist(), strict=True)
        self._waiting.append(
            TokenLogprob(
                self._likelihood(token, _logit(token, top) - top.logsumexp),
                tuple(self._likelihood(one, logit - top.logsumexp) for one, logit in likeliest),
            )
        )

    def attach(self, deltas: Sequence[Delta]) -> Iterator[Delta]:
        """The deltas, those of the answer with their tokens."""
        for delta in deltas:
            match delta:
                case AnswerDelta(text):
                    yield replace(delta, tokens=tuple(self._taken(text)))
                case ReasoningDelta(text) | ToolCallDelta(arguments=text):
                    for _ in self._taken(text):
                        pass
                    yield delta

    def end_message(self) -> None:
        """What has not come out by the end of a message never does."""
        self._waiting.clear()
        self._begun = 0

    def _taken(self, text: str) -> Iterator[TokenLogprob]:
        """The tokens whose last byte comes out with this text."""
        self._begun += len(text.encode("utf-8", "replace"))
        while self._waiting and self._begun >= len(self._waiting[0].token.bytes):
            token = self._waiting.popleft()
            self._begun -= len(token.token.bytes)
            yield token
        if not self._waiting:
            self._begun = 0  # text of the appliance's own, such as the blank line between two messages

    def _likelihood(self, token: int, logprob: float) -> Likelihood:
        piece = self._vocabulary.token_bytes(token)
        if piece is None:
            return Likelihood(self._vocabulary.decode([token]), (), logprob)
        return Likelihood(piece.decode("utf-8", "replace"), tuple(piece), logprob)


def _logit(token: int, top: TopLogits) -> float:
    place = (top.ids == token).argmax()
    return float(top.logits[place] if top.ids[place] == token else top.all_logits()[token])
