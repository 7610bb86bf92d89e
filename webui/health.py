"""What anybody may ask: does the process live, can it answer questions, what certificate has the site's authority."""

from __future__ import annotations

from typing import Final

from flask import Blueprint, Response, jsonify, make_response

from appliance.database.transactions import DatabaseError
from appliance.transport import Transport, authority_certificate
from appliance.turns.engine import EngineUnavailableError
from webui.errors import NotFoundError
from webui.services import services

# A write this recent proves that the record can be written: a stranger who asks often causes no write each time.
WRITTEN_WITHIN_S: Final = 3.0

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def alive() -> Response:
    """The web process answers."""
    return make_response(jsonify(status="ok"))


@blueprint.get("/authority.pem")
def authority() -> Response:
    """The certificate of the site's own authority, so that people can compare its fingerprint; 404 without one."""
    if services().transport is not Transport.LOCAL_AUTHORITY:
        raise NotFoundError
    pem = authority_certificate(services().config).read_bytes()
    return Response(pem, mimetype="application/x-pem-file")


@blueprint.get("/readyz")
def ready() -> Response:
    """The record can be read and written, and the engine answers."""
    try:
        if services().record.refusal() is not None:
            return make_response(jsonify(status="disk_full"), 503)
        services().record.size()
        services().record.check_writable(max_age_s=WRITTEN_WITHIN_S)
        services().engine.status()
    except DatabaseError:
        return make_response(jsonify(status="record_failed"), 503)
    except EngineUnavailableError:
        return make_response(jsonify(status="engine_stopped"), 503)
    return make_response(jsonify(status="ready"))
