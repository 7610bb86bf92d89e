"""Turns of a conversation: asking, and reading along from any event. `webui.chat.routes` has the addresses."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing, nullcontext
from functools import partial
from typing import Any, Final

from flask import Response, copy_current_request_context, get_template_attribute

from appliance.audit.event import Content
from appliance.people.accounts import Role, User
from appliance.people.conversations import (
    Conversation,
    ConversationNotFoundError,
    NewMessage,
    QuestionFacts,
    StoredMessage,
)
from appliance.people.sampling import Sampling
from appliance.turns.answer import About, Answer, Facts
from appliance.turns.events import failed
from appliance.turns.interrupted import INTERRUPTED
from appliance.turns.journal import Kept
from appliance.turns.permits import permitted
from appliance.turns.request import new_request
from appliance.turns.run import run_turn
from appliance.turns.unkept import NOT_KEPT
from webui.allowances import allowance, person_bounds
from webui.chat.asking import asked_of
from webui.chat.bodies import Question
from webui.chat.given import check_seen, given_for
from webui.chat.present import PageMessage, page_answer, page_message
from webui.chat.stream import ended_turn, stream_turn
from webui.chat.watchers import watchers
from webui.errors import NotFoundError, TooManyError
from webui.markings import known_markings, recorded_name
from webui.services import Services, services
from webui.session import current_actor, session_permit
from webui.streaming import server_ending, watch_client

NO_QUESTION_FACTS: Final = QuestionFacts()


def ask(
    service: Services, user: User, conversation: Conversation, question: Question,
    facts: QuestionFacts = NO_QUESTION_FACTS,
) -> str:  # fmt: skip
    """Begin a turn and return its id.

    Args:
        facts: what to keep of a new question beside its words.
    Raises:
        ConversationBusyError, TooManyTurnsError, NotRecordedError, RefusedError, BadRequestError, ConflictError,
        ConversationNotFoundError, AttachmentNotFoundError: nothing was asked.
    """
    effort = question.effort
    about = About(service.model.id, service.release.version, effort)
    with service.turns.claim(user.id, conversation.id) as place:
        shown = service.conversations.messages(user.id, conversation.id)
        check_seen(shown, question)
        asked = asked_of(service.conversations, conversation, shown, question, service.attachments)
        history, text, begun = asked.history, asked.text, asked.begun
        sampling, left_out = _choices_of(conversation, question)
        instructions = "" if left_out else service.instructions.of(user.id)
        given = given_for(service, user, asked, question, facts, instructions)
        actor = current_actor()
        marking = service.conversation_markings.rise_with(user.id, conversation.id, asked.files, by=actor)
        engine = permitted(service.engine, session_permit(Role.USER))
        turn = run_turn(
            service.record, place.engine(engine, is_ending=server_ending()), actor,
            new_request(
                user.id, given.messages, effort=effort, grammar=service.config.harmony_grammar, continues=asked.goes_on,
                **sampling.chosen(),
            ),
            conversation_id=conversation.id, allowance=person_bounds(), files=tuple(file.facts for file in asked.files),
            marking=recorded_name(known_markings(), marking),
        )  # fmt: skip

        def keep_question() -> str:
            if (sampling, left_out) != (conversation.sampling, conversation.without_instructions):
                service.conversations.set_choices(user.id, conversation.id, sampling, without_instructions=left_out)
            if begun is not None:
                return begun.parent_id or ""
            if text is None:
                if given.facts != history[-1].facts:
                    service.conversations.set_question_facts(user.id, conversation.id, history[-1].id, given.facts)
                return history[-1].id
            allowance().spend(user.id, Content(text))  # a question is kept beside its event
            new_message = NewMessage(
                "user", text, facts=given.facts, attachments=tuple(file.id for file in asked.files)
            )
            kept = service.conversations.append(user.id, conversation.id, new_message, parent_id=asked.parent_id)
            # Again, now that the files forbid a lower marking: it may have been lowered since the first time.
            service.conversation_markings.rise_with(user.id, conversation.id, asked.files, by=actor)
            return kept.id

        place.start(turn, keep_question, about, begun=begun.id if begun is not None else None)
        return turn.request.id


def _choices_of(conversation: Conversation, question: Question) -> tuple[Sampling, bool]:
    """How the answer is drawn, and whether the person's instructions are left out."""
    sampling = conversation.sampling if question.sampling is None else question.sampling.as_sampling()
    left_out = question.without_instructions
    return sampling, conversation.without_instructions if left_out is None else left_out


def demand_watching(user: User) -> None:
    """Refuse a person who already reads along in as many places as one person may.

    Raises:
        TooManyError
    """
    leave = _enter(user)
    leave()


def read_along(user: User, conversation: Conversation, turn_id: str, after: int) -> Response:
    """The stream of a turn that runs, or the end of one that is over. "current" names the one that runs.

    Raises:
        NotFoundError: the conversation has no such turn.
        TooManyError: this person reads along in too many places.
    """
    reader = services().turns.find(user.id, conversation.id)
    head = None if reader is None else reader.head
    if reader is None or head is None or turn_id not in (head.turn, "current"):
        if reader is not None:
            reader.close()
        return _over(user, conversation, turn_id)
    try:
        leave = _enter(user)
    except TooManyError:
        reader.close()
        raise
    end = copy_current_request_context(partial(_end, services(), user, conversation, head.turn))
    lines = stream_turn(
        reader, turn_id=head.turn, age_s=time.monotonic() - head.began_s, after=after, clock_s=time.monotonic,
        is_gone=watch_client(), end=end, begun=_begun(services(), user, conversation, head.begun),
    )  # fmt: skip
    response = _response(lines)
    response.call_on_close(reader.close)
    response.call_on_close(leave)
    return response


def shown_messages(service: Services, user: User, conversation_id: str) -> tuple[list[StoredMessage], str | None]:
    """The messages that a page shows of a conversation, and the turn that it draws after them.

    An answer that is being written takes the place of earlier answers to its question. The turn is looked for before
    the messages are read: a turn that ends in between is drawn to its end, and its question does not look unanswered.
    """
    reader = service.turns.find(user.id, conversation_id)
    with closing(reader) if reader is not None else nullcontext():
        head = None if reader is None else reader.head
    messages = service.conversations.messages(user.id, conversation_id)
    if head is None:
        return messages, None
    ids = [message.id for message in messages]
    return (messages[: ids.index(head.question) + 1] if head.question in ids else messages), head.turn


def answer_html(message: PageMessage) -> str:
    return str(get_template_attribute("_turns.html", "answer")(message))


def asked_html(message: PageMessage) -> str:
    return str(get_template_attribute("_turns.html", "asked")(message))


def _begun(service: Services, user: User, conversation: Conversation, message_id: str | None) -> str:
    """The text that the running turn continues."""
    if message_id is None:
        return ""
    try:
        return service.conversations.branch_to(user.id, conversation.id, message_id)[-1].content
    except ConversationNotFoundError:  # the turn has just ended, and the whole answer took its place
        return ""


def _over(user: User, conversation: Conversation, turn_id: str) -> Response:
    kept = _kept(services(), user, conversation, turn_id)
    if kept is None:
        raise NotFoundError
    return _response(ended_turn(turn_id, _end_line(conversation, *kept)))


def _end(
    service: Services, user: User, conversation: Conversation, turn_id: str, answer: Answer, kept: Kept | None
) -> dict[str, Any]:
    """The last line of a turn: the answer as the conversation keeps it, or what has come and why it is not kept."""
    if kept is None or kept.message is None:
        service.turns.clear_dead()  # then the record and the conversation say how it ended
    problem = INTERRUPTED if kept is None else answer.problem
    try:
        found = _kept(service, user, conversation, turn_id)
        if kept is not None and kept.message is None and answer.end != failed("record_failed"):
            problem = NOT_KEPT
    except ConversationNotFoundError:
        found = None
    if found is not None:
        return _end_line(conversation, *found)
    return _end_line(conversation, page_answer("", answer.words, Facts(problem=problem)))


def _kept(
    service: Services, user: User, conversation: Conversation, turn_id: str
) -> tuple[PageMessage, PageMessage | None] | None:
    """The answer of a turn and its question, if the shown branch has it. If a full disk cut the turn's file off, only
    this finds it."""
    messages = service.conversations.messages(user.id, conversation.id)
    for before, one in zip((None, *messages), (*messages, None), strict=True):
        if one is not None and isinstance(one.facts, Facts) and one.facts.turn == turn_id:
            return page_message(one), None if before is None else page_message(before)
    return None


def _end_line(conversation: Conversation, shown: PageMessage, asked: PageMessage | None = None) -> dict[str, Any]:
    html, is_complete = answer_html(shown), shown.problem is None
    question = "" if asked is None else asked_html(asked)
    return {"type": "end", "html": html, "question": question, "title": conversation.title, "complete": is_complete}


def _enter(user: User) -> Callable[[], None]:
    leave = watchers().enter(user.id)
    if leave is None:
        raise TooManyError(
            "too_many_readers", "You read along in as many places as one person may.",
            "Close a page of this site that shows an answer being written, and reload this one.",
        )  # fmt: skip
    return leave


def _response(lines: Iterator[str]) -> Response:
    return Response(lines, mimetype="application/x-ndjson", headers={"X-Accel-Buffering": "no"})
