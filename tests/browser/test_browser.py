"""The pages as a person meets them, in a real browser over HTTP: from signing in to the proof of what was asked."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from appliance.people.accounts import Role
from tests.browser import pages
from tests.browser.conftest import Server
from tests.browser.pages import Watched
from tests.browser.scripts import RICH_ANSWER

QUESTION = "How do I check an archive?"


@pytest.fixture
def signed_in(page: Page, server: Server, watched: Watched) -> Page:
    """The empty chat of somebody who may do everything."""
    server.site.add_user("ada", *Role)
    pages.sign_in(page, server.address, "ada", server.password)
    return page


def test_the_whole_way_from_signing_in_to_the_verified_event(signed_in: Page, server: Server) -> None:
    page = signed_in
    server.pace.hold()
    pages.ask(page, QUESTION, effort="High")
    answer = pages.last_answer(page)
    expect(answer.get_by_text("three steps")).to_be_visible()  # the first words, while the rest is held back
    expect(answer.get_by_text("What is not signed")).to_have_count(0)
    expect(page.get_by_role("button", name="Stop")).to_be_visible()
    expect(answer.get_by_text(re.compile(r"Thought for \d+ s"))).to_be_visible()
    server.pace.release()
    answer = pages.wait_for_answer(page)
    expect(answer.get_by_text("What is not signed is not used.")).to_be_visible()
    expect(answer.locator(".code-block .k").first).to_be_attached()
    expect(answer.locator("math").first).to_be_attached()
    expect(page).to_have_url(re.compile(r"/chat/[0-9a-f]{16}$"))
    assert server.site.engine.requests[-1].effort == "high"

    rows = pages.open_review(page, server.address, action="turns", user="ada")
    expect(rows).to_have_count(2)
    server.sign_checkpoint()
    rows.filter(has_text="Was answered").click()
    event = page.get_by_role("region", name="Event", exact=True)
    expect(event.get_by_text("What is not signed is not used.", exact=True)).to_be_visible()
    expect(event.get_by_text("whose root was signed at")).to_be_visible()
    page.reload()
    assert pages.integrity_state(page) == "verified"
    expect(page.get_by_text(re.compile(r"Signed to \d+, \d+ s ago"))).to_be_visible()


def test_a_person_begins_with_the_one_time_link(page: Page, server: Server, watched: Watched) -> None:
    token = server.site.services.accounts.make_first_admin_link()
    pages.redeem(page, f"{server.address}/welcome/{token}", server.password, name="ada")
    expect(page.get_by_role("heading", name="First steps")).to_be_visible()
    page.get_by_role("link", name="Chat", exact=True).click()
    expect(page.get_by_label("Your message")).to_be_focused()


def test_stopping_keeps_what_came_and_is_recorded(signed_in: Page, server: Server) -> None:
    server.pace.hold()
    pages.ask(signed_in, QUESTION)
    expect(pages.last_answer(signed_in).get_by_text("three steps")).to_be_visible()
    signed_in.get_by_role("button", name="Stop").click()
    answer = pages.wait_for_answer(signed_in)
    expect(signed_in.locator("[data-announcer]")).to_have_text("The answer ended early.")
    expect(answer.get_by_text("Stopped before the end")).to_be_visible()
    expect(answer.get_by_text("three steps")).to_be_visible()
    signed_in.reload()
    expect(pages.last_answer(signed_in).get_by_text("Stopped before the end")).to_be_visible()
    recorded = [event.header for event in server.site.events() if event.header.action == "answer"]
    assert [header.outcome for header in recorded] == ["cancelled"]


def test_a_conversation_is_there_after_a_reload_and_goes_on(signed_in: Page, server: Server) -> None:
    pages.ask(signed_in, "ECHO one")
    pages.wait_for_answer(signed_in)
    signed_in.reload()
    expect(pages.last_answer(signed_in)).to_contain_text("one")
    pages.ask(signed_in, "ECHO two")
    expect(pages.wait_for_answer(signed_in)).to_contain_text("two")
    assert [m.content.strip() for m in server.site.engine.requests[-1].messages] == ["ECHO one", "one", "ECHO two"]


def test_a_draft_survives_a_reload(signed_in: Page) -> None:
    signed_in.get_by_label("Your message").fill("half a thought")
    signed_in.reload()
    expect(signed_in.get_by_label("Your message")).to_have_value("half a thought")


def test_words_typed_before_the_scripts_run_stay(signed_in: Page) -> None:
    held: list[Route] = []
    signed_in.route("**/composer.js", lambda route: held.append(route))
    with signed_in.expect_request("**/composer.js"):
        signed_in.reload(wait_until="commit")
    signed_in.get_by_label("Your message").fill("ECHO early")
    held[0].continue_()
    signed_in.wait_for_load_state("load")
    signed_in.get_by_label("Your message").press("Enter")
    expect(pages.wait_for_answer(signed_in)).to_contain_text("early")


def test_shift_enter_breaks_the_line_and_enter_sends(signed_in: Page, server: Server) -> None:
    box = signed_in.get_by_label("Your message")
    box.press_sequentially("ECHO one")
    box.press("Shift+Enter")
    box.press_sequentially("two")
    box.press("Enter")
    pages.wait_for_answer(signed_in)
    assert server.site.engine.requests[-1].messages[-1].content == "ECHO one\ntwo"


def test_when_the_server_is_gone_the_text_comes_back_with_words(page: Page, server: Server, watched: Watched) -> None:
    server.site.add_user("ada")
    pages.sign_in(page, server.address, "ada", server.password)
    page.context.set_offline(True)
    pages.ask(page, QUESTION)
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached")
    expect(page.get_by_label("Your message")).to_have_value(QUESTION)
    page.context.set_offline(False)
    page.get_by_label("Your message").press("Enter")
    pages.wait_for_answer(page)
    watched.forgive("ERR_INTERNET_DISCONNECTED")


def test_only_the_last_answer_can_be_asked_for_again(signed_in: Page) -> None:
    for text in ("ECHO one", "ECHO two"):
        pages.ask(signed_in, text)
        pages.wait_for_answer(signed_in)
    expect(signed_in.get_by_role("button", name="Answer again")).to_have_count(1)
    signed_in.reload()
    expect(signed_in.get_by_role("button", name="Answer again")).to_have_count(1)


def test_answering_again_offers_both_answers(signed_in: Page) -> None:
    pages.ask(signed_in, "ECHO one")
    pages.wait_for_answer(signed_in)
    signed_in.get_by_role("button", name="Answer again").click()
    expect(signed_in.get_by_text("2/2")).to_be_visible()
    expect(signed_in.get_by_role("article", name="Answer")).to_have_count(1)
    signed_in.get_by_role("button", name="Earlier answer").click()
    expect(signed_in.get_by_text("1/2")).to_be_visible()


def test_the_answer_and_its_code_are_copied_as_written(signed_in: Page) -> None:
    signed_in.context.grant_permissions(["clipboard-read", "clipboard-write"])
    pages.ask(signed_in, QUESTION)
    answer = pages.wait_for_answer(signed_in)
    answer.get_by_role("button", name="Copy the code").first.click()
    expect(answer.get_by_text("Copied")).to_be_visible()
    command = "installer verify gpt-oss-0.1.0.airgap --root root.json   # reads the medium once\n"
    assert signed_in.evaluate("navigator.clipboard.readText()") == command
    answer.get_by_role("button", name="Copy", exact=True).last.click()
    signed_in.wait_for_function("async () => (await navigator.clipboard.readText()).includes('**three steps**')")
    assert signed_in.evaluate("navigator.clipboard.readText()") == RICH_ANSWER


def test_the_effort_stays_chosen_in_this_browser(signed_in: Page) -> None:
    signed_in.get_by_role("radio", name="Low").check(force=True)
    signed_in.reload()
    expect(signed_in.get_by_role("radio", name="Low")).to_be_checked()


def test_reasoning_opens_to_its_text(signed_in: Page) -> None:
    pages.ask(signed_in, QUESTION)
    answer = pages.wait_for_answer(signed_in)
    expect(answer.get_by_text("The person asks")).to_be_hidden()
    answer.get_by_text("Thought for").click()
    expect(answer.get_by_text("The person asks")).to_be_visible()


def test_an_example_is_sent_by_one_click(signed_in: Page, server: Server) -> None:
    signed_in.get_by_role("button", name="One?").click()
    pages.wait_for_answer(signed_in)
    assert server.site.engine.requests[-1].messages[-1].content == "One?"


def test_conversations_are_renamed_pinned_found_and_deleted(signed_in: Page) -> None:
    pages.ask(signed_in, "ECHO archives")
    pages.wait_for_answer(signed_in)
    listed = signed_in.get_by_role("navigation", name="Conversations")
    listed.get_by_label("Actions for ECHO archives").click()
    listed.get_by_role("button", name="Rename").click()
    signed_in.get_by_label("Title").fill("About archives")
    signed_in.get_by_role("button", name="Rename", exact=True).last.click()
    expect(listed.get_by_role("link", name="About archives")).to_be_visible()
    listed.get_by_label("Actions for About archives").click()
    listed.get_by_role("button", name="Pin to the top").click()
    expect(listed.get_by_text("Pinned")).to_be_visible()
    listed.get_by_label("Search your conversations").fill("nowhere")
    expect(listed.get_by_text("No conversation has these words.")).to_be_visible()
    listed.get_by_label("Search your conversations").fill("archives")
    listed.get_by_label("Actions for About archives").click()
    listed.get_by_role("button", name="Delete").click()
    signed_in.get_by_role("dialog").get_by_role("button", name="Delete").click()
    signed_in.wait_for_url("**/chat")
    expect(listed.get_by_text("Your conversations will be listed here.")).to_be_visible()


def test_the_reader_is_not_pulled_down_while_reading_above(signed_in: Page, server: Server) -> None:
    server.pace.hold()
    pages.ask(signed_in, "ECHO " + "\n\n".join(f"Paragraph {n}" for n in range(60)))
    expect(pages.last_answer(signed_in).get_by_text("Paragraph 0")).to_be_visible()
    signed_in.locator("[data-scroll]").evaluate("area => { area.scrollTop = 0; }")
    server.pace.release()
    below = signed_in.get_by_role("button", name="New text below")
    expect(below).to_be_visible()
    assert signed_in.locator("[data-scroll]").evaluate("area => area.scrollTop") == 0
    below.click()
    expect(below).to_be_hidden()
    expect(pages.last_answer(signed_in).get_by_text("Paragraph 59")).to_be_in_viewport()


ATTACK = (
    "ECHO <script>window.hit = 1</script><img src=x onerror='window.hit = 1'> [x](javascript:window.hit=1)\n"
    "```html\n<script>window.hit = 1</script>\n```\n$\\text{<img src=x onerror='window.hit = 1'>}$\n"
    "<svg onload='window.hit = 1'>"
)


def test_what_is_asked_and_answered_never_runs(signed_in: Page, server: Server) -> None:
    pages.ask(signed_in, ATTACK)
    answer = pages.wait_for_answer(signed_in)
    expect(answer.locator("script, img, svg[onload]")).to_have_count(0)
    signed_in.reload()
    pages.wait_for_answer(signed_in)
    assert signed_in.evaluate("window.hit") is None
    rows = pages.open_review(signed_in, server.address, action="turns")
    rows.first.click()
    expect(signed_in.locator("[data-proof]")).to_be_visible()
    assert signed_in.evaluate("window.hit") is None


def test_the_pages_policy_lets_no_inline_script_run(signed_in: Page, watched: Watched) -> None:
    signed_in.evaluate(
        """() => {
          const script = document.createElement("script");
          script.textContent = "window.hit = 1";
          document.body.append(script);
        }"""
    )
    assert signed_in.evaluate("window.hit") is None
    assert any("Content Security Policy" in problem for problem in watched.problems)
    watched.forgive("Content Security Policy")


def test_j_and_k_go_from_event_to_event_and_slash_searches(signed_in: Page, server: Server) -> None:
    pages.ask(signed_in, "ECHO one")
    pages.wait_for_answer(signed_in)
    rows = pages.open_review(signed_in, server.address)
    numbers = rows.evaluate_all("all => all.map((row) => row.dataset.row)")
    signed_in.keyboard.press("j")
    expect(signed_in.locator(f'[data-event-number="{numbers[0]}"]')).to_be_visible()
    signed_in.keyboard.press("j")
    expect(signed_in.locator(f'[data-event-number="{numbers[1]}"]')).to_be_visible()
    signed_in.keyboard.press("k")
    expect(signed_in.locator(f'[data-event-number="{numbers[0]}"]')).to_be_visible()
    expect(rows.first).to_have_attribute("aria-current", "true")
    signed_in.keyboard.press("/")
    expect(signed_in.get_by_label("Words")).to_be_focused()


def test_passing_by_an_event_does_not_open_it(signed_in: Page, server: Server) -> None:
    for number in range(5):
        pages.ask(signed_in, f"ECHO {number}")
        pages.wait_for_answer(signed_in)
    rows = pages.open_review(signed_in, server.address, action="turns")
    last = rows.nth(3).get_attribute("data-row")
    for _ in range(4):
        signed_in.keyboard.press("j")
    expect(signed_in.locator(f'[data-event-number="{last}"]')).to_be_visible()
    read = {event.header.subject for event in server.site.events() if event.header.action == "review_read"}
    assert len(read) == 2  # one turn: its question and its answer


def test_a_broken_record_is_loud_on_every_page_of_a_reviewer(signed_in: Page, server: Server) -> None:
    pages.ask(signed_in, "ECHO one")
    pages.wait_for_answer(signed_in)
    server.sign_checkpoint()
    with server.site.services.record.database.write() as connection:
        connection.exec_driver_sql("UPDATE audit_contents SET text = 'two' WHERE text LIKE 'ECHO one%'")
    signed_in.goto(f"{server.address}/review/integrity")
    signed_in.get_by_role("button", name="Verify everything now").click()
    expect(signed_in.get_by_role("alert")).to_contain_text("The record is broken")
    signed_in.goto(f"{server.address}/chat")
    expect(signed_in.get_by_text("Record broken")).to_be_visible()
    assert pages.integrity_state(signed_in) == "broken"


def test_the_choice_of_colours_holds_in_this_browser(signed_in: Page) -> None:
    def ground() -> str:
        return str(signed_in.evaluate("getComputedStyle(document.body).backgroundColor"))

    light = ground()
    signed_in.get_by_label("Menu of ada").click()
    signed_in.get_by_role("radio", name="Dark").check(force=True)
    dark = ground()
    assert dark != light
    signed_in.reload()
    assert ground() == dark
    signed_in.get_by_label("Menu of ada").click()
    signed_in.get_by_role("radio", name="System").check(force=True)
    assert ground() == light


def test_a_question_mark_shows_the_keys(signed_in: Page) -> None:
    signed_in.get_by_role("link", name="Northgate").focus()
    signed_in.keyboard.press("?")
    expect(signed_in.get_by_role("dialog", name="Keyboard shortcuts")).to_be_visible()
    signed_in.keyboard.press("Escape")
    expect(signed_in.get_by_role("dialog")).to_have_count(0)


PATHS = ["/chat", "/review", "/review/1", "/review/integrity", "/admin", "/account"]


@pytest.mark.parametrize("width", [360, 720, 721, 900, 1280])
def test_no_page_scrolls_sideways_and_the_banner_stays_in_view(
    signed_in: Page, server: Server, watched: Watched, width: int
) -> None:
    pages.ask(signed_in, QUESTION)
    pages.wait_for_answer(signed_in)
    conversation = signed_in.url.removeprefix(server.address)
    signed_in.set_viewport_size({"width": width, "height": 720})
    for path in [*PATHS, conversation, "/nowhere"]:
        signed_in.goto(server.address + path)
        assert not pages.overflows_sideways(signed_in), path
        for banner in signed_in.get_by_text("RESTRICTED", exact=True).all():
            expect(banner).to_be_in_viewport()
    watched.forgive("404 (NOT FOUND)")  # of /nowhere


def test_on_a_narrow_screen_the_list_is_a_drawer(signed_in: Page) -> None:
    signed_in.set_viewport_size({"width": 360, "height": 720})
    listed = signed_in.get_by_role("link", name="New chat")
    expect(listed).to_be_hidden()
    signed_in.get_by_role("button", name="Conversations").click()
    expect(listed).to_be_visible()
    signed_in.keyboard.press("Escape")
    expect(listed).to_be_hidden()


FIND_FAULTS = """() => {
  const faults = [];
  const name = (e) => (e.getAttribute("aria-label") || e.innerText || e.textContent || e.title || "").trim();
  for (const e of document.querySelectorAll("button, a[href], summary")) {
    const labelled = e.getAttribute("aria-labelledby");
    if (!name(e) && !labelled) faults.push("nameless: " + e.outerHTML.slice(0, 120));
  }
  for (const e of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
    if (!e.labels?.length && !e.getAttribute("aria-label")) faults.push("unlabelled: " + e.outerHTML.slice(0, 120));
  }
  for (const e of document.querySelectorAll("svg")) {
    if (e.getAttribute("aria-hidden") !== "true") faults.push("spoken icon: " + e.outerHTML.slice(0, 120));
  }
  const ids = [...document.querySelectorAll("[id]")].map((e) => e.id);
  for (const id of ids) if (ids.filter((other) => other === id).length > 1) faults.push("id twice: " + id);
  if (document.querySelectorAll("h1").length !== 1) faults.push("not one h1");
  if (document.querySelectorAll("main").length !== 1) faults.push("not one main");
  if (document.documentElement.lang !== "en") faults.push("no language");
  let level = 1;
  for (const h of document.querySelectorAll("h1, h2, h3, h4")) {
    if (h.closest(".prose, dialog, template")) continue;
    const own = Number(h.tagName[1]);
    if (own > level + 1) faults.push("heading skips a level: " + h.outerHTML.slice(0, 120));
    level = own;
  }
  for (const e of document.querySelectorAll("button, .bar a, .review-row, summary")) {
    const box = e.getBoundingClientRect();
    if (box.width && !e.closest(".visually-hidden, .chat-shade") && box.height < 31.5)
      faults.push("small target " + box.height + ": " + e.outerHTML.slice(0, 120));
  }
  return faults;
}"""


def test_every_control_has_a_name_and_every_page_its_headings(
    signed_in: Page, server: Server, watched: Watched
) -> None:
    pages.ask(signed_in, QUESTION)
    pages.wait_for_answer(signed_in)
    conversation = signed_in.url.removeprefix(server.address)
    for path in [*PATHS, conversation, "/nowhere"]:
        signed_in.goto(server.address + path)
        assert signed_in.evaluate(FIND_FAULTS) == [], path
    watched.forgive("404 (NOT FOUND)")  # of /nowhere
    signed_in.context.clear_cookies()
    signed_in.goto(f"{server.address}/sign-in")
    assert signed_in.evaluate(FIND_FAULTS) == []


def test_the_focus_can_be_seen_wherever_the_keyboard_goes(signed_in: Page) -> None:
    for _ in range(25):
        signed_in.keyboard.press("Tab")
        outline = signed_in.evaluate(
            """() => {
              const e = document.activeElement;
              const around = [e, e.nextElementSibling, e.closest(".composer-box")].filter(Boolean);
              const styles = around.map((one) => getComputedStyle(one));
              return e === document.body
                || styles.some((s) => s.outlineStyle !== "none" && parseFloat(s.outlineWidth) >= 1);
            }"""
        )
        assert outline, signed_in.evaluate("document.activeElement.outerHTML.slice(0, 200)")


def test_two_people_do_not_see_each_others_conversations(browser: Browser, signed_in: Page, server: Server) -> None:
    pages.ask(signed_in, QUESTION)
    pages.wait_for_answer(signed_in)
    server.site.add_user("eve")
    other = browser.new_context().new_page()
    pages.sign_in(other, server.address, "eve", server.password)
    expect(other.get_by_text("Your conversations will be listed here.")).to_be_visible()
    other.goto(signed_in.url)
    expect(other.get_by_text("Nothing here")).to_be_visible()
    other.context.close()
