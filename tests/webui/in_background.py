"""What the tests of responses in the background share: a program that begins, reads, follows and cancels them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from openai.types.responses import Response
from werkzeug.test import TestResponse

from appliance.turns.running import RunningTurns
from tests.fakes import FakeEngine, Gate
from tests.waiting import wait_for
from tests.webui.conftest import MakeSite, Site
from tests.webui.test_responses import EVENT, URL, Caller
from webui.app import create_app

RUNNING = ("queued", "in_progress")


class Program(Caller):
    """A program with a key that begins responses in the background."""

    def begin(self, **changes: Any) -> str:
        """Begin a response and return its id, once the engine has said something."""
        begun = self.whole(background=True, **changes)
        assert (begun["status"], begun["background"], begun["output"]) == ("queued", True, [])
        response_id: str = begun["id"]
        wait_for(lambda: self.read(response_id)["status"] != "queued")
        return response_id

    def call(self, method: str, path: str) -> TestResponse:
        return self.client.open(f"{URL}/{path}", method=method, headers=self.headers)

    def read(self, response_id: str) -> dict[str, Any]:
        response = self.call("GET", response_id)
        assert response.status_code == 200, response.text
        Response.model_validate(response.json, strict=True)
        assert isinstance(response.json, dict)
        return response.json

    def end_of(self, response_id: str) -> dict[str, Any]:
        """The response, once it has ended."""
        wait_for(lambda: self.read(response_id)["status"] not in RUNNING)
        return self.read(response_id)

    def cancel(self, response_id: str) -> dict[str, Any]:
        response = self.call("POST", f"{response_id}/cancel")
        assert response.status_code == 200, response.text
        assert isinstance(response.json, dict)
        return response.json

    def follow(self, response_id: str, after: int | None = None) -> TestResponse:
        starting = "" if after is None else f"&starting_after={after}"
        response = self.call("GET", f"{response_id}?stream=true{starting}")
        assert response.status_code == 200, response.text
        return response


def read_events(response: TestResponse) -> Iterator[dict[str, Any]]:
    """The events of a stream as they come, each of a type that the official client knows."""
    rest = ""
    for piece in response.iter_encoded():
        *blocks, rest = (rest + piece.decode()).split("\n\n")
        for block in blocks:
            if not block.startswith(":"):
                event = json.loads(block.rpartition("data: ")[2])
                if "error" not in event:
                    EVENT.validate_python(event, strict=True)
                yield event


def until_text(response: TestResponse) -> list[dict[str, Any]]:
    """The events up to the first text. The rest of the stream is left."""
    seen = []
    for event in read_events(response):
        seen.append(event)
        if event["type"] == "response.output_text.delta":
            response.close()
            return seen
    raise AssertionError("no text came")


def site_that_waits(make_site: MakeSite, gate: Gate, **changes: object) -> Site:
    """A site whose answers stand still after their first half."""
    return make_site(FakeEngine(gate.script), **changes)


def other_worker(site: Site) -> Site:
    """The same site as another worker serves it: nothing in memory is shared."""
    given = site.services
    directory = given.config.home / "state" / "tmp" / "web" / "turns"
    most = given.config.queue_limit_per_user
    turns = RunningTurns(directory, given.record, given.conversations, most_per_person=most)
    services = replace(given, turns=turns)
    return Site(services, site.engine, create_app(services))


def as_elsewhere(program: Program) -> Program:
    """The same program, whose next requests another worker gets."""
    other = object.__new__(Program)
    other.site = other_worker(program.site)
    other.client, other.headers = other.site.app.test_client(), program.headers
    return other
