"""Reviewers find what was said, newest first, and leave a trace of having looked."""

from __future__ import annotations

from dataclasses import replace

import pytest

from appliance.audit import merkle
from appliance.audit.details.codec import Details
from appliance.audit.details.review import SearchDetails
from appliance.audit.erasure import erase
from appliance.audit.event import Actor, Content, NewEvent, encode_header
from appliance.audit.log import AuditLog, EventNotFoundError, RecordError
from appliance.audit.review import Filter, Page, actor_names, read_event, search
from appliance.audit.rows import EventRow
from appliance.database.transactions import Database
from tests.appliance.records import SYSTEM, fill

REVIEWER = Actor("r1", "rita", "web", "10.0.0.7")
ADA = Actor("a1", "ada", "web")


def say(log: AuditLog, text: str, **details: object) -> int:
    return log.append(NewEvent(ADA, "prompt", content=Content(text, Details(unknown=details)))).sequence


def found(log: AuditLog, wanted: Filter) -> list[int]:
    return numbers(search(log, REVIEWER, wanted))


def numbers(page: Page) -> list[int]:
    return [row.sequence for row in page.rows]


def test_newest_come_first_and_pages_join_without_gap(log: AuditLog) -> None:
    fill(log, 7)
    page = search(log, REVIEWER, Filter(), limit=3)
    pages = [numbers(page)]
    while page.older is not None:
        page = search(log, REVIEWER, Filter(), before=page.older, limit=3)
        pages.append(numbers(page))
    assert pages == [[7, 6, 5], [4, 3, 2], [1]]


def test_pages_of_a_text_search_join_without_gap(log: AuditLog) -> None:
    fill(log, 9)  # 4 and 8 have no content
    page = search(log, REVIEWER, Filter(text="said"), limit=4)
    rest = search(log, REVIEWER, Filter(text="said"), before=page.older, limit=4)
    assert (numbers(page), numbers(rest), rest.older) == ([9, 7, 6, 5], [3, 2, 1], None)


def test_each_filter_leaves_what_it_should(log: AuditLog) -> None:
    fill(log, 6)
    times = [log.get(n).header.time_us for n in range(1, 7)]
    log.append(NewEvent(SYSTEM, "denied", "denied"))
    assert found(log, Filter(user="bob")) == [6, 4, 2]
    assert found(log, Filter(actions=("denied",))) == [7]
    assert found(log, Filter(subject="turn-3")) == [3]
    assert found(log, Filter(since_us=times[2], until_us=times[4])) == [4, 3]
    assert found(log, Filter(user="ada", text="word5")) == [5]
    assert found(log, Filter(user="nobody")) == []


@pytest.mark.parametrize(
    ("query", "hit"),
    [
        ("quarterly", True),
        ("QUARTERLY", True),
        ("quart", True),
        ("report quarterly", True),
        ("arterly", False),
        ("quarterly missing", False),
        ('"quarterly" OR x', False),
        ("o'brien", True),
        ("größe", True),
        ("finance/2026", True),
        ("???", False),
        ("* ) (", False),
        ("back\\slash", True),
        ("nul\0", False),
    ],
)
def test_every_word_of_a_query_must_occur_whole_or_as_a_beginning(log: AuditLog, query: str, hit: bool) -> None:
    number = say(log, "The quarterly report for O'Brien, in voller Größe: finance/2026 and back\\slash")
    say(log, "nothing of the kind")
    assert found(log, Filter(text=query)) == ([number] if hit else [])


def test_reasoning_tool_arguments_and_messages_sent_by_programs_are_found(log: AuditLog) -> None:
    answer = log.append(
        NewEvent(ADA, "answer", content=Content("fine", Details(unknown={
            "reasoning": "pondering deeply", "tool_calls": [{"id": "c", "name": "f", "arguments": '{"city":"Oslo"}'}],
        })))
    ).sequence  # fmt: skip
    request = {"messages": [{"content": "hidden early"}, {"content": "last"}]}
    api = say(log, "last", conversation=None, request=request)
    say(log, "last", conversation="c1", request=request)  # its earlier message has an event of its own
    assert found(log, Filter(text="pondering")) == [answer]
    assert found(log, Filter(text="oslo")) == [answer]
    assert found(log, Filter(text="hidden")) == [api]


def test_word_at_the_end_of_a_very_long_text_is_found(log: AuditLog) -> None:
    long = " ".join(f"w{n}" for n in range(60_000)) + " needle"
    number = say(log, long)
    everywhere = " ".join(f"w{n}" for n in range(1, 60_000, 1500))
    assert found(log, Filter(text=f"needle {everywhere}")) == [number]


@pytest.mark.parametrize("before", [98_990, 98_995, 99_995, 99_999, 197_995])
def test_word_at_a_seam_of_the_index_is_found_whole(log: AuditLog, before: int) -> None:
    number = say(log, " " * before + "straddling")
    assert found(log, Filter(text="straddling")) == [number]


def test_text_of_a_million_distinct_words_can_be_recorded(log: AuditLog) -> None:
    """PostgreSQL limits one vector of words to 1 MiB."""
    assert say(log, " ".join(f"{n:x}" for n in range(300_000))) == 1


def test_rows_show_the_first_words(log: AuditLog) -> None:
    say(log, "a" * 500)
    log.append(NewEvent(SYSTEM, "appliance_started"))
    rows = search(log, REVIEWER, Filter()).rows
    assert [row.excerpt for row in rows if isinstance(row, EventRow)] == ["", "a" * 160]


def test_erased_event_stays_in_the_list_but_not_in_the_index(log: AuditLog) -> None:
    number = say(log, "confidential matter")
    say(log, "other matter")
    erase(log, number, number, by=SYSTEM, reason="for this test")
    assert found(log, Filter(text="confidential")) == []
    assert found(log, Filter(text="matter")) == [number + 1]
    row = search(log, REVIEWER, Filter(subject="", user="ada")).rows[-1]
    assert isinstance(row, EventRow)
    assert (row.sequence, row.erased, row.excerpt) == (number, True, "")


def test_every_page_of_a_search_is_recorded_with_what_was_looked_for_and_shown(log: AuditLog) -> None:
    fill(log, 5)
    page = search(log, REVIEWER, Filter(text="word", user="ada"), limit=1)
    search(log, REVIEWER, Filter(text="word", user="ada"), before=page.older, limit=1)
    events = [log.get(number) for number in (6, 7)]
    assert [(event.header.action, event.header.actor) for event in events] == [("review_search", REVIEWER)] * 2
    asked = SearchDetails(text="word", user="ada", shown=1)
    assert [event.content for event in events] == [
        Content("word", replace(asked, newest=5, oldest=5)),
        Content("word", replace(asked, before=5, newest=3, oldest=3)),
    ]


def test_review_is_left_out_unless_asked_for(log: AuditLog) -> None:
    fill(log, 1)
    read_event(log, REVIEWER, 1)
    assert found(log, Filter()) == [1]
    assert found(log, Filter(actions=("review_read",))) == [2]


def test_reading_is_recorded_and_comes_with_proof_and_turn(log: AuditLog) -> None:
    fill(log, 4)
    log.append(NewEvent(SYSTEM, "answer", subject="turn-3", content=Content("the answer")))
    read = read_event(log, REVIEWER, 3)
    assert read.event == log.get(3)
    assert read.turn == (3, 5)
    recorded = log.get(6).header
    assert (recorded.action, recorded.subject, recorded.actor) == ("review_read", "3", REVIEWER)
    leaf = merkle.leaf_hash(encode_header(read.event.header))
    merkle.verify_inclusion(leaf, 2, read.tree_size, read.proof, log.root(read.tree_size))


def test_nothing_is_shown_that_cannot_be_recorded(log: AuditLog, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(log, 2)
    monkeypatch.setattr(log, "damage", "for this test")
    with pytest.raises(RecordError):
        read_event(log, REVIEWER, 1)
    with pytest.raises(RecordError):
        search(log, REVIEWER, Filter())


def test_reading_an_unknown_event_is_refused(log: AuditLog) -> None:
    with pytest.raises(EventNotFoundError):
        read_event(log, REVIEWER, 1)


def test_names_for_the_filter(log: AuditLog) -> None:
    fill(log, 3)
    assert actor_names(log) == ["ada", "bob"]


def test_text_search_follows_the_index_and_not_the_table(sqlite: Database) -> None:
    """SQLite orders by the index's own row id, so it need not sort or collect the matches."""
    fill(AuditLog(sqlite), 3)
    with sqlite.read() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT * FROM audit_events LEFT OUTER JOIN audit_contents"
            " ON audit_events.sequence = audit_contents.sequence JOIN audit_words"
            " ON audit_words.rowid = audit_events.sequence"
            " WHERE audit_words.audit_words MATCH '\"word\"*' ORDER BY audit_words.rowid DESC LIMIT 50"
        ).all()
    steps = [row[3] for row in plan]
    assert steps[0].startswith("SCAN audit_words VIRTUAL TABLE"), steps
    assert not any("TEMP B-TREE" in step for step in steps), steps
