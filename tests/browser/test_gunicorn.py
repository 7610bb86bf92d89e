"""The same pages from the real gunicorn, for what depends on it: noticing that the reader has gone."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

from playwright.sync_api import Page, expect

from appliance.turns.events import AnswerDelta, Started, TurnEvent
from appliance.turns.request import TurnRequest
from tests.browser import pages
from tests.browser.pages import Watched
from tests.fakes import FakeEngine, done
from tests.webui.conftest import PASSWORD, MakeSite
from tests.webui.served import gunicorn, write_release


def test_stopping_before_the_first_word_cancels_the_turn_at_once(page: Page, make_site: MakeSite) -> None:
    go_on = threading.Event()

    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        go_on.wait(30)
        yield AnswerDelta("too late")
        yield done()

    site = make_site(FakeEngine(script))
    site.add_user("ada")
    home = site.services.config.home
    write_release(home / "current", "gpt-oss-fake")
    with gunicorn(home, site.engine.doorbell) as port:
        address = f"http://127.0.0.1:{port}"
        watched = Watched(page, address)
        pages.sign_in(page, address, "ada", PASSWORD)
        pages.ask(page, "Hello")
        expect(pages.last_answer(page).get_by_text("Reading")).to_be_visible()
        begin_s = time.monotonic()
        page.get_by_role("button", name="Stop").click()
        answer = pages.wait_for_answer(page)
        assert time.monotonic() - begin_s < 10  # the engine itself would have been silent for thirty
        expect(answer.get_by_text("Stopped before the end")).to_be_visible()
        go_on.set()
        watched.assert_clean()
    assert [event.header.outcome for event in site.events()[-2:]] == ["ok", "cancelled"]


def test_what_is_kept_of_a_stopped_answer_is_what_was_recorded(page: Page, make_site: MakeSite) -> None:
    def script(request: TurnRequest) -> Iterable[TurnEvent]:
        yield Started(20, 0.0)
        for number in range(2000):
            yield AnswerDelta(f"{number} ")
            time.sleep(0.005)
        yield done()

    site = make_site(FakeEngine(script))
    ada = site.add_user("ada")
    home = site.services.config.home
    write_release(home / "current", "gpt-oss-fake")
    with gunicorn(home, site.engine.doorbell) as port:
        address = f"http://127.0.0.1:{port}"
        pages.sign_in(page, address, "ada", PASSWORD)
        pages.ask(page, "Count")
        expect(pages.last_answer(page)).to_contain_text("10 ")
        page.get_by_role("button", name="Stop").click()
        pages.wait_for_answer(page)
        conversation = page.url.rpartition("/")[2]
    recorded = site.events()[-1]
    assert recorded.header.outcome == "cancelled"
    assert recorded.content is not None
    kept = site.services.conversations.messages(ada.id, conversation)[-1]
    assert kept.content == recorded.content.text
    assert "1999" not in kept.content
