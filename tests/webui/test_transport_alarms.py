"""What an administrator is told about how people reach the site."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from appliance.authority import keep_certificate
from appliance.certificates import now_utc
from appliance.doctor import _look_at_transport
from appliance.errors import ApplianceError
from appliance.transport import Transport, local_files
from tests.webui.conftest import Site
from webui.admin.alarms import Alarm, current_alarms


def alarms(site: Site, transport: Transport, days: int = 0) -> list[Alarm]:
    """The alarms of the transport, `days` from now."""
    later = now_utc() + timedelta(days=days)
    return current_alarms(replace(site.services, transport=transport, clock=lambda: later))


def test_plain_http_on_a_network_is_an_alarm(site: Site) -> None:
    assert alarms(site, Transport.LOOPBACK) == []
    found = alarms(site, Transport.PLAIN)
    assert [alarm.severity for alarm in found] == ["alarm"]
    assert "unencrypted" in found[0].sentence


@pytest.mark.parametrize(
    ("days", "severity", "words"),
    [(0, None, ""), (360, None, ""), (370, "warning", "expires on"), (400, "alarm", "expired on"),
     (-30, "alarm", "is not valid before")],
)  # fmt: skip
def test_the_end_of_a_certificate_is_warned_of_thirty_days_ahead(
    site: Site, days: int, severity: str | None, words: str
) -> None:
    keep_certificate(site.services.config, now_utc(), "box")
    found = alarms(site, Transport.LOCAL_AUTHORITY, days)
    assert [alarm.severity for alarm in found] == ([severity] if severity else [])
    assert all(words in alarm.sentence for alarm in found)


def test_a_certificate_that_no_longer_fits_is_an_alarm(site: Site) -> None:
    config = site.services.config
    keep_certificate(config, now_utc(), "box")
    local_files(config).key.chmod(0o644)
    found = alarms(site, Transport.LOCAL_AUTHORITY)
    assert [alarm.severity for alarm in found] == ["alarm"]
    assert "chmod 600" in found[0].sentence


def test_doctor_says_how_people_reach_the_site(site: Site) -> None:
    config = site.services.config
    assert "loopback" in _look_at_transport(config)
    config = replace(config, listen_host="0.0.0.0")  # noqa: S104
    assert "made at the first start" in _look_at_transport(config)
    keep_certificate(config, now_utc(), "box")
    assert "for box, localhost" in _look_at_transport(config)
    keep_certificate(config, now_utc() - timedelta(days=380), "other")
    with pytest.raises(ApplianceError, match=r"expires on .*, in 1[56] days"):
        _look_at_transport(config)
    with pytest.raises(ApplianceError, match="plain HTTP on a network"):
        _look_at_transport(replace(config, tls_plain_http=True))
