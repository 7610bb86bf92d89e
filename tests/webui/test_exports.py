"""A conversation as a file: Markdown, HTML and JSON, with marking and site, recorded, and read again by the import."""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from html.parser import HTMLParser

import pytest
from werkzeug.test import TestResponse

from appliance.attachments.wire import ReadFile
from appliance.audit.details.exchange import ConversationExported
from appliance.people.attachments import facts_of
from tests.webui.conftest import MakeSite, Site
from tests.webui.test_chat import Chat
from webui.chat.exports import file_name
from webui.chat.imports import parse_file

FORMS = ("markdown", "html", "json")


@pytest.fixture
def chat(make_site: MakeSite) -> Chat:
    return Chat(make_site(site_name="Northgate", banner_text="RESTRICTED", banner_colour="#1b6e3c"))


@pytest.fixture
def conversation(chat: Chat) -> str:
    """Two branches: the shown one begins with the edited question."""
    made = chat.create("First <b>title</b>")
    chat.ask(made, "one **bold** <script>alert(1)</script>")
    chat.ask(made, "uno $x^2$\n# not a heading", instead_of=chat.messages(made)[0].id)
    return made


def export(chat: Chat, conversation: str, form: str) -> TestResponse:
    response = chat.browser.get(f"/chat/{conversation}/export/{form}")
    assert response.status_code == 200, response.text
    return response


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_a_download_and_is_recorded_with_its_digest(chat: Chat, conversation: str, form: str) -> None:
    response = export(chat, conversation, form)
    disposition = response.headers["Content-Disposition"]
    assert re.fullmatch(
        r'attachment; filename="first-b-title-b-\d{4}-\d\d-\d\d\.(md|html|json)"; filename\*=UTF-8\'\'.*', disposition
    )
    event = chat.site.events()[-1]
    assert (event.header.action, event.header.subject) == ("conversation_exported", conversation)
    assert event.content is not None
    assert event.content.details == ConversationExported(
        form=form, messages=4 if form == "json" else 2, sha256=hashlib.sha256(response.data).hexdigest()
    )
    assert event.content.text == "First <b>title</b>"


def test_markdown_has_what_was_written_with_site_and_marking(chat: Chat, conversation: str) -> None:
    text = export(chat, conversation, "markdown").text
    assert text.startswith("**RESTRICTED**\n\n# First <b>title</b>\n\nExported from Northgate by ada on ")
    assert text.endswith("\n\n**RESTRICTED**\n")
    assert "uno $x^2$\n# not a heading\n" in text
    assert "You said: uno $x^2$" in text
    assert "one **bold**" not in text  # another branch
    assert re.search(r"## Answer \(\d{4}-\d\d-\d\d \d\d:\d\d UTC, gpt-oss-fake, release .+\)", text)


class Elements(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def test_html_stands_alone_and_runs_nothing(chat: Chat, conversation: str) -> None:
    first = chat.messages(conversation)[0].siblings[0]
    chat.send("POST", f"/chat/{conversation}/branch", {"message": first})
    page = Elements(export(chat, conversation, "html").text)
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "form", "base"}
    loading = {"src", "href", "srcset", "action", "style", "background"}
    assert [
        (tag, names) for tag, names in page.found if loading & set(names) or any(n[:2] == "on" for n in names)
    ] == []
    policies = [names["content"] for tag, names in page.found if names.get("http-equiv") == "Content-Security-Policy"]
    assert policies == ["default-src 'none'; style-src 'unsafe-inline'"]
    assert "one **bold** <script>alert(1)</script>" in page.text
    assert "strong" in tags
    assert page.text.count("RESTRICTED") == 2
    assert "Exported from Northgate by ada" in page.text
    assert "--surface" in page.text  # its own styles


def test_a_site_without_a_marking_exports_none(site: Site) -> None:
    chat = Chat(site)
    conversation = chat.create()
    chat.ask(conversation)
    assert "**\n" not in export(chat, conversation, "markdown").text
    assert 'class="exported-marking"' not in export(chat, conversation, "html").text
    assert json.loads(export(chat, conversation, "json").text)["marking"] is None


def test_json_has_every_branch_and_can_be_read_again(chat: Chat, conversation: str) -> None:
    data = export(chat, conversation, "json").data
    body = json.loads(data)
    assert (body["site"], body["marking"], body["exported_by"]) == ("Northgate", "RESTRICTED", "ada")
    tree = chat.site.services.conversations.tree(chat.user.id, conversation)
    assert [(m["id"], m["parent"], m["content"]) for m in body["messages"]] == [
        (m.id, m.parent_id, m.content) for m in tree
    ]
    assert body["messages"][1]["facts"]["model"] == "gpt-oss-fake"
    (read,) = parse_file(data)
    assert not isinstance(read, str)
    assert [(one.role, one.content) for one in read.messages] == [(m.role, m.content) for m in tree]  # type: ignore[union-attr]
    assert [one.parent for one in read.messages] == [None, 0, None, 2]  # type: ignore[union-attr]
    assert read.shown == 3  # type: ignore[union-attr]


def test_an_export_names_the_files_of_a_question_by_their_digests(chat: Chat) -> None:
    made, data = chat.create(), b"a,b\n1,2\n"
    facts = facts_of("<table>.csv", data, ReadFile("csv", data.decode()))
    file = chat.site.services.attachments.add(chat.user.id, facts, data, data.decode(), tokens=4)
    chat.ask(made, "What is in it?", files=[file.id])
    digest = hashlib.sha256(data).hexdigest()
    said = f"The file <table>.csv went with this question. Its SHA-256 is {digest}."
    assert f"\n\n> {said}\n\n" in export(chat, made, "markdown").text
    page = Elements(export(chat, made, "html").text)
    assert said in page.text
    (listed,) = json.loads(export(chat, made, "json").text)["messages"][0]["files"]
    assert listed == {"name": "<table>.csv", "size_bytes": len(data), "sha256": digest}


@pytest.mark.parametrize("form", [*FORMS, "pdf", "..%2f"])
def test_what_is_not_ones_own_is_not_exported(chat: Chat, conversation: str, form: str) -> None:
    eve = Chat(chat.site, "eve")
    size = chat.site.services.record.size()
    assert eve.browser.get(f"/chat/{conversation}/export/{form}").status_code == 404
    assert chat.browser.get(f"/chat/{'0' * 16}/export/{form}").status_code == 404
    assert chat.site.services.record.size() == size


@pytest.mark.parametrize(
    ("title", "name"),
    [("Plain words", "plain-words"), ("../../etc/passwd", "etc-passwd"), ("a\\b:c*?\"<>|", "a-b-c"),
     ("...", "conversation"),
     ("Straße 北京", "straße-北京"), ("\u202egnp.exe\r\nX: y", "gnp-exe-x-y"), ("x" * 300, "x" * 60)],
)  # fmt: skip
def test_a_name_is_safe_on_every_disk(title: str, name: str) -> None:
    assert file_name(title, "markdown", datetime(2026, 12, 1, tzinfo=UTC)) == f"{name}-2026-12-01.md"


def test_a_name_in_any_script_reaches_the_browser_in_one_header(chat: Chat) -> None:
    made = chat.create("北京 \r\nSet-Cookie: x")
    disposition = export(chat, made, "markdown").headers["Content-Disposition"]
    assert "\n" not in disposition
    assert "filename*=UTF-8''%E5%8C%97%E4%BA%AC-set-cookie-x-" in disposition
    disposition.encode("latin-1")
