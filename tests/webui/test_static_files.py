"""Files under names that change with their content, compressed; and which pages are compressed."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import pytest

from appliance.people.accounts import Role
from tests.webui.conftest import Site
from webui.static_files import IMMUTABLE, MATH_FONT, read_static_files

STATIC = Path(__file__).parents[2] / "webui" / "static"
GZIP = {"Accept-Encoding": "br, gzip"}


def links(page: str) -> set[str]:
    return set(re.findall(r'(?:href|src)="(/(?:static|banner)[^"#]*)', page.replace("&amp;", "&")))


@pytest.mark.parametrize(
    "path", ["/sign-in", "/chat", "/review", "/review/integrity", "/admin", "/account", "/nowhere"]
)
def test_everything_that_a_page_loads_is_kept_by_the_browser(site: Site, path: str) -> None:
    browser = site.browser() if path == "/sign-in" else site.browser(site.add_user("ada", *Role))
    found = links(browser.get(path).text)
    assert len(found) > 4
    for link in found:
        response = browser.get(link)
        assert (response.status_code, response.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")
        assert response.headers["X-Content-Type-Options"] == "nosniff"
        assert "Set-Cookie" not in response.headers


def test_each_file_is_the_same_compressed_and_has_its_type(site: Site) -> None:
    digest, types = read_static_files().digest, {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}
    paths = [path for path in STATIC.rglob("*") if path.is_file()]
    assert len(paths) > 15
    for path in paths:
        address = f"/static/{digest}/{path.relative_to(STATIC).as_posix()}"
        plain = site.browser().client.get(address)
        small = site.browser().client.get(address, headers=GZIP)
        assert plain.data == path.read_bytes(), path
        assert plain.mimetype == types.get(path.suffix, plain.mimetype), path
        if "Content-Encoding" in small.headers:
            assert gzip.decompress(small.data) == plain.data
            assert "Accept-Encoding" in plain.headers["Vary"]
            assert "Accept-Encoding" in small.headers["Vary"]
            assert len(small.data) < len(plain.data)
        elif len(plain.data) > 1_000:
            assert path.suffix not in types, path


def test_another_content_has_another_name(tmp_path: Path) -> None:
    (tmp_path / "a.js").write_text("one")
    first = read_static_files(tmp_path).digest
    read_static_files.cache_clear()
    (tmp_path / "a.js").write_text("two")
    second = read_static_files(tmp_path).digest
    read_static_files.cache_clear()
    (tmp_path / "a.js").rename(tmp_path / "b.js")
    assert len({first, second, read_static_files(tmp_path).digest}) == 3
    read_static_files.cache_clear()


def test_a_page_of_another_release_is_led_to_the_present_file(site: Site) -> None:
    response = site.browser().get("/static/0123456789abcdef/js/chat.js")
    assert response.status_code == 302
    assert response.headers["Location"] == f"/static/{read_static_files().digest}/js/chat.js"
    assert response.headers["Cache-Control"] == "no-store"
    assert site.browser().get("/static/0123456789abcdef/js/none.js").status_code == 404
    assert site.browser().get(f"/static/{read_static_files().digest}/js/none.js").status_code == 404


def test_modules_and_styles_name_each_other_by_relative_addresses_alone() -> None:
    named = [
        (path.name, address)
        for path in [*STATIC.rglob("*.js"), *STATIC.rglob("*.css")]
        for address in re.findall(r"""(?:\bfrom\s+|\bimport\s+|\bimport\(|url\()["']([^"']+)""", path.read_text())
    ]
    assert len(named) > 10
    assert [(name, address) for name, address in named if not address.startswith(("./", "../"))] == []


@pytest.mark.parametrize("accepted", ["", "gzip;q=0, br", "identity", "br"])
def test_who_takes_no_gzip_gets_none(site: Site, accepted: str) -> None:
    client, headers = site.browser(site.add_user("ada")).client, {"Accept-Encoding": accepted}
    for address in ("/chat", f"/static/{read_static_files().digest}/js/chat.js"):
        assert "Content-Encoding" not in client.get(address, headers=headers).headers


COMPRESSED = {"chat.new", "chat.conversation", "chat.earlier", "chat.on_paper", "static"}


def test_no_page_is_compressed_that_repeats_its_request_or_shows_a_secret(site: Site) -> None:
    """The list is short on purpose: see webui/compression.py before you add to it."""
    browser, found = site.browser(site.add_user("ada", *Role)), set()
    conversation = site.services.conversations.create(site.services.accounts.find("ada").id, title="A title")
    values = {"conversation_id": conversation.id, "digest": read_static_files().digest, "filename": "js/chat.js"}
    for rule in site.app.url_map.iter_rules():
        built = rule.build({name: values.get(name, 1) for name in rule.arguments})
        if built is not None and "GET" in (rule.methods or ()):
            response = browser.client.get(built[1], headers=GZIP)
            if "Content-Encoding" in response.headers:
                found.add(rule.endpoint)
                if rule.endpoint != "static":
                    assert response.headers["Cache-Control"] == "no-store"
                    assert "A title" in gzip.decompress(response.data).decode()
            response.close()
    assert COMPRESSED - {"chat.earlier"} <= found <= COMPRESSED  # nothing stands earlier here, which is too short


def test_a_compressed_page_repeats_nothing_of_its_request(site: Site) -> None:
    client = site.browser(site.add_user("ada")).client
    made = site.services.conversations.create(site.services.accounts.find("ada").id, title="A title")
    for address in ("/chat", f"/chat/{made.id}", f"/chat/{made.id}/print"):
        headers = {**GZIP, "User-Agent": "Xyzzy1", "Referer": "http://localhost/Xyzzy2", "Accept-Language": "xyzzy3"}
        client.set_cookie("other", "Xyzzy4")
        page = gzip.decompress(client.get(f"{address}?a=Xyzzy5&q=Xyzzy6&current=xyzzy7", headers=headers).data)
        assert b"yzzy" not in page


def test_the_font_for_formulae_is_served_and_has_what_makes_signs_grow(site: Site) -> None:
    font = site.browser().get(f"/static/{read_static_files().digest}/{MATH_FONT}")
    assert (font.status_code, font.mimetype, font.headers["Cache-Control"]) == (200, "font/ttf", IMMUTABLE)
    tables = {font.data[at : at + 4] for at in range(12, 12 + 16 * int.from_bytes(font.data[4:6], "big"), 16)}
    assert b"MATH" in tables  # OpenType, "Organization of an OpenType font"
    assert "SIL Open Font License".encode("utf-16-be") in font.data
