"""The library of prompts: texts that people put into the composer, their own and those of the site.

A person's own are nobody else's. Those of the site belong to nobody: administrators change them, and each change is an
event of the record, written in the same transaction. ``{{a blank}}`` in a text is for whoever uses it to fill in.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.audit.event import Actor, check_storable
from appliance.audit.log import AuditLog
from appliance.database.tables import prompts
from appliance.database.transactions import DatabaseError, now_us
from appliance.errors import ApplianceError
from appliance.people.account_changes import open_admin_change

MOST: Final = 200  # of one person, and of the site
MAX_TITLE_CHARS: Final = 80
MAX_TEXT_CHARS: Final = 8_000


class PromptError(ApplianceError):
    """A change of the library that is not possible; the message is a sentence for whoever asked for it."""


class PromptNotFoundError(ApplianceError):
    """There is no such prompt, or it is someone else's."""

    def __init__(self) -> None:
        super().__init__("There is no such prompt.")


@dataclass(frozen=True)
class Prompt:
    """One text of the library. ``is_shared``: it is the site's."""

    id: str
    title: str
    text: str
    is_shared: bool


class Prompts:
    """The library of one database; without a state of its own. Where ``owner`` is None the site's are meant."""

    def __init__(self, record: AuditLog, *, clock_us: Callable[[], int] = now_us) -> None:
        self._record = record
        self._clock_us = clock_us

    def of(self, owner: str | None) -> list[Prompt]:
        """All prompts of a person, or of the site, by title.

        Raises:
            DatabaseError: one of them is not what was stored.
        """
        with self._record.database.read() as connection:
            rows = connection.execute(sa.select(prompts).where(_of(owner))).all()
        return sorted(map(_prompt, rows), key=lambda one: (one.title.casefold(), one.id))

    def get(self, owner: str | None, prompt_id: str) -> Prompt:
        """Raises: PromptNotFoundError."""
        with self._record.database.read() as connection:
            row = connection.execute(sa.select(prompts).where(prompts.c.id == prompt_id, _of(owner))).one_or_none()
        if row is None:
            raise PromptNotFoundError
        return _prompt(row)

    def add(self, owner: str | None, title: str, text: str, *, by: Actor) -> Prompt:
        """Keep one more.

        Raises:
            PromptError: title or text is none or too long, the title is taken, or there are too many.
        """
        with self._change(owner, by) as (connection, note):
            made = Prompt(secrets.token_hex(8), *_checked(connection, owner, title, text), owner is None)
            count = sa.select(sa.func.count()).select_from(prompts).where(_of(owner))
            if (connection.scalar(count) or 0) >= MOST:
                raise PromptError(f"There are {MOST} prompts, which is as many as there can be.")
            row = {
                "id": made.id, "user_id": owner, "title": made.title, "text": made.text,
                "updated_us": self._clock_us(),
            }  # fmt: skip
            connection.execute(prompts.insert().values(row))
            note(made.title, "made", made.text)
            return made

    def change(self, owner: str | None, prompt_id: str, title: str, text: str, *, by: Actor) -> None:
        """Give one another title or text.

        Raises:
            PromptNotFoundError: there is no such prompt.
            PromptError: as `add`.
        """
        with self._change(owner, by) as (connection, note):
            mine = sa.and_(prompts.c.id == prompt_id, _of(owner))
            if connection.execute(sa.select(prompts.c.id).where(mine)).first() is None:
                raise PromptNotFoundError
            title, text = _checked(connection, owner, title, text, but=prompt_id)
            values = {"title": title, "text": text, "updated_us": self._clock_us()}
            connection.execute(prompts.update().where(mine).values(values))
            note(title, "changed", text)

    def remove(self, owner: str | None, prompt_id: str, *, by: Actor) -> None:
        """Raises: PromptNotFoundError: there is no such prompt."""
        with self._change(owner, by) as (connection, note):
            mine = sa.and_(prompts.c.id == prompt_id, _of(owner))
            title = connection.scalar(sa.select(prompts.c.title).where(mine))
            if title is None:
                raise PromptNotFoundError
            connection.execute(prompts.delete().where(mine))
            note(str(title), "removed", "")

    @contextmanager
    def _change(self, owner: str | None, by: Actor) -> Iterator[tuple[sa.Connection, Callable[[str, str, str], None]]]:
        """A transaction, and how its change is recorded: the site's prompts only."""
        if owner is None:
            with open_admin_change(self._record, by, clock_us=self._clock_us) as change:
                yield (
                    change.connection,
                    lambda title, what, text: change.note("shared_prompt_changed", title, what, text),
                )
        else:
            with self._record.database.write() as connection:
                yield connection, lambda title, what, text: None


def _of(owner: str | None) -> sa.ColumnElement[bool]:
    return prompts.c.user_id.is_(None) if owner is None else prompts.c.user_id == owner


def _prompt(row: sa.Row[Any]) -> Prompt:
    if not (isinstance(row.title, str) and isinstance(row.text, str)):
        raise DatabaseError("a prompt cannot be read: its title or its text is none")
    return Prompt(row.id, row.title, row.text, row.user_id is None)


def _checked(connection: sa.Connection, owner: str | None, title: str, text: str, *, but: str = "") -> tuple[str, str]:
    """Title and text as they are kept. Args: but: the prompt that may have this title."""
    title, text = " ".join(title.split()), text.replace("\r\n", "\n").strip("\n")
    if not 0 < len(title) <= MAX_TITLE_CHARS or not title.isprintable():
        raise PromptError(f"The title of a prompt has 1 to {MAX_TITLE_CHARS} printable characters.")
    if not text.strip():
        raise PromptError("The text of the prompt is empty.")
    if len(text) > MAX_TEXT_CHARS:
        raise PromptError(f"The text has {len(text):,} characters, and {MAX_TEXT_CHARS:,} are allowed.")
    try:
        check_storable(text)
    except ValueError as exc:
        raise PromptError("The text contains characters that cannot be kept.") from exc
    taken = sa.select(prompts.c.id, prompts.c.title).where(_of(owner), prompts.c.id != but)
    if title.casefold() in {str(row.title).casefold() for row in connection.execute(taken)}:
        raise PromptError(f"There is a prompt “{title}” already.")
    return title, text
