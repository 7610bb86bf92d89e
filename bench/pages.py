"""What the pages weigh and how soon they show something, in a real browser and from the real web worker.

    python -m bench.pages [--turns 9]

Printed for each page: the kB that cross the network cold (a browser that was never here) and warm (it has the files),
and the median times of a warm page to the first byte, to the first contentful paint and to the load event.
The reference is the page of a new chat; the pages take turns, so that a busy moment meets all of them. The exit status
is 1 if the chat weighs more than its limits, or a conversation of 200 messages is not painted in time.
"""

from __future__ import annotations

import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import click
from playwright.sync_api import Browser, BrowserContext, Page, sync_playwright

from appliance.audit.log import AuditLog
from appliance.config import init_state
from appliance.database.transactions import open_database
from appliance.engine.host import physical_cores
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts, Role
from appliance.people.conversations import Conversations, NewMessage
from appliance.turns.answer import Facts
from bench.machine import wait_for_quiet
from bench.memory_probe import MemoryProbe
from bench.rendering import SECTION
from tests.browser import pages
from tests.fakes import FakeEngine
from tests.webui.conftest import FAST_PASSWORDS, PASSWORD, SYSTEM
from tests.webui.served import gunicorn, write_release

COLD_KB, WARM_KB = 150, 15  # what the page of a new chat may weigh
OPEN_MS = 400  # until a conversation of 200 messages is painted
LENGTHS: Final = (20, 200, 2_000)  # messages
_PAINTED = """() => {
  const [page] = performance.getEntriesByType("navigation");
  const [paint] = performance.getEntriesByName("first-contentful-paint");
  return [page.responseStart, paint.startTime, page.loadEventEnd];
}"""


@dataclass
class Figures:
    """One page's figures; each list has a value for every turn."""

    cold_kb: float = 0.0
    warm_kb: float = 0.0
    first_byte_ms: list[float] = field(default_factory=list)
    painted_ms: list[float] = field(default_factory=list)
    loaded_ms: list[float] = field(default_factory=list)


def conversation_of(kept: Conversations, user_id: str, messages: int) -> str:
    """Keep a conversation of so many messages, each answer one section of words, table, formula and code."""
    made = kept.create(user_id, title=f"{messages:,} messages")
    for number in range(messages // 2):
        kept.append(user_id, made.id, NewMessage("user", f"What does section {number} say of the installer?"))
        answer = NewMessage("assistant", SECTION.format(n=number), facts=Facts())
        kept.append(user_id, made.id, answer)
    return made.id


def prepare(home: Path) -> dict[str, str]:
    """Fill the site at ``home``. The value is the path of each page by its name."""
    init_state(home)
    write_release(home / "current", "gpt-oss-bench")
    database = open_database(f"sqlite:///{home}/state/database/appliance.sqlite3")
    record = AuditLog(database)
    accounts = Accounts(AccountStore(record, passwords=FAST_PASSWORDS))
    user = accounts.create_user("ada", PASSWORD, [Role.USER, Role.REVIEWER, Role.ADMIN], by=SYSTEM)
    kept = Conversations(database, record)
    paths = {"new chat": "/chat"}
    paths |= {f"{length:,} messages": f"/chat/{conversation_of(kept, user.id, length)}" for length in LENGTHS}
    database.close()
    return paths | {"review": "/review", "people": "/admin", "account": "/account"}


def transferred_kb(page: Page, address: str) -> float:
    """What crosses the network until the page is idle, headers included. Source: Chromium's DevTools protocol."""
    counted = 0

    def count(event: dict[str, Any]) -> None:
        nonlocal counted
        counted += event["encodedDataLength"]

    network = page.context.new_cdp_session(page)
    network.send("Network.enable")
    network.on("Network.loadingFinished", count)
    page.goto(address, wait_until="networkidle")
    network.detach()
    return counted / 1000


def signed_in(browser: Browser, address: str) -> BrowserContext:
    """A browser that was never here but for the page of signing in, whose files it forgets."""
    context = browser.new_context(viewport={"width": 1280, "height": 720})
    page = context.new_page()
    pages.sign_in(page, address, "ada", PASSWORD)
    cookies = context.cookies()
    context.close()
    cold = browser.new_context(viewport={"width": 1280, "height": 720})
    cold.add_cookies(cookies)  # type: ignore[arg-type]
    return cold


def measure(browser: Browser, address: str, paths: dict[str, str], turns: int) -> dict[str, Figures]:
    """Open every page once cold, once to weigh it warm, and ``turns`` times to time it."""
    found = {name: Figures() for name in paths}
    for name, path in paths.items():
        context = signed_in(browser, address)
        page = context.new_page()
        found[name].cold_kb = transferred_kb(page, address + path)
        found[name].warm_kb = transferred_kb(page, address + path)
        context.close()
    context = signed_in(browser, address)
    page = context.new_page()
    for turn in range(turns + 1):
        for name, path in paths.items():
            page.goto(address + path, wait_until="networkidle")
            if turn:
                first, painted, loaded = page.evaluate(_PAINTED)
                found[name].first_byte_ms.append(first)
                found[name].painted_ms.append(painted)
                found[name].loaded_ms.append(loaded)
    context.close()
    return found


@click.command()
@click.option("--turns", default=9, show_default=True, help="How often each page is timed.")
def main(turns: int) -> None:
    """Weigh and time the pages."""
    quiet = wait_for_quiet(60)
    with tempfile.TemporaryDirectory() as directory, sync_playwright() as playwright:
        home = Path(directory)
        paths = prepare(home)
        engine = FakeEngine()
        try:
            with gunicorn(home, engine.doorbell) as port:
                browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
                found = measure(browser, f"http://127.0.0.1:{port}", paths, turns)
                browser.close()
        finally:
            engine.close()
    if not quiet:
        click.echo("the machine was not quiet")
    click.echo(f"memory: {MemoryProbe(physical_cores()).gb_s():.1f} GB/s")
    click.echo(f"{'page':16}{'cold kB':>9}{'warm kB':>9}{'first byte':>12}{'painted':>9}{'loaded':>9}{'ratio':>7}")
    reference = statistics.median(found["new chat"].painted_ms)
    for name, figures in found.items():
        first, painted, loaded = map(statistics.median, (figures.first_byte_ms, figures.painted_ms, figures.loaded_ms))
        click.echo(
            f"{name:16}{figures.cold_kb:9.1f}{figures.warm_kb:9.1f}{first:9.0f} ms{painted:6.0f} ms{loaded:6.0f} ms"
            f"{painted / reference:7.2f}"
        )
    chat, long = found["new chat"], statistics.median(found["200 messages"].painted_ms)
    sys.exit(chat.cold_kb > COLD_KB or chat.warm_kb > WARM_KB or long > OPEN_MS)


if __name__ == "__main__":
    main()
