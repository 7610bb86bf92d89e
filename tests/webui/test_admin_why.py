"""What the page says about a person and an action is what happens when the person does it."""

from __future__ import annotations

import re
from collections.abc import Callable
from urllib.parse import quote

import pytest

from appliance.people.accounts import Role, User
from appliance.people.key_rights import ALL_SCOPES, KeyRights, Scope
from appliance.people.quotas import Quota
from tests.webui.conftest import SYSTEM, Browser, Site
from tests.webui.test_chat import Chat
from webui.admin.why import ACTIONS
from webui.api.scopes import SCOPES

COMPLETIONS = "POST /v1/chat/completions"


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def explained(admin: Browser, person: str, action: str, key: str = "") -> tuple[str, list[tuple[str, str]]]:
    """The verdict, and each rule with its yes or no."""
    page = admin.get(f"/admin/why?person={person}&action={quote(action)}&key={key}").text
    verdict = re.search(r'data-verdict="(\w+)"', page)
    assert verdict is not None, page
    return verdict[1], re.findall(r'<li data-rule="(\w+)">.*?<strong>(.*?)</strong>', page, re.S)


def complete(site: Site, secret: str) -> int:
    headers = {"Authorization": f"Bearer {secret}"}
    body = {"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "Hi"}]}
    return site.app.test_client().post("/v1/chat/completions", headers=headers, json=body).status_code


Change = Callable[[Site, User, str], object]
SITUATIONS: dict[str, tuple[KeyRights, Change, str]] = {
    "nothing is wrong": (KeyRights(), lambda site, user, key: None, ""),
    "disabled": (
        KeyRights(), lambda site, user, key: site.services.accounts.disable(user.id, by=SYSTEM), "is not disabled",
    ),
    "no role": (
        KeyRights(),
        lambda site, user, key: site.services.accounts.set_roles(
            user.id, [Role.REVIEWER], by=SYSTEM, end_keys=False
        ),
        "has the role user",
    ),
    "revoked": (
        KeyRights(), lambda site, user, key: site.services.api_keys.revoke(user.id, key, by=SYSTEM), "The key",
    ),
    "no scope": (KeyRights(frozenset({Scope.MODELS})), lambda site, user, key: None, "has the scope generate"),
    "minute": (
        KeyRights(ALL_SCOPES, requests_per_minute=1),
        lambda site, user, key: site.services.api_keys.use.take_request(key, "test", 1), "1 requests a minute",
    ),
    "tokens of the key": (
        KeyRights(ALL_SCOPES, tokens_per_day=5),
        lambda site, user, key: site.services.api_keys.use.spend(key, 9), "5 tokens a day",
    ),
    "quota": (
        KeyRights(),
        lambda site, user, key: site.services.quotas.give("everybody", "", Quota(requests_per_day=0), by=SYSTEM),
        "0 requests a day",
    ),
    "bytes of the day": (
        KeyRights(),
        lambda site, user, key: site.services.quotas.give("person", user.id, Quota(tokens_per_day=0), by=SYSTEM),
        "0 tokens a day",
    ),
}  # fmt: skip


@pytest.mark.parametrize("situation", SITUATIONS)
def test_the_page_says_of_a_key_what_happens(site: Site, admin: Browser, situation: str) -> None:
    rights, change, rule = SITUATIONS[situation]
    ada = site.add_user("ada")
    secret = site.add_key(ada, rights)
    (key,) = site.services.api_keys.list_keys(ada.id)
    change(site, ada, key.id)
    verdict, rules = explained(admin, "ada", COMPLETIONS, key.id)
    refused = [words for allows, words in rules if allows == "no"]
    assert len(refused) == (1 if rule else 0)
    assert rule in "".join(refused)
    assert (verdict == "yes") == (complete(site, secret) == 200)


@pytest.mark.parametrize("role", list(Role))
@pytest.mark.parametrize(("action", "path"), [("chat", "/chat"), ("review", "/review"), ("admin", "/admin")])
def test_the_page_says_of_a_role_what_happens(site: Site, admin: Browser, role: Role, action: str, path: str) -> None:
    ada = site.add_user("ada", role)
    verdict, _ = explained(admin, "ada", action)
    assert (verdict == "yes") == (site.browser(ada).get(path).status_code == 200)


def test_the_chat_is_held_to_what_the_page_says(site: Site, admin: Browser) -> None:
    chat = Chat(site)
    conversation = chat.create()
    site.services.quotas.give("person", chat.user.id, Quota(requests_per_day=1), by=SYSTEM)
    assert explained(admin, "ada", "chat")[0] == "yes"
    assert chat.ask(conversation, text="Hi")
    assert explained(admin, "ada", "chat")[0] == "no"
    assert chat.start(conversation, text="Hi").status_code == 429


def test_explaining_counts_and_records_nothing(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    site.add_key(ada, KeyRights(ALL_SCOPES, requests_per_minute=1, tokens_per_day=100))
    site.services.quotas.give("person", ada.id, Quota(1, 1, 1), by=SYSTEM)
    (key,) = site.services.api_keys.list_keys(ada.id)
    size = site.services.record.size()
    for _ in range(3):
        assert explained(admin, "ada", COMPLETIONS, key.id)[0] == "yes"
    assert site.services.record.size() == size


def test_every_address_of_the_api_can_be_asked_about(site: Site, admin: Browser) -> None:
    site.add_user("ada")
    assert set(SCOPES) <= set(ACTIONS)
    for action in ACTIONS:
        verdict, rules = explained(admin, "ada", action)
        assert rules, action
        assert verdict == ("no" if action in SCOPES or action in ("review", "admin") else "yes")


def test_who_is_not_there_is_said(admin: Browser) -> None:
    page = admin.get("/admin/why?person=<b>eve&action=chat").text
    assert "Nobody has the name &lt;b&gt;eve." in page
    assert admin.get("/admin/why?action=nonsense&person=root").status_code == 200
