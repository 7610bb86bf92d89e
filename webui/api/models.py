"""GET /v1/models: what this server runs."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify

from webui.api import present
from webui.api.blueprint import blueprint
from webui.api.errors import ApiError
from webui.services import services


@blueprint.get("/models")
def list_models() -> Response:
    """The one model of the running release."""
    return jsonify(object="list", data=[_model()])


@blueprint.get("/models/<path:model_id>")
def get_model(model_id: str) -> Response:
    """The model, by its id."""
    check_model(model_id)
    return jsonify(_model())


def check_model(model_id: str) -> None:
    """Raises: ApiError: this server has no such model."""
    if model_id != services().model.id:
        raise ApiError(404, "model_not_found", f"This server has one model, {services().model.id}.", param="model")


def _model() -> dict[str, Any]:
    return present.model_object(services().model.id, services().release.installed_s)
