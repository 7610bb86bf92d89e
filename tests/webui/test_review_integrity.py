"""The page behind the badge: who may verify, acknowledge and export a checkpoint, and that each is recorded."""

from __future__ import annotations

import pytest

from appliance.audit.checkpoint import integrity, write_checkpoint
from appliance.audit.event import Content, NewEvent
from appliance.audit.fault import LogBrokenError
from appliance.audit.ledger import read_tail
from appliance.audit.note import SignedCheckpoint, load_verifier, verify_checkpoint
from appliance.audit.words import remove_words
from appliance.database.tables import audit_events
from appliance.people.accounts import Role
from tests.webui.conftest import SYSTEM, Browser, Site


@pytest.fixture
def reviewer(site: Site) -> Browser:
    return site.browser(site.add_user("rita", Role.REVIEWER))


def checkpoint(site: Site) -> SignedCheckpoint | None:
    return write_checkpoint(site.services.record, site.services.config.state_dir)


def open_finding(site: Site) -> str | None:
    tail = read_tail(site.services.config.audit_dir)
    return tail[1].id if tail and tail[1] else None


def broken(site: Site) -> str:
    """Damage a signed event. The value is the id of the finding."""
    site.services.record.append(NewEvent(SYSTEM, "prompt", content=Content("a question")))
    signed = checkpoint(site)
    assert signed is not None
    with site.services.record.database.write() as connection:
        connection.execute(audit_events.update().where(audit_events.c.sequence == signed.size).values(actor_name="eve"))
    with pytest.raises(LogBrokenError):
        checkpoint(site)
    finding = open_finding(site)
    assert finding is not None
    return finding


def actions(site: Site) -> list[str]:
    return [event.header.action for event in site.events()]


def test_a_reviewer_acknowledges_with_a_reason_and_signing_begins_anew(site: Site, reviewer: Browser) -> None:
    finding = broken(site)
    assert f"Acknowledge finding {finding}" in reviewer.get("/review/integrity").text
    answer = reviewer.post("/review/integrity/acknowledge", finding=finding, reason="the disk was exchanged")
    assert answer.status_code == 303
    event = site.events()[-1]
    assert (event.header.action, event.header.actor.name, event.header.subject) == (
        "finding_acknowledged", "rita", finding,
    )  # fmt: skip
    assert event.content is not None
    assert event.content.text == "the disk was exchanged"
    assert checkpoint(site) is not None
    assert open_finding(site) is None
    page = reviewer.get("/review/integrity").text
    assert f"Acknowledge finding {finding}" not in page
    assert "the disk was exchanged" in page


@pytest.mark.parametrize(
    ("named", "reason"),
    [(True, ""), (True, "  "), (True, "x"), (True, "x" * 501), (False, "a reason"), (None, "a reason")],
)
def test_without_a_reason_or_the_findings_name_nothing_is_acknowledged(
    site: Site, reviewer: Browser, named: bool | None, reason: str
) -> None:
    finding = broken(site)
    given = {} if named is None else {"finding": finding if named else "00000000"}
    answer = reviewer.post("/review/integrity/acknowledge", reason=reason, **given)
    assert answer.status_code == 400
    assert 'role="alert"' in answer.text
    assert "finding_acknowledged" not in actions(site)
    assert open_finding(site) == finding


@pytest.mark.parametrize("path", ["/review/integrity/acknowledge", "/review/integrity/checkpoint", "/review/integrity"])
@pytest.mark.parametrize("role", [Role.ADMIN, Role.USER])
def test_who_is_no_reviewer_is_refused_and_that_is_recorded(site: Site, path: str, role: Role) -> None:
    finding = broken(site)
    other = site.browser(site.add_user("sam", role))
    assert other.post(path, finding=finding, reason="a reason").status_code == 403
    event = site.events()[-1]
    assert (event.header.action, event.header.actor.name) == ("denied", "sam")
    assert open_finding(site) == finding


@pytest.mark.parametrize("path", ["/review/integrity/acknowledge", "/review/integrity/checkpoint", "/review/integrity"])
def test_a_form_of_another_site_does_nothing(site: Site, reviewer: Browser, path: str) -> None:
    finding = broken(site)
    for token in ("", "0" * 64):
        assert reviewer.post(path, finding=finding, reason="a reason", csrf_token=token).status_code == 403
    assert not {"finding_acknowledged", "checkpoint_exported", "record_verified"} & set(actions(site))
    assert reviewer.get(path).status_code in (200, 405)
    assert not {"finding_acknowledged", "checkpoint_exported", "record_verified"} & set(actions(site))


def test_a_checkpoint_that_is_taken_away_is_the_signed_one_and_counts_as_exported(
    site: Site, reviewer: Browser
) -> None:
    assert reviewer.post("/review/integrity/checkpoint").status_code == 404
    assert "checkpoint_exported" not in actions(site)
    signed = checkpoint(site)
    config, log = site.services.config, site.services.record
    assert integrity(log, config.state_dir).exported_us is None
    answer = reviewer.post("/review/integrity/checkpoint")
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"].startswith('attachment; filename="checkpoint-')
    verifier = load_verifier(config.keys_dir)
    assert verifier is not None
    assert verify_checkpoint(answer.text, verifier) == signed
    event = site.events()[-1]
    assert (event.header.action, event.header.actor.name) == ("checkpoint_exported", "rita")
    assert integrity(log, config.state_dir).exported_us is not None


def test_the_page_verifies_what_the_command_does(site: Site, reviewer: Browser) -> None:
    """An account and the search index, which do not belong to the log."""
    log = site.services.record
    header = log.append(NewEvent(SYSTEM, "prompt", content=Content("a secret plan")))
    checkpoint(site)
    page = reviewer.post("/review/integrity").text
    assert "Everything was checked just now and is intact" in page
    assert "words in" in page
    with log.database.write() as connection:
        remove_words(log.database, connection, [(header.sequence, "a secret plan")])
        connection.exec_driver_sql("UPDATE users SET roles = 'admin,reviewer' WHERE name = 'rita'")
    page = reviewer.post("/review/integrity").text
    assert f"event {header.sequence}: the search index lacks words of it" in page
    assert "the account rita has the roles admin,reviewer" in page
    assert "and is intact" not in page
    assert site.events()[-1].header.outcome == "failed"
    assert 'data-integrity="broken"' in reviewer.get("/review").text
