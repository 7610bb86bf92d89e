"""What a person has the model read before every conversation of theirs: "custom instructions".

They are the developer message of each turn that uses them, so the record has them with every question. A change holds
from the next question on, in conversations that were begun before, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import sqlalchemy as sa

from appliance.database.tables import instructions
from appliance.database.transactions import Database, DatabaseError, now_us

MAX_CHARS: Final = 8_000


class Instructions:
    """The instructions of the people of one database; thread-safe."""

    def __init__(self, database: Database, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database, self._clock_us = database, clock_us

    def of(self, user_id: str) -> str:
        """A person's instructions; "" for none.

        Raises:
            DatabaseError: they are not what was stored.
        """
        with self._database.read() as connection:
            query = sa.select(instructions.c.text).where(instructions.c.user_id == user_id)
            text = connection.scalar(query)
        if not isinstance(text, str | None):
            raise DatabaseError("a person's instructions cannot be read: they are no text")
        return text or ""

    def keep(self, user_id: str, text: str) -> None:
        """Replace them; blank text removes them. The caller has checked text and length."""
        with self._database.write() as connection:
            connection.execute(instructions.delete().where(instructions.c.user_id == user_id))
            if text.strip():
                row = {"user_id": user_id, "text": text, "updated_us": self._clock_us()}
                connection.execute(instructions.insert().values(row))
