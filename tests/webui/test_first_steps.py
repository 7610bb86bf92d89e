"""The first steps: each is open until the site stands so, and done from then on, without anybody ticking it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from appliance.people.accounts import Role
from appliance.transport import Transport
from tests.webui.conftest import SYSTEM, Browser, MakeSite, Site
from webui.admin.steps import Step, steps
from webui.services import Services


@pytest.fixture
def root(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def found(site: Site, **changes: object) -> dict[str, Step]:
    from dataclasses import replace

    services: Services = replace(site.services, **changes)  # type: ignore[arg-type]
    with site.app.test_request_context():
        return {step.title: step for step in steps(services, ())}


def test_the_first_administrator_is_led_there_and_later_ones_are_not(site: Site) -> None:
    for name, address in (("root", "/admin/first-steps"), ("second", "/")):
        user = site.services.accounts.create_user(name, None, [Role.ADMIN], by=SYSTEM)
        link = site.services.accounts.make_reset_link(user.id, by=SYSTEM)
        word = "a long enough password"
        sent = site.browser().send(f"/welcome/{link}", name=name, password=word, password_again=word)
        assert sent.headers["Location"] == address


def take(site: Site, root: Browser, title: str) -> None:
    """Take one step as an administrator, a reviewer or the operator does."""
    ways: dict[str, Callable[[], object]] = {
        "Markings": lambda: root.send("/admin/markings", name="OPEN", style="grey"),
        "People who chat": lambda: site.add_user("ada"),
        "A reviewer": lambda: site.add_user("rita", Role.REVIEWER),
        "A second administrator": lambda: site.add_user("second", Role.ADMIN),
        "First checkpoint off the machine": lambda: export(site),
    }
    ways[title]()


def export(site: Site) -> None:
    from appliance.audit.checkpoint import write_checkpoint

    write_checkpoint(site.services.record, site.services.config.state_dir)
    reviewer = site.browser(site.add_user("exporter", Role.REVIEWER))
    assert reviewer.send("/review/integrity/checkpoint").status_code == 200


@pytest.mark.parametrize(
    "title",
    ["Markings", "People who chat", "A reviewer", "A second administrator", "First checkpoint off the machine"],
)
def test_a_step_is_open_until_it_is_taken(site: Site, root: Browser, title: str) -> None:
    assert not found(site)[title].is_done
    take(site, root, title)
    assert found(site)[title].is_done


def test_a_step_is_open_again_when_what_it_rests_on_is_gone(site: Site, root: Browser) -> None:
    ada = site.add_user("ada")
    assert found(site)["People who chat"].is_done
    site.services.accounts.disable(ada.id, by=SYSTEM)
    assert not found(site)["People who chat"].is_done


@pytest.mark.parametrize(("transport", "is_done"), [
    (Transport.LOOPBACK, False), (Transport.PLAIN, False), (Transport.CERTIFICATE, True),
    (Transport.LOCAL_AUTHORITY, True),
])  # fmt: skip
def test_the_way_in_is_judged_as_it_is(site: Site, root: Browser, transport: Transport, *, is_done: bool) -> None:
    assert found(site, transport=transport)["TLS"].is_done is is_done


def test_the_page_says_what_is_open_and_where(make_site: MakeSite) -> None:
    site = make_site(banner_text="RESTRICTED")
    root = site.browser(site.add_user("root", Role.ADMIN))
    page = root.get("/admin/first-steps").text
    assert "Every page has the banner “RESTRICTED”" in page
    assert page.count('data-step="done"') == 2  # the banner, and no alarm
    assert 'href="/admin" aria-label="Take this step: A reviewer"' in page
    assert "of the first steps are still open" in root.get("/admin").text
    assert site.browser(site.add_user("ada")).get("/admin/first-steps").status_code == 403
