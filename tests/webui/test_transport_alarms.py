"""What an administrator is told about how people reach the site."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from appliance.authority import keep_certificate
from appliance.certificates import now_utc
from appliance.doctor import _look_at_transport
from appliance.errors import ApplianceError
from appliance.transport import Transport, local_files
from installer.formats.units import listening
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


@pytest.mark.parametrize(
    ("listen", "words"),
    [
        ("0.0.0.0:443", "the socket unit listens on 0.0.0.0:443: TLS with a certificate of this site's own"),
        ("[::]:443", "the socket unit listens on [::]:443: TLS with a certificate of this site's own"),
        ("127.0.0.1:8080", "the socket unit listens on 127.0.0.1:8080: plain HTTP on loopback"),
        ("[::1]:8080", "the socket unit listens on [::1]:8080: plain HTTP on loopback"),
        ("/run/gpt-oss.sock", "the socket unit listens on /run/gpt-oss.sock: plain HTTP on loopback"),
    ],
    ids=["network", "network-6", "loopback", "loopback-6", "unix"],
)
def test_doctor_judges_by_the_socket_unit_where_there_is_one(listen: str, words: str, site: Site) -> None:
    """Under the service it binds the address, so [listen] does not count."""
    here = replace(site.services.config, listen_host="127.0.0.1" if "0.0.0.0" in listen else "0.0.0.0")  # noqa: S104
    assert _look_at_transport(here, listen).startswith(words)


def test_a_socket_unit_that_leads_to_plain_http_on_a_network_is_a_fault(site: Site) -> None:
    config = replace(site.services.config, tls_plain_http=True)
    assert "loopback" in _look_at_transport(config)
    with pytest.raises(ApplianceError, match="plain HTTP on a network"):
        _look_at_transport(config, "0.0.0.0:80")


def test_the_socket_unit_of_a_site_is_found_by_its_mark(tmp_path: Path) -> None:
    units = tmp_path / "etc/systemd/system"
    units.mkdir(parents=True)
    unit = "# Written by the installer\n# Site: {site}\n[Socket]\nListenStream={listen}\n"
    (units / "a.socket").write_text(unit.format(site="/srv/other", listen="1.2.3.4:1"))
    (units / "b.socket").write_text(unit.format(site="/srv/gpt-oss", listen="0.0.0.0:443"))
    (units / "c.socket").write_bytes(b"\xff\xfe")
    (units / "d.socket").mkdir()
    assert listening(Path("/srv/gpt-oss"), os.geteuid(), tmp_path) == "0.0.0.0:443"
    assert listening(Path("/srv/none"), os.geteuid(), tmp_path) is None
    assert listening(Path("/srv/gpt-oss"), 4_000_000, tmp_path) == "0.0.0.0:443", "a user whom the host does not know"
