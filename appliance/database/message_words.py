"""The full-text index of people's conversations. On PostgreSQL it holds words, on SQLite it refers to the messages.

The database does not keep the index by itself: the record's verification accepts no trigger in the whole database
(appliance/audit/pages.py). So whoever inserts messages calls `index_messages` after it, and whoever deletes some calls
`forget_messages` before it. PostgreSQL removes the words of a message with the message.
"""

from __future__ import annotations

from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from appliance.database.tables import messages

MESSAGE_WORDS_SQLITE: Final = (
    "CREATE VIRTUAL TABLE message_words USING fts5(content, content='messages', content_rowid='number', "
    "tokenize='unicode61 remove_diacritics 2')"
)
message_words_postgresql = sa.Table(
    "message_words", sa.MetaData(),
    sa.Column(
        "number", sa.BigInteger, sa.ForeignKey(messages.c.number, ondelete="CASCADE"), primary_key=True,
        autoincrement=False,
    ),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("words", TSVECTOR, nullable=False),
    sa.Index("message_words_index", "words", postgresql_using="gin"),
)  # fmt: skip
# A vector is limited to 1 MiB, so a long text has several; a word at a seam is whole in one of them.
_POSTGRESQL: Final = (
    "SELECT number, part, to_tsvector('simple', substr(content, part * 99000 + 1, 100000)) "
    "FROM messages CROSS JOIN LATERAL generate_series(0, (length(content) - 1) / 99000) AS part WHERE "
)

_words = sa.table("message_words", *map(sa.column, ("rowid", "content", "message_words", "number", "part", "words")))


def index_messages(connection: sa.Connection, which: str, value: str) -> None:
    """Add messages to the index, those with this value in the column `which`. They must not be in it."""
    if connection.dialect.name == "sqlite":
        rows = sa.select(messages.c.number, messages.c.content).where(messages.c[which] == value)
        connection.execute(_words.insert().from_select(["rowid", "content"], rows))
        return
    insert = f"INSERT INTO message_words (number, part, words) {_POSTGRESQL} {messages.c[which]} = :value"
    connection.execute(sa.text(insert), {"value": value})


def forget_messages(connection: sa.Connection, which: str, value: str) -> None:
    """Take messages out of the index, those with this value in the column `which`. They must still be there."""
    if connection.dialect.name == "sqlite":
        delete = sa.literal("delete")
        rows = sa.select(delete, messages.c.number, messages.c.content).where(messages.c[which] == value)
        connection.execute(_words.insert().from_select(["message_words", "rowid", "content"], rows))


def saying(connection: sa.Connection, word: str) -> sa.Select[Any]:
    """The numbers of the messages of all people that have a word that begins like this."""
    if connection.dialect.name == "sqlite":
        quoted = '"' + word.replace('"', '""') + '"*'
        return sa.select(sa.column("rowid", sa.Integer)).select_from(_words).where(
            sa.literal_column("message_words").op("MATCH")(quoted)
        )  # fmt: skip
    quoted = "'" + word.replace("\\", "\\\\").replace("'", "''") + "':*"
    table = message_words_postgresql.c
    return sa.select(table.number).where(table.words.op("@@")(sa.func.to_tsquery("simple", quoted)))
