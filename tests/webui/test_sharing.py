"""A conversation read by a colleague: shown as it is, recorded, ended at once, and nothing more than reading.

The attacks come from a colleague who wants more than reading, or longer than they were let.
"""

from __future__ import annotations

import pytest

from appliance.people.accounts import Role
from appliance.people.shares import MOST_READERS
from tests.webui.conftest import SYSTEM, Site
from tests.webui.test_files import Person


class Pair:
    """Ada, who has a conversation, and Bob, who may read it."""

    def __init__(self, site: Site) -> None:
        self.site, self.ada, self.bob = site, Person(site), Person(site, "bob")
        self.chat = self.ada.begin()
        self.ada.ask(self.chat, text="What is the plan?")

    def share(self, name: str = "bob") -> int:
        return self.ada.browser.post(f"/chat/{self.chat}/sharing", name=name).status_code

    def withdraw(self) -> None:
        path = f"/chat/{self.chat}/sharing/{self.bob.user.id}/withdraw"
        assert self.ada.browser.send(path, confirmed="yes").status_code == 303

    def read(self) -> tuple[int, str]:
        response = self.bob.browser.get(f"/chat/shared/{self.chat}")
        return response.status_code, response.text

    def told(self) -> list[tuple[str, str, str]]:
        """(who, action, words) of every event of sharing."""
        events = [e for e in self.site.events() if e.header.subject == self.chat and "shared" in e.header.action]
        return [(e.header.actor.name, e.header.action, e.content.text if e.content else "") for e in events]


@pytest.fixture
def pair(site: Site) -> Pair:
    return Pair(site)


def test_a_colleague_reads_it_as_it_is_and_each_step_is_recorded(pair: Pair) -> None:
    assert pair.read()[0] == 404
    assert pair.share(" bob ") == 303
    assert pair.chat in pair.bob.browser.get("/chat/shared").text
    status, page = pair.read()
    assert status == 200
    assert "What is the plan?" in page
    assert "ada lets you read" in page
    pair.ada.ask(pair.chat, text="And then?")
    assert "And then?" in pair.read()[1]
    pair.withdraw()
    assert pair.read()[0] == 404
    assert pair.chat not in pair.bob.browser.get("/chat/shared").text
    assert pair.told() == [
        ("ada", "conversation_shared", "bob"), ("bob", "shared_conversation_read", "of ada"),
        ("bob", "shared_conversation_read", "of ada"), ("ada", "conversation_unshared", "bob"),
    ]  # fmt: skip


def test_reading_is_all_that_a_colleague_may_do(pair: Pair) -> None:
    pair.share()
    kept = pair.ada.attached("plan.csv")
    pair.ada.ask(pair.chat, files=[kept])
    before = [message.id for message in pair.site.services.conversations.messages(pair.ada.user.id, pair.chat)]
    chat = f"/chat/{pair.chat}"
    for method, path, body in (
        ("POST", f"{chat}/turns", {"text": "x", "effort": "low"}), ("GET", f"{chat}/turns", {}),
        ("GET", f"{chat}/turns/current?after=0", {}), ("DELETE", f"{chat}/turns/current", {}),
        ("PATCH", chat, {"title": "mine"}), ("DELETE", chat, {}), ("POST", f"{chat}/branch", {"message": before[0]}),
        ("POST", f"{chat}/summary", {"effort": "low"}), ("POST", f"{chat}/room", {"effort": "low"}),
        ("GET", chat, {}), ("GET", f"{chat}/print", {}), ("GET", f"{chat}/earlier", {}), ("GET", f"{chat}/marking", {}),
        ("GET", f"{chat}/export/json", {}), ("GET", f"{chat}/sharing", {}),
        ("GET", f"/chat/files/{kept}", {}), ("GET", f"/chat/files/{kept}/original", {}),
    ):  # fmt: skip
        assert pair.bob.send(method, path, **body).status_code == 404, (method, path)
    eve = Person(pair.site, "eve")
    assert pair.bob.browser.send(f"{chat}/sharing", name="eve").status_code == 404  # passing it on
    assert eve.browser.get(f"/chat/shared/{pair.chat}").status_code == 404
    assert pair.bob.ask(pair.bob.begin(), files=[kept]).status_code == 404
    after = [message.id for message in pair.site.services.conversations.messages(pair.ada.user.id, pair.chat)]
    assert after == before
    assert "plan.csv" in pair.read()[1]


@pytest.mark.parametrize("how", ["withdrawn", "deleted", "owner disabled", "reader disabled", "no user any more"])
def test_it_ends_at_once(pair: Pair, how: str) -> None:
    pair.share()
    assert pair.read()[0] == 200
    service = pair.site.services
    if how == "withdrawn":
        pair.withdraw()
    elif how == "deleted":
        pair.ada.send("DELETE", f"/chat/{pair.chat}")
    elif how == "owner disabled":
        service.accounts.disable(pair.ada.user.id, by=SYSTEM)
    elif how == "reader disabled":
        service.accounts.disable(pair.bob.user.id, by=SYSTEM)
    else:
        service.accounts.set_roles(pair.bob.user.id, [Role.ADMIN], by=SYSTEM)
    status, page = pair.read()
    assert status in (302, 303, 403, 404)
    assert "What is the plan?" not in page


def test_whom_it_cannot_be_shared_with_is_said_without_telling_who_has_an_account(pair: Pair) -> None:
    service = pair.site.services
    gone = pair.site.add_user("gone")
    service.accounts.disable(gone.id, by=SYSTEM)
    pair.site.add_user("rita", Role.REVIEWER)
    answers = [
        pair.ada.browser.post(f"/chat/{pair.chat}/sharing", name=name) for name in ("nobody", "gone", "rita", "")
    ]
    assert [answer.status_code for answer in answers] == [400] * 4
    assert all("Nobody of this name chats here." in answer.text for answer in answers)
    own = pair.ada.browser.post(f"/chat/{pair.chat}/sharing", name="ada")
    assert "This conversation is yours" in own.text
    assert pair.told() == []


def test_there_is_a_most_and_sharing_twice_is_once(pair: Pair) -> None:
    for _ in range(2):
        assert pair.share() == 303
    assert len(pair.told()) == 1
    for number in range(MOST_READERS - 1):
        pair.site.add_user(f"reader{number}")
        pair.share(f"reader{number}")
    pair.site.add_user("late")
    assert pair.share("late") == 400


def test_an_administrator_and_a_reviewer_read_nothing_by_it(pair: Pair) -> None:
    pair.share()
    for role in (Role.ADMIN, Role.REVIEWER):
        other = pair.site.browser(pair.site.add_user(role.value, role))
        assert other.get(f"/chat/shared/{pair.chat}").status_code == 403
        assert other.get(f"/chat/{pair.chat}/sharing").status_code == 403


def test_nothing_is_shown_that_could_not_be_recorded(pair: Pair, monkeypatch: pytest.MonkeyPatch) -> None:
    pair.share()
    monkeypatch.setattr(pair.site.services.record, "refusal", lambda: "The disk is full.")
    status, page = pair.read()
    assert status == 503
    assert "What is the plan?" not in page


def test_it_carries_its_marking(pair: Pair) -> None:
    markings = [pair.site.services.markings.add(name, "red", by=SYSTEM) for name in ("OPEN", "SECRET")]
    pair.share()
    assert "NOT SET: HANDLE AS SECRET" in pair.read()[1]
    pair.ada.browser.post(f"/chat/{pair.chat}/marking", marking=markings[0].id, reason="")
    page = pair.read()[1]
    assert page.count("<span>OPEN</span>") == 2
    assert 'class="mark banner-red">OPEN' in pair.bob.browser.get("/chat/shared").text
