"""The recorder process: records the events of the appliance itself, signs checkpoints of the record regularly, and
watches the disk of the record.

It reads the supervisor's messages, one JSON object a line, on standard input: ``started`` (with the proof of silence),
``process_ended``, ``process_paused`` (somebody stopped one), ``packer_ended`` (there are packed weights to be
compared), ``attempt_refused`` (what a process of the appliance was refused), ``watch_ended`` (nobody sees such attempts
any more), ``returned`` (a newer release did not become healthy), ``ready`` (this release serves, which ends its trial)
and, last of all, ``stopping``. At the end of the input everything else has stopped, and the recorder writes
the last event and the last checkpoint. If no ``stopping`` came before, the supervisor was killed, and the event says
so. If the recorder was killed, too, the next start says so. The recorder ignores SIGTERM, because a service manager
sends it to every process at once, before the last answers are recorded.

Meanwhile threads compare the installed release with its manifest (`appliance.runtime.release_watch`) and the packed
weights with what the record says about them (`appliance.runtime.packed_watch`). At its start and at every checkpoint
the recorder closes turns whose process died (`appliance.turns.interrupted`).
"""

from __future__ import annotations

import json
import logging
import os
import select
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

from appliance import authority
from appliance.audit.details.site import (
    ApplianceStarted,
    AttemptRefused,
    ProcessEnded,
    ProcessPaused,
    ReleaseReturned,
    StartedRelease,
)
from appliance.audit.event import Actor, Content, NewEvent
from appliance.audit.fault import LogBrokenError
from appliance.audit.log import AuditLog, Event
from appliance.audit.rows import load_events, newest_of
from appliance.audit.signer import LogSigner
from appliance.audit.upgrade import upgrade
from appliance.certificates import CertificateError, now_utc
from appliance.config import Config, load_config
from appliance.database.transactions import Database, SchemaError, as_iso, open_database
from appliance.errors import CANNOT_SERVE, ApplianceError
from appliance.isolation.confinement import seal
from appliance.isolation.refused import UNWATCHED, Refused
from appliance.runtime.disk_watch import DiskWatch
from appliance.runtime.packed_watch import PackedWatch
from appliance.runtime.release_watch import watching
from appliance.transport import Transport
from appliance.turns.interrupted import LostTurns
from installer.formats.trial import HEALTHY, UPGRADED, Reached, write_reached

_log = logging.getLogger(__name__)
_LOOK_S = 3.0  # between looks at the disk
_MOST_OF_A_MESSAGE = 1000  # characters
_SYSTEM = Actor("", "appliance", "system")


def run_recorder(
    config: Config, messages_fd: int, *, tell_ready: Callable[[], None],
    keep_certificate: Callable[[], None] = lambda: None,
) -> None:  # fmt: skip
    """Record messages and sign checkpoints until the messages end.

    Args:
        tell_ready: called each time a message is durably in the record.
        keep_certificate: called with every checkpoint; renews the server's certificate when that is due.
    Raises:
        SchemaError: the database belongs to another release and cannot be upgraded.
        DatabaseError, RecordError: the record cannot be opened or written.
    """
    disk = DiskWatch(config.record_dir)  # before the database, which cannot be opened on a full disk
    database = open_database(config.database_url, upgrade=partial(_upgrade, config=config))
    try:
        log = AuditLog(database)
        stopping: dict[str, Any] | None = None
        signer, lost = LogSigner(log, config.state_dir), LostTurns(log)
        key = _begin(signer)
        _close_lost(lost)
        packed = PackedWatch(log, config.release_dir, config.packed_dir)
        with watching(log, config.release_dir), packed:
            for message in _messages_or_ticks(messages_fd, config.checkpoint_interval_s):
                if message == "look":
                    _try("the disk was not looked at", lambda: disk.look(log, _SYSTEM))
                elif message == "sign":
                    _close_lost(lost)
                    _sign(signer)
                    _try("the certificate was not looked at", keep_certificate)
                elif message["event"] == "stopping":
                    stopping = message
                elif message["event"] == "packer_ended":
                    packed.packer_ended(anew=message["anew"])
                    tell_ready()
                elif message["event"] == "ready":
                    _try("the release stays on trial", lambda: _end_trial(config, signer))
                    tell_ready()
                elif message["event"] == "returned":
                    _record_return(message, log)
                    tell_ready()
                else:
                    _record(message, log, key)
                    tell_ready()
        log.append(_stopped(stopping))
        _sign(signer)
    finally:
        database.close()


def _upgrade(database: Database, *, config: Config) -> None:
    """Upgrade the database; a release on trial then says that the release before can no longer use it."""
    upgrade(database, state_dir=config.state_dir)
    _reach(config, UPGRADED)


def _end_trial(config: Config, signer: LogSigner) -> None:
    """Say that the release serves: the model answers, a web worker is ready, and the record can be signed."""
    with suppress(LogBrokenError):  # somebody has changed the log: a finding of its own, under any release
        signer.sign()
    _reach(config, HEALTHY)


def _reach(config: Config, stage: str) -> None:
    """Tell the keeper how far this start has come. The record does not depend on it."""
    try:
        write_reached(config.home, Reached(config.release_dir.name, stage))
    except OSError as exc:
        _log.error("the keeper does not learn that this release is %s: %s", stage, exc)


def _record_return(message: dict[str, Any], log: AuditLog) -> None:
    """Record once that a newer release was left; every later start brings the same message."""
    details = ReleaseReturned(left=message["left"], to=message["to"], why=message["why"], at=message["at"])
    newest = newest_of(log, ("release_returned",))
    known = None if newest is None else load_events(log.database, [newest.sequence]).get(newest.sequence)
    if isinstance(known, Event) and known.content is not None and known.content.details == details:
        return
    text = f"Release {details.left} {details.why}, so release {details.to} is served again"
    log.append(NewEvent(_SYSTEM, "release_returned", "failed", details.left, Content(text, details)))


def _begin(signer: LogSigner) -> str:
    """Begin to sign; return the public key, which the log names at each start, or "" while it is not known."""
    keys: list[str] = []
    _try("the signer could not begin", lambda: keys.append(signer.begin()))
    return keys[0] if keys else ""


def _try(failure: str, work: Callable[[], object]) -> None:
    """Do work that the next round repeats. A failure is logged and does not end the recorder, because only the recorder
    would notice the next attack."""
    try:
        work()
    except ApplianceError as exc:
        _log.error("%s: %s", failure, exc)
    except Exception:
        _log.exception("%s", failure)


def _sign(signer: LogSigner) -> None:
    """Sign the log as it is; the pages show how old the last checkpoint is."""
    _try("no checkpoint", signer.sign)


def _close_lost(lost: LostTurns) -> None:
    """Close lost turns."""
    _try("turns without an answer are not closed", lambda: _close_and_say(lost))


def _close_and_say(lost: LostTurns) -> None:
    closed = lost.close()
    if closed:
        _log.warning("%d turns had no answer, because their process died; now they are interrupted", closed)


def _record(message: dict[str, Any], log: AuditLog, signing_key: str) -> None:
    """Append the event of a message. If the record cannot hold it, an event says so instead: a message that is refused
    again and again would keep all later ones out of the record."""
    event = _event_of(message, log, signing_key)
    try:
        log.append(event)
    except ValueError as exc:
        _log.error("a message cannot be recorded as it is: %s", exc)
        text = f"The record cannot hold this message of the supervisor ({exc}): {ascii(message)[:_MOST_OF_A_MESSAGE]}"
        log.append(replace(event, subject=ascii(event.subject)[1:-1], content=Content(text)))


def _event_of(message: dict[str, Any], log: AuditLog, signing_key: str) -> NewEvent:
    if message["event"] == "started":
        text = message["summary"]
        last_run = _last_run(log)
        if last_run is not None:
            text += f". {last_run}"
        release = message.get("release")
        details = ApplianceStarted(
            silence=message["silence"], release=None if release is None else StartedRelease(**release),
            last_run=last_run, signing_key=signing_key,
        )  # fmt: skip
        subject = "" if message["watched"] else UNWATCHED
        return NewEvent(_SYSTEM, "appliance_started", subject=subject, content=Content(text, details))
    if message["event"] == "attempt_refused":
        refused = Refused(**{name: value for name, value in message.items() if name != "event"})
        content = Content(refused.words(), AttemptRefused(**asdict(refused)))
        return NewEvent(_SYSTEM, "attempt_refused", "denied", refused.subject, content)
    if message["event"] == "watch_ended":
        return NewEvent(_SYSTEM, "watch_ended", "failed", UNWATCHED)
    if message["event"] == "process_paused":
        paused = Content(f"{message['how']}; it goes on", ProcessPaused(how=message["how"]))
        return NewEvent(_SYSTEM, "process_paused", "failed", message["process"], paused)
    text = f"{message['how']}, after {message['ran_s']:.0f} s"
    ended = Content(text, ProcessEnded(how=message["how"], ran_s=message["ran_s"]))
    return NewEvent(_SYSTEM, "process_ended", "failed", message["process"], ended)


def _stopped(stopping: dict[str, Any] | None) -> NewEvent:
    """The last event of a run, with why it ended."""
    if stopping is None:
        text = "The supervisor ended without a word: it was killed."
        return NewEvent(_SYSTEM, "appliance_stopped", "failed", content=Content(text))
    return NewEvent(_SYSTEM, "appliance_stopped", content=Content(stopping["why"]))


def _last_run(log: AuditLog) -> str | None:
    """A sentence if the last run did not end in order; None if it did, or if this is the first run."""
    last = newest_of(log, ("appliance_started", "appliance_stopped"))
    if last is None or (last.action == "appliance_stopped" and last.outcome == "ok"):
        return None
    newest = newest_of(log)
    when = "" if newest is None else f", its last event is {newest.sequence}, of {as_iso(newest.time_us)}"
    return f"The last run did not end in order{when}"


def _messages_or_ticks(fd: int, interval_s: float) -> Iterator[dict[str, Any] | Literal["look", "sign"]]:
    """Messages as they come; "sign" every ``interval_s``, first after a second; "look" at once and every few seconds.

    Ends with the input.
    """
    pending = b""
    now_s = time.monotonic()
    look_at_s, sign_at_s = now_s, now_s + 1.0
    while True:
        readable = select.select([fd], [], [], max(min(look_at_s, sign_at_s) - time.monotonic(), 0.0))[0]
        if readable:
            piece = os.read(fd, 65536)
            if not piece:
                return
            *lines, pending = (pending + piece).split(b"\n")
            yield from (json.loads(line) for line in lines)
        if time.monotonic() >= look_at_s:
            look_at_s = time.monotonic() + _LOOK_S
            yield "look"
        if time.monotonic() >= sign_at_s:
            sign_at_s += interval_s
            yield "sign"


def _keep_certificate(config: Config, transport: Transport) -> None:
    """Keep the server's certificate valid, if this process holds the key of the site's own authority. A failure is
    logged and tried again; an expired certificate is an alarm on the administration page."""
    if transport is not Transport.LOCAL_AUTHORITY:
        return
    try:
        authority.keep_certificate(config, now_utc())
    except CertificateError as exc:
        _log.error("no certificate: %s", exc)


def _write_byte(fd: int) -> None:
    os.write(fd, b"\x01")


def main() -> None:
    """The entry: APPLIANCE_HOME and APPLIANCE_READY_FD in the environment, messages on standard input."""
    seal(os.environ)
    logging.basicConfig(format="%(asctime)s %(levelname)s recorder: %(message)s", level=logging.INFO)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # an upgrade says in its own words what it does
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    ready_fd = int(os.environ["APPLIANCE_READY_FD"])
    try:
        config = load_config(Path(os.environ["APPLIANCE_HOME"]))
        transport = Transport(os.environ.get("APPLIANCE_TRANSPORT", Transport.LOOPBACK))
        _keep_certificate(config, transport)
        run_recorder(
            config, sys.stdin.fileno(), tell_ready=lambda: _write_byte(ready_fd),
            keep_certificate=lambda: _keep_certificate(config, transport),
        )  # fmt: skip
    except ApplianceError as exc:
        _log.error("%s", exc if exc.__cause__ is None else f"{exc}: {exc.__cause__}")
        sys.exit(CANNOT_SERVE if isinstance(exc, SchemaError) else 1)


if __name__ == "__main__":
    main()
