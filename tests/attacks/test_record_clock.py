"""A clock that jumps, as the reviewer sees it: no page fails, events stand in the order of their numbers, and no
sentence about time is untrue.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from appliance.audit.checkpoint import Integrity, keep_verdict, mark_exported
from appliance.audit.erasure import erase, last_before
from appliance.audit.event import Content, NewEvent
from appliance.audit.evidence import export_evidence, verify_evidence
from appliance.audit.full_check import FullCheck
from appliance.audit.log import AuditLog
from appliance.audit.signer import LogSigner
from appliance.audit.verify import verify_log
from appliance.database.stored_values import LAST_US
from appliance.database.transactions import as_iso, as_us, open_database
from appliance.people.accounts import Role
from tests.appliance.records import SYSTEM
from tests.webui.conftest import Site
from webui.review.present.integrity import page_integrity

YEAR_1, YEAR_1970 = as_us(datetime(1, 1, 1, tzinfo=UTC)), 0
NOW = as_us(datetime(2026, 11, 30, 12, tzinfo=UTC))
YEAR = timedelta(days=365)
TIMES = [NOW, LAST_US, YEAR_1970, YEAR_1, NOW - 1, LAST_US, NOW - as_us(datetime(1971, 1, 1, tzinfo=UTC)), NOW]


@pytest.fixture
def jumped(site: Site) -> Iterator[AuditLog]:
    """The site's log with a question at each of these times."""
    database = open_database(site.services.config.database_url)
    times = iter(TIMES)
    log = AuditLog(database, clock_us=lambda: next(times))
    for number, _ in enumerate(TIMES):
        log.append(NewEvent(SYSTEM, "prompt", subject=f"t{number}", content=Content(f"question{number}")))
    yield AuditLog(database)
    database.close()


def test_every_page_of_review_shows_events_of_any_time_in_the_order_of_their_numbers(
    site: Site, jumped: AuditLog
) -> None:
    first = jumped.size() - len(TIMES) + 1
    browser = site.browser(site.add_user("rita", Role.REVIEWER))
    for address in ("/review?user=appliance", "/review?text=question", "/review?user=appliance&since=0001-01-01"):
        page = browser.get(address)
        assert page.status_code == 200
        shown = [int(number) for number in re.findall(r'href="/review/(\d+)', page.text)]
        in_order = [number for number in dict.fromkeys(shown) if first <= number < first + len(TIMES)]
        assert in_order == list(range(first + len(TIMES) - 1, first - 1, -1)), address
    for number, time_us in enumerate(TIMES, first):
        page = browser.get(f"/review/{number}")
        assert page.status_code == 200
        assert as_iso(time_us)[:19].replace("T", " ") in page.text, number
        assert browser.get(f"/review/{number}/source").status_code == 200
    for day in ("0001-01-01", "1970-01-01", "9999-12-31"):
        assert browser.get(f"/review?since={day}").status_code == 200
        assert browser.get(f"/review?until={day}").status_code == 200


def test_integrity_verification_and_exports_hold_with_events_of_any_time(site: Site, jumped: AuditLog) -> None:
    state = site.services.config.state_dir
    browser = site.browser(site.add_user("rita", Role.REVIEWER))
    for now in (LAST_US, YEAR_1970, NOW):
        LogSigner(jumped, state, clock_us=lambda now=now: now).sign()  # type: ignore[misc]
        assert browser.get("/review/integrity").status_code == 200
        assert browser.post("/review/integrity").status_code == 200
        data = export_evidence(jumped, state, [1, jumped.size()], by=SYSTEM)
        assert verify_evidence(data, (state / "keys" / "audit.pub").read_text()).proven.events == 2
    report = verify_log(jumped.database, state)
    assert report.faults == ()
    assert any("is before that of the event before it" in str(remark) for remark in report.remarks)


def test_the_file_of_a_checkpoint_is_named_after_the_checkpoint(site: Site, jumped: AuditLog) -> None:
    """The clock at the time of the download does not matter."""
    signed = LogSigner(jumped, site.services.config.state_dir, clock_us=lambda: LAST_US).sign()
    assert signed is not None
    answer = site.browser(site.add_user("rita", Role.REVIEWER)).post("/review/integrity/checkpoint")
    assert answer.status_code == 200
    name = f"checkpoint-{signed.size}-9999-12-31-235959.txt"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="{name}"'


def test_an_erasure_before_a_day_takes_nothing_that_comes_after_an_event_of_the_future(jumped: AuditLog) -> None:
    """The range ends before the first event that is too new, whatever the clock said later."""
    first = jumped.size() - len(TIMES) + 1
    last = last_before(jumped, NOW + 1)
    assert last < first + 1
    done = erase(jumped, first, first + len(TIMES) - 1, by=SYSTEM, reason="retention", pause=lambda _: None)
    assert done.contents == len(TIMES)


CHECKED = FullCheck(NOW - 7_200_000_000, 9, True)
SIGNED = Integrity("verified", 9, 9, NOW - 40_000_000, NOW - 3_600_000_000, checked=CHECKED)


def test_ago_is_true_before_and_after_the_clock_is_set_back_by_a_year() -> None:
    now = datetime(2026, 11, 30, 12, tzinfo=UTC)
    view = page_integrity(SIGNED, now)
    assert "were signed 40 s ago" in view.message
    assert "A checkpoint left this machine 1 h ago." in view.message
    assert "last checked one by one 2 h ago" in view.message
    back = page_integrity(replace(SIGNED, state="stale", ahead=True), now - YEAR)
    assert " ago" not in f"{back.summary} {back.title} {back.message}"
    for moment in ("2026-11-30 11:00:00 UTC", "2026-11-30 10:00:00 UTC", "2026-11-30 11:59:20 UTC"):
        assert moment in back.message, back.message
    again = page_integrity(SIGNED, now + YEAR)
    assert "were signed 365 d ago" in again.message
    assert "left this machine 365 d ago" in again.message


def test_what_was_verified_and_exported_under_another_clock_is_no_time_ago(site: Site) -> None:
    """The clock is set back by a year between two looks at the page."""
    later = as_us(datetime.now(UTC) + YEAR)
    database = open_database(site.services.config.database_url)
    log = AuditLog(database, clock_us=lambda: later)
    state = site.services.config.state_dir
    log.append(NewEvent(SYSTEM, "prompt", content=Content("?")))
    LogSigner(log, state).sign()
    keep_verdict(log, verify_log(database, state), by=SYSTEM)
    mark_exported(database, log.append(NewEvent(SYSTEM, "checkpoint_exported")))
    page = site.browser(site.add_user("rita", Role.REVIEWER)).get("/review/integrity").text
    database.close()
    moment = as_iso(later)[:19].replace("T", " ") + " UTC, which the clock of this machine has not reached"
    assert f"were last checked one by one at {moment}" in page
    assert f"A checkpoint left this machine at {moment}" in page
    assert "; every event checked" not in page  # in the badge, where there is no room for it
