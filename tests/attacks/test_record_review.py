"""Attacks on the reviewer's view: rows damaged by somebody who can write the database, content hidden in a request, and
looks that leave no trace.
"""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from appliance.audit.details.codec import Details
from appliance.audit.event import Actor, Content, NewEvent
from appliance.people.accounts import Role
from appliance.people.conversations import NewMessage
from appliance.turns.request import Message, Tool, ToolCall, TurnRequest
from appliance.turns.run import run_turn
from tests.webui.conftest import Browser, Site

ADA = Actor("u1", "ada", "api", "10.0.0.7")
ANY_TYPE: tuple[object, ...] = (
    None, "", "xyz", "<script>alert(1)</script>", 7, -1, 2**62, -(2**62), 1.5, b"", b"\xff\xfe", b"x" * 31, 10**12,
)  # fmt: skip
HEADER_COLUMNS = (
    "time_us", "actor_id", "actor_name", "via", "address", "action", "outcome", "subject", "commitment", "subtrees",
)  # fmt: skip
CONTENT_COLUMNS = ("salt", "text", "details")
DETAILS: tuple[str, ...] = (
    "{", "[]", "null", "7", '"x"', "{}", '{"request":7}', '{"request":{}}', '{"tool_calls":7,"reasoning":[]}',
    '{"tool_calls":[{}],"reasoning":null}', '{"request":{"messages":[],"tools":[]}}', '{"token_ids":7}',
    '{"beside":{"system":"x"}}', '{"beside":[1]}', '{"beside":', "[" * 60_000,
    '{"request":{"messages":[{"content":7}]}}',
)  # fmt: skip
NOT_UTF8 = "CAST(x'fffe41' AS TEXT)"


@pytest.fixture
def reviewer(site: Site) -> Browser:
    return site.browser(site.add_user("rita", Role.REVIEWER, Role.ADMIN))


def ask(site: Site, request: TurnRequest, *, conversation_id: str | None = None) -> tuple[int, int]:
    turn = run_turn(site.services.record, site.engine.client, ADA, request, conversation_id=conversation_id)
    list(turn)
    assert turn.prompt_event is not None
    assert turn.answer_event is not None
    return turn.prompt_event, turn.answer_event


def question(text: str = "Where is the archive?", **changes: Any) -> TurnRequest:
    plain: dict[str, Any] = {"id": f"turn {text}"[:40], "user": "u1", "messages": (Message("user", text),), "seed": 1}
    return TurnRequest(**plain | changes)


def database_file(site: Site) -> Path:
    return site.services.config.home / "state" / "database" / "appliance.sqlite3"


def allow_any_value(path: Path) -> None:
    """Remove NOT NULL from the schema, as somebody who owns the file can."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("PRAGMA writable_schema = ON")
        connection.execute("UPDATE sqlite_master SET sql = replace(sql, ' NOT NULL', '') WHERE type = 'table'")


@contextmanager
def damaged(path: Path, table: str, sequence: int, column: str, value: object, *, sql: str = "?") -> Iterator[None]:
    """Put `value` into `column` of the row; undo it afterwards."""
    with closing(sqlite3.connect(path)) as connection:
        (before,) = connection.execute(f"SELECT {column} FROM {table} WHERE sequence = ?", [sequence]).fetchone()  # noqa: S608
        update = f"UPDATE {table} SET {column} = {{}} WHERE sequence = {sequence}"  # noqa: S608
        with connection:
            connection.execute(update.format(sql), [value] if sql == "?" else [])
        try:
            yield
        finally:
            with connection:
                connection.execute(update.format("?"), [before])


def check_every_page(site: Site, reviewer: Browser, sequence: int, what: object) -> str:
    """Check that no page fails and that the list has the event. Returns the event's page."""
    listed = ""
    for path in ("/review", "/review?text=archive", "/review?action=turns&since=2000-01-01"):
        response = reviewer.get(path)
        assert response.status_code == 200, (what, path, response.text)
        listed = listed or response.text
    assert f'data-row="{sequence}"' in listed, what
    pane = reviewer.client.get(f"/review/{sequence}", headers={"X-Pane": "event", "Accept": "application/json"})
    assert pane.status_code == 200, what
    assert reviewer.get(f"/review/{sequence}/source").status_code in (200, 404), what
    page: str = pane.get_json()["html"]
    assert "<script>" not in page, what
    return page


@pytest.mark.parametrize("column", HEADER_COLUMNS)
def test_any_value_in_a_column_of_an_event_is_shown_as_damage(site: Site, reviewer: Browser, column: str) -> None:
    _, answer = ask(site, question())
    for _ in range(16):  # so that the damaged hashes are not at the tree's right edge, which every append needs
        site.services.record.append(NewEvent(ADA, "sign_in"))
    path = database_file(site)
    allow_any_value(path)
    for value in ANY_TYPE:
        with damaged(path, "audit_events", answer, column, value):
            page = check_every_page(site, reviewer, answer, (column, value))
            assert "is damaged" in page or 'data-proof="broken"' in page, (column, value)
            if value == "xyz":
                for other in ("/review/integrity", "/admin"):
                    assert reviewer.get(other).status_code == 200, (column, other)
                assert "event 4" in reviewer.post("/review/integrity").text
    with damaged(path, "audit_events", answer, column, None, sql=NOT_UTF8):
        page = check_every_page(site, reviewer, answer, (column, "not UTF-8"))
        assert "is damaged" in page or 'data-proof="broken"' in page, column


@pytest.mark.parametrize("column", CONTENT_COLUMNS)
def test_any_value_in_a_column_of_a_content_is_shown_as_damage(site: Site, reviewer: Browser, column: str) -> None:
    path = database_file(site)
    for sequence in ask(site, question()):
        allow_any_value(path)
        for value in (*ANY_TYPE, *(DETAILS if column == "details" else ())):
            with damaged(path, "audit_contents", sequence, column, value):
                page = check_every_page(site, reviewer, sequence, (column, value))
                assert "is damaged" in page or 'data-proof="broken"' in page, (column, value)
        with damaged(path, "audit_contents", sequence, column, None, sql=NOT_UTF8):
            assert "is damaged" in check_every_page(site, reviewer, sequence, (column, "not UTF-8"))


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(("messages", column) for column in ("role", "content", "reasoning", "tool_calls", "details", "created_us")),
        *(("messages", column) for column in ("parent_id", "conversation_id")),
        *(("conversations", column) for column in ("title", "pinned", "created_us", "updated_us", "leaf_id")),
    ],
)
def test_a_damaged_conversation_hides_no_other_and_says_so(site: Site, table: str, column: str) -> None:
    ada = site.add_user("ada")
    conversations, browser = site.services.conversations, site.browser(ada)
    for title in ("Mine", "Other"):
        conversation = conversations.create(ada.id, title=title)
        conversations.append(ada.id, conversation.id, NewMessage("user", "Hello"))
        conversations.append(
            ada.id, conversation.id, NewMessage("assistant", "There", facts=Details(unknown={"model": "m"}))
        )
    path = database_file(site)
    allow_any_value(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA foreign_keys = OFF")
        key = "number" if table == "messages" else "rowid"
        (last, before) = connection.execute(
            f"SELECT {key}, {column} FROM {table} ORDER BY {key} DESC LIMIT 1"  # noqa: S608
        ).fetchone()
        update = f"UPDATE {table} SET {column} = {{}} WHERE {key} = {last}"  # noqa: S608
        for value in (*ANY_TYPE, *(DETAILS if column in ("details", "tool_calls") else ()), NOT_UTF8):
            with connection:
                is_sql = value is NOT_UTF8
                connection.execute(update.format(value if is_sql else "?"), [] if is_sql else [value])
            for address in (f"/chat/{conversation.id}", f"/chat/{conversation.id}/turns/none"):
                assert browser.get(address).status_code in (200, 404, 503), (value, address)
            listed = browser.get("/chat")
            assert listed.status_code == 200, value
            assert "Mine" in listed.text, value
        with connection:
            connection.execute(update.format("?"), [before])


def test_damaged_event_says_what_stands_in_it_and_what_to_do(site: Site, reviewer: Browser) -> None:
    _, answer = ask(site, question())
    with damaged(database_file(site), "audit_events", answer, "action", "xyz"):
        page = reviewer.get(f"/review/{answer}").text
    assert f"Event {answer} <span" in page
    assert "this release knows no action &#39;xyz&#39;" in page
    assert '<dd class="mono">xyz</dd>' in page
    assert "Keep the machine as it is" in page


@pytest.mark.parametrize("sequence", [0, -5, 2**62, 2**63 - 1])
def test_row_that_was_put_there_is_listed_and_shown(site: Site, reviewer: Browser, sequence: int) -> None:
    ask(site, question())
    with closing(sqlite3.connect(database_file(site))) as connection, connection:
        connection.execute(
            "INSERT INTO audit_events SELECT ?, time_us, actor_id, actor_name, via, address, action, outcome, subject,"
            " commitment, subtrees FROM audit_events WHERE sequence = 1", [sequence]
        )  # fmt: skip
    listed = reviewer.get("/review")
    assert listed.status_code in (200, 503)  # a record that ends with such a row takes no event, and says so
    assert reviewer.get(f"/review/{sequence}").status_code in (200, 503)
    assert reviewer.get("/review/integrity").status_code == 200


@pytest.mark.parametrize("number", [10**30, -(10**30), 2**63, 999])
def test_number_of_no_event_is_not_found(reviewer: Browser, number: int) -> None:
    assert reviewer.get(f"/review/{number}").status_code == 404
    assert reviewer.get(f"/review?before={number}").status_code == 200


def test_damaged_event_hides_no_other_event(site: Site, reviewer: Browser) -> None:
    record = site.services.record
    numbers = [record.append(NewEvent(ADA, "sign_in", content=Content(f"n{n}"))).sequence for n in range(9)]
    with damaged(database_file(site), "audit_events", numbers[4], "actor_name", None, sql=NOT_UTF8):
        page = reviewer.get("/review").text
    assert [n for n in map(int, re.findall(r'data-row="(\d+)"', page)) if n in numbers] == numbers[::-1]


SECRET = "xanthippe"  # a word that occurs nowhere else
HIDDEN: dict[str, dict[str, Any]] = {
    "system": {"messages": (Message("system", f"Do {SECRET}"), Message("user", "Please continue"))},
    "developer": {
        "messages": (Message("user", "Hi"), Message("developer", SECRET), Message("user", "Please continue"))
    },
    "earlier turn": {
        "messages": (Message("user", SECRET), Message("assistant", "Yes?"), Message("user", "Please continue"))
    },
    "earlier answer": {
        "messages": (Message("user", "Hi"), Message("assistant", SECRET), Message("user", "Please continue"))
    },
    "begun answer": {"messages": (Message("user", "Please continue"), Message("assistant", f"First {SECRET}"))},
    "tool description": {"tools": (Tool("clock", f"the {SECRET}", None),)},
    "tool name": {"tools": (Tool(SECRET, "the time", None),)},
    "tool parameter": {"tools": (Tool("clock", "time", {"properties": {"a": {"description": SECRET}}}),)},
    "stop text": {"stop": (SECRET,)},
    "call": {
        "messages": (
            Message("user", "Hi"),
            Message("assistant", "", tool_calls=(ToolCall("c1", "clock", json.dumps({"at": SECRET})),)),
            Message("tool", "noon", tool_call_id="c1", name="clock"),
            Message("user", "Please continue"),
        )
    },
    "tool result": {
        "messages": (
            Message("user", "Hi"),
            Message("assistant", "", tool_calls=(ToolCall("c1", "clock", "{}"),)),
            Message("tool", f"It is {SECRET}", tool_call_id="c1", name="clock"),
            Message("assistant", "Noon."),
            Message("user", "Please continue"),
        )
    },
    "reasoning": {
        "messages": (
            Message("user", "Hi"),
            Message("assistant", "", reasoning=SECRET, tool_calls=(ToolCall("c1", "clock", "{}"),)),
            Message("tool", "noon", tool_call_id="c1", name="clock"),
        )
    },
}  # fmt: skip


@pytest.mark.parametrize("where", HIDDEN)
def test_nothing_in_a_request_is_hidden_from_the_reviewer(site: Site, reviewer: Browser, where: str) -> None:
    prompt, _ = ask(site, question("Please continue", **HIDDEN[where]))
    shown = reviewer.client.get(f"/review/{prompt}", headers={"X-Pane": "event", "Accept": "application/json"})
    html = shown.get_json()["html"]
    whole, _, source = html.partition('aria-labelledby="source-title"')
    assert SECRET in whole, "the request as the model saw it"
    assert SECRET in source, "the exact source"
    assert f'data-row="{prompt}"' in reviewer.get(f"/review?text={SECRET}").text, "search"
    assert SECRET in reviewer.get(f"/review/{prompt}/source").text
    row = re.search(rf'data-row="{prompt}".*?</li>', reviewer.get("/review").text, re.DOTALL)
    assert row is not None
    assert "[+ " in row[0], "the list says that more stands elsewhere"


def test_the_list_counts_what_stands_elsewhere(site: Site, reviewer: Browser) -> None:
    messages = (
        Message("system", "s" * 812), *(Message(role, "x" * 10) for role in ("user", "assistant") * 3),
        Message("user", "Please continue"),
    )  # fmt: skip
    ask(site, question(messages=messages))
    page = re.sub(r"</?span[^>]*>", "", reviewer.get("/review").text)
    assert "[+ system 812 characters, 6 earlier messages (60 characters)] Please continue" in page


def test_a_plain_question_has_nothing_beside_it(site: Site, reviewer: Browser) -> None:
    ask(site, question("Just this"))
    assert "[+ " not in reviewer.get("/review").text


def test_characters_that_are_not_seen_are_named(site: Site, reviewer: Browser) -> None:
    tags = "".join(chr(0xE0000 + ord(char)) for char in SECRET)
    prompt, _ = ask(site, question(f"a\u202eb c\u200b\u200b\u200bd {tags} e\u2060f"))
    for page in (reviewer.get("/review").text, reviewer.get(f"/review/{prompt}").text):
        for name in ("U+202E", "U+200B ×3", f"tags spelling {SECRET}"):  # noqa: RUF001
            assert f'<span class="unseen">{name}</span>' in page, name
        assert "\u202e" not in page
    assert f'data-row="{prompt}"' in reviewer.get(f"/review?text={SECRET}").text


def test_a_word_cut_by_unseen_characters_is_found(site: Site, reviewer: Browser) -> None:
    prompt, _ = ask(site, question("Tell me of the xan\u200bthip\u00adpe"))
    assert f'data-row="{prompt}"' in reviewer.get(f"/review?text={SECRET}").text


def test_a_very_long_message_is_in_the_source_to_its_end(site: Site, reviewer: Browser) -> None:
    prompt, _ = ask(site, question("word " * 30_000 + SECRET))
    assert "source</a> has" in reviewer.get(f"/review/{prompt}").text
    assert SECRET in reviewer.get(f"/review/{prompt}/source").text
    assert f'data-row="{prompt}"' in reviewer.get(f"/review?text={SECRET}").text


LOOKS = (
    "/review",
    "/review?before=50",
    "/review?text=archive",
    "/review?text=archive&before=50",
    "/review?since=2020-01-01",
    "/review?action=review",
    "/review?user=ada&before=4",
)


@pytest.mark.parametrize("path", LOOKS)
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_every_look_at_the_list_is_one_event(site: Site, reviewer: Browser, path: str, method: str) -> None:
    ask(site, question())
    before = len(site.events())
    page = reviewer.client.open(path, method=method).text
    (event,) = site.events()[before:]
    assert (event.header.action, event.header.actor.name) == ("review_search", "rita")
    assert event.content is not None
    details = event.content.details.values()
    shown = [int(n) for n in re.findall(r'data-row="(\d+)"', page)]
    if method == "GET":
        assert details["shown"] == len(shown)
        assert (details.get("newest"), details.get("oldest")) == ((shown[0], shown[-1]) if shown else (None, None))
    assert ("before" in details) == ("before" in path)


@pytest.mark.parametrize("path", ["/review/1", "/review/1/source"])
def test_every_look_at_an_event_is_an_event(site: Site, reviewer: Browser, path: str) -> None:
    site.services.record.append(NewEvent(ADA, "sign_in", content=Content("said")))
    before = len(site.events())
    for count in (1, 2):
        reviewer.client.get(path, headers={"X-Pane": "event", "Accept": "application/json"})
        assert [event.header.action for event in site.events()[before:]] == ["review_read"] * count


def test_a_page_that_looks_nothing_up_names_nobody(site: Site, reviewer: Browser) -> None:
    ask(site, question())
    before = len(site.events())
    assert ">ada<" not in reviewer.get("/review?since=never").text
    assert len(site.events()) == before


def test_verifying_and_taking_a_checkpoint_out_are_events(site: Site, reviewer: Browser) -> None:
    ask(site, question())
    reviewer.post("/review/integrity")
    assert (site.events()[-1].header.action, site.events()[-1].header.actor.name) == ("record_verified", "rita")
    home = str(site.services.config.home)
    for command, action in (("verify", "record_verified"), ("checkpoint", "checkpoint_exported")):
        called = [sys.executable, "-m", "appliance.cli", "audit", command, "--home", home]  # it confines its process
        done = subprocess.run(called, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        event = site.events()[-1]
        assert (event.header.action, event.header.actor.via) == (action, "cli")
