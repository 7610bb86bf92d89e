"""The addresses of attached files: attach, look at, fetch again, remove. A question names its files by their ids.

A file comes as the bare body of a request, with its name in the address. The web worker never looks into it: a confined
process reads it (`appliance.attachments`), and everything that is shown, counted, recorded and asked is what came back.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from flask import Blueprint, Response, jsonify, make_response, render_template, request, url_for
from flask.typing import ResponseReturnValue

from appliance.attachments.names import clean_name
from appliance.attachments.prompt import AttachedText, with_files
from appliance.attachments.wire import ReadFile, Refusal
from appliance.attachments.words import form_words, notes_of, refusal_words, size_words
from appliance.people.accounts import Role
from appliance.people.allowance import MIB
from appliance.people.attachments import Attachment, AttachmentNotFoundError, TooManyWaitingError, facts_of
from appliance.people.conversation_markings import marking_of
from appliance.people.markings import MarkingError, one_of
from appliance.turns.engine import CountRequest, EngineUnavailableError, TokenCount
from appliance.turns.events import Failed
from appliance.turns.request import Message, new_request
from webui.allowances import allowance
from webui.chat.file_places import Places
from webui.errors import BadRequestError, NotFoundError, TooLargeError, TooManyError, UnavailableError, respond
from webui.markings import known_markings
from webui.review.present.unseen import visible
from webui.services import services
from webui.session import demand_role, demand_user

MAX_CHARS: Final = 1_000_000
MAX_SHOWN_CHARS: Final = 200_000  # a page shows so much of a text
_COUNT_TIMEOUT_S: Final = 10.0

blueprint = Blueprint("files", __name__)
places = Places()


@blueprint.before_request
def only_users() -> None:
    demand_role(Role.USER)


@blueprint.errorhandler(AttachmentNotFoundError)
def not_found(_: AttachmentNotFoundError) -> Response:
    return respond(NotFoundError())


@blueprint.get("/chat/files")
def waiting() -> Response:
    """The files that wait for a question, for a page that was loaded again."""
    return jsonify(files=[shown(file) for file in services().attachments.waiting(demand_user().id)])


@blueprint.post("/chat/files")
def attach() -> ResponseReturnValue:
    """Take a file in. It then waits for its question."""
    user, name = demand_user(), clean_name(request.args.get("name", ""))
    marking = _marking(name, request.args.get("marking", ""))
    _demand_room(name)
    data = _body(name)
    allowance().check_texts(user.id, [])
    read = _read(user.id, name, data)
    facts = facts_of(name, data, read)
    tokens = _tokens(user.id, AttachedText(facts, read.text))
    allowance().spend_bytes(user.id, len(data) + len(read.text.encode()))
    try:
        kept = services().attachments.add(user.id, facts, data, read.text, tokens=tokens, marking_id=marking)
    except TooManyWaitingError as exc:
        raise TooManyError("too_many_files", str(exc), "Send or remove some of them first.") from exc
    return jsonify(shown(kept)), 201


@blueprint.delete("/chat/files/<file_id>")
def remove(file_id: str) -> ResponseReturnValue:
    """Remove a file that waits."""
    services().attachments.remove(demand_user().id, file_id)
    return "", 204


@blueprint.get("/chat/files/<file_id>")
def show(file_id: str) -> str:
    """What the model reads of a file."""
    file = services().attachments.get(demand_user().id, file_id)
    text, left_out = visible(file.text[:MAX_SHOWN_CHARS]), max(0, len(file.text) - MAX_SHOWN_CHARS)
    return render_template("file.html", file=file, shown=shown(file), text=text, left_out=left_out)


@blueprint.get("/chat/files/<file_id>/original")
def original(file_id: str) -> Response:
    """The file as it came, always as something to save: no browser shows it as a page of this site."""
    user = demand_user()
    name = services().attachments.get(user.id, file_id).facts.name
    response = make_response(services().attachments.original(user.id, file_id))
    response.headers.set("Content-Disposition", "attachment", filename=name)
    response.mimetype = "application/octet-stream"
    return response


def shown(file: Attachment) -> dict[str, Any]:
    """A file as pages show it."""
    facts, marking = file.facts, None
    if file.marking_id is not None:
        marking = marking_of(known_markings(), file.marking_id)
    return {
        "id": file.id, "name": facts.name, "size": size_words(facts.size_bytes), "what": ", ".join(form_words(facts)),
        "tokens": file.tokens, "notes": notes_of(facts), "address": url_for("files.show", file_id=file.id),
        "marking": None if marking is None else marking.name,
    }  # fmt: skip


def _marking(name: str, marking_id: str) -> str | None:
    """The marking that a person chose for a file; None leaves it with that of its conversation."""
    if not marking_id:
        return None
    try:
        return one_of(known_markings(), marking_id).id
    except MarkingError as exc:
        raise BadRequestError("no_such_marking", f"{_said(name)} {exc}", "Load the page again, and choose.") from exc


def _demand_room(name: str) -> None:
    """Refuse a file that could not be kept, before it is read and takes the room that events need."""
    if services().config.attachment_mib == 0:
        raise BadRequestError("files_off", f"{_said(name)} Files are switched off here.", "Paste the text instead.")
    refusal = services().record.refusal()
    if refusal is not None:
        raise UnavailableError("record_failed", f"{_said(name)} {refusal}", "Tell your administrator.")


def _body(name: str) -> bytes:
    most, size = services().config.attachment_mib * MIB, request.content_length
    if size is not None and size > most:
        too_large = f"It has {size_words(size)}, and {size_words(most)} are allowed."
        raise TooLargeError(
            "file_too_large", f"{_said(name)} {too_large}", "Attach the part that matters, or paste it."
        )
    request.max_content_length = most
    return request.get_data(cache=False)


def _read(user_id: str, name: str, data: bytes) -> ReadFile:
    most_chars = min(MAX_CHARS, allowance().limits.prompt_bytes)
    with places.one_of(user_id) as is_free:
        answer = services().reader.read(name, data, max_chars=most_chars) if is_free else Refusal("reader_busy")
    if isinstance(answer, Refusal):
        why, what_to_do = refusal_words(answer.code)
        kind = TooManyError if answer.code == "reader_busy" else BadRequestError
        raise kind(f"file_{answer.code}", f"{_said(name)} {why}", what_to_do)
    return answer


def _tokens(user_id: str, file: AttachedText) -> int | None:
    """How many tokens the model reads of the file; None while no engine can count.

    Raises:
        TooLargeError: alone it is too much for the model.
    """
    block, name = with_files("", [file]), file.facts.name
    asked = replace(new_request(user_id, (Message("user", block),)), form="text")
    try:
        found = services().engine.ask(CountRequest(asked), timeout_s=_COUNT_TIMEOUT_S)
    except EngineUnavailableError:
        return None
    why, what_to_do = refusal_words("too_long")
    if isinstance(found, Failed) and found.code == "context_exceeded":  # by far, so the engine does not count
        raise TooLargeError("file_too_many_tokens", f"{_said(name)} {why}", what_to_do)
    if not isinstance(found, TokenCount):
        return None
    if found.count >= found.context_tokens:
        too_many = f"It has {found.count:,} tokens, and the model reads {found.context_tokens:,} at once."
        raise TooLargeError("file_too_many_tokens", f"{_said(name)} {too_many}", what_to_do)
    return found.count


def _said(name: str) -> str:
    return f"“{name}” was not attached."
