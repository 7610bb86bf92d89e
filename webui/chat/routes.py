"""The chat's addresses: the list of conversations, one conversation, and the stream of an answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from flask import Blueprint, Response, jsonify, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from appliance.audit.event import Content
from appliance.people import sampling
from appliance.people.accounts import Role
from appliance.people.attachments import AttachmentNotFoundError
from appliance.people.conversations import (
    Conversation,
    ConversationDamagedError,
    ConversationNotFoundError,
    StoredMessage,
)
from appliance.turns.engine import EngineUnavailableError
from appliance.turns.journal import ConversationBusyError
from appliance.turns.running import NotRecordedError, TooManyTurnsError
from webui.allowances import allowance
from webui.chat import present, turns
from webui.chat.bodies import Beginning, Branch, Change, Question, read_body
from webui.chat.lists import list_values
from webui.chat.parts import last_part
from webui.chat.reading import facts_of_question, first_read
from webui.chat.room_words import unread_words
from webui.compression import compressed
from webui.errors import BadRequestError, ConflictError, NotFoundError, TooManyError, UnavailableError, respond
from webui.markings import Banner, conversation_banner, known_markings, tell
from webui.services import services
from webui.session import current_actor, demand_role, demand_user

STATUS_TIMEOUT_S = 0.5
MAX_DIGITS: Final = 12  # an event's number has no more
_NOT_READY = "The model is still loading, or has stopped. You can write now, and send once it is ready."

blueprint = Blueprint("chat", __name__)


@blueprint.before_request
def only_users() -> ResponseReturnValue | None:
    if request.endpoint == "chat.index" and Role.USER not in demand_user().roles:
        return redirect(url_for("review.index" if Role.REVIEWER in demand_user().roles else "admin.index"))
    demand_role(Role.USER)
    return None


@blueprint.errorhandler(ConversationDamagedError)
def damaged(error: ConversationDamagedError) -> Response:
    return respond(UnavailableError("conversation_damaged", str(error), "Tell your administrator; begin a new chat."))


@blueprint.errorhandler(ConversationNotFoundError)
def not_found(_: ConversationNotFoundError) -> Response:
    return respond(NotFoundError())


@blueprint.errorhandler(AttachmentNotFoundError)
def file_not_found(error: AttachmentNotFoundError) -> Response:
    return respond(NotFoundError("file_not_found", str(error), "Remove it and attach it again."))


@blueprint.errorhandler(ConversationBusyError)
def busy(error: ConversationBusyError) -> Response:
    what_to_do = "Your question was not sent. Reload this page to see the answer, and ask when it is done."
    return respond(ConflictError("conversation_busy", str(error), what_to_do))


@blueprint.errorhandler(TooManyTurnsError)
def too_many(error: TooManyTurnsError) -> Response:
    return respond(TooManyError("too_many_waiting", str(error), "Your question was not sent; ask when one is done."))


@blueprint.errorhandler(NotRecordedError)
def not_recorded(error: NotRecordedError) -> Response:
    code = error.failure.code
    kind = BadRequestError if code == "bad_request" else UnavailableError
    return respond(kind(code, str(error), "Your question was not sent."))


@blueprint.get("/")
def index() -> ResponseReturnValue:
    return redirect(url_for("chat.new"))


@blueprint.get("/chat")
@compressed
def new() -> str:
    return _page(None)


@blueprint.get("/chat/<conversation_id>")
@compressed
def conversation(conversation_id: str) -> str:
    return _page(services().conversations.get(demand_user().id, conversation_id))


@blueprint.get("/chat/<conversation_id>/earlier")
@compressed
def earlier(conversation_id: str) -> Response:
    """The turns just before a message that a page already shows."""
    found = services().conversations.get(demand_user().id, conversation_id)
    shown, _ = turns.shown_messages(services(), demand_user(), found.id)
    part = last_part(shown, before=request.args.get("before", ""))
    html = render_template(
        "_messages.html",
        messages=[present.page_message(message) for message in part.messages],
        earlier=part.earlier,
        **_notes_between(shown),
    )
    return jsonify(html=html, earlier=part.earlier)


@blueprint.get("/chat/<conversation_id>/print")
@compressed
def on_paper(conversation_id: str) -> str:
    """The whole conversation on one page, without anything that can be pressed on paper."""
    found = services().conversations.get(demand_user().id, conversation_id)
    shown, _ = turns.shown_messages(services(), demand_user(), found.id)
    messages = [present.page_message(message) for message in shown]
    return render_template(
        "chat_print.html", conversation=found, messages=messages, now=services().clock(), banner=_banner_of(found)
    )


@blueprint.get("/chat/list")
def conversation_list() -> Response:
    """A page of the list, and the choices of views; `webui.chat.lists` says what can be asked for."""
    values = list_values(demand_user(), request.args)
    html, views = render_template("_conversations.html", **values), render_template("_views.html", **values)
    return jsonify(html=html, views=views)


@blueprint.post("/chat")
def create() -> ResponseReturnValue:
    demand_room()
    text = read_body(Beginning).text
    allowance().check_texts(demand_user().id, [])
    allowance().spend(demand_user().id, Content(""))
    made = services().conversations.create(demand_user().id, title=present.title_of(text))
    return jsonify(id=made.id), 201


@blueprint.patch("/chat/<conversation_id>")
def change(conversation_id: str) -> ResponseReturnValue:
    user, conversations, wanted = demand_user(), services().conversations, read_body(Change)
    if wanted.title is not None:
        conversations.rename(user.id, conversation_id, wanted.title)
    if wanted.pinned is not None:
        conversations.pin(user.id, conversation_id, pinned=wanted.pinned)
    if wanted.archived is not None:
        conversations.lists.archive(user.id, conversation_id, archived=wanted.archived)
    if wanted.folder is not None or wanted.tags is not None:
        conversations.lists.file(user.id, conversation_id, folder=wanted.folder, tags=wanted.tags)
    return "", 204


@blueprint.delete("/chat/<conversation_id>")
def delete(conversation_id: str) -> ResponseReturnValue:
    """Delete a conversation. A turn that runs there ends first, so that the record has its answer."""
    user, conversations = demand_user(), services().conversations
    found = conversations.get(user.id, conversation_id)
    try:
        with services().turns.ended(user.id, found.id):
            conversations.delete(user.id, found.id, by=current_actor())
    except ConversationBusyError:
        words = "The answer that is being written in this conversation does not end."
        raise ConflictError("conversation_busy", words, "Nothing was deleted; try again in a minute.") from None
    return "", 204


@blueprint.post("/chat/<conversation_id>/branch")
def branch(conversation_id: str) -> ResponseReturnValue:
    """Show another answer. Refused while one is being written: that one would be kept under another question."""
    found = services().conversations.get(demand_user().id, conversation_id)
    reader = services().turns.find(demand_user().id, found.id)
    if reader is not None:
        reader.close()
        words = "An answer is being written in this conversation."
        raise ConflictError("conversation_busy", words, "Nothing was changed; look at other answers when it is done.")
    services().conversations.show_branch(demand_user().id, conversation_id, read_body(Branch).message)
    return "", 204


@blueprint.get("/chat/<conversation_id>/turns")
def state(conversation_id: str) -> Response:
    """Which turn runs, and the last message. From these another tab knows that the conversation has gone on."""
    found = services().conversations.get(demand_user().id, conversation_id)
    shown, turn = turns.shown_messages(services(), demand_user(), found.id)
    return jsonify(turn=turn, last=shown[-1].id if shown else None)


@blueprint.post("/chat/<conversation_id>/turns")
def begin_turn(conversation_id: str) -> Response:
    """Ask a new question, an earlier one anew, or the last one again. Answers with `webui.chat.stream`'s lines."""
    demand_room()
    question, user = read_body(Question), demand_user()
    found = services().conversations.get(user.id, conversation_id)
    turns.demand_watching(user)
    turn_id = turns.ask(services(), user, found, question)
    response = turns.read_along(user, found, turn_id, after=0)
    tell(response, _banner_of(services().conversations.get(user.id, found.id)))
    return response


@blueprint.get("/chat/<conversation_id>/turns/<turn_id>")
def read_turn(conversation_id: str, turn_id: str) -> Response:
    """The stream of a turn after its event number ``after``."""
    after = request.args.get("after", "0")
    if not (after.isascii() and after.isdecimal()) or len(after) > MAX_DIGITS:
        raise BadRequestError(message="The number of an event is missing.")
    found = services().conversations.get(demand_user().id, conversation_id)
    return turns.read_along(demand_user(), found, turn_id, int(after))


@blueprint.delete("/chat/<conversation_id>/turns/<turn_id>")
def stop_turn(conversation_id: str, turn_id: str) -> ResponseReturnValue:
    """Stop a turn in whichever worker it runs. A turn that is over stays as it is."""
    services().conversations.get(demand_user().id, conversation_id)
    services().turns.stop(demand_user().id, conversation_id, None if turn_id == "current" else turn_id)
    return "", 204


def _page(conversation: Conversation | None) -> str:
    shown, turn = list[StoredMessage](), None
    if conversation is not None:
        shown, turn = turns.shown_messages(services(), demand_user(), conversation.id)
    part = last_part(shown)
    messages = [present.page_message(message) for message in part.messages]
    if turn is None and shown and shown[-1].role == "user":
        messages.append(present.UNANSWERED)
    return render_template(
        "chat.html",
        conversation=conversation,
        banner=_banner_of(conversation),
        instructions=services().instructions.of(demand_user().id),
        bounds=sampling,
        default_sampling=sampling.DEFAULT_SAMPLING,
        messages=messages,
        turn=turn,
        last=shown[-1].id if shown else None,
        earlier=part.earlier,
        **_notes_between(shown),
        unavailable=None if shown or _engine_answers() else _NOT_READY,
        **list_values(demand_user(), {"current": conversation.id if conversation else ""}),
    )


def _banner_of(conversation: Conversation | None) -> Banner | None:
    """The banner of a conversation's page, or of a new chat."""
    marking_id = None if conversation is None else conversation.marking_id
    return conversation_banner(services().config, known_markings(), marking_id)


def _notes_between(shown: Sequence[StoredMessage]) -> dict[str, Any]:
    """What `_messages.html` says between messages: before which one the model begins to read, if it does not read them
    all, and with whose summary the conversation begins."""
    unread = first_read(shown)
    before = shown[unread].id if 0 < unread < len(shown) else None
    return {"unread_before": before, "unread_words": unread_words(unread), "begins_with": _summed_up(shown)}


def _summed_up(shown: Sequence[StoredMessage]) -> present.SummedUp | None:
    """The conversation with whose summary this one begins."""
    sums_up = facts_of_question(shown[0]).sums_up if shown else None
    if sums_up is None:
        return None
    try:
        return present.SummedUp(services().conversations.get(demand_user().id, sums_up))
    except ConversationNotFoundError:
        return present.SummedUp(None)


def _engine_answers() -> bool:
    try:
        services().engine.status(timeout_s=STATUS_TIMEOUT_S)
    except EngineUnavailableError:
        return False
    return True


def demand_room() -> None:
    """Refuse what could not be recorded, before it is kept and takes the room that events need.

    Raises:
        UnavailableError: with the reason.
    """
    refusal = services().record.refusal()
    if refusal is not None:
        raise UnavailableError("record_failed", f"{refusal} Your question was not sent.", "Tell your administrator.")
