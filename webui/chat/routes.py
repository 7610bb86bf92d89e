"""The chat pages: the list of conversations, one conversation, and the stream of an answer."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, cast, get_args

from flask import (
    Blueprint,
    Response,
    get_template_attribute,
    jsonify,
    redirect,
    render_template,
    request,
    stream_with_context,
    url_for,
)
from flask.typing import ResponseReturnValue

from appliance.accounts import Role, User
from appliance.audit.event import Content, check_storable
from appliance.conversations import (
    Conversation,
    ConversationDamagedError,
    ConversationNotFoundError,
    NewMessage,
    StoredMessage,
)
from appliance.permits import permitted
from appliance.turns.answer import About
from appliance.turns.engine import EngineUnavailableError
from appliance.turns.request import Effort, Message, TurnRequest, new_request
from appliance.turns.run import run_turn
from webui.allowances import allowance
from webui.auth.session import current_actor, demand_role, demand_user, session_permit
from webui.chat.stream import Drawing, stream_turn
from webui.chat.view import MessageView, answer_view, grouped, message_view, title_of
from webui.errors import BadRequestError, NotFoundError, UnavailableError, respond
from webui.services import Services, services
from webui.streaming import client_is_gone

MAX_TEXT_CHARS = 400_000
STATUS_TIMEOUT_S = 0.5
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


@blueprint.get("/")
def index() -> ResponseReturnValue:
    return redirect(url_for("chat.new"))


@blueprint.get("/chat")
def new() -> str:
    return _page(None, [])


@blueprint.get("/chat/<conversation_id>")
def conversation(conversation_id: str) -> str:
    user, conversations = demand_user(), services().conversations
    found = conversations.get(user.id, conversation_id)
    return _page(found, conversations.messages(user.id, conversation_id))


@blueprint.get("/chat/list")
def conversation_list() -> Response:
    search = request.args.get("q", "")
    html = render_template("_conversations.html", **_list(search, request.args.get("current", "")))
    return jsonify(html=html)


@blueprint.post("/chat")
def create() -> ResponseReturnValue:
    _demand_room()
    text = _text(_body().get("text"))
    allowance().check_texts(demand_user().id, [])
    allowance().spend(demand_user().id, Content(""))
    made = services().conversations.create(demand_user().id, title=title_of(text))
    return jsonify(id=made.id), 201


@blueprint.patch("/chat/<conversation_id>")
def change(conversation_id: str) -> ResponseReturnValue:
    user, conversations, body = demand_user(), services().conversations, _body()
    title, pinned = body.get("title"), body.get("pinned")
    if title is not None:
        conversations.rename(user.id, conversation_id, _text(title))
    if pinned is not None:
        conversations.pin(user.id, conversation_id, pinned=pinned is True)
    return "", 204


@blueprint.delete("/chat/<conversation_id>")
def delete(conversation_id: str) -> ResponseReturnValue:
    services().conversations.delete(demand_user().id, conversation_id, by=current_actor())
    return "", 204


@blueprint.post("/chat/<conversation_id>/branch")
def branch(conversation_id: str) -> ResponseReturnValue:
    services().conversations.show_branch(demand_user().id, conversation_id, str(_body().get("message")))
    return "", 204


@blueprint.get("/chat/<conversation_id>/last-answer")
def last_answer(conversation_id: str) -> Response:
    """The answer that was kept after the one named by ``after``; empty while there is none."""
    last = services().conversations.messages(demand_user().id, conversation_id)[-1:]
    new = [message for message in last if message.role == "assistant" and message.id != request.args.get("after")]
    return jsonify(html=_answer_html(message_view(new[0])) if new else "")


@blueprint.post("/chat/<conversation_id>/turns")
def turn(conversation_id: str) -> Response:
    """Ask a new question, or with ``regenerate`` the last one again; answers with the stream of `webui.chat.stream`."""
    _demand_room()
    body, user, service = _body(), demand_user(), services()
    effort = _effort(body.get("effort"))
    found = service.conversations.get(user.id, conversation_id)
    history = service.conversations.messages(user.id, conversation_id)
    if body.get("regenerate") is True:
        history = _until_last_question(history)
        return _answering(service, user, found, history[-1], _request(user, _for_engine(history), effort))
    text = _text(body.get("text"))
    asked = _request(user, (*_for_engine(history), Message("user", text)), effort)
    allowance().check(user.id, asked)  # before it is kept, with all that goes with it
    allowance().spend(user.id, Content(text))  # a question is kept though nobody waits for its answer
    parent_id = history[-1].id if history else None  # what the model reads, also when another tab goes on meanwhile
    question = service.conversations.append(user.id, conversation_id, NewMessage("user", text), parent_id=parent_id)
    return _answering(service, user, found, question, asked)


def _request(user: User, messages: tuple[Message, ...], effort: Effort) -> TurnRequest:
    return new_request(user.id, messages, effort=effort, grammar=services().config.harmony_grammar)


def _answering(
    service: Services, user: User, conversation: Conversation, question: StoredMessage, asked: TurnRequest
) -> Response:
    """The stream of one turn, and its end in the conversation."""
    engine = permitted(service.engine, session_permit(Role.USER))
    running = run_turn(
        service.record, engine, current_actor(), asked, conversation_id=conversation.id, allowance=allowance()
    )
    about = About(service.model.id, service.release.version, asked.effort)

    def keep() -> MessageView:
        words = running.answer.words
        facts = running.answer.facts(about, prompt_event=running.prompt_event, event=running.answer_event)
        new = NewMessage("assistant", words.text, words.reasoning or None, words.calls, facts.details())
        try:
            kept = service.conversations.append(user.id, conversation.id, new, parent_id=question.id)
        except ConversationNotFoundError:  # deleted meanwhile; the record has the answer
            return answer_view("", words, facts)
        return message_view(kept)

    lines = stream_turn(
        running, Drawing(time.monotonic), is_gone=client_is_gone, keep=keep, show=_answer_html,
        title=conversation.title,
    )  # fmt: skip
    return Response(stream_with_context(lines), mimetype="application/x-ndjson", headers={"X-Accel-Buffering": "no"})


def _page(conversation: Conversation | None, messages: list[StoredMessage]) -> str:
    return render_template(
        "chat.html",
        conversation=conversation,
        turn_views=[message_view(message) for message in messages],
        unavailable=None if messages or _engine_answers() else _NOT_READY,
        **_list("", conversation.id if conversation else ""),
    )


def _list(search: str, current: str) -> dict[str, Any]:
    found = services().conversations.list_conversations(demand_user().id, search=search)
    return {"groups": grouped(found, services().clock().astimezone()), "current": current, "search": search}


def _answer_html(view: MessageView) -> str:
    return str(get_template_attribute("_turns.html", "answer")(view))


def _engine_answers() -> bool:
    try:
        services().engine.status(timeout_s=STATUS_TIMEOUT_S)
    except EngineUnavailableError:
        return False
    return True


def _until_last_question(messages: list[StoredMessage]) -> list[StoredMessage]:
    while messages and messages[-1].role != "user":
        messages = messages[:-1]
    if not messages:
        raise BadRequestError(message="There is no question to answer again.")
    return messages


def _for_engine(messages: list[StoredMessage]) -> tuple[Message, ...]:
    """The conversation as the model reads it: without answers that never came, and without past reasoning."""
    said = [message.as_message() for message in messages if message.content or message.tool_calls]
    return tuple(message if message.tool_calls else replace(message, reasoning=None) for message in said)


def _demand_room() -> None:
    """Refuse a question that could not be recorded before it is kept: on a full disk it would take the room of events.

    Raises:
        UnavailableError: with the reason.
    """
    refusal = services().record.refusal()
    if refusal is not None:
        raise UnavailableError("record_failed", f"{refusal} Your question was not sent.", "Tell your administrator.")


def _body() -> dict[str, Any]:
    body = request.get_json(silent=True)
    if not isinstance(body, dict):
        raise BadRequestError
    return cast("dict[str, Any]", body)


def _effort(value: object) -> Effort:
    if value not in get_args(Effort):
        raise BadRequestError(message="The effort must be low, medium or high.")
    return cast("Effort", value)


def _text(value: object) -> str:
    """Text a person has written.

    Raises:
        BadRequestError: it is none, is blank or too long, or cannot be kept exactly.
    """
    if not isinstance(value, str) or not value.strip():
        raise BadRequestError(message="There is nothing to send: the text is empty.")
    if len(value) > MAX_TEXT_CHARS:
        raise BadRequestError(message=f"The text is longer than {MAX_TEXT_CHARS:,} characters.")
    try:
        check_storable(value)
    except ValueError as exc:
        raise BadRequestError(message="The text contains characters that cannot be kept.") from exc
    return value
