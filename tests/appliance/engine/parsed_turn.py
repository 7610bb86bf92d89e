"""What a stream of sampled tokens comes to, gathered for the tests of the parser."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from appliance.engine.harmony import Vocabulary
from appliance.engine.harmony_parser import Delta, HarmonyParser
from appliance.turns.events import AnswerDelta, FinishReason, ReasoningDelta, ToolCallDelta


class Parsed:
    """What a stream of tokens came to."""

    def __init__(
        self, vocabulary: Vocabulary, tokens: Iterable[int], *, functions: Sequence[str] = (), stop: Sequence[str] = ()
    ) -> None:
        self.parser = HarmonyParser(vocabulary, turn_id="t1", functions=functions, stop=stop)
        self.deltas: list[Delta] = []
        self.used = 0
        for token in tokens:
            if self.parser.finished is not None:
                break
            self.deltas += self.parser.push(token)
            self.used += 1
        self.deltas += self.parser.flush()

    @property
    def reasoning(self) -> str:
        return "".join(d.text for d in self.deltas if isinstance(d, ReasoningDelta))

    @property
    def answer(self) -> str:
        return "".join(d.text for d in self.deltas if isinstance(d, AnswerDelta))

    @property
    def calls(self) -> list[tuple[str | None, str]]:
        pieces = [d for d in self.deltas if isinstance(d, ToolCallDelta)]
        return [
            (
                next(d.name for d in pieces if d.index == index),
                "".join(d.arguments for d in pieces if d.index == index),
            )
            for index in sorted({d.index for d in pieces})
        ]

    @property
    def outcome(self) -> tuple[FinishReason | None, bool]:
        return self.parser.finished, self.parser.malformed


def parse(vocabulary: Vocabulary, text: str, *, functions: Sequence[str] = (), stop: Sequence[str] = ()) -> Parsed:
    tokens = vocabulary.encoding.encode(text, allowed_special="all")
    return Parsed(vocabulary, tokens, functions=functions, stop=stop)
