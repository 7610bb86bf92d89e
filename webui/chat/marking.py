"""The page on which a person marks a conversation: /chat/ID/marking."""

from __future__ import annotations

from flask import Response, make_response, redirect, render_template, request, url_for

from appliance.people.conversation_markings import marking_of
from appliance.people.markings import MarkingError
from webui.chat.routes import blueprint, demand_room
from webui.errors import NotFoundError
from webui.handover import answer, hand_over, take
from webui.markings import conversation_banner, known_markings
from webui.services import services
from webui.session import current_actor, demand_user


@blueprint.get("/chat/<conversation_id>/marking")
def marking(conversation_id: str) -> Response:
    """What a conversation is marked as, and what it can be marked as."""
    service = services()
    found, known, left = service.conversations.get(demand_user().id, conversation_id), known_markings(), take()
    if not known:
        raise NotFoundError("no_markings", "This site has no markings.", "An administrator can set them.")
    page = render_template(
        "chat_marking.html", conversation=found, known=known, present=marking_of(known, found.marking_id),
        banner=conversation_banner(service.config, known, found.marking_id), error=left.get("error"),
        chosen=left.get("chosen", found.marking_id), reason=left.get("reason", ""),
    )  # fmt: skip
    return answer(page, left)


@blueprint.post("/chat/<conversation_id>/marking")
def mark(conversation_id: str) -> Response:
    """Mark a conversation."""
    demand_room()
    user, chosen, reason = demand_user(), request.form.get("marking", ""), request.form.get("reason", "")
    found = services().conversations.get(user.id, conversation_id)
    try:
        services().conversation_markings.choose(user.id, found.id, chosen, reason, by=current_actor())
    except MarkingError as exc:
        left = {"status": 400, "error": str(exc), "chosen": chosen, "reason": reason}
        return hand_over(url_for("chat.marking", conversation_id=found.id), left)
    return make_response(redirect(url_for("chat.conversation", conversation_id=found.id), 303))
