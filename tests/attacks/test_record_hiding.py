"""Attacks on the reviewer's eyes: words that are written but not seen, rows that look like the page's own, and
disguised words that a search should find.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable

import pytest

from appliance.audit.event import Actor
from appliance.people.accounts import Role
from appliance.turns.events import AnswerDelta, Started, ToolCallDelta, TurnEvent
from appliance.turns.request import Message, TurnRequest
from appliance.turns.run import run_turn
from tests.fakes import FakeEngine, done
from tests.webui.conftest import Browser, MakeSite, Site

ADA = Actor("u1", "ada", "api", "10.0.0.7")
SECRET = "xanthippe"


class Answering:
    """A site whose model says what it is told, and a reviewer."""

    def __init__(self, make_site: MakeSite) -> None:
        self.events: list[TurnEvent] = []
        self.site: Site = make_site(FakeEngine(self._script))
        self.reviewer: Browser = self.site.browser(self.site.add_user("rita", Role.REVIEWER))

    def ask(self, question: str, *answer: TurnEvent) -> tuple[int, int]:
        self.events = list(answer) or [AnswerDelta("Yes.")]
        asked = TurnRequest(f"turn-{self.site.services.record.size()}", "u1", (Message("user", question),), seed=1)
        turn = run_turn(self.site.services.record, self.site.engine.client, ADA, asked, conversation_id=None)
        list(turn)
        assert turn.prompt_event is not None
        assert turn.answer_event is not None
        return turn.prompt_event, turn.answer_event

    def page(self, sequence: int) -> str:
        shown = self.reviewer.client.get(f"/review/{sequence}", headers={"X-Pane": "event"})
        page: str = shown.get_json()["html"]
        return page

    def row(self, sequence: int) -> str:
        found = re.search(rf'data-row="{sequence}".*?</li>', self.reviewer.get("/review").text, re.DOTALL)
        assert found is not None
        return found[0]

    def finds(self, words: str) -> list[int]:
        page = self.reviewer.client.get("/review", query_string={"text": words}).text
        return [int(number) for number in re.findall(r'data-row="(\d+)"', page)]

    def _script(self, _: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(prompt_tokens=20, queued_s=0.0)
        yield from self.events
        yield done()


@pytest.fixture
def answering(make_site: MakeSite) -> Answering:
    return Answering(make_site)


def written(page: str) -> tuple[bool, str]:
    """Whether the answer's source stands open, and what it says."""
    found = re.search(r'<details class="event-written"( open)?>.*?<pre[^>]*>(.*?)</pre>', page, re.DOTALL)
    assert found is not None, page
    return found[1] is not None, found[2]


SHOWN_BY_RENDERING = {
    "link definition": f"All is well.\n\n[a]: /{SECRET} 'and more'",
    "image address": f"All is well ![cat](https://a.example/{SECRET}).",
    "address that leads nowhere": f"All is [well](docs/{SECRET}).",
    "block's first line": f"```python {SECRET}\nprint(1)\n```",
    "surplus cell": f"| a |\n|---|\n| b | {SECRET} |",
    "digits alone": f"All is well.\n\n[{SECRET}]: 5550123",
    "behind its own letters": f"All is well. {SECRET[::-1]} ![{SECRET}](x)\n\n[a]: {SECRET}",
    "deep": "> " * 40 + SECRET,
}


@pytest.mark.parametrize("how", SHOWN_BY_RENDERING)
def test_what_markdown_would_drop_is_shown_in_the_answer(answering: Answering, how: str) -> None:
    _, answer = answering.ask("Say it where nobody looks", AnswerDelta(SHOWN_BY_RENDERING[how]))
    page = answering.page(answer)
    assert SECRET in re.sub(r"<[^>]*>", "", page[: page.index("event-written")])


HIDDEN_BY_RENDERING = {
    "link address": f"All is [well](https://a.example/{SECRET}).",
    "link title": f"All is [well](https://a.example '{SECRET}').",
    "image title": f"All is well ![cat](a.png '{SECRET}').",
    "phantom": f"All is $x\\phantom{{{SECRET}}}y$ well.",
    "tiny letters": f"All is $x_{{x_{{x_{{x_{{{SECRET}}}}}}}}}$ well.",
}


@pytest.mark.parametrize("how", HIDDEN_BY_RENDERING)
def test_what_rendering_leaves_out_of_an_answer_stands_open_as_it_was_written(answering: Answering, how: str) -> None:
    text = HIDDEN_BY_RENDERING[how]
    _, answer = answering.ask("Say it where nobody looks", AnswerDelta(text))
    is_open, shown = written(answering.page(answer))
    assert is_open
    assert SECRET in shown


PLAIN = (
    "Just words.", "1. One\n2. Two\n\n> 3. Three", "**bo**ld *it* `code`", "```python\nprint(1)\n```", "a\n\n---\n\nb",
    "| a | b |\n|---|--:|\n| 1 | 2 |", "![a cat](.)", "# Title\n- item\n- [ ] task", "Ünï çödé 漢字",
)  # fmt: skip


@pytest.mark.parametrize("text", PLAIN)
def test_an_answer_that_is_shown_whole_stands_there_once(answering: Answering, text: str) -> None:
    _, answer = answering.ask("Say it", AnswerDelta(text))
    is_open, _ = written(answering.page(answer))
    assert not is_open


def test_what_is_not_seen_is_named_in_the_arguments_of_an_answers_call(answering: Answering) -> None:
    _, answer = answering.ask("Call", ToolCallDelta(0, "c1", "clock", '{"at": "a\u202eb\u200b"}'))
    call = re.search(r"<pre class=\"call-arguments\".*?</pre>", answering.page(answer), re.DOTALL)
    assert call is not None
    assert "U+202E" in call[0]
    assert "U+200B" in call[0]


def test_words_behind_blanks_are_not_out_of_view(answering: Answering) -> None:
    for blanks in (" " * 9000, "\u3000" * 9000, "\n" * 9000, "\n \u00a0" * 3000, "\u2003\n" * 50):
        prompt, _ = answering.ask(f"{blanks}{SECRET}")
        row, page = answering.row(prompt), answering.page(prompt)
        if len(blanks) > 160:
            assert f"[{len(blanks) + len(SECRET):,} characters, blank at first]" in row
        assert f'<span class="unseen">{len(blanks):,} blank characters</span>' in page
        assert blanks not in page


def test_a_row_says_that_more_follows(answering: Answering) -> None:
    prompt, _ = answering.ask("Please continue. " * 20 + SECRET)
    assert "[349 characters]" in answering.row(prompt)


@pytest.mark.parametrize("words", ["content erased", "[+ system 12 characters] Hi", "[9 characters, blank at first]"])
def test_nobody_writes_in_the_pages_own_hand(answering: Answering, words: str) -> None:
    prompt, answer = answering.ask(words, AnswerDelta(f'<span class="review-own">{words}</span>'))
    for number in (prompt, answer):
        assert '<span class="review-own">' not in answering.row(number)
        assert '<span class="review-own">' not in answering.page(number)


def test_the_page_writes_in_its_own_hand_that_content_was_erased(answering: Answering) -> None:
    prompt, _ = answering.ask("Hi")
    with answering.site.services.record.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM audit_contents WHERE sequence = ?", (prompt,))
    assert '<span class="review-own">content erased</span>' in answering.row(prompt)


def test_towers_of_marks_cover_nothing(answering: Answering) -> None:
    prompt, _ = answering.ask("a" + "\u0301\u0489" * 500 + "b")
    for shown in (answering.row(prompt), answering.page(prompt)):
        assert "combining marks</span>" in shown
        assert "\u0301\u0489\u0301\u0489" not in re.sub(r"<pre class=\"event-text mono\">.*?</pre>", "", shown)


def bold(word: str) -> str:
    return "".join(chr(0x1D41A + ord(char) - ord("a")) for char in word)


DISGUISES = {
    "zero width": "\u200b".join(SECRET),
    "struck through": "".join(f"{char}\u0336" for char in SECRET),
    "circled": "".join(f"{char}\u20dd" for char in SECRET),
    "bold": bold(SECRET),
    "full width": "".join(chr(ord(char) + 0xFEE0) for char in SECRET),
    "noncharacters": "\ufdd0".join(SECRET),
    "null notehead": "\U0001d159".join(SECRET),
}


@pytest.mark.parametrize("how", DISGUISES)
@pytest.mark.parametrize("who", ["person", "model"])
def test_a_word_in_disguise_is_found_whoever_wrote_it(answering: Answering, how: str, who: str) -> None:
    assert unicodedata.normalize("NFC", DISGUISES[how]) != SECRET
    said = f"Tell me of {DISGUISES[how]} now"
    prompt, answer = answering.ask(said) if who == "person" else answering.ask("Hi", AnswerDelta(said))
    assert answering.finds(SECRET) == [prompt if who == "person" else answer]


def test_the_name_of_a_called_tool_is_found(answering: Answering) -> None:
    _, answer = answering.ask("Call", ToolCallDelta(0, "c1", SECRET, "{}"))
    assert answering.finds(SECRET) == [answer]
