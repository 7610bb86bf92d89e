"""Turns with the faults of docs/harmony.md, combined at random. Whatever the faults are, no character of an answer is
lost, no thought and no argument of a call is shown as an answer, and no turn ends without a word. How the text is cut
into tokens does not matter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import accumulate

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from appliance.engine.harmony import Vocabulary
from tests.appliance.engine.parsed_turn import Parsed
from tests.appliance.engine.test_harmony_rules import one_by_one

_ROLE = st.sampled_from(
    ["assistant", "assistantassistant", "assistant<|start|>assistant", "assistant ", " assistant", ""]
)
_MARKS = st.sampled_from(["", "", "", "?", "??", " ", ".", "\n"])
_TYPE = st.sampled_from([" <|constrain|>json", " json", "<|constrain|>json", " code", "json", ""])
_NAME = st.sampled_from(
    ["functions.get_weather", "get_weather", "functions.functions.get_weather", "functions.get_weathercommentary"]
)
_RUBBISH = st.sampled_from(["<|start|>assistant", "<|channel|>commentary?commentary?<|end|>", "<|end|>", "<|start|>"])
_UNKNOWN = st.sampled_from(
    ["<|channel|>??<|message|>", "<|message|>", "<|start|>assistant<|channel|>thought<|message|>"]
)
_ENDS = st.sampled_from(["<|end|>", "<|end|>", "<|end|>", "", "<|end|><|end|>"])
_LAST = st.sampled_from(["<|return|>", "<|end|>", "<|call|>", "<|endoftext|>", ""])
_CALL_END = st.sampled_from(["<|call|>", "<|end|>", "<|return|>"])
# No word that a header could hold; letters that take several bytes, so that tokens split them.
_SAID = st.text("xyz äé🌍\n-.{}", min_size=1, max_size=12)


@dataclass(frozen=True)
class Part:
    """A message, or rubbish between messages: its Harmony, what it says, and its recipient."""

    kind: str
    wrote: str
    says: str


@st.composite
def _heads(draw: st.DrawFn, channel: str) -> str:
    """Everything before the text of a message of that channel."""
    doubled = draw(st.sampled_from([channel, channel, channel, f"{channel}<|channel|>{channel}", channel + channel]))
    return f"<|start|>{draw(_ROLE)}<|channel|>{draw(_MARKS)}{doubled}{draw(_MARKS)}<|message|>"


@st.composite
def _parts(draw: st.DrawFn, number: int) -> Part:
    kind = draw(st.sampled_from(["analysis", "analysis", "final", "commentary", "call", "lost", "unknown", "rubbish"]))
    text = f"«{number}» {draw(_SAID)}"  # each text has its own mark, and is never like JSON
    if kind == "rubbish":
        return Part(kind, draw(_RUBBISH), "")
    if kind in ("call", "lost"):
        name = draw(_NAME) if kind == "call" else draw(st.sampled_from(["functions.rm", "python", "", "functions."]))
        text = '{"city":"' + f"«{number}»" + '"}'
        before = f"<|channel|>{draw(_MARKS)}commentary to={name}{draw(_TYPE)}"
        after = f" to={name}<|channel|>commentary{draw(_TYPE)}"
        head = f"<|start|>{draw(_ROLE)}{draw(st.sampled_from([before, after]))}<|message|>"
        return Part(kind, head + text + draw(_CALL_END), text)
    if kind == "unknown":
        return Part(kind, draw(_UNKNOWN) + text + "<|end|>", text)
    return Part(kind, draw(_heads(kind)) + text + draw(_ENDS), text)


@st.composite
def _turns(draw: st.DrawFn) -> list[Part]:
    parts = [draw(_parts(number)) for number in range(draw(st.integers(1, 5)))]
    return [*parts, Part("last", draw(_LAST), "")]


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(turn=_turns())
def test_no_fault_of_a_header_costs_the_answer(vocabulary: Vocabulary, turn: list[Part]) -> None:
    encoded = [vocabulary.encoding.encode(part.wrote, allowed_special="all") for part in turn]
    tokens = [token for piece in encoded for token in piece]
    parsed = Parsed(vocabulary, tokens, functions=["get_weather"])
    ends = list(accumulate(map(len, encoded)))
    for part, end in zip(turn, ends, strict=True):
        _check(part, parsed, was_read=end <= parsed.used)
    _check_end(parsed)
    again = Parsed(vocabulary, one_by_one(vocabulary, tokens), functions=["get_weather"])
    assert (again.answer, again.reasoning, again.calls) == (parsed.answer, parsed.reasoning, parsed.calls)
    assert (again.outcome, again.parser.notice) == (parsed.outcome, parsed.parser.notice)


def _check(part: Part, parsed: Parsed, *, was_read: bool) -> None:
    arguments = [given for _, given in parsed.calls]
    if part.kind in ("final", "commentary") and was_read:
        assert part.says in parsed.answer
    elif part.kind == "analysis":
        assert not was_read or part.says in parsed.reasoning
        assert _mark(part) not in parsed.answer
    elif part.kind == "call":
        assert not was_read or part.says in arguments
        assert _mark(part) not in parsed.answer
    elif part.kind == "lost":
        assert not was_read or part.says in parsed.reasoning
        assert _mark(part) not in parsed.answer
    elif part.kind == "unknown" and was_read:
        assert part.says in parsed.reasoning + parsed.answer


def _check_end(parsed: Parsed) -> None:
    if parsed.parser.finished == "stop":
        assert parsed.answer.strip() or parsed.parser.notice
    assert (parsed.parser.finished == "tool_calls") <= bool(parsed.calls)
    assert not re.search(r"<\||assistant|get_weather", parsed.answer)


def _mark(part: Part) -> str:
    found = re.search("«.»", part.says)
    assert found is not None
    return found[0]
