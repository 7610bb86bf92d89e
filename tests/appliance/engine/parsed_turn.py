"""What the parser makes of a stream of sampled tokens, gathered for its tests."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from appliance.engine.harmony import MESSAGE, START, Vocabulary
from appliance.engine.harmony_parser import Delta, HarmonyParser
from appliance.turns.events import AnswerDelta, FinishReason, ReasoningDelta, ToolCallDelta


class Parsed:
    """What the parser made of a stream of tokens."""

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


def headers(vocabulary: Vocabulary, tokens: Sequence[int]) -> list[str]:
    """The headers of a turn, from the role to <|message|>. One that is cut off at the end is left out."""
    found, header = [], vocabulary.encode("assistant")
    in_header = True
    for token in tokens:
        if token == START:
            header, in_header = [], True
        elif in_header:
            header.append(token)
            if token == MESSAGE:
                found.append(vocabulary.encoding.decode(header))
                in_header = False
    return found


def unsound(written: Sequence[str], functions: Sequence[str]) -> list[str]:
    """The headers that the format's guide does not have for a model with these functions."""
    to = rf" to=functions\.(?:{'|'.join(functions)})" if functions else "(?!)"
    json = r"(?: <\|constrain\|>json)?"
    sound = re.compile(
        rf"assistant(?:<\|channel\|>(?:analysis|commentary|final{json}|(?:analysis|commentary){to}{json})"
        rf"|{to}<\|channel\|>(?:analysis|commentary){json})<\|message\|>"
    )
    return [header for header in written if not sound.fullmatch(header)]
