"""Whether a client keeps the pace: its share of bytes in each window, in sending a body and in reading an answer."""

from __future__ import annotations


class Pace:
    """The pace of one connection. `unread_bytes`: so much the client had not read yet at the last look."""

    def __init__(self, least_bytes: float) -> None:
        """Args: least_bytes: the share of one window."""
        self._least_bytes = least_bytes
        self.unread_bytes = 0
        self._written_bytes = 0
        self._body_bytes = 0

    def begin_body(self) -> None:
        self._body_bytes = 0

    def is_sent(self, body_bytes: int) -> bool:
        """Whether the client sent its share since the last look. Args: body_bytes: so much of the body has arrived."""
        sent, self._body_bytes = body_bytes - self._body_bytes, body_bytes
        return sent >= self._least_bytes

    def is_read(self, *, written_bytes: int, unread_bytes: int) -> bool:
        """Whether the client read its share since the last look, or all that there was."""
        read = (written_bytes - unread_bytes) - (self._written_bytes - self.unread_bytes)
        share = min(self.unread_bytes, self._least_bytes)
        self.unread_bytes, self._written_bytes = unread_bytes, written_bytes
        return read >= share
