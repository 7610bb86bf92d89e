"""The administrator's pages: accounts are made and disabled, one administrator always remains, no content is shown."""

from __future__ import annotations

import dataclasses
import re
from datetime import timedelta

import pytest

from appliance.audit.checkpoint import write_checkpoint
from appliance.audit.details.site import AttemptRefused, ReleaseReturned
from appliance.audit.event import Action, Content, NewEvent
from appliance.database.tables import audit_events
from appliance.isolation.refused import UNWATCHED, Refused
from appliance.people.accounts import Role
from appliance.site_address import parse_site_address
from installer.formats.advisories import FILE as ADVISORIES
from installer.formats.advisories import OLD_DAYS, Advisories, Affected, Export, encode_advisories
from tests.appliance.records import SYSTEM
from tests.fakes import FAKE_STATUS, FakeEngine
from tests.webui.conftest import PASSWORD, Browser, MakeSite, Site
from webui.admin.alarms import current_alarms


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def link_of(page: str) -> str:
    found = re.search(r"data-new-link>http://127.0.0.1:8080(/welcome/[^<]+)<", page)
    assert found is not None, page
    return found[1]


@pytest.mark.parametrize("role", [Role.USER, Role.REVIEWER])
def test_only_administrators_administer(site: Site, role: Role) -> None:
    browser = site.browser(site.add_user("ada", role))
    assert browser.get("/admin").status_code == 403
    assert browser.post("/admin/users", name="eve", admin="yes").status_code == 403
    assert [user.name for user in site.services.accounts.list_users()] == ["ada"]
    assert site.denials() == ["missing_role", "missing_role"]


def test_an_added_person_chooses_the_password_by_the_link(site: Site, admin: Browser) -> None:
    link = link_of(admin.post("/admin/users", name="grace", user="yes", reviewer="yes").text)
    assert site.services.accounts.find("grace").roles == {Role.USER, Role.REVIEWER}
    grace = site.browser()
    response = grace.post(link, name="grace", password=PASSWORD, password_again=PASSWORD)
    assert response.status_code == 303
    assert grace.get("/chat").status_code == 200


def test_a_refused_name_is_said_and_kept_in_the_form(site: Site, admin: Browser) -> None:
    response = admin.post("/admin/users", name="no <name>", user="yes")
    assert response.status_code == 400
    assert "A user name has 1 to 64 characters" in response.text
    assert 'value="no &lt;name&gt;"' in response.text
    assert len(site.services.accounts.list_users()) == 1


def test_an_account_needs_a_role(site: Site, admin: Browser) -> None:
    response = admin.post("/admin/users", name="grace")
    assert response.status_code == 400
    assert "at least one role" in response.text


def test_a_disabled_person_is_out_at_once_and_in_again_when_enabled(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    assert "Disable ada?" in admin.post(f"/admin/users/{ada.id}/disable").text
    assert browser.get("/chat").status_code == 200  # the first request only asked
    admin.post(f"/admin/users/{ada.id}/disable", confirmed="yes")
    assert browser.get("/chat").status_code == 302
    assert "Disabled" in admin.get("/admin").text
    admin.post(f"/admin/users/{ada.id}/enable")
    assert site.browser(ada).get("/chat").status_code == 200


def test_roles_are_changed_and_hold_from_the_next_request(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    assert browser.get("/review").status_code == 403
    question = admin.post(f"/admin/users/{ada.id}/roles", reviewer="yes").text
    assert "ada may no longer chat." in question
    assert "ada may read the record" in question
    assert browser.get("/chat").status_code == 200
    admin.post(f"/admin/users/{ada.id}/roles", reviewer="yes", confirmed="yes")
    assert browser.get("/chat").status_code == 302  # signed out
    again = site.browser(ada)
    assert again.get("/review").status_code == 200
    assert again.get("/chat").status_code == 403


@pytest.mark.parametrize(("path", "form"), [("disable", {}), ("roles", {"user": "yes"})])
def test_the_last_administrator_stays_one(site: Site, admin: Browser, path: str, form: dict[str, str]) -> None:
    root = site.services.accounts.find("root")
    response = admin.post(f"/admin/users/{root.id}/{path}", confirmed="yes", **form)
    assert response.status_code == 400
    assert "last administrator" in response.text
    assert site.services.accounts.find("root") == root


def test_a_new_link_replaces_a_forgotten_password(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    link = link_of(admin.post(f"/admin/users/{ada.id}/link", confirmed="yes").text)
    new = "another long password"
    assert site.browser().post(link, password=new, password_again=new).status_code == 303
    assert site.browser().post("/sign-in", name="ada", password=PASSWORD).status_code == 401


@pytest.mark.parametrize("path", ["disable", "enable", "roles", "link"])
def test_a_person_who_is_not_there_is_not_found(admin: Browser, path: str) -> None:
    assert admin.post(f"/admin/users/0123456789abcdef/{path}", user="yes").status_code == 404


def test_the_page_says_how_the_engine_stands(admin: Browser) -> None:
    assert "0 of at most 2 in work, 0 waiting</dd>" in admin.get("/admin/engine").text


@pytest.mark.parametrize(
    ("generated", "drafted", "said"), [(2000, 620, "31% of the 2,000 tokens since"), (2000, 0, "none yet</span>")]
)
def test_the_page_says_how_many_tokens_came_from_drafts(
    make_site: MakeSite, generated: int, drafted: int, said: str
) -> None:
    status = dataclasses.replace(FAKE_STATUS, generated_tokens=generated, tokens_from_drafts=drafted)
    site = make_site(FakeEngine(status=status))
    assert said in site.browser(site.add_user("root", Role.ADMIN)).get("/admin/engine").text


def test_the_page_says_when_the_engine_does_not_answer(make_site: MakeSite) -> None:
    site = make_site(FakeEngine(status=None))
    assert "Does not answer" in site.browser(site.add_user("root", Role.ADMIN)).get("/admin/engine").text


def test_a_damaged_release_is_an_alarm_until_a_comparison_finds_nothing(site: Site, admin: Browser) -> None:
    release = site.services.config.release_dir.name
    text = "Release 1.0 is not as it was installed: model/cpu/weights-00001.bin differs"
    damaged = NewEvent(SYSTEM, "release_compared", "failed", release, Content(text))
    site.services.record.append(damaged)
    assert f"{text}." in admin.get("/admin").text
    site.services.record.append(NewEvent(SYSTEM, "release_compared", "failed", "another release", Content("elsewhere")))
    assert f"{text}." in admin.get("/admin").text
    site.services.record.append(NewEvent(SYSTEM, "release_compared", "ok", release))
    assert "data-alarm" not in admin.get("/admin").text


def test_a_broken_record_is_an_alarm_at_the_top_of_the_page(site: Site, admin: Browser) -> None:
    assert "data-alarm" not in admin.get("/admin").text
    write_checkpoint(site.services.record, site.services.config.state_dir)
    with site.services.record.database.write() as connection:
        connection.execute(audit_events.delete().where(audit_events.c.sequence == 1))
        connection.execute(audit_events.update().values(subtrees=b""))
    page = admin.get("/admin").text
    assert "data-alarm" in page
    assert "The record is broken: " in page


@pytest.mark.parametrize(
    ("listener_url", "address", "warned"),
    [("http://127.0.0.1:8080", "", False), ("http://[::1]:8080", "", False), ("http://box:8080", "", True),
     ("http://10.0.0.5:8080", "", True), ("http://box:8080", "https://chat.example", False)],
)  # fmt: skip
def test_a_site_that_does_not_know_its_address_says_so_where_strangers_reach_it(
    make_site: MakeSite, listener_url: str, address: str, warned: bool
) -> None:
    site = make_site(site_addresses=(parse_site_address(address),) if address else ())
    found = current_alarms(dataclasses.replace(site.services, listener_url=listener_url))
    assert ["does not know its own address" in alarm.sentence for alarm in found] == [True] * warned


def attempt(site: Site, call: str, *, kind: str = "web", arguments: tuple[int, ...] = (5, 41, 57, 0, 0, 0)) -> int:
    refused = Refused(kind, call, 4711, arguments, 3, 1)
    content = Content(refused.words(), AttemptRefused(**dataclasses.asdict(refused)))
    return site.services.record.append(NewEvent(SYSTEM, "attempt_refused", "denied", refused.subject, content)).sequence


def alarms(page: str) -> list[tuple[str, str]]:
    return re.findall(r'class="note note-(\w+)" role="alert" data-alarm>.*?<strong>(.*?)</strong>', page, re.S)


def test_what_a_process_was_refused_is_a_red_line_with_the_process_the_call_and_the_event(
    site: Site, admin: Browser
) -> None:
    attempt(site, "setsockopt")
    newest = attempt(site, "setsockopt")
    page = admin.get("/admin").text
    told = "A process of the appliance (web) called setsockopt, which it must not. The kernel refused it."
    assert alarms(page) == [("bad", told)]
    assert f"Event {newest} says more, and 1 before it." in page
    assert "somebody may have broken into it" in page


def test_a_call_that_nobody_foresaw_is_a_warning(site: Site, admin: Browser) -> None:
    attempt(site, "sched_rr_get_interval", kind="engine-cpu")
    ((severity, told),) = alarms(admin.get("/admin").text)
    assert (severity, "engine-cpu" in told) == ("warn", True)


def test_an_attempt_is_shown_for_a_day(site: Site, admin: Browser) -> None:
    sequence = attempt(site, "connect")
    day_us = 24 * 3600 * 1_000_000
    with site.services.record.database.write() as connection:
        later = audit_events.c.time_us - day_us - 60_000_000
        connection.execute(audit_events.update().where(audit_events.c.sequence == sequence).values(time_us=later))
    assert not [told for _, told in alarms(admin.get("/admin").text) if "called connect" in told]


def test_that_nobody_sees_attempts_is_a_warning_until_the_next_start_that_does(site: Site, admin: Browser) -> None:
    record = site.services.record
    record.append(NewEvent(SYSTEM, "appliance_started"))
    assert alarms(admin.get("/admin").text) == []
    actions: tuple[Action, ...] = ("appliance_started", "watch_ended")
    for action in actions:
        event = record.append(NewEvent(SYSTEM, action, subject=UNWATCHED)).sequence
        told = f"Attempts that the kernel refuses are seen by nobody (event {event})."
        assert alarms(admin.get("/admin").text) == [("warn", told)]
        record.append(NewEvent(SYSTEM, "appliance_started"))
        assert alarms(admin.get("/admin").text) == []


def test_a_process_that_was_stopped_is_a_warning_for_a_day(site: Site, admin: Browser) -> None:
    record, day_us = site.services.record, 86_400_000_000
    for _ in range(2):
        event = record.append(NewEvent(SYSTEM, "process_paused", "failed", "engine")).sequence
    told = "Somebody stopped a process of the appliance (the engine) from outside; it went on at once."
    assert alarms(admin.get("/admin").text) == [("warn", told)]
    assert f"Event {event} says more." in admin.get("/admin").text
    with record.database.write() as connection:
        later = audit_events.c.time_us - day_us - 60_000_000
        connection.execute(audit_events.update().where(audit_events.c.action == "process_paused").values(time_us=later))
    assert alarms(admin.get("/admin").text) == []


def test_a_return_is_an_alarm_until_another_release_serves(site: Site, admin: Browser) -> None:
    served = site.services.config.release_dir.name
    text = f"Release 2.0 did not become ready in 3 starts, so release {served} is served again"
    details = ReleaseReturned(left="2.0", to=served, why="did not become ready in 3 starts", at="2026")
    event = NewEvent(SYSTEM, "release_returned", "failed", "2.0", Content(text, details))
    site.services.record.append(event)
    assert alarms(admin.get("/admin").text) == [("bad", f"{text}.")]
    elsewhere = dataclasses.replace(details, to="3.0")
    site.services.record.append(dataclasses.replace(event, content=Content("Another.", elsewhere)))
    assert alarms(admin.get("/admin").text) == []


def test_known_vulnerabilities_and_old_data_are_warnings(site: Site, admin: Browser) -> None:
    """By what the release carries; one that carries nothing is no alarm."""
    now = site.services.clock()
    place = site.services.config.release_dir / ADVISORIES

    def carry(age_days: int, *affected: Affected) -> None:
        newest = f"{now - timedelta(days=age_days):%Y-%m-%dT%H:%M:%SZ}"
        place.write_bytes(encode_advisories(Advisories(3, 2, (Export("osv", "0" * 64, newest),), affected)))

    assert alarms(admin.get("/admin").text) == []
    carry(OLD_DAYS)
    assert alarms(admin.get("/admin").text) == []
    carry(OLD_DAYS + 1)
    ((severity, told),) = alarms(admin.get("/admin").text)
    assert (severity, f"({OLD_DAYS + 1} days old)" in told) == ("warn", True)
    flaw = Affected("pypi", "flask", "3.0<b>", None, "GHSA-1", (), None, None, "Bad.")
    carry(1, flaw, dataclasses.replace(flaw, id="GHSA-2"), dataclasses.replace(flaw, name="openssl", within="curl"))
    ((severity, told),) = alarms(admin.get("/admin").text)
    assert severity == "warn"
    assert told.startswith("Parts of this release have known vulnerabilities, by data of ")
    assert told.endswith("(1 day old): flask 3.0&lt;b&gt;, openssl 3.0&lt;b&gt; (in curl).")
    place.write_text("{}")
    ((severity, told),) = alarms(admin.get("/admin").text)
    assert (severity, "advisories.json of the release is not what it should be" in told) == ("warn", True)
