"""The list of a person's conversations: pages of it, what is filed where, and what is found in it.

lists = ConversationLists(database)
page = lists.page(user_id, View(folder="Work"))     # .items, and .more: where the next page begins
lists.page(user_id, View(words="soup"))             # conversations that have the words, with where they stand
lists.labels(user_id)                               # the folders and tags in use
lists.file(user_id, conversation_id, folder="Work", tags=["tax"])
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

import sqlalchemy as sa

from appliance.database.damaged_rows import read_rows
from appliance.database.tables import conversation_tags, conversations, storable
from appliance.database.transactions import Database, DatabaseError, as_datetime, now_us
from appliance.people.conversation_rows import Conversation, conversation_of, own_row
from appliance.people.conversation_search import Hit, find_hits, matching

PAGE: Final = 50
MAX_PAGE: Final = 500
MAX_TAGS: Final = 20
MAX_LABEL_CHARS: Final = 40


@dataclass(frozen=True)
class View:
    """What of the list is wanted. With ``words`` the archive is searched, too."""

    words: str = ""
    folder: str | None = None
    tag: str | None = None
    archived: bool = False


@dataclass(frozen=True)
class Listed:
    """A line of the list. ``hits`` are messages with the words that were looked for, the best first."""

    conversation: Conversation
    tags: tuple[str, ...] = ()
    hits: tuple[Hit, ...] = ()


@dataclass(frozen=True)
class Page:
    """A part of the list; ``more`` is where the next part begins, "" where there is none."""

    items: tuple[Listed, ...]
    more: str = ""


@dataclass(frozen=True)
class Labels:
    """The folders and tags that a person uses, by name, and whether the archive has something."""

    folders: tuple[str, ...]
    tags: tuple[str, ...]
    has_archive: bool


class ConversationLists:
    """The lists of one database; thread-safe."""

    def __init__(self, database: Database, *, clock_us: Callable[[], int] = now_us) -> None:
        self._database = database
        self._clock_us = clock_us

    def page(self, user_id: str, view: View, *, after: str = "", limit: int = PAGE) -> Page:
        """Conversations from `after` on: pinned ones first, then the latest. An `after` that is none begins anew."""
        limit = max(1, min(limit, MAX_PAGE))
        table = conversations.c
        with self._database.read() as connection:
            query = _restricted(connection, user_id, view)
            query = _after(query, after).order_by(table.pinned.desc(), table.updated_us.desc(), table.id)
            found = read_rows(connection, query.limit(limit + 1), table.id, _listed)
            shown = found[:limit]
            ids = [one.id for one in shown]
            tags = _tags(connection, ids)
            hits = find_hits(connection, ids, view.words) if view.words.split() else {}
        items = [Listed(one, tags.get(one.id, ()), hits.get(one.id, ())) for one in shown]
        items += [Listed(_damaged(row.name, user_id)) for row in found.damaged]
        return Page(tuple(items), _cursor(shown[-1]) if len(found) > limit else "")

    def labels(self, user_id: str) -> Labels:
        """The folders and tags in use. Values that are no text are left out."""
        table = conversations.c
        folders = sa.select(table.folder).distinct().where(table.user_id == user_id, table.folder.is_not(None))
        archive = sa.select(table.id).where(table.user_id == user_id, table.archived_us.is_not(None)).limit(1)
        with self._database.read() as connection:
            named = [folder for folder in connection.scalars(folders) if isinstance(folder, str)]
            tags = [tag for tag in connection.scalars(_tags_of(user_id)) if isinstance(tag, str)]
            has_archive = connection.execute(archive).first() is not None
        return Labels(tuple(sorted(named, key=str.casefold)), tuple(sorted(tags, key=str.casefold)), has_archive)

    def file(
        self, user_id: str, conversation_id: str, *, folder: str | None = None, tags: Sequence[str] | None = None
    ) -> None:
        """Put a conversation into a folder, "" for none, and give it exactly these tags; None changes nothing.

        A name in other capitals than one in use means the one in use.

        Raises:
            ConversationNotFoundError: it does not exist or is someone else's.
        """
        known = self.labels(user_id)
        with self._database.write() as connection:
            own_row(connection, user_id, conversation_id)
            if folder is not None:
                name = _as_known(_label(folder), known.folders) or None
                mine = conversations.c.id == conversation_id
                connection.execute(conversations.update().where(mine).values(folder=name))
            if tags is not None:
                given = (_as_known(_label(tag), known.tags) for tag in tags)
                names: dict[str, str] = {}
                for name in filter(None, given):
                    names.setdefault(name.casefold(), name)
                mine = conversation_tags.c.conversation_id == conversation_id
                connection.execute(conversation_tags.delete().where(mine))
                rows = [{"conversation_id": conversation_id, "tag": name} for name in [*names.values()][:MAX_TAGS]]
                if rows:
                    connection.execute(conversation_tags.insert(), rows)

    def archive(self, user_id: str, conversation_id: str, *, archived: bool) -> None:
        """Take a conversation out of the list, or back. A new message brings it back, too.

        Raises:
            ConversationNotFoundError: as `file`.
        """
        at_us = self._clock_us() if archived else None
        with self._database.write() as connection:
            own_row(connection, user_id, conversation_id)
            mine = conversations.c.id == conversation_id
            connection.execute(conversations.update().where(mine).values(archived_us=at_us))


def _restricted(connection: sa.Connection, user_id: str, view: View) -> sa.Select[Any]:
    table = conversations.c
    query = sa.select(conversations).where(table.user_id == user_id)
    if view.words.split():
        query = matching(connection, query, user_id, view.words)
    else:
        query = query.where(table.archived_us.is_not(None) if view.archived else table.archived_us.is_(None))
    if view.folder is not None:
        query = query.where(table.folder == view.folder)
    if view.tag is not None:
        tags = conversation_tags.c
        query = query.where(sa.exists().where(tags.conversation_id == table.id, tags.tag == view.tag))
    return query


def _after(query: sa.Select[Any], cursor: str) -> sa.Select[Any]:
    pinned, _, rest = cursor.partition(".")
    updated, _, conversation_id = rest.partition(".")
    if pinned not in ("0", "1") or not (updated.isascii() and updated.isdecimal()) or len(updated) > 18:
        return query
    table, at_us = conversations.c, int(updated)
    later = sa.or_(table.updated_us < at_us, sa.and_(table.updated_us == at_us, table.id > conversation_id))
    unpinned = table.pinned.is_(False)
    return query.where(sa.or_(unpinned, later) if pinned == "1" else sa.and_(unpinned, later))


def _cursor(last: Conversation) -> str:
    updated_us = round(last.updated_at.timestamp() * 1_000_000)
    return f"{last.pinned:d}.{updated_us}.{last.id}"


def _tags(connection: sa.Connection, ids: Sequence[str]) -> dict[str, tuple[str, ...]]:
    table = conversation_tags.c
    query = sa.select(table.conversation_id, table.tag).where(table.conversation_id.in_(ids)).order_by(table.tag)
    found: dict[str, tuple[str, ...]] = {}
    for conversation_id, tag in connection.execute(query):
        found[conversation_id] = (*found.get(conversation_id, ()), tag)
    return found


def _tags_of(user_id: str) -> sa.Select[Any]:
    mine = conversations.c.id == conversation_tags.c.conversation_id
    return sa.select(conversation_tags.c.tag).distinct().join(conversations, mine).where(
        conversations.c.user_id == user_id
    )  # fmt: skip


def _label(text: str) -> str:
    return " ".join(storable(text).split())[:MAX_LABEL_CHARS].strip()


def _as_known(name: str, known: Sequence[str]) -> str:
    return next((one for one in known if one.casefold() == name.casefold()), name)


def _listed(row: sa.Row[Any]) -> Conversation:
    """A line of the list.

    Raises:
        DatabaseError: it is damaged.
    """
    try:
        return conversation_of(row)
    except (TypeError, ValueError, OverflowError) as exc:
        raise DatabaseError(f"a conversation cannot be read: {exc}") from exc


def _damaged(conversation_id: str, user_id: str) -> Conversation:
    epoch = as_datetime(0)
    return Conversation(conversation_id, user_id, "Damaged conversation", False, epoch, epoch)
