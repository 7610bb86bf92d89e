"""What gunicorn serves: ``webui.wsgi:app``. Only this module and `webui.serving.worker` read the environment.

Each worker imports it once, after the fork, so the database's connections and the doorbell are the worker's own.

    APPLIANCE_HOME           the site directory
    APPLIANCE_TRANSPORT      how requests arrive, one of `appliance.transport.Transport`; absent: plain, over loopback
    APPLIANCE_DOORBELL_FD    inherited descriptor, the web's end of the engine's doorbell
    APPLIANCE_READER_FD      inherited descriptor, the web's end of the reader's doorbell
    APPLIANCE_URL            where the supervisor listens; the configured address when it is not set
"""

from __future__ import annotations

import atexit
import logging
import os
import socket
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final

from flask import Flask

from appliance.attachments.client import FileReader
from appliance.audit.log import AuditLog
from appliance.config import Config, load_config
from appliance.database.transactions import DatabaseError, open_database
from appliance.disk import Reserve, refusal
from appliance.engine.client import EngineClient
from appliance.errors import ApplianceError
from appliance.installed_release import load_release
from appliance.isolation.files import scratch_dir
from appliance.isolation.policy import Kind
from appliance.people.account_store import AccountStore
from appliance.people.accounts import Accounts
from appliance.people.api_keys import ApiKeys
from appliance.people.approvals import Approvals
from appliance.people.attachments import Attachments
from appliance.people.conversations import Conversations
from appliance.people.handovers import Handovers
from appliance.people.hashing_places import HashingPlaces
from appliance.people.passwords import Passwords
from appliance.people.responses import Responses
from appliance.people.sessions import Sessions
from appliance.people.sign_in import SignIn
from appliance.site_address import site_url
from appliance.transport import Transport
from appliance.turns.running import RunningTurns
from installer.formats.checks import prepare
from webui.allowances import allowance_of, usage_of
from webui.api.body import Body
from webui.api.responses.body import Body as ResponseBody
from webui.app import create_app
from webui.chat.bodies import Question
from webui.denials import record_counts
from webui.services import Services

_log = logging.getLogger(__name__)
_END_TURNS_S: Final = 2.0  # a turn notices within half a second that it must end


def make_services(
    config: Config, doorbell: socket.socket, reader_bell: socket.socket, listener_url: str, transport: Transport,
    *, cores: int | None,
) -> Services:  # fmt: skip
    """The services of one site.

    Args:
        cores: how many cores may hash passwords; None: the cores that this process may use.
    Raises:
        ReleaseError, DatabaseError, RecordError: the site cannot be served.
    """
    database = open_database(config.database_url)
    disk = config.record_dir
    record = AuditLog(database, refusal=partial(refusal, disk), make_room=Reserve(disk).give_back)
    conversations = Conversations(database, record)
    store = AccountStore(record, passwords=Passwords(places=HashingPlaces(database.directory, cores=cores)))
    return Services(
        config=config,
        release=load_release(config.release_dir),
        accounts=Accounts(store),
        approvals=Approvals(store),
        sign_in=SignIn(store),
        sessions=Sessions(database, record, idle_s=config.session_hours * 3600),
        api_keys=ApiKeys(database, record, allow_endless=config.endless_api_keys),
        handovers=Handovers(scratch_dir(config.state_dir, Kind.WEB) / "handovers"),
        conversations=conversations,
        responses=Responses(database, record, days=config.response_days),
        attachments=Attachments(database),
        reader=FileReader(reader_bell),
        record=record,
        turns=RunningTurns(
            scratch_dir(config.state_dir, Kind.WEB) / "turns",
            record,
            conversations,
            most_per_person=config.queue_limit_per_user,
        ),
        engine=EngineClient(doorbell),
        clock=lambda: datetime.now(UTC),
        listener_url=listener_url,
        transport=transport,
    )


def _app_of(environ: Mapping[str, str]) -> Flask:
    doorbell, reader_bell = (
        socket.socket(fileno=int(environ[name])) for name in ("APPLIANCE_DOORBELL_FD", "APPLIANCE_READER_FD")
    )
    for bell in (doorbell, reader_bell):
        bell.set_inheritable(False)
    config = load_config(Path(environ["APPLIANCE_HOME"]))
    transport = Transport(environ.get("APPLIANCE_TRANSPORT", Transport.LOOPBACK))
    given = environ.get("APPLIANCE_URL")
    listener_url = given or site_url((), config.listen_host, config.listen_port, transport.scheme)
    cores = int(environ["APPLIANCE_CPUS"]) if "APPLIANCE_CPUS" in environ else None
    services = make_services(config, doorbell, reader_bell, listener_url, transport, cores=cores)
    services.turns.clear_dead()  # the worker that this one replaces may have left some
    _remove_old(services.responses)
    app = create_app(services)
    prepare(Body, ResponseBody, Question)
    atexit.register(_end, app, services.turns)
    return app


def _remove_old(responses: Responses) -> None:
    """A database that is busy now must not keep the worker from starting."""
    try:
        responses.remove_old()
    except DatabaseError:
        _log.exception("old responses are not removed yet")


def _end(app: Flask, turns: RunningTurns) -> None:
    """At the orderly end of this worker, record its turns and the counts that are not recorded yet."""
    turns.end_all(_END_TURNS_S)
    keeps: tuple[Callable[[], None], ...] = (partial(record_counts, app), allowance_of(app).keep, usage_of(app).keep)
    for keep in keeps:
        try:
            keep()
        except ApplianceError:
            _log.exception("counts of this worker are lost")


app = _app_of(os.environ)
