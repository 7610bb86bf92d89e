"""docs/harmony.md, row by row: what the model wrote, and what the user gets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.engine.harmony import ORDINARY_TOKENS, Vocabulary
from tests.appliance.engine.parsed_turn import Parsed, parse

PAGE = (Path(__file__).parents[3] / "docs" / "harmony.md").read_text(encoding="utf-8")
_SPECIAL = re.compile(r"<(start|end|message|channel|constrain|return|call|endoftext)>")
# The kinds that the page must have a rule for: a removed row must not go unnoticed.
KINDS = (
    "unknown channel", "missing channel", "recipient before the channel", "recipient twice",
    "recipient in place of the role", "glued to the name", "namespace missing", "namespace twice", "role twice",
    "rubbish in the header, no message", "end of turn inside a header", "several finals",
    "preamble before the answer", "analysis only", "call of a function that was not offered",
    "arguments that are not JSON", "call on the analysis channel", "end and return",
    "special tokens inside an answer", "parallel calls",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    kind: str
    wrote: str
    reasoning: str
    answer: str
    calls: list[str]
    end: str
    notice: str | None


def rows() -> list[Row]:
    table = PAGE.split("## The rules")[1].split("## ")[0]
    found = []
    for line in table.splitlines():
        if line.startswith("| ") and not line.startswith("| kind"):
            kind, wrote, reasoning, answer, calls, end = line.strip("|").split(" | ")
            finished, _, notice = end.strip().partition("; notice: ")
            spelt = _SPECIAL.sub(r"<|\1|>", wrote[wrote.index("`") + 1 : wrote.rindex("`")])
            found.append(
                Row(
                    kind.strip(), spelt, _text(reasoning), _text(answer), re.findall(r"`([^`]*)`", calls), finished,
                    notice or None,
                )
            )  # fmt: skip
    return found


def _text(cell: str) -> str:
    return "" if cell.strip() == "-" else cell.strip().replace(" ¶ ", "\n\n")


ROWS = rows()


def test_the_page_has_a_rule_for_every_kind() -> None:
    assert [kind for kind in KINDS if not any(row.kind.startswith((kind, f"sound: {kind}")) for row in ROWS)] == []
    assert len({row.wrote for row in ROWS}) == len(ROWS) > 50


@pytest.mark.parametrize("row", ROWS, ids=[row.kind for row in ROWS])
def test_what_the_model_wrote_becomes_what_the_page_says(vocabulary: Vocabulary, row: Row) -> None:
    tokens = vocabulary.encoding.encode(row.wrote, allowed_special="all")
    for pieces in (tokens, one_by_one(vocabulary, tokens)):
        parsed = Parsed(vocabulary, pieces, functions=["get_weather"])
        # Where <|message|> is missing, the blank before the text belongs to the text.
        assert (parsed.reasoning.lstrip(), parsed.answer.lstrip()) == (row.reasoning, row.answer)
        assert parsed.calls == [("get_weather", arguments) for arguments in row.calls]
        assert (parsed.parser.finished, parsed.parser.notice) == (row.end, row.notice)
        assert parsed.parser.malformed == (not _is_sound(row))


def _is_sound(row: Row) -> bool:
    sound = ("sound", "preamble", "several", "content type", "parallel", "call on the analysis", "an empty answer")
    return row.kind.startswith(sound)


def one_by_one(vocabulary: Vocabulary, tokens: list[int]) -> list[int]:
    """The same text, with one token for each byte."""
    single = {vocabulary.token_bytes(token): token for token in range(256)}
    pieces: list[int] = []
    for token in tokens:
        text = vocabulary.token_bytes(token) if token < ORDINARY_TOKENS else None
        pieces += [token] if text is None else [single[bytes([byte])] for byte in text]
    return pieces


def test_an_answer_may_spell_special_tokens_in_ordinary_ones(vocabulary: Vocabulary) -> None:
    said = "Use <|end|> and <|start|>user<|message|> and <|return|>."
    head, tail = (vocabulary.encoding.encode(part, allowed_special="all") for part in FINAL)
    parsed = Parsed(vocabulary, [*head, *vocabulary.encode(said), *tail])
    assert (parsed.answer, parsed.outcome) == (said, ("stop", False))


FINAL = ("<|channel|>final<|message|>", "<|return|>")


def test_a_stop_text_that_leaves_nothing_is_no_missing_answer(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, "<|channel|>final<|message|>No.<|return|>", stop=["No"])
    assert (parsed.answer, parsed.parser.finished, parsed.parser.notice) == ("", "stop", None)
    assert parsed.parser.stop_text == "No"


def test_a_turn_cut_off_while_thinking_has_no_notice(vocabulary: Vocabulary) -> None:
    parsed = parse(vocabulary, "<|channel|>analysis<|message|>Hm")
    assert (parsed.parser.finished, parsed.parser.notice) == (None, None)


def test_a_text_of_unknown_kind_that_is_cut_off_is_kept(vocabulary: Vocabulary) -> None:
    assert parse(vocabulary, "<|channel|>??<|message|>Oslo is").answer == "Oslo is"
    assert parse(vocabulary, "Oslo is").answer == "Oslo is"


def test_the_stop_text_that_is_complete_first_counts_however_the_text_is_cut(vocabulary: Vocabulary) -> None:
    tokens = vocabulary.encoding.encode("<|channel|>final<|message|>abcdef<|return|>", allowed_special="all")
    for pieces in (tokens, one_by_one(vocabulary, tokens)):
        parsed = Parsed(vocabulary, pieces, stop=["abcde", "bc"])
        assert (parsed.answer, parsed.parser.stop_text) == ("a", "bc")
