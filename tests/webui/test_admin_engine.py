"""The pages of the engine and of alarms: figures come from the engine and the record; what is right is listed, too."""

from __future__ import annotations

import dataclasses
import json
import re
from datetime import timedelta

import pytest

from appliance.audit.checkpoint import mark_exported
from appliance.audit.details.site import ApplianceStarted, StartedRelease
from appliance.audit.event import Content, NewEvent
from appliance.people.accounts import Role
from appliance.people.usage import Figures, add_figures
from appliance.release_facts import ReleaseFacts, Signatures, load_facts
from tests.appliance.records import SYSTEM
from tests.fakes import FAKE_STATUS, FakeEngine
from tests.webui.conftest import Browser, MakeSite, Site
from webui.admin.alarms import current_alarms
from webui.admin.engine import served_releases

RECEIPT = {
    "installed_at": "2026-11-30T10:00:00+00:00", "self_test": "passed", "interpreter": "/usr/bin/python3.11",
    "publisher": "ab" * 32, "manifest_sha256": "cd" * 32, "expires": "2027-11-30", "allowed": ["expired"],
}  # fmt: skip


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def test_the_page_says_what_the_engine_says(make_site: MakeSite) -> None:
    details = {
        "threads": 2,
        "prompt_tokens": 400,
        "cached_tokens": 300,
        "cache_bytes": 3 << 30,
        "resident_bytes": 5 << 30,
    }
    status = dataclasses.replace(FAKE_STATUS, active=1, queued=4, details=details)
    site = make_site(FakeEngine(status=status))
    page = site.browser(site.add_user("root", Role.ADMIN)).get("/admin/engine").text
    for words in (
        "1 of at most 2 in work, 4 waiting", "CPU, 2 threads", "5.0 GiB held by the engine",
        "3.0 GiB set apart for conversations", "75% of the prompts", "4,096 tokens for one conversation",
    ):  # fmt: skip
        assert words in page


def test_an_engine_that_says_less_is_shown_with_less(make_site: MakeSite) -> None:
    strange = dataclasses.replace(FAKE_STATUS, details={"resident_bytes": "many", "prompt_tokens": True})
    site = make_site(FakeEngine(status=strange))
    page = site.browser(site.add_user("root", Role.ADMIN)).get("/admin/engine").text
    assert "not known" in page
    assert "no prompt yet" in page


def test_speeds_are_those_of_the_days_answers(site: Site, admin: Browser) -> None:
    today = int(site.services.clock().timestamp()) // 86_400
    figures = Figures(
        requests=2, tokens_out=90, timed=2, first_us=3_000_000, whole_us=9_000_000, first_most_us=2_500_000
    )
    with site.services.record.database.write(serial=True) as connection:
        add_figures(connection, today, "a1", "", figures)
        add_figures(connection, today - 3, "a1", "", Figures(requests=1, tokens_out=10, timed=1, whole_us=1_000_000))
    rows = re.findall(r'<tr><th scope="row">(.*?)</tr>', admin.get("/admin/engine").text)
    cells = [re.sub(r"<[^>]+>", "|", row) for row in rows]
    assert [re.findall(r"[\d.,]+ ?s?", row.partition("|")[2]) for row in cells] == [
        ["2", "15.0", "1.5 s", "2.5 s", "4.5 s"], ["3", "14.3", "1.0 s", "2.5 s", "3.3 s"],
        ["3", "14.3", "1.0 s", "2.5 s", "3.3 s"],
    ]  # fmt: skip


def start(site: Site, version: str, manifest: str) -> None:
    release = StartedRelease(version=version, manifest_sha256=manifest * 64)
    details = ApplianceStarted(silence={}, release=release)
    site.services.record.append(NewEvent(SYSTEM, "appliance_started", content=Content("silent", details)))


def test_releases_are_listed_by_the_records_starts(site: Site, admin: Browser) -> None:
    for version, manifest in (("1.0", "a"), ("2.0", "b"), ("2.0", "b"), ("1.0", "a"), ("1.0", "a"), ("1.0", "c")):
        start(site, version, manifest)
    found = [(one.version, one.manifest_sha256[0]) for one in served_releases(site.services)]
    assert found == [("1.0", "c"), ("1.0", "a"), ("2.0", "b"), ("1.0", "a")]
    page = admin.get("/admin/engine").text
    assert re.search(r"<strong>1.0</strong> <span class=\"tag tag-good\">.*?runs</span>", page)
    assert page.count(">previous</span>") == 1


def test_the_receipt_and_the_signatures_are_shown(site: Site, admin: Browser) -> None:
    release = site.services.config.release_dir
    assert load_facts(release) == ReleaseFacts()
    (release / "metadata").mkdir()
    (release / "receipt.json").write_text(json.dumps(RECEIPT))
    root = {"signed": {"roles": {"targets": {"keyids": ["k1" * 32, "k2" * 32], "threshold": 2}}}}
    signatures = [{"keyid": key * 32, "sig": sig} for key, sig in (("k1", "00"), ("k2", ""), ("x9", "00"))]
    (release / "metadata" / "root.json").write_text(json.dumps(root))
    (release / "metadata" / "targets.json").write_text(json.dumps({"signatures": signatures}))
    facts = load_facts(release)
    assert facts.signatures == Signatures(("k1" * 32,), 2, 2)  # no empty one, and none of a key that root does not know
    assert (facts.self_test, facts.allowed) == ("passed", ("expired",))
    page = admin.get("/admin/engine").text
    for words in ("2026-11-30T10:00:00", "1 of 2 keys, 2 needed", "passed", "cd" * 32, "expired"):
        assert words in page


@pytest.mark.parametrize("text", ["", "[]", "{", '{"installed_at": 7, "allowed": "x"}', "[" * 10_000])
def test_a_receipt_that_is_none_says_nothing(site: Site, admin: Browser, text: str) -> None:
    (site.services.config.release_dir / "receipt.json").write_text(text)
    assert load_facts(site.services.config.release_dir) == ReleaseFacts()
    assert "not said by this release" in admin.get("/admin/engine").text


def test_what_is_watched_is_listed_when_nothing_is_wrong(site: Site, admin: Browser) -> None:
    start(site, "1.0", "a")
    page = admin.get("/admin/alarms").text
    assert "Nothing is wrong." in page
    names = re.findall(r"<dt>(.*?)</dt><dd>(.*?)<", page.partition("Everything that is watched")[2])[:6]
    assert [name for name, _ in names] == ["Record", "Checkpoint exported", "Disk", "Silence", "Clock", "Certificate"]
    assert dict(names)["Silence"] == "Silent "


def test_a_record_that_never_left_is_a_warning_after_a_month(site: Site) -> None:
    event = site.services.record.append(NewEvent(SYSTEM, "checkpoint_exported"))
    now = site.services.clock()

    def warned(days: int) -> list[str]:
        later = dataclasses.replace(site.services, clock=lambda: now + timedelta(days=days))
        return [
            alarm.sentence.partition(":")[0]
            for alarm in current_alarms(later)
            if "checkpoint" in alarm.sentence.lower()
        ]

    assert warned(29) == []
    assert warned(31) == ["No checkpoint of the record was ever exported"]
    mark_exported(site.services.record.database, event)
    assert warned(29) == []
    assert warned(31) == ["No checkpoint left for a month"]


def test_a_clock_before_the_release_is_an_alarm(site: Site) -> None:
    signed_s = int(site.services.clock().timestamp()) + 3600
    release = dataclasses.replace(site.services.release, signed_s=signed_s)
    (alarm,) = current_alarms(dataclasses.replace(site.services, release=release))
    assert alarm.sentence == "The clock of this machine shows a time before this release was signed."
