"""The reviewer's pages: what they find, show and prove, that every look is recorded, and that damage stands out."""

from __future__ import annotations

import re
from datetime import UTC, datetime

import pytest
import sqlalchemy as sa

from appliance.audit.checkpoint import Integrity, write_checkpoint
from appliance.audit.erasure import erase
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.log import RecordError
from appliance.database.tables import audit_contents
from appliance.people.accounts import Role
from appliance.turns.events import AnswerDelta, ReasoningDelta, Started
from appliance.turns.request import Message, Tool, TurnRequest, new_request
from appliance.turns.run import run_turn
from tests.fakes import FakeEngine, done
from tests.webui.conftest import Browser, MakeSite, Site
from webui.review.present.integrity import page_integrity

ADA = Actor("u1", "ada", "web", "10.0.0.7")


def record_turn(site: Site, text: str, actor: Actor = ADA, *, effort: str = "high") -> tuple[int, int]:
    """Run one turn as the chat does. The values are the numbers of its two events."""
    request = TurnRequest(
        f"turn of {text}"[:60],
        actor.user_id,
        (Message("user", text),),
        seed=4711,
        effort=effort,  # type: ignore[arg-type]
    )
    turn = run_turn(site.services.record, site.engine.client, actor, request, conversation_id="c1")
    list(turn)
    assert turn.prompt_event is not None
    assert turn.answer_event is not None
    return turn.prompt_event, turn.answer_event


def rows(page: str) -> list[int]:
    """The numbers of the events listed, in order."""
    return [int(number) for number in re.findall(r'data-row="(\d+)"', page)]


def checkpoint(site: Site) -> None:
    write_checkpoint(site.services.record, site.services.config.state_dir)


def actions(site: Site) -> list[str]:
    return [event.header.action for event in site.events()]


@pytest.fixture
def reviewer(site: Site) -> Browser:
    return site.browser(site.add_user("rita", Role.REVIEWER))


@pytest.mark.parametrize("path", ["/review", "/review/1", "/review/integrity"])
@pytest.mark.parametrize("role", [Role.USER, Role.ADMIN])
def test_only_reviewers_review_and_the_attempt_is_recorded(site: Site, path: str, role: Role) -> None:
    assert site.browser(site.add_user("ada", role)).get(path).status_code == 403
    assert site.denials() == ["missing_role"]


def test_events_are_listed_newest_first_with_who_what_and_first_words(site: Site, reviewer: Browser) -> None:
    prompt, answer = record_turn(site, "Where is the <archive>?")
    page = reviewer.get("/review").text
    listed = rows(page)
    assert listed == sorted(listed, reverse=True)
    assert listed[:2] == [answer, prompt]
    assert "Where is the &lt;archive&gt;?" in page
    assert "<archive>" not in page


def test_the_first_words_of_an_answer_are_listed_without_markdown(make_site: MakeSite) -> None:
    answer = AnswerDelta("## Three **steps** with `a_b`\n\n1. *one*, a ** 2")
    site = make_site(FakeEngine(lambda _: [Started(20, 0.0), answer, done()]))
    record_turn(site, "**Where**?")
    page = site.browser(site.add_user("rita", Role.REVIEWER)).get("/review").text
    assert ">Three steps with a_b 1. *one*, a ** 2<" in page
    assert ">**Where**?<" in page  # the question as it was written


def test_an_attempt_to_sign_in_that_failed_is_not_called_signing_in(site: Site, reviewer: Browser) -> None:
    site.browser().post("/sign-in", name="ada", password="not the password")
    page = reviewer.get("/review").text
    assert "Tried to sign in" in page
    assert ">Signed in<" not in page.split("Tried to sign in")[0]


def test_a_search_is_recorded_with_what_was_looked_for(site: Site, reviewer: Browser) -> None:
    record_turn(site, "Where is the archive?")
    reviewer.get("/review?text=archive&user=ada")
    event = site.events()[-1]
    assert (event.header.action, event.header.actor.name) == ("review_search", "rita")
    assert event.content is not None
    assert event.content.details.values()["user"] == "ada"
    assert event.content.text == "archive"


def test_nothing_is_shown_when_looking_cannot_be_recorded(
    site: Site, reviewer: Browser, monkeypatch: pytest.MonkeyPatch
) -> None:
    number, _ = record_turn(site, "Where is the archive?")

    def refuse(_: NewEvent) -> None:
        raise RecordError("the disk is full")

    monkeypatch.setattr(site.services.record, "append", refuse)
    for path in ("/review", f"/review/{number}"):
        response = reviewer.get(path)
        assert response.status_code == 503
        assert "archive?" not in response.text


def test_the_filter_in_the_address_decides_what_is_listed(site: Site, reviewer: Browser) -> None:
    one = record_turn(site, "About archives")
    two = record_turn(site, "About records", Actor("u2", "grace", "api"))
    for query, expected in {
        "user=ada": [one[1], one[0]],
        "user=grace&action=prompts": [two[0]],
        "text=archives": [one[1], one[0]],
        "text=about&action=answers": [two[1], one[1]],
        "text=nowhere": [],
        "action=turns&since=2000-01-01&until=2999-12-31": [two[1], two[0], one[1], one[0]],
        "action=turns&until=2000-01-01": [],
        "action=turns&since=2999-01-01": [],
    }.items():
        assert rows(reviewer.get(f"/review?{query}").text) == expected, query


def test_the_day_in_until_is_included(site: Site, reviewer: Browser) -> None:
    record_turn(site, "About archives")
    today = datetime.now(UTC).date().isoformat()
    assert len(rows(reviewer.get(f"/review?action=turns&since={today}&until={today}").text)) == 2


@pytest.mark.parametrize("day", ["yesterday", "2026-13-01", "9999-12-31"])
def test_a_day_that_is_none_is_said_and_nothing_is_looked_up(site: Site, reviewer: Browser, day: str) -> None:
    page = reviewer.get(f"/review?until={day}").text
    assert "A date must look like" in page
    assert rows(page) == []
    assert "review_search" not in actions(site)


def test_older_events_are_a_page_away_with_the_same_filter(site: Site, reviewer: Browser) -> None:
    numbers = [
        site.services.record.append(NewEvent(ADA, "prompt", subject=str(n), content=Content(f"word {n}"))).sequence
        for n in range(150)
    ]
    page = reviewer.get("/review?user=ada&action=prompts").text
    assert rows(page) == numbers[:49:-1]
    link = re.search(r'href="(/review\?[^"]*before=[^"]*)"', page)
    assert link is not None
    assert rows(reviewer.get(link[1].replace("&amp;", "&")).text) == numbers[49::-1]


def test_an_event_is_shown_as_the_person_saw_it_with_its_facts(make_site: MakeSite) -> None:
    site = make_site(
        FakeEngine(lambda _: [Started(20, 0.0), ReasoningDelta("I <think>"), AnswerDelta("It is **there**"), done()])
    )
    reviewer = site.browser(site.add_user("rita", Role.REVIEWER))
    prompt, answer = record_turn(site, "Where is it?")
    page = reviewer.get(f"/review/{answer}").text
    assert "Where is it?</article>" in page
    assert "It is <strong>there</strong>" in page
    assert "I &lt;think&gt;" in page
    asked = reviewer.get(f"/review/{prompt}").text
    for name, value in {"Seed": "4711", "Effort": "high", "From": "web, 10.0.0.7", "Conversation": "c1"}.items():
        assert f"<dt>{name}</dt><dd>{value}</dd>" in asked


def test_what_a_turn_was_held_to_is_among_its_facts_and_in_the_request_that_the_model_read(
    site: Site, reviewer: Browser
) -> None:
    request = new_request(
        "u1", (Message("user", "Where?"),), must_call=("go",), answer_schema={"title": "place", "enum": ["Oslo"]},
        tools=(Tool("go", "", {"type": "object"}, strict=True), Tool("ask", "")),
    )  # fmt: skip
    turn = run_turn(site.services.record, site.engine.client, ADA, request, conversation_id=None)
    assert list(turn)
    page = reviewer.get(f"/review/{turn.prompt_event}").text
    assert "<dt>Must call</dt><dd>go</dd>" in page
    assert "<dt>Tools</dt><dd>go (strict), ask</dd>" in page
    held = "{&#34;enum&#34;: [&#34;Oslo&#34;], &#34;title&#34;: &#34;place&#34;}"
    assert f"<dt>Answer held to</dt><dd>{held}</dd>" in page
    assert "# Response Formats\n\n## place" in page
    assert "a schema of 36 characters" in reviewer.get("/review?action=prompts").text


def test_that_each_shown_event_was_read_is_recorded(site: Site, reviewer: Browser) -> None:
    prompt, answer = record_turn(site, "Where is it?")
    reviewer.client.get(f"/review/{answer}", headers={"X-Pane": "event", "Accept": "application/json"})
    read = [event.header.subject for event in site.events() if event.header.action == "review_read"]
    assert sorted(read) == [str(prompt), str(answer)]
    assert "review_search" not in actions(site)  # the pane alone shows no list


def test_an_event_that_is_not_there_is_not_found(reviewer: Browser) -> None:
    assert reviewer.get("/review/999999").status_code == 404


def test_erased_content_is_said_and_still_proved(site: Site, reviewer: Browser) -> None:
    prompt, answer = record_turn(site, "Where is the archive?")
    erase(site.services.record, prompt, answer, by=ADA, reason="for this test")
    page = reviewer.get(f"/review/{answer}").text
    assert "The content was erased" in page
    assert "You said" not in page
    assert 'data-proof="verified"' in page


def test_an_event_is_proved_against_the_newest_signed_checkpoint(site: Site, reviewer: Browser) -> None:
    _, answer = record_turn(site, "Where is it?")
    assert "The next checkpoint" in reviewer.get(f"/review/{answer}").text
    checkpoint(site)
    page = reviewer.get(f"/review/{answer}").text
    assert 'data-proof="verified"' in page
    assert "whose root was signed at" in page


def change_content(site: Site, sequence: int) -> None:
    mine = audit_contents.c.sequence == sequence
    with site.services.record.database.write() as connection:
        connection.execute(audit_contents.update().where(mine).values(text="something else"))


def change_header(site: Site, sequence: int) -> None:
    with site.services.record.database.write() as connection:
        connection.execute(sa.text("UPDATE audit_events SET actor_name = 'eve' WHERE sequence = :n"), {"n": sequence})


@pytest.mark.parametrize("change", [change_content, change_header])
def test_a_changed_event_is_loud(site: Site, reviewer: Browser, change: object) -> None:
    _, answer = record_turn(site, "Where is it?")
    checkpoint(site)
    change(site, answer)  # type: ignore[operator]
    page = reviewer.get(f"/review/{answer}").text
    assert 'data-proof="broken"' in page
    assert "This event is not proved" in page


def test_a_signature_by_another_key_is_loud(site: Site, reviewer: Browser, make_site: MakeSite) -> None:
    _, answer = record_turn(site, "Where is it?")
    checkpoint(site)
    other = make_site()
    record_turn(other, "x")
    checkpoint(other)
    key = "keys/audit.pub"
    (site.services.config.state_dir / key).write_bytes((other.services.config.state_dir / key).read_bytes())
    assert 'data-proof="broken"' in reviewer.get(f"/review/{answer}").text
    assert 'data-integrity="broken"' in reviewer.get("/review").text


def test_the_badge_is_for_reviewers_alone(site: Site, reviewer: Browser) -> None:
    assert "data-integrity=" in reviewer.get("/account").text
    assert "data-integrity=" not in site.browser(site.add_user("ada")).get("/chat").text


def test_the_badge_goes_from_unverified_to_verified(site: Site, reviewer: Browser) -> None:
    assert 'data-integrity="stale"' in reviewer.get("/review").text
    checkpoint(site)
    assert 'data-integrity="verified"' in reviewer.get("/review").text


def test_verifying_finds_a_change_names_the_event_and_the_badge_stays_broken(site: Site, reviewer: Browser) -> None:
    _, answer = record_turn(site, "Where is it?")
    checkpoint(site)
    assert "and is intact" in reviewer.post("/review/integrity").text
    change_content(site, answer)
    page = reviewer.post("/review/integrity").text
    assert f"event {answer}: its content is not what was recorded" in page
    assert "The record is broken" in page
    assert 'data-integrity="broken"' in reviewer.get("/review").text


NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
NOW_US = int(NOW.timestamp()) * 1_000_000


@pytest.mark.parametrize(
    ("seconds", "words"), [(0, "0 s"), (59, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h"), (172_800, "2 d")]
)
def test_the_badge_says_up_to_where_and_since_when(seconds: int, words: str) -> None:
    found = Integrity("verified", 12_500, 12_402, NOW_US - seconds * 1_000_000, None)
    assert page_integrity(found, NOW).summary == f"Signed to 12,402, {words} ago"


def test_what_broke_is_a_sentence() -> None:
    view = page_integrity(Integrity("broken", 2, 2, NOW_US, None, "the log is broken: event 2"), NOW)
    assert (view.summary, view.message) == ("Record broken", "The log is broken: event 2.")


def test_that_no_checkpoint_has_left_the_machine_is_said() -> None:
    found = Integrity("verified", 2, 2, NOW_US, None)
    assert "No checkpoint has left this machine" in page_integrity(found, NOW).message
    exported = Integrity("verified", 2, 2, NOW_US, NOW_US - 7_200_000_000)
    assert "left this machine 2 h ago" in page_integrity(exported, NOW).message
