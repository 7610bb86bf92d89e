"""Responses in the background in trouble: full disks, busy databases, files that are lost, a record that cannot be
written."""

from __future__ import annotations

import errno
import threading
from typing import Any

import pytest
import sqlalchemy as sa

from appliance.audit.log import AuditLog, RecordError
from appliance.database.tables import kept_responses
from appliance.database.transactions import DatabaseError
from appliance.people.responses import KeptResponse, Responses
from appliance.turns.events import FAILURES
from appliance.turns.journal import Reader
from appliance.turns.run import Turn
from appliance.turns.running import Place, RunningTurns
from appliance.turns.unkept import RESPONSE_NOT_KEPT
from tests.fakes import Gate
from tests.waiting import HELD_S, wait_for
from tests.webui.conftest import MakeSite, Site
from tests.webui.in_background import Program, as_elsewhere, read_events, site_that_waits
from tests.webui.test_responses import events_of
from tests.webui.test_responses_kept import code_of

WHOLE = "Half and all of it"


@pytest.fixture
def ada(make_site: MakeSite, gate: Gate) -> Program:
    return Program(site_that_waits(make_site, gate))


def text_of(response: dict[str, Any]) -> str:
    text: str = response["output"][0]["content"][0]["text"]
    return text


def files(site: Site) -> list[str]:
    """What lies in the directory of the turns."""
    turns = site.services.config.home / "state" / "tmp" / "web" / "turns"
    return [path.name for path in turns.rglob("*") if path.is_file()]


def rows(site: Site) -> list[str]:
    with site.services.record.database.read() as connection:
        return list(connection.scalars(sa.select(kept_responses.c.id)))


def busy(*_: object) -> None:
    raise DatabaseError("the database failed: another process holds it")


def no_space(*_: object) -> int:
    raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_takes_the_pieces_from_the_stream_and_nothing_from_the_response(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    response_id = ada.begin()
    stream = ada.follow(response_id)
    monkeypatch.setattr("appliance.turns.journal.os.write", no_space)
    gate.go_on.set()
    last = events_of(stream)[-1]
    monkeypatch.undo()
    ended = ada.read(response_id)
    assert (last["type"], last["response"]) == ("response.completed", ended)
    assert (ended["status"], text_of(ended)) == ("completed", WHOLE)
    assert files(ada.site) == []  # half a stream is not kept
    assert events_of(ada.follow(response_id))[-1]["response"] == ended


def test_a_stream_that_is_longer_than_its_file_may_be_ends_with_the_whole(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("appliance.turns.journal.MAX_FILE_BYTES", 150)
    response_id = ada.begin()
    stream = ada.follow(response_id)
    gate.go_on.set()
    last = events_of(stream)[-1]
    assert last["response"] == ada.end_of(response_id)
    assert text_of(last["response"]) == WHOLE
    assert files(ada.site) == []


def test_a_disk_that_is_full_at_the_beginning_is_said(ada: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(RunningTurns, "claim", no_space)
    assert code_of(ada.ask(background=True)) == (503, "unavailable")
    assert rows(ada.site) == []


def test_a_prompt_that_is_not_recorded_begins_nothing(ada: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ada.site.services.record, "refusal", lambda: "The disk is full.")
    response = ada.ask(background=True, stream=True)
    assert code_of(response) == (503, "record_failed")
    assert (rows(ada.site), files(ada.site), ada.site.engine.requests) == ([], [], [])


def test_a_response_that_cannot_be_kept_at_once_is_not_begun(ada: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Responses, "keep", busy)
    assert code_of(ada.ask(background=True)) == (503, "unavailable")
    last = ada.site.events()[-1].header
    assert (last.action, last.outcome) == ("answer", "abandoned")
    assert (rows(ada.site), files(ada.site), ada.site.engine.requests) == ([], [], [])


def test_an_answer_that_is_not_recorded_is_not_complete(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    response_id = ada.begin()

    def fail(*_: object) -> None:
        raise RecordError("the record cannot be written")

    monkeypatch.setattr(AuditLog, "append_the_end", fail)
    gate.go_on.set()
    ended = ada.end_of(response_id)
    assert (ended["status"], ended["error"]["message"]) == ("failed", FAILURES["record_failed"].sentence)


class Busy:
    """`Responses.finish` fails so many times."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, times: int) -> None:
        self.left, self._finish = times, Responses.finish
        monkeypatch.setattr(Responses, "finish", lambda store, *values: self.finish(store, *values))

    def finish(self, store: Responses, *values: Any) -> bool:
        if self.left > 0:
            self.left -= 1
            busy()
        return self._finish(store, *values)


def test_an_end_waits_for_a_busy_database(ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("appliance.turns.running._KEEP_AGAIN_S", 0.01)
    held = Busy(monkeypatch, 3)
    response_id = ada.begin()
    stream = ada.follow(response_id)
    gate.go_on.set()
    ended = ada.end_of(response_id)
    assert (held.left, ended["status"], text_of(ended)) == (0, "completed", WHOLE)
    assert events_of(stream)[-1]["response"] == ended


def test_an_end_that_a_busy_database_keeps_out_is_a_failure_for_everybody(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ada.site.services.turns, "_keep_limit_s", 0.0)
    Busy(monkeypatch, 1_000_000)
    response_id = ada.begin()
    stream = ada.follow(response_id)
    gate.go_on.set()
    last = events_of(stream)[-1]
    assert (last["type"], last["response"]["error"]["message"]) == ("response.failed", RESPONSE_NOT_KEPT)
    assert ada.read(response_id) == last["response"]
    assert ada.site.events()[-1].header.outcome == "ok"  # the record has the answer
    assert files(ada.site) == []


def test_an_end_that_cannot_be_kept_at_all_is_a_failure(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(Responses, "finish", broken)
    response_id = ada.begin()
    gate.go_on.set()
    assert ada.end_of(response_id)["error"]["message"] == RESPONSE_NOT_KEPT


def test_a_response_whose_end_cannot_be_read_ends_its_stream_with_an_error(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    response_id = ada.begin()
    stream = ada.follow(response_id)
    gate.go_on.set()
    ada.end_of(response_id)
    monkeypatch.setattr(Responses, "get", busy)
    assert list(read_events(stream))[-1]["error"]["code"] == "unavailable"


def test_a_response_without_a_turn_is_ended_by_whoever_reads_it(ada: Program, gate: Gate) -> None:
    """As a machine leaves it that went down, if the files of turns went with it."""
    gate.go_on.set()
    user = ada.site.services.accounts.find("ada")
    body = ada.whole()
    settings = {**body, "id": "resp_lost", "status": "queued", "background": True, "output": []}
    ada.site.services.responses.keep(user.id, KeptResponse("resp_lost", None, [], settings, is_running=True))
    for read in (ada.read, ada.cancel, lambda name: list(read_events(ada.follow(name)))[-1]["response"]):
        ended = read("resp_lost")
        assert (ended["status"], ended["error"]["message"]) == ("failed", FAILURES["record_failed"].sentence)
    assert ada.call("DELETE", "resp_lost").status_code == 200


def test_a_turn_that_does_not_end_is_not_called_cancelled(ada: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    response_id = ada.begin()
    monkeypatch.setattr("appliance.turns.running._STOP_LIMIT_S", 0.0)
    monkeypatch.setattr("appliance.turns.journal.Journal.is_stopped", lambda _: False)
    for method, path in (("POST", f"{response_id}/cancel"), ("DELETE", response_id)):
        assert code_of(ada.call(method, path)) == (503, "unavailable")
    monkeypatch.undo()
    assert as_elsewhere(ada).cancel(response_id)["status"] == "cancelled"


def test_nothing_stays_of_one_that_is_deleted_at_the_moment_of_its_end(
    ada: Program, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    response_id = ada.begin()
    close, stop, is_asked = RunningTurns._close, Reader.stop, threading.Event()

    def late(self: RunningTurns, place: Place, turn: Turn) -> None:
        is_asked.wait(HELD_S)
        close(self, place, turn)

    def seen(self: Reader) -> None:
        stop(self)
        is_asked.set()

    monkeypatch.setattr(RunningTurns, "_close", late)
    monkeypatch.setattr(Reader, "stop", seen)
    gate.go_on.set()
    assert ada.end_of(response_id)["status"] == "completed"
    assert ada.call("DELETE", response_id).status_code == 200
    assert (rows(ada.site), files(ada.site)) == ([], [])


def test_the_place_of_one_that_ended_is_free(ada: Program, gate: Gate) -> None:
    response_id = ada.begin()
    gate.go_on.set()
    ada.end_of(response_id)
    turns, user = ada.site.services.turns, ada.site.services.accounts.find("ada")
    wait_for(lambda: turns.find(user.id, response_id) is None)
    assert len(files(ada.site)) == 1  # for those who lost their stream
    turns.clear_dead()
    assert len(files(ada.site)) == 1
