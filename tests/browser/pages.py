"""Drives the pages as a person does: by the words and names that a person sees.

    watched = Watched(page, address)      # collects what no page may do
    pages.sign_in(page, address, "ada", password)
    pages.ask(page, "What is this appliance?")
    pages.wait_for_answer(page)
    watched.assert_clean()

They work against any running appliance.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from playwright.sync_api import ConsoleMessage, Locator, Page, Request, expect

ANSWER_TIMEOUT_MS = 60_000


class Watched:
    """Collects console errors, policy violations, uncaught errors and requests to other hosts."""

    def __init__(self, page: Page, address: str) -> None:
        self._own = urlsplit(address).netloc
        self.problems: list[str] = []
        page.on("console", self._console)
        page.on("pageerror", lambda error: self.problems.append(f"uncaught: {error}"))
        page.on("request", self._request)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in ("error", "warning"):  # a violated Content-Security-Policy is also a console error
            self.problems.append(f"console: {message.text}")

    def _request(self, request: Request) -> None:
        if urlsplit(request.url).netloc != self._own:
            self.problems.append(f"request to another host: {request.url}")

    def forgive(self, words: str) -> None:
        """Drop the errors that the test itself has caused."""
        self.problems = [problem for problem in self.problems if words not in problem]

    def assert_clean(self) -> None:
        assert not self.problems, "\n".join(self.problems)


def redeem(page: Page, link: str, password: str, *, name: str | None = None) -> None:
    """Follow a one-time link, choose the password (and the name where it is free), and be signed in."""
    page.goto(link)
    if name is not None:
        page.get_by_label("Name").fill(name)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_label("Password, again").fill(password)
    page.get_by_role("button", name="Set the password and sign in").click()


def sign_in(page: Page, address: str, name: str, password: str) -> None:
    """Go from anywhere to the first page."""
    page.goto(f"{address}/sign-in")
    page.get_by_label("Name").fill(name)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()
    page.wait_for_url(lambda url: "/sign-in" not in url)


def ask(page: Page, text: str, *, effort: str | None = None) -> None:
    """Write into the composer and send with the keyboard."""
    page.wait_for_load_state("load")  # before, Enter only breaks the line
    if effort is not None:
        page.get_by_role("radio", name=effort).check(force=True)
    page.get_by_label("Your message").fill(text)
    page.get_by_label("Your message").press("Enter")


def last_answer(page: Page) -> Locator:
    """The last answer of the conversation, whether it is being written or kept."""
    return page.get_by_role("article", name="Answer").last


def wait_for_answer(page: Page) -> Locator:
    """The last answer, once it is complete and kept."""
    expect(page.get_by_role("button", name="Send")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    answer = last_answer(page)
    expect(answer.get_by_text("Details")).to_be_visible(timeout=ANSWER_TIMEOUT_MS)
    return answer


def set_hidden(page: Page, hidden: bool) -> None:
    """Tell the page that it is in a tab that nobody sees, or is seen again: headless browsers show every page."""
    page.evaluate(
        """(hidden) => {
          Object.defineProperty(document, "hidden", { value: hidden, configurable: true });
          document.dispatchEvent(new Event("visibilitychange"));
        }""",
        hidden,
    )


def open_review(page: Page, address: str, **filters: str) -> Locator:
    """The review page's rows, newest first."""
    query = "&".join(f"{name}={value}" for name, value in filters.items())
    page.goto(f"{address}/review?{query}")
    return page.locator("[data-row]")


def integrity_state(page: Page) -> str:
    """What the badge in the bar says: verified, stale or broken."""
    return page.locator("[data-integrity]").get_attribute("data-integrity") or ""


def overflows_sideways(page: Page) -> bool:
    """Whether the page scrolls horizontally, with all its style sheets."""
    page.wait_for_load_state("load")
    return bool(page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth"))
