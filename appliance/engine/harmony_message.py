"""One message of the model: its kind, which its header decides, and the ends that it may have.

If the header does not decide, the parser holds the text until the message ends (`appliance.engine.harmony_parser`).
"""

from __future__ import annotations

import json
from enum import Enum, auto

from appliance.engine.harmony import CALL, END, RETURN
from appliance.engine.harmony_header import Header


class Kind(Enum):
    """What becomes of a message's text."""

    REASONING = auto()
    PREAMBLE = auto()  # commentary without recipient, which the format's guide means for the user
    FINAL = auto()
    CALL = auto()
    LOST_CALL = auto()  # of a function that was not offered
    HELD = auto()  # the end of the message will show what it is


class PartialMessage:
    """One message of the model, as far as it has come."""

    def __init__(self, kind: Kind, header: Header) -> None:
        self.kind = kind
        self.header = header
        self.held: list[str] = []  # text not passed on yet; for a call, all of it
        self.tokens = 0


def is_sound_end(token: int, header: Header) -> bool:
    """Whether Harmony lets a message with this header end with this token."""
    if token == CALL:
        return header.function is not None
    return token == END or (token == RETURN and header.channel == "final" and header.recipient is None)


def kind_of(header: Header) -> Kind:
    """What the header alone tells of the message."""
    if header.doubtful:
        return Kind.HELD
    if header.recipient is not None:
        if header.function is not None:
            return Kind.CALL
        return Kind.HELD if header.channel == "final" else Kind.LOST_CALL
    match header.channel:
        case "analysis":
            return Kind.REASONING
        case "commentary":
            return Kind.HELD if header.names_json or header.function is not None else Kind.PREAMBLE
        case "final":
            return Kind.FINAL
    return Kind.HELD


def is_json(text: str) -> bool:
    """Whether the text is one whole JSON value."""
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
