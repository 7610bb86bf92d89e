"""The addresses by which conversations leave as files and come in: /chat/ID/export/FORM and /chat/import."""

from __future__ import annotations

import hashlib
from typing import Any, get_args
from urllib.parse import quote

from flask import Response, jsonify, make_response, request

from appliance.audit.details.exchange import ConversationExported
from appliance.audit.event import Content, NewEvent
from appliance.people.allowance import RefusedError
from appliance.people.imported import ImportedTree
from webui.allowances import allowance
from webui.chat import exports
from webui.chat.exports import Export, Form
from webui.chat.imports import parse_file
from webui.chat.imports.nodes import UnusableConversation, UnusableError
from webui.chat.routes import blueprint, demand_room
from webui.errors import BadRequestError, NotFoundError
from webui.markings import conversation_banner, known_markings
from webui.services import services
from webui.serving.limits import MAX_BODY_BYTES
from webui.session import current_actor, demand_user


@blueprint.get("/chat/<conversation_id>/export/<form>")
def export(conversation_id: str, form: str) -> Response:
    """The conversation as a download. That it left is recorded before it does."""
    known: Form | None = next((one for one in get_args(Form) if one == form), None)
    if known is None:
        raise NotFoundError
    service, user = services(), demand_user()
    found = service.conversations.get(user.id, conversation_id)
    branch = service.conversations.messages(user.id, found.id)
    banner = conversation_banner(service.config, known_markings(), found.marking_id)
    said = Export(service.config.site_name, banner.words if banner else None, user.name, service.clock())
    if known == "json":
        tree = service.conversations.tree(user.id, found.id)
        data, count = exports.as_json(found, tree, branch[-1] if branch else None, said), len(tree)
    else:
        make = exports.as_markdown if known == "markdown" else exports.as_html
        data, count = make(found, branch, said), len(branch)
    details = ConversationExported(form=known, messages=count, sha256=hashlib.sha256(data).hexdigest())
    event = NewEvent(current_actor(), "conversation_exported", subject=found.id, content=Content(found.title, details))
    service.record.append(event)
    allowance().spend(user.id, event.content)
    _, mimetype = exports.ENDINGS[known]
    headers = {"Content-Disposition": _attachment(exports.file_name(found.title, known, said.at))}
    return Response(data, mimetype=mimetype, headers=headers)


@blueprint.post("/chat/import")
def import_file() -> Response:
    """Take in the conversations of a file. The answer names those that were imported, and why others were not."""
    demand_room()
    request.max_content_length = MAX_BODY_BYTES
    data = request.get_data(cache=False)
    try:
        found = parse_file(data)
    except UnusableError as exc:
        raise BadRequestError("unusable_file", str(exc), "Nothing was imported.") from exc
    imported: list[dict[str, Any]] = []
    refused = [{"title": one.title, "reason": one.reason} for one in found if isinstance(one, UnusableConversation)]
    for tree in (one for one in found if isinstance(one, ImportedTree)):
        try:
            imported.append(_take_in(tree, hashlib.sha256(data).hexdigest()))
        except RefusedError as error:
            if not imported:
                raise
            refused.append({"title": tree.title, "reason": error.sentence})
    return make_response(jsonify(imported=imported, refused=refused), 201)


def _take_in(tree: ImportedTree, sha256: str) -> dict[str, Any]:
    user = demand_user()
    allowance().check_texts(user.id, [])
    made, content = services().conversations.take_in(user.id, tree, sha256=sha256, by=current_actor())
    allowance().spend(user.id, content)
    service = services()
    marking = service.conversation_markings.known_as(tree.marking) if tree.marking else None
    service.conversation_markings.inherit(made.id, marking, cause=f"a file from {tree.source}", by=current_actor())
    unknown = tree.marking if marking is None and known_markings() else ""
    return {
        "id": made.id, "title": made.title, "messages": len(tree.messages), "left_out": tree.left_out,
        "marking": marking.name if marking else None, "unknown_marking": unknown or None,
    }  # fmt: skip


def _attachment(name: str) -> str:
    """A header for a name that may have letters of any script."""
    plain = name.encode("ascii", "replace").decode().replace("?", "-")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='')}"
