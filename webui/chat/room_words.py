"""What the chat page says about the room that is left in a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from webui.chat.room import Room


@dataclass(frozen=True)
class RoomWords:
    """``line`` stands beside the composer. ``problem`` says why the question cannot be sent as it is."""

    line: str
    is_tight: bool
    problem: str | None = None


def room_words(room: Room, *, has_text: bool) -> RoomWords:
    """The words about the room of a question; without a text, those about the conversation."""
    used, context = f"{room.used:,}", f"{room.context:,}"
    line = f"{used} of {context} tokens"
    if room.earlier and room.is_tight and not has_text:
        return RoomWords(line, True, _full(used, context))
    if not room.fits and room.fits_alone:
        return RoomWords(line, True, _too_long_together(used, context))
    if not room.fits:
        return RoomWords(line, True, _too_long_alone(room))
    if room.is_tight:
        return RoomWords(f"Only {room.left:,} tokens are left for the answer. It may be cut off.", True)
    return RoomWords(line, False)


def _full(used: str, context: str) -> str:
    return (
        f"This conversation is full. It has {used} tokens, and the model reads {context} at once, its answer included. "
        "Choose how to go on."
    )


def _too_long_together(used: str, context: str) -> str:
    return (
        f"This does not fit. The conversation and your question have {used} tokens, and the model reads {context} at "
        "once, its answer included. Shorten your question, or choose how to go on."
    )


def _too_long_alone(room: Room) -> str:
    too_much = -(-100 * (room.question - room.context + 1) // room.question)
    return (
        f"Your question is too long. It has {room.question:,} tokens, and the model reads {room.context:,} at once, "
        f"its answer included. Shorten it by at least {too_much} %, or ask in parts. Your text stays here."
    )


def leave_out_words(count: int) -> str:
    """On the button that leaves out the oldest messages."""
    return "Leave out the oldest message" if count == 1 else f"Leave out the {count:,} oldest messages"


def unread_words(count: int) -> str:
    """In the conversation, above the first message that the model reads."""
    if count == 1:
        return "1 earlier message is no longer read by the model."
    return f"{count:,} earlier messages are no longer read by the model."
