"""The page of usage: turns of the chat and of the API are counted, refusals too, and the CSV runs in no spreadsheet."""

from __future__ import annotations

import csv
import io
import re

import pytest

from appliance.people.accounts import Role
from tests.webui.conftest import Browser, Site
from tests.webui.test_chat import Chat
from webui.admin.chart import HEIGHT, bar_chart
from webui.csv_file import csv_text


@pytest.fixture
def admin(site: Site) -> Browser:
    return site.browser(site.add_user("root", Role.ADMIN))


def table(site: Site, admin: Browser, by: str) -> list[dict[str, str]]:
    response = admin.get(f"/admin/usage.csv?by={by}")
    assert response.mimetype == "text/csv"
    assert "attachment" in response.headers["Content-Disposition"]
    return list(csv.DictReader(io.StringIO(response.text)))


def complete(site: Site, secret: str) -> int:
    return site.app.test_client().post(
        "/v1/chat/completions", headers={"Authorization": f"Bearer {secret}"},
        json={"model": "gpt-oss-fake", "messages": [{"role": "user", "content": "A private word"}]},
    ).status_code  # fmt: skip


def test_turns_of_the_chat_and_of_keys_are_counted(site: Site, admin: Browser) -> None:
    chat = Chat(site)
    assert complete(site, site.add_key(chat.user)) == 200
    chat.ask(chat.create(), "A private word")
    (person,) = table(site, admin, "person")
    assert (person["person"], person["requests"], person["tokens_in"], person["tokens_out"]) == ("ada", "2", "40", "14")
    assert float(person["first_token_s_mean"]) == pytest.approx(0.01)
    assert {row["key"]: row["requests"] for row in table(site, admin, "key")} == {
        "ada/test": "1",
        "ada (the chat)": "1",
    }
    (day,) = table(site, admin, "day")
    assert (day["people"], day["requests"], day["failed"]) == ("1", "2", "0")
    for by in ("day", "person", "group", "key"):
        page = admin.get(f"/admin/usage?by={by}").text
        assert "private" not in page
        assert page.count("<svg viewBox") == 6
    assert "ada/test" in admin.get("/admin/usage?by=key").text


def test_refusals_are_counted_for_whom_they_met(site: Site, admin: Browser) -> None:
    ada = site.add_user("ada")
    browser = site.browser(ada)
    for _ in range(3):
        assert browser.get("/admin").status_code == 403
    (person,) = table(site, admin, "person")
    assert (person["person"], person["requests"], person["refused"]) == ("ada", "0", "3")


@pytest.mark.parametrize("query", ["by=nonsense", "days=9999", "days=-1", "by=day&days=7"])
def test_an_odd_address_shows_a_page(admin: Browser, query: str) -> None:
    assert admin.get(f"/admin/usage?{query}").status_code == 200
    assert admin.get(f"/admin/usage.csv?{query}").status_code == 200


@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1"])
def test_no_cell_of_a_csv_file_is_a_formula(text: str) -> None:
    (cell,) = list(csv.reader(io.StringIO(csv_text(["x"], [[text]]))))[1]
    assert cell == "'" + text


def test_numbers_and_plain_texts_of_a_csv_file_stay_as_they_are() -> None:
    assert csv_text(["a", "b"], [["a, b", -1], ['say "x"', 2.5], ["", None]]) == (
        'a,b\r\n"a, b",-1\r\n"say ""x""",2.5\r\n,\r\n'
    )


def test_a_chart_is_to_scale_and_says_itself_in_words() -> None:
    chart = bar_chart("Tokens", [("2026-11-29", 0), ("2026-11-30", 150), ("2026-12-01", 75)])
    assert chart.top == "200"
    assert [bar.height for bar in chart.bars] == [0, HEIGHT * 0.75, HEIGHT * 0.375]
    assert [bar.y + bar.height for bar in chart.bars] == [HEIGHT] * 3
    assert chart.bars[1].words == "2026-11-30: 150"
    assert chart.summary == "At most 150, on 2026-11-30; the last, 2026-12-01, has 75."
    assert bar_chart("None", [("a", 0), ("b", 0)]).summary == "Nothing in this time."
    assert bar_chart("Empty", []).bars == ()


def test_a_chart_has_few_labels(site: Site, admin: Browser) -> None:
    page = admin.get("/admin/usage?days=365").text
    (first, *_) = page.split("</svg>")[-7:]
    assert len(re.findall(r'class="chart-word"[^>]*text-anchor', first)) <= 6
