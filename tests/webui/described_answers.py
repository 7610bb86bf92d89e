"""Holds every answer that a test gets from the API to the OpenAPI document: its status, its shape, no more fields."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from flask import Flask, Response, request
from jsonschema import Draft202012Validator

from webui.api.addresses import UNKNOWN
from webui.api.described import Description, description_of
from webui.api.schemas import components_of

ANYWHERE = (405, 421)  # the address or the host is wrong, so no description of an address has them


def hold_to_descriptions(app: Flask) -> list[str]:
    """Compare all answers of the application from now on. The value gets what does not fit."""
    faults: list[str] = []

    @app.after_request
    def compare(response: Response) -> Response:
        view = app.view_functions.get(request.endpoint or "")
        description = description_of(view) if view and request.endpoint != UNKNOWN else None
        if description is not None and request.method not in ("HEAD", "OPTIONS"):
            faults.extend(f"{request.path}: {fault}" for fault in _faults(description, response))
            if response.mimetype == "text/event-stream":
                response.response = _watched(description, response.response, faults)  # type: ignore[arg-type]
        return response

    return faults


def _faults(description: Description, response: Response) -> Iterator[str]:
    if response.status_code not in (200, *description.errors, *ANYWHERE):
        yield f"{response.status_code} is not described"
    elif response.mimetype == "application/json":
        kind = description.answer if response.status_code == 200 else description.refusal
        yield from differences(kind, response.get_json())
    elif description.chunk is None or response.mimetype != "text/event-stream":
        yield f"{response.mimetype} is not described"


def _watched(description: Description, parts: Iterable[str], faults: list[str]) -> Iterator[str]:
    """The parts of a stream; each object in it is an answer or, at the end, an error."""
    for part in parts:
        for line in part.splitlines():
            if line.startswith("data: {"):
                found = json.loads(line.removeprefix("data: "))
                kind = description.refusal if "error" in found else description.chunk
                faults.extend(f"{found.get('type')}: {fault}" for fault in differences(kind, found))
        yield part


def differences(kind: Any, value: object) -> list[str]:
    """Where a value is not of the shape, or has more."""
    return [f"{error.json_path}: {error.message}" for error in _validator(kind).iter_errors(value)]


@cache
def _validator(kind: Any) -> Draft202012Validator:
    components = components_of(frozenset({kind}))
    schemas = {name: _closed(schema) for name, schema in components.schemas.items()}
    return Draft202012Validator({**components.reference(kind), "components": {"schemas": schemas}})


def _closed(schema: dict[str, Any]) -> dict[str, Any]:
    return {"additionalProperties": False, **schema} if "properties" in schema else schema
