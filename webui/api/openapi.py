"""GET /v1/openapi.json: the API described as OpenAPI 3.1, generated from the routes and the types that they check with.

Source: OpenAPI Specification 3.1.1.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

from flask import Flask, Response, current_app, jsonify
from werkzeug.routing import Rule

from webui.api import shapes
from webui.api.addresses import UNKNOWN
from webui.api.blueprint import blueprint
from webui.api.described import STATUSES, Description, described, description_of
from webui.services import services

if TYPE_CHECKING:
    from webui.api.schemas import Components

_OWN_METHODS: Final = {"HEAD", "OPTIONS"}  # Flask answers them
_PARAMETER: Final = re.compile(r"<(?:[^:<>]+:)?([^<>]+)>")
_END: Final = "[DONE]"
_HEADERS: Final = {
    "X-API-Key-Expires": "When the key ends, if it does.",
    "X-Ignored-Fields": "Fields of the body that the server does not know.",
}


_ABOUT: Final = (
    "Fields that the server does not know are ignored. Null is the same as absent. "
    "Text must be Unicode without U+0000 and without lone surrogates."
)


@blueprint.get("/openapi.json")
@described(answer=shapes.Document)
def get_openapi_document() -> Response:
    """This document."""
    return jsonify(document_of(current_app, services().release.version, services().model.id))


def operations(app: Flask) -> Iterator[tuple[Rule, str, Description | None]]:
    """Each address under /v1 with each method, and what its route says of itself."""
    for rule in app.url_map.iter_rules():
        if rule.endpoint.startswith(f"{blueprint.name}.") and rule.endpoint != UNKNOWN:
            for method in sorted((rule.methods or set()) - _OWN_METHODS):
                yield rule, method, description_of(app.view_functions[rule.endpoint])


def document_of(app: Flask, version: str, model_id: str) -> dict[str, Any]:
    """The document of a site that runs this release and model."""
    from webui.api.schemas import components_of  # pydantic's generator is loaded at the first question

    described_ones = [(rule, method, one) for rule, method, one in operations(app) if one is not None]
    kinds = {kind for _, _, one in described_ones for kind in (one.answer, one.chunk, one.body) if kind is not None}
    components = components_of(frozenset({*kinds, shapes.Refusal}))
    paths: dict[str, dict[str, Any]] = {}
    for rule, method, one in described_ones:
        path = _PARAMETER.sub(r"{\1}", rule.rule)
        paths.setdefault(path, {})[method.lower()] = _operation(rule, one, components)
    return {
        "openapi": "3.1.1",
        "info": {"title": "gpt-oss appliance", "version": version, "description": _ABOUT},
        "paths": paths,
        "security": [{"key": []}],
        "components": {
            "securitySchemes": {"key": {"type": "http", "scheme": "bearer"}},
            "schemas": _schemas([one for _, _, one in described_ones], components, model_id),
        },
    }


def _schemas(found: list[Description], components: Components, model_id: str) -> dict[str, Any]:
    from webui.api.schemas import as_body

    schemas = dict(components.schemas)
    for one in found:
        if one.body is not None:
            name = components.names[one.body]
            schemas[name] = as_body(schemas[name], one.fields)
            if "model" in one.fields:
                schemas[name]["properties"]["model"] |= {"enum": [model_id]}
    return schemas


def _operation(rule: Rule, description: Description, components: Components) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": rule.endpoint.rpartition(".")[2],
        "summary": description.summary,
        "responses": _responses(description, components),
    }
    if rule.arguments:
        operation["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}}
            for name in sorted(rule.arguments)
        ]
    if description.body is not None:
        operation["requestBody"] = {"required": True, "content": _json(components.reference(description.body))}
    return operation


def _responses(description: Description, components: Components) -> dict[str, Any]:
    headers = {name: {"description": said, "schema": {"type": "string"}} for name, said in _HEADERS.items()}
    content = _json(components.reference(description.answer))
    if description.chunk is not None:
        content["text/event-stream"] = {"schema": _events(description.chunk, components)}
    whole = {"description": description.summary, "headers": headers, "content": content}
    errors = {str(status): _error(status, components) for status in description.errors}
    return {"200": whole, **errors}


def _events(chunk: Any, components: Components) -> dict[str, Any]:
    """One event of a stream: an object as JSON, an error that ends it, or its end."""
    objects = {"anyOf": [components.reference(chunk), components.reference(shapes.Refusal)]}
    data = {"type": "string", "contentMediaType": "application/json", "contentSchema": objects}
    ends = [{"properties": {"data": {"const": _END}}}, {"properties": {"data": data}}]
    return {"type": "object", "required": ["data"], "anyOf": ends}


def _error(status: int, components: Components) -> dict[str, Any]:
    error: dict[str, Any] = {
        "description": STATUSES[status],
        "content": _json(components.reference(shapes.Refusal)),
    }
    named = {429: "Retry-After", 401: "WWW-Authenticate"}.get(status)
    return error if named is None else error | {"headers": {named: {"schema": {"type": "string"}}}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
