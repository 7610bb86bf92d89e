"""The stretch of a text around words that were looked for."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from appliance.people.snippets import snippet


def marked(text: str, *words: str) -> str:
    return "".join(f"[{piece.text}]" if piece.is_marked else piece.text for piece in snippet(text, words))


@pytest.mark.parametrize(
    ("text", "words", "shown"),
    [
        ("What soup is there?", ["soup"], "What [soup] is there?"),
        ("SOUP and soups", ["soup"], "[SOUP] and [soup]s"),
        ("Wirtschaft", ["schaft"], "Wirtschaft"),
        ("über Öl und u\u0308ber", ["UBER", "ol"], "[über] [Öl] und [u\u0308ber]"),
        ("die STRASSE, die Straße", ["strasse"], "die [STRASSE], die [Straße]"),
        ("我们一起吃火锅吗", ["火锅"], "我们一起吃[火锅]吗"),
        ("it is 5 % of it", ["%"], "it is 5 [%] of it"),
        ("a don't b", ["don't"], "a [don]'[t] b"),
        ("  many\n\n blanks ", ["blanks"], "many [blanks]"),
        ("nothing here", ["else"], "nothing here"),
        ("", ["x"], ""),
    ],
)  # fmt: skip
def test_words_are_marked_where_the_index_finds_them(text: str, words: list[str], shown: str) -> None:
    assert marked(text, *words) == shown


def test_a_long_text_is_cut_around_the_first_word() -> None:
    shown = marked("before " * 100 + "needle" + " after" * 100, "needle")
    assert shown.startswith("…before ")
    assert shown.endswith("…")
    assert "[needle]" in shown
    assert len(shown) < 200


@given(st.text(max_size=300), st.lists(st.text(min_size=1, max_size=5), max_size=4))
def test_pieces_are_the_text_in_order(text: str, words: list[str]) -> None:
    whole = "".join(piece.text for piece in snippet(text, words))
    assert whole.strip("…") in " ".join(text.split())
