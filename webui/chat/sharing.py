"""The pages of sharing: whom a conversation is shared with, what is shared with a person, and that to read."""

from __future__ import annotations

from flask import Response, make_response, redirect, render_template, request, url_for
from flask.typing import ResponseReturnValue

from appliance.people.shares import ShareError
from webui import confirm
from webui.chat import present
from webui.chat.routes import blueprint, demand_room
from webui.compression import compressed
from webui.confirm import Question
from webui.handover import answer, hand_over, take
from webui.markings import conversation_banner, known_markings
from webui.services import services
from webui.session import current_actor, demand_user


@blueprint.get("/chat/<conversation_id>/sharing")
def sharing(conversation_id: str) -> Response:
    """Whom the owner lets read a conversation."""
    service, user, left = services(), demand_user(), take()
    found = service.conversations.get(user.id, conversation_id)
    page = render_template(
        "chat_sharing.html", conversation=found, readers=service.shares.readers(user.id, found.id),
        banner=conversation_banner(service.config, known_markings(), found.marking_id), error=left.get("error"),
        name=left.get("name", ""),
    )  # fmt: skip
    return answer(page, left)


@blueprint.post("/chat/<conversation_id>/sharing")
def share(conversation_id: str) -> Response:
    """Let a colleague read a conversation."""
    demand_room()
    user, name = demand_user(), request.form.get("name", "")
    found = services().conversations.get(user.id, conversation_id)
    try:
        services().shares.share(user.id, found.id, name, by=current_actor())
    except ShareError as exc:
        left = {"status": 400, "error": str(exc), "name": name[:200]}
        return hand_over(url_for("chat.sharing", conversation_id=found.id), left)
    return _back(found.id)


@blueprint.post("/chat/<conversation_id>/sharing/<reader_id>/withdraw")
def withdraw(conversation_id: str, reader_id: str) -> Response:
    """Let a colleague read it no longer, after asking."""
    user = demand_user()
    found = services().conversations.get(user.id, conversation_id)
    readers = {one.user_id: one.name for one in services().shares.readers(user.id, found.id)}
    if reader_id in readers and not confirm.is_confirmed():
        back = url_for("chat.sharing", conversation_id=found.id)
        seen = "What they have read or copied is not taken back."
        title = f"Let {readers[reader_id]} read “{found.title}” no longer?"
        return confirm.ask(Question(title, ("It ends at once.", seen), "Withdraw", back))
    services().shares.withdraw(user.id, found.id, reader_id, by=current_actor())
    return _back(found.id)


@blueprint.get("/chat/shared")
def shared_list() -> str:
    """What others let this person read."""
    marks = {one.id: one for one in known_markings()}
    return render_template("shared.html", listed=services().shares.with_person(demand_user().id), marks=marks)


@blueprint.get("/chat/shared/<conversation_id>")
@compressed
def read_shared(conversation_id: str) -> ResponseReturnValue:
    """A conversation that somebody else lets this person read, as it is now."""
    service = services()
    demand_room()
    found = service.shares.open(demand_user().id, conversation_id, by=current_actor())
    conversation = found.conversation
    shown = service.conversations.messages(conversation.user_id, conversation.id)
    return render_template(
        "chat_shared.html", conversation=conversation, owner=found.owner,
        messages=[present.page_message(message) for message in shown],
        banner=conversation_banner(service.config, known_markings(), conversation.marking_id),
    )  # fmt: skip


def _back(conversation_id: str) -> Response:
    return make_response(redirect(url_for("chat.sharing", conversation_id=conversation_id), 303))
