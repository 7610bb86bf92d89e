"""The addresses of a conversation's room: how much is left, and a new chat that begins with a summary of this one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from flask import Response, jsonify
from flask.typing import ResponseReturnValue

from appliance.attachments.prompt import with_files
from appliance.people.conversations import Conversation, QuestionFacts, StoredMessage
from webui.chat import present, turns
from webui.chat.bodies import Draft, Question, SummaryWish, read_body
from webui.chat.reading import check_reads_from, first_read
from webui.chat.room import UncountableError, token_counts
from webui.chat.room_words import leave_out_words, room_words
from webui.chat.routes import blueprint, demand_room
from webui.errors import UnavailableError
from webui.services import services
from webui.session import current_actor, demand_user

SUMMARY_QUESTION: Final = (
    "Sum up our conversation so far, so that we can go on from your summary in a new chat. Keep every fact, name, "
    "number, decision and open question. Quote word for word the text and code that we still work on."
)


@blueprint.post("/chat/room")
def room_of_new_chat() -> Response:
    """How much room a first question leaves. Nothing of it is kept or recorded."""
    return _room((), read_body(Draft), None)


@blueprint.post("/chat/<conversation_id>/room")
def room(conversation_id: str) -> Response:
    """How much room a question leaves in a conversation. Nothing of it is kept or recorded."""
    draft = read_body(Draft)
    found = services().conversations.get(demand_user().id, conversation_id)
    messages = services().conversations.messages(demand_user().id, found.id)
    check_reads_from(messages, draft.reads_from)
    return _room(messages, draft, found)


@blueprint.post("/chat/<conversation_id>/summary")
def begin_summary(conversation_id: str) -> ResponseReturnValue:
    """Begin a new chat whose first turn sums up this conversation, and say which."""
    demand_room()
    user, effort = demand_user(), read_body(SummaryWish).effort
    summed_up = services().conversations.get(user.id, conversation_id)
    turns.demand_watching(user)
    made = services().conversations.create(user.id, title=present.title_of(f"{summed_up.title}, continued"))
    marking = services().conversation_markings.of(user.id, summed_up.id)
    cause = f"goes on from {summed_up.title}"
    services().conversation_markings.inherit(made.id, marking, cause=cause, by=current_actor())
    turns.ask(services(), user, made, Question(effort, SUMMARY_QUESTION), QuestionFacts(sums_up=summed_up.id))
    return jsonify(id=made.id), 201


def _room(messages: Sequence[StoredMessage], draft: Draft, conversation: Conversation | None) -> Response:
    user, first = demand_user(), first_read(messages, draft.reads_from)
    read, leave_out = messages[first:], None
    files = services().attachments.take(user.id, "" if conversation is None else conversation.id, draft.files)
    left_out = draft.without_instructions
    if left_out is None:
        left_out = conversation is not None and conversation.without_instructions
    instructions = "" if left_out else services().instructions.of(user.id)
    text = with_files(draft.text, [file.as_read() for file in files])
    try:
        found = token_counts().measure(user.id, read, text, draft.effort, instructions=instructions)
        words = room_words(found, has_text=bool(text.strip()))
        if words.problem and found.earlier:
            leave_out = token_counts().cut(user.id, read, text, draft.effort, instructions=instructions)
    except UncountableError:
        raise UnavailableError("uncountable", "The model cannot count the tokens now.", "Send when you like.") from None
    body = {"line": words.line, "tight": words.is_tight, "problem": words.problem, "sums_up": found.earlier > 0}
    if leave_out is None:
        return jsonify(**body, leave_out=None)
    reads_from = read[leave_out].id if leave_out < len(read) else ""
    return jsonify(**body, leave_out={"reads_from": reads_from, "words": leave_out_words(first + leave_out)})
