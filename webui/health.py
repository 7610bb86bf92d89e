"""For whoever watches the appliance: is the process alive, can it answer people. Strangers learn no more than that."""

from __future__ import annotations

from flask import Blueprint, Response, jsonify, make_response

from appliance.database import DatabaseError
from appliance.engine.client import EngineUnavailableError
from webui.services import services

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def alive() -> Response:
    """The web process answers."""
    return make_response(jsonify(status="ok"))


@blueprint.get("/readyz")
def ready() -> Response:
    """The record can be read and the engine answers."""
    try:
        services().record.size()
        services().engine.status()
    except DatabaseError:
        return make_response(jsonify(status="record_failed"), 503)
    except EngineUnavailableError:
        return make_response(jsonify(status="engine_stopped"), 503)
    return make_response(jsonify(status="ready"))
