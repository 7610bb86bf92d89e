"""A real server on a real port and a real headless browser."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import Browser, Page
from werkzeug.serving import WSGIRequestHandler, make_server

from appliance.audit.checkpoint import write_checkpoint
from tests.browser.pages import Watched
from tests.browser.scripts import Pace
from tests.fakes import FakeEngine
from tests.waiting import HELD_S
from tests.webui.conftest import PASSWORD, MakeSite, Site, empty_database, make_site

if TYPE_CHECKING:
    from _typeshed.wsgi import StartResponse, WSGIEnvironment

__all__ = ["empty_database", "make_site"]  # fixtures of tests/webui, used here


class QuietHandler(WSGIRequestHandler):
    """Logs no requests, because pytest would show hundreds with each failure."""

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


class Server:
    """A served site, and the pace of its engine."""

    def __init__(self, site: Site, pace: Pace) -> None:
        self.site = site
        self.pace = pace
        self._dropped = 0
        self._flowing = threading.Event()
        self._flowing.set()
        self._port = 0
        self.start()
        self.address = f"http://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Serve, after `stop` under the same address."""
        self._server = make_server(
            "127.0.0.1", self._port, self._droppable, threaded=True, request_handler=QuietHandler
        )
        self._port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, name="server")
        self._thread.start()

    def stop(self) -> None:
        """End every connection and take no further one, as a server that is restarted."""
        self.drop_streams()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def close(self) -> None:
        self.pace.release()
        self.flow()
        self.stop()

    def stall(self) -> None:
        """Say nothing more on the connections that are open, and leave them open."""
        self._flowing.clear()

    def flow(self) -> None:
        self._flowing.set()

    def drop_streams(self) -> None:
        """End every connection that is being answered at its next piece, as a network can."""
        self._dropped += 1

    def _droppable(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterator[bytes]:
        begun = self._dropped
        answer = self.site.app(environ, start_response)
        try:
            for piece in answer:
                self._flowing.wait(HELD_S)
                if self._dropped != begun:
                    raise ConnectionResetError
                yield piece
        finally:
            if hasattr(answer, "close"):
                answer.close()

    def sign_checkpoint(self) -> None:
        """Do what the supervisor does every minute."""
        write_checkpoint(self.site.services.record, self.site.services.config.state_dir)

    @property
    def password(self) -> str:
        return PASSWORD


@pytest.fixture
def server(make_site: MakeSite) -> Iterator[Server]:
    pace = Pace()
    site = make_site(FakeEngine(pace.script), site_name="Northgate", banner_text="RESTRICTED", banner_colour="#1b6e3c")
    server = Server(site, pace)
    yield server
    server.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Page]:
    """A page of a thin client's size. With BROWSER_SHOTS=DIR it leaves a picture of its last state there."""
    context = browser.new_context(viewport={"width": 1280, "height": 720}, color_scheme="light", locale="en-GB")
    page = context.new_page()
    page.set_default_timeout(HELD_S * 1000)
    yield page
    if shots := os.environ.get("BROWSER_SHOTS"):
        page.screenshot(path=Path(shots) / f"{request.node.name}.png")
    context.close()


@pytest.fixture
def watched(page: Page, server: Server) -> Iterator[Watched]:
    """The page, watched: what no page may do fails the test at its end."""
    watched = Watched(page, server.address)
    yield watched
    watched.assert_clean()
