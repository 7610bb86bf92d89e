"""Details of the marking of a conversation."""

from __future__ import annotations

from dataclasses import dataclass

from appliance.audit.details.codec import Details


@dataclass(frozen=True, kw_only=True)
class ConversationMarked(Details):
    """A conversation with another marking than before, each by its name at that time; "" is not set.

    ``cause`` says what raised it where no person chose it: the name of an attached file. The event's text is the
    person's reason.
    """

    before: str
    after: str
    cause: str = ""
