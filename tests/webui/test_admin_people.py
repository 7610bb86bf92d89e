"""The pages of people: one person's access, groups, invitations, and who may read what."""

from __future__ import annotations

import io
import re

import pytest

from appliance.people.accounts import Role
from tests.webui.conftest import PASSWORD, SYSTEM, Browser, Site


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def actions(site: Site) -> list[tuple[str, str]]:
    return [(event.header.action, event.header.subject) for event in site.events()]


def test_the_list_is_searched_and_says_when_nobody_fits(site: Site, admin: Browser) -> None:
    site.add_user("ada")
    site.add_user("grace", Role.REVIEWER)

    def names(query: str) -> list[str]:
        return re.findall(r"/admin/people/[0-9a-f]+\"><strong>(.*?)</strong>", admin.get(f"/admin?{query}").text)

    assert names("") == ["ada", "grace", "root"]
    assert names("q=RA") == ["grace"]
    assert names("role=admin&q=o") == ["root"]
    assert names("role=nonsense&state=x&page=-7&group=") == ["ada", "grace", "root"]
    page = admin.get("/admin?q=nobody<b>").text
    assert "Nobody fits." in page
    assert 'value="nobody&lt;b&gt;"' in page


def test_a_session_is_ended_after_asking(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    page = admin.get(f"/admin/people/{ada.id}").text
    (session,) = re.findall(r'name="session" value="([0-9a-f]+)"', page)
    path = f"/admin/people/{ada.id}/sessions/end"
    assert "Sign ada out there?" in admin.client.post(
        path, data={"csrf_token": admin.token(), "session": session}, headers={"Origin": "http://localhost"},
        follow_redirects=True,
    ).text  # fmt: skip
    assert browser.get("/chat").status_code == 200
    response = admin.post(path, session=session, confirmed="yes")
    assert (response.status_code, response.headers["Location"]) == (
        303, f"/admin/people/{ada.id}?notice=sessions",
    )  # fmt: skip
    assert browser.get("/chat").status_code == 302
    assert actions(site)[-1] == ("session_ended", "ada")
    assert "Nowhere." in admin.get(f"/admin/people/{ada.id}").text


def test_a_key_is_seen_without_its_secret_and_revoked(site: Site, admin: Browser) -> None:
    ada, bob = site.add_user("ada"), site.add_user("bob")
    secret = site.add_key(ada)
    page = admin.get(f"/admin/people/{ada.id}").text
    assert "test</td>" in page
    assert secret not in page
    (key,) = site.services.api_keys.list_keys(ada.id)
    assert admin.post(f"/admin/people/{bob.id}/keys/{key.id}/revoke", confirmed="yes").status_code == 404
    response = admin.post(f"/admin/people/{ada.id}/keys/{key.id}/revoke", confirmed="yes")
    assert response.status_code == 303
    assert site.services.api_keys.user(secret) is None
    page = admin.get(response.headers["Location"]).text
    assert "The key is revoked." in page
    assert "1 revoked key is not listed." in page


def test_an_invitation_is_listed_and_withdrawn(site: Site, admin: Browser) -> None:
    accounts = site.services.accounts
    grace = accounts.create_user("grace", None, [Role.USER], by=site.services.accounts.find("root").actor("web"))
    token = accounts.make_reset_link(grace.id, by=accounts.find("root").actor("web"))
    page = admin.get("/admin/invitations").text
    assert "Invitation: sets the first password" in page
    assert token not in page
    (path,) = re.findall(r'action="(/admin/invitations/[0-9a-f]+/withdraw)"', page)
    assert site.browser().get(f"/welcome/{token}").status_code == 200
    response = admin.post(path, confirmed="yes")
    assert "No link is open." in admin.get(response.headers["Location"]).text
    refused = site.browser().get(f"/welcome/{token}")
    assert refused.status_code == 410
    assert "An administrator withdrew this link." in refused.text
    assert admin.post(path, confirmed="yes").status_code == 404


def test_people_are_put_into_groups(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    for name in ("North", "South"):
        assert admin.post("/admin/groups", name=name).status_code == 303
    north, south = site.services.groups.list_groups()
    admin.post(f"/admin/people/{ada.id}/groups", group=[north.id, south.id])
    assert "North, South" in admin.get("/admin?q=ada").text
    admin.post(f"/admin/people/{ada.id}/groups", group=south.id)
    assert re.search(r"1 person</a>: ada", admin.get("/admin/groups").text)
    admin.post(f"/admin/groups/{south.id}/remove", confirmed="yes")
    assert [group.name for group in site.services.groups.list_groups()] == ["North"]
    assert actions(site)[-1] == ("group_changed", "South")


def test_what_does_not_exist_is_not_found(admin: Browser) -> None:
    assert admin.get("/admin/people/0123").status_code == 404
    assert admin.post("/admin/people/0123/sessions/end", confirmed="yes").status_code == 404
    assert admin.post("/admin/people/0123/keys/4567/revoke", confirmed="yes").status_code == 404


def test_the_page_of_roles_is_what_the_site_does(site: Site, admin: Browser) -> None:
    """Each line that the page promises is tried with an account of each single role."""
    page = admin.get("/admin/roles").text
    doors = {
        "Their own questions, answers and conversations": "/chat",
        "What everybody asked and was answered, while it is kept": "/review",
        "The integrity of the record, checkpoints and evidence": "/review/integrity",
        "Names, roles, groups, sessions and the names of API keys of everybody": "/admin",
    }
    browsers = {role: site.browser(site.add_user(f"only-{role.value}", role)) for role in Role}
    for what, path in doors.items():
        row = re.search(rf'<th scope="row">{what}.*?</tr>', page, re.S)
        assert row is not None, what
        promised = ["yes" in cell for cell in re.findall(r"<td class=\"cell-short\">(.*?)</td>", row[0], re.S)]
        assert promised == [browsers[role].get(path).status_code in (200, 303) for role in Role], what


def test_no_page_of_people_shows_what_they_asked(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    conversation = site.services.conversations.create(ada.id, title="A very private title")
    assert browser.get(f"/chat/{conversation.id}").status_code == 200
    for path in ("/admin", f"/admin/people/{ada.id}", "/admin/groups", "/admin/invitations", "/admin/roles"):
        assert "private title" not in admin.get(path).text
    assert PASSWORD not in admin.get(f"/admin/people/{ada.id}").text


def test_a_table_of_people_gives_links_that_are_shown_once(site: Site, admin: Browser) -> None:
    site.services.groups.create("=North", by=SYSTEM)
    response = admin.send("/admin/people/add", people="ada,Ada,user,=North\nbob\n")
    assert response.status_code == 303
    page = admin.get(response.headers["Location"]).text
    links = re.findall(r"data-new-link>http://127.0.0.1:8080(/welcome/[^<]+)<", page)
    assert len(links) == 2
    assert site.browser().get(links[0]).status_code == 200
    again = admin.get(response.headers["Location"]).text
    assert "data-new-link" not in again
    assert "The links were shown once." in again
    assert [user.name for user in site.services.accounts.list_users()] == ["ada", "bob", "root"]


def test_a_wrong_table_comes_back_with_each_bad_line(site: Site, admin: Browser) -> None:
    response = admin.send("/admin/people/add", people="ada\nno <name>\nbob,,boss")
    page = admin.get(response.headers["Location"])
    assert page.status_code == 400
    assert re.findall(r"<li data-fault>(Line \d):", page.text) == ["Line 2", "Line 3"]
    assert "no &lt;name&gt;" in page.text
    assert [user.name for user in site.services.accounts.list_users()] == ["root"]


def test_a_file_is_taken_in_place_of_the_text(site: Site, admin: Browser) -> None:
    form = {"csrf_token": admin.token(), "people": "", "file": (io.BytesIO(b"\xef\xbb\xbfname\nada\n"), "people.csv")}
    response = admin.client.post("/admin/people/add", data=form, headers={"Origin": "http://localhost"})
    assert response.status_code == 303
    assert [user.name for user in site.services.accounts.list_users()] == ["ada", "root"]
