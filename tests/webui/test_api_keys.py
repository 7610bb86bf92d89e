"""What an API key may do and how much: scopes, limits, the headers that say them, and what the record keeps."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask, g
from werkzeug.test import TestResponse

from appliance.audit.event import Actor
from appliance.database.tables import api_keys, metadata
from appliance.people.api_keys import ApiKey
from appliance.people.key_rights import ALL_SCOPES, KeyRights, Scope
from appliance.people.users import AccountError, Role, User
from appliance.turns.events import AnswerDelta, Started, TurnEvent
from appliance.turns.request import TurnRequest
from tests.fakes import FakeEngine, done
from tests.webui.conftest import MODEL, SYSTEM, MakeSite, Site
from webui.api import limits, scopes
from webui.api.addresses import UNKNOWN
from webui.api.auth import demand_scope
from webui.api.errors import ApiError

CHAT = "/v1/chat/completions"
BODY: dict[str, Any] = {"model": MODEL.id, "messages": [{"role": "user", "content": "Hello"}]}
ROOT = Actor("", "root", "cli")
DOCS = Path(__file__).parents[2] / "docs"


def get(site: Site, key: str, path: str = "/v1/models") -> TestResponse:
    return site.app.test_client().get(path, headers={"Authorization": f"Bearer {key}"})


def ask(site: Site, key: str, **changes: Any) -> TestResponse:
    return site.app.test_client().post(CHAT, json={**BODY, **changes}, headers={"Authorization": f"Bearer {key}"})


def code_of(response: TestResponse) -> tuple[int, str]:
    assert response.json is not None
    error = response.json["error"]
    return response.status_code, error["details"]["error_code"] if "details" in error else error["code"]


def with_limits(*, requests: int | None = None, tokens: int | None = None) -> KeyRights:
    return KeyRights(requests_per_minute=requests, tokens_per_day=tokens)


def ratelimit(response: TestResponse) -> dict[str, str]:
    return {k.lower().removeprefix("x-ratelimit-"): v for k, v in response.headers if "ratelimit" in k.lower()}


def the_key(site: Site, user: User) -> ApiKey:
    (key,) = site.services.api_keys.list_keys(user.id)
    return key


# Scopes


def routes(app: Flask) -> set[str]:
    """Every address of the API that is not the answer for unknown ones."""
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint.startswith("api.")]
    assert any(rule.endpoint == UNKNOWN for rule in rules)
    known = [rule for rule in rules if rule.endpoint != UNKNOWN]
    return {f"{method} {rule.rule}" for rule in known for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}}


def test_every_address_of_the_api_has_a_scope_and_every_scope_an_address(site: Site) -> None:
    assert routes(site.app) == set(scopes.SCOPES)


def rows_of(page: str, head: str) -> list[list[str]]:
    """The cells of the table of docs/PAGE that has this head."""
    text = (DOCS / page).read_text(encoding="utf-8")
    table = text.partition(f"{head}\n|---|---|\n")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in row.strip("|").split(" | ")] for row in table.splitlines()]


def test_the_pages_name_the_scopes_as_they_are() -> None:
    said = {
        address: scope.strip("`")
        for addresses, scope in rows_of("api.md", "| address | scope |")
        for address in re.findall(r"`([^`]+)`", addresses)
    }
    assert said == {re.sub(r"<[^>]+>", "ID", address): scope.value for address, scope in scopes.SCOPES.items()}
    assert [name.strip("`") for name, _ in rows_of("accounts.md", "| scope | what it opens |")] == list(Scope)


def test_an_address_that_is_not_in_the_table_is_closed_to_every_key(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = site.add_key(site.add_user("ada"))
    without = {address: scope for address, scope in scopes.SCOPES.items() if address != "GET /v1/models"}
    monkeypatch.setattr("webui.api.auth.SCOPES", without)
    assert code_of(get(site, key)) == (403, "insufficient_scope")
    assert site.denials() == ["insufficient_scope"]


@pytest.mark.parametrize("address", scopes.SCOPES)
def test_a_key_opens_what_its_scopes_say_and_nothing_else(site: Site, address: str) -> None:
    method, _, rule = address.partition(" ")
    path = re.sub(r"<[^>]+>", "x", rule)
    ada = site.add_user("ada")
    needed = scopes.SCOPES[address]
    for given in Scope:
        key = site.add_key(ada, KeyRights(frozenset({given})))
        response = site.app.test_client().open(path, method=method, headers={"Authorization": f"Bearer {key}"})
        is_refused = response.status_code == 403
        assert is_refused is (given is not needed), given
        if is_refused:
            assert code_of(response) == (403, "insufficient_scope")
            assert response.json is not None
            assert f"lacks the scope {needed.value}" in response.json["error"]["message"]
    assert site.denials() == ["insufficient_scope"] * (len(Scope) - 1)
    assert site.engine.requests == []


def test_a_missing_scope_is_a_recorded_denial_that_names_key_and_scope(site: Site) -> None:
    ada = site.add_user("ada")
    key = site.add_key(ada, KeyRights(frozenset({Scope.MODELS})))
    assert get(site, key).status_code == 200
    assert code_of(ask(site, key)) == (403, "insufficient_scope")
    event = site.events()[-1]
    assert (event.header.action, event.header.actor.name, event.header.actor.via) == ("denied", "ada", "api")
    assert event.content is not None
    assert event.content.text == "insufficient_scope"
    assert event.content.details.values() == {"key": "test", "scope": "generate"}


def test_head_is_get_and_an_unknown_address_needs_no_scope(site: Site) -> None:
    ada = site.add_user("ada")
    key = site.add_key(ada, KeyRights(frozenset({Scope.GENERATE})))
    headers = {"Authorization": f"Bearer {key}"}
    assert site.app.test_client().head("/v1/models", headers=headers).status_code == 403
    assert code_of(get(site, key, "/v1/nothing")) == (404, "unknown_url")


def test_a_route_may_ask_for_another_scope(site: Site) -> None:
    ada = site.add_user("ada")
    site.add_key(ada, KeyRights(frozenset({Scope.GENERATE})))
    with site.app.test_request_context(CHAT):
        g.api_user, g.api_key, g.api_scopes = ada, the_key(site, ada), set()
        demand_scope(Scope.GENERATE)
        with pytest.raises(ApiError) as refused:
            demand_scope(Scope.RESPONSES)
    assert (refused.value.status, refused.value.code) == (403, "insufficient_scope")


def test_a_change_of_scopes_takes_effect_at_the_next_request_and_is_recorded(site: Site) -> None:
    ada = site.add_user("ada")
    key = site.add_key(ada)
    assert get(site, key).status_code == 200
    site.services.api_keys.change(the_key(site, ada).id, lambda now: KeyRights(frozenset({Scope.GENERATE})), by=ROOT)
    assert get(site, key).status_code == 403
    event = next(event for event in reversed(site.events()) if event.header.action == "api_key_changed")
    assert (event.header.actor, event.header.subject) == (ROOT, "ada/test")
    assert event.content is not None
    assert event.content.text == "scopes generate"


# Limits


def test_a_key_without_limits_says_none_and_costs_no_transaction(site: Site) -> None:
    key = site.add_key(site.add_user("ada"))
    get(site, key)  # writes when the key was last used
    statements: list[str] = []
    engine = site.services.record.database.engine
    sa.event.listen(engine, "before_cursor_execute", lambda *given: statements.append(given[2]))
    assert ratelimit(get(site, key)) == {}
    assert not [statement for statement in statements if not statement.startswith(("SELECT", "BEGIN"))]


def test_every_answer_names_the_limits_and_what_is_left(site: Site) -> None:
    key = site.add_key(site.add_user("ada"), with_limits(requests=60, tokens=1000))
    first = ratelimit(get(site, key))
    assert (first["limit-requests"], first["remaining-requests"], first["reset-requests"]) == ("60", "59", "1s")
    assert (first["limit-tokens"], first["remaining-tokens"]) == ("1000", "1000")
    assert re.fullmatch(r"([0-9]+h)?([0-9]+m)?[0-9]+m?s", first["reset-tokens"])
    whole = ask(site, key)
    assert whole.status_code == 200
    assert ratelimit(whole)["remaining-tokens"] == str(1000 - 27)  # this answer is counted already
    refused = ask(site, key, model="other")
    assert (refused.status_code, ratelimit(refused)["limit-requests"]) == (404, "60")
    streamed = ask(site, key, stream=True)
    assert ratelimit(streamed)["remaining-tokens"] == str(1000 - 27)  # its headers left before it was written
    assert "[DONE]" in streamed.text
    assert ratelimit(get(site, key))["remaining-tokens"] == str(1000 - 2 * 27)


def test_a_stranger_is_told_no_limits(site: Site) -> None:
    site.add_key(site.add_user("ada"), with_limits(requests=60))
    assert ratelimit(get(site, "gpo_wrong")) == {}


def test_requests_beyond_the_limit_get_429_with_the_time_to_wait(site: Site) -> None:
    ada = site.add_user("ada")
    key, free = site.add_key(ada, with_limits(requests=2)), site.add_key(ada)
    assert [get(site, key).status_code for _ in range(2)] == [200, 200]
    refused = ask(site, key)
    assert code_of(refused) == (429, "rate_limit_exceeded")
    assert 1 <= int(refused.headers["Retry-After"]) <= 30
    assert ratelimit(refused)["remaining-requests"] == "0"
    assert site.engine.requests == []
    assert ask(site, free).status_code == 200  # another key of the same person
    ask(site, key)
    assert site.denials() == ["rate_limit_exceeded"] * 2
    denied = next(event for event in site.events() if event.header.action == "denied")
    assert denied.content is not None
    assert denied.content.details.values() == {"key": "test", "limit": 2, "of": "requests a minute"}


def test_tokens_beyond_the_day_get_429_and_only_turns_do(site: Site) -> None:
    key = site.add_key(site.add_user("ada"), with_limits(tokens=50))
    assert [ask(site, key).status_code for _ in range(2)] == [200, 200]  # 27 tokens each
    refused = ask(site, key, stream=True)
    assert code_of(refused) == (429, "quota_spent")
    assert 0 < int(refused.headers["Retry-After"]) <= 86_400
    assert (ratelimit(refused)["remaining-tokens"], len(site.engine.requests)) == ("0", 2)
    assert get(site, key).status_code == 200
    assert site.denials() == ["quota_spent"]


def test_the_day_of_the_person_bounds_all_keys_together(make_site: MakeSite) -> None:
    site = make_site(daily_mib_per_user=1)
    ada = site.add_user("ada")
    keys = [site.add_key(ada, with_limits(tokens=10**9)) for _ in range(2)]
    text = "x" * 60_000
    codes = [
        ask(site, keys[number % 2], messages=[{"role": "user", "content": text}]).status_code for number in range(20)
    ]
    assert codes[0] == 200
    assert codes[-2:] == [429, 429]


def test_a_stream_that_is_left_is_counted(make_site: MakeSite) -> None:
    def script(_: TurnRequest) -> list[TurnEvent]:
        return [Started(20, 0.0), *[AnswerDelta("four")] * 1000, done()]

    site = make_site(FakeEngine(script))
    key = site.add_key(site.add_user("ada"), with_limits(tokens=10_000))
    response = site.app.test_client().post(
        CHAT, json={**BODY, "stream": True}, headers={"Authorization": f"Bearer {key}"}, buffered=False
    )
    lines = iter(response.response)
    for _ in range(12):
        next(lines)
    response.close()
    left = int(ratelimit(get(site, key))["remaining-tokens"])
    assert 10_000 - 20 - 1000 <= left <= 10_000 - 20 - 5


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(0, "0s"), (0.0001, "1ms"), (0.2501, "251ms"), (1, "1s"), (59.2, "1m0s"), (3600, "1h0m0s"), (86_399.5, "24h0m0s")],
)
def test_times_are_written_as_openai_writes_them(seconds: float, said: str) -> None:
    assert limits.duration(seconds) == said


# Making keys


def test_a_key_is_made_only_for_who_may_use_it(site: Site) -> None:
    ada = site.add_user("ada")
    site.services.accounts.set_roles(ada.id, [Role.REVIEWER], by=SYSTEM)
    with pytest.raises(AccountError, match="ada does not have the role user"):
        site.add_key(ada)  # what is known of her is older
    site.services.accounts.set_roles(ada.id, [Role.USER], by=SYSTEM)
    site.services.accounts.disable(ada.id, by=SYSTEM)
    with pytest.raises(AccountError, match="ada is disabled"):
        site.add_key(ada)
    assert site.services.api_keys.list_keys(ada.id) == []


@pytest.mark.parametrize(
    ("rights", "why"),
    [
        (KeyRights(frozenset()), "at least one scope"),
        (with_limits(requests=0), "requests a minute is a whole number from 1 to"),
        (with_limits(requests=100_001), "from 1 to 100,000"),
        (with_limits(tokens=-1), "tokens a day is a whole number from 1 to"),
    ],
)
def test_rights_that_no_key_can_have_are_refused(site: Site, rights: KeyRights, why: str) -> None:
    ada = site.add_user("ada")
    with pytest.raises(AccountError, match=why):
        site.add_key(ada, rights)
    site.add_key(ada)
    with pytest.raises(AccountError, match=why):
        site.services.api_keys.change(the_key(site, ada).id, lambda now: rights, by=ROOT)
    assert the_key(site, ada).rights == KeyRights()


@pytest.mark.parametrize(
    ("label", "stored"),
    [
        ("Bericht für Zoë 🦉", "Bericht für Zoë 🦉"),
        ("x" * 100, "x" * 100),
        ("x" * 101, None),
        ("clear\x1b[2J", None),
        ("up\u202egpo", None),
        ("half \ud83e", "half \N{REPLACEMENT CHARACTER}"),
        ("two\nlines\0", "two lines"),
    ],
)
def test_labels_are_shown_as_they_are_or_refused(site: Site, label: str, stored: str | None) -> None:
    ada, keys = site.add_user("ada"), site.services.api_keys
    if stored is None:
        with pytest.raises(AccountError, match="label"):
            keys.create(ada, label, by=SYSTEM)
        return
    keys.create(ada, label, by=SYSTEM)
    assert the_key(site, ada).label == stored
    assert site.events()[-1].header.subject == f"ada/{stored}"


def test_two_people_with_the_same_label_are_told_apart(site: Site) -> None:
    ada, bob = site.add_user("ada"), site.add_user("bob")
    first, second = site.add_key(ada), site.add_key(bob)
    site.services.api_keys.revoke(ada.id, the_key(site, ada).id, by=ROOT)
    assert (get(site, first).status_code, get(site, second).status_code) == (401, 200)
    revoked = next(event for event in site.events() if event.header.action == "api_key_revoked")
    assert revoked.header.subject == "ada/test"


def test_a_key_with_every_scope_has_those_of_later_releases(site: Site) -> None:
    site.add_key(site.add_user("ada"), KeyRights(frozenset(ALL_SCOPES)))
    with site.services.record.database.read() as connection:
        assert connection.scalar(sa.select(api_keys.c.scopes)) is None


def test_the_secret_stands_nowhere_but_in_the_answer(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ada = site.add_user("ada")
    key = site.add_key(ada, with_limits(requests=1))
    get(site, key)
    get(site, key)
    site.denials()
    with site.services.record.database.read() as connection:
        rows = [str(row) for table in metadata.sorted_tables for row in connection.execute(sa.select(table))]
    rest = key.removeprefix("gpo_")
    assert not [row for row in rows if rest in row]
    assert rest not in caplog.text
    assert rest.encode() not in site.services.config.home.joinpath("state/database/appliance.sqlite3").read_bytes()
