"""GET /v1/models: what this server runs, under its own id and under the aliases that the operator has set."""

from __future__ import annotations

from typing import Any

from flask import Response, jsonify

from appliance.turns.engine import EngineUnavailableError
from webui.api import present, shapes
from webui.api.blueprint import blueprint
from webui.api.described import described
from webui.api.errors import ApiError
from webui.services import services


@blueprint.get("/models")
@described(answer=shapes.ModelList)
def list_models() -> Response:
    """The one model of the running release, under each of its names."""
    context_tokens = _context_tokens()
    return jsonify(object="list", data=[_model(name, context_tokens) for name in model_names()])


@blueprint.get("/models/<path:model_id>")
@described(answer=shapes.Model, errors=(404,))
def get_model(model_id: str) -> Response:
    """The model, by one of its names."""
    check_model(model_id)
    return jsonify(_model(model_id, _context_tokens()))


def check_model(model_id: str) -> None:
    """Answers name `services().model.id`, whichever name was asked for.

    Raises:
        ApiError: this server has no such model.
    """
    if model_id not in model_names():
        raise ApiError(404, "model_not_found", f"This server has one model, {services().model.id}.", param="model")


def model_names() -> tuple[str, ...]:
    """The names by which a program may ask for the model, its own id first."""
    own = services().model.id
    return own, *(alias for alias in services().config.model_aliases if alias != own)


def _context_tokens() -> int | None:
    """The longest conversation; None while the engine does not answer. The release knows only the model's limit."""
    try:
        return services().engine.status().context_tokens
    except EngineUnavailableError:
        return None


def _model(name: str, context_tokens: int | None) -> dict[str, Any]:
    release = services().release
    return present.model_object(name, root=release.model.id, created=release.created_s, context_tokens=context_tokens)
