"""Databases as earlier releases made them, on SQLite and PostgreSQL, with an account, a key, a conversation and events.

The tables of the schema 1 stand here as release 0.1.0 defined them, and the statements are those that brought it to
the schema 2: both are history, and independent of what the migrations say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import sqlalchemy as sa

from appliance.audit.log import AuditLog
from appliance.database.tables import AUDIT_WORDS_SQLITE, audit_words_postgresql
from appliance.database.transactions import Database, open_database
from tests.appliance.records import fill

_1 = sa.MetaData()
_Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def _of_user(**options: Any) -> sa.Column[Any]:
    return sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), **options)


_settings = sa.Table(
    "settings", _1,
    sa.Column("name", sa.Text, primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)  # fmt: skip
sa.Table(
    "audit_events", _1,
    sa.Column("sequence", _Key, primary_key=True, autoincrement=False),
    sa.Column("time_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("actor_id", sa.Text, nullable=False),
    sa.Column("actor_name", sa.Text, nullable=False, index=True),
    sa.Column("via", sa.Text, nullable=False),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("action", sa.Text, nullable=False),
    sa.Column("outcome", sa.Text, nullable=False),
    sa.Column("subject", sa.Text, nullable=False, index=True),
    sa.Column("commitment", sa.LargeBinary),
    sa.Column("subtrees", sa.LargeBinary, nullable=False),
)  # fmt: skip
sa.Table(
    "audit_contents", _1,
    sa.Column("sequence", _Key, primary_key=True, autoincrement=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("details", sa.Text, nullable=False),
)  # fmt: skip
sa.Table(
    "audit_checkpoints", _1,
    sa.Column("size", _Key, primary_key=True, autoincrement=False),
    sa.Column("note", sa.Text, nullable=False),
)  # fmt: skip
_users = sa.Table(
    "users", _1,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("name", sa.Text, nullable=False, unique=True),
    sa.Column("display_name", sa.Text, nullable=False),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("password_hash", sa.Text),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)  # fmt: skip
sa.Table(
    "sign_in_failures", _1,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("failures", sa.Integer, nullable=False),
    sa.Column("last_us", sa.BigInteger, nullable=False, index=True),
)  # fmt: skip
sa.Table(
    "sessions", _1,
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    _of_user(nullable=False, index=True),
    sa.Column("address", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("seen_us", sa.BigInteger, nullable=False),
)  # fmt: skip
_api_keys = sa.Table(
    "api_keys", _1,
    sa.Column("id", sa.Text, primary_key=True),
    _of_user(nullable=False, index=True),
    sa.Column("label", sa.Text, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("used_us", sa.BigInteger),
    sa.Column("revoked_us", sa.BigInteger),
)  # fmt: skip
sa.Table(
    "links", _1,
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    _of_user(),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("first_admin", sa.Boolean, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
)  # fmt: skip
_conversations = sa.Table(
    "conversations", _1,
    sa.Column("id", sa.Text, primary_key=True),
    _of_user(nullable=False),
    sa.Column("title", sa.Text, nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
    sa.Column("leaf_id", sa.Text),
    sa.Index("conversations_by_user", "user_id", "updated_us"),
)  # fmt: skip
sa.Table(
    "messages", _1,
    sa.Column("number", _Key, primary_key=True),
    sa.Column("id", sa.Text, nullable=False, unique=True),
    sa.Column(
        "conversation_id", sa.Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("parent_id", sa.Text),
    sa.Column("role", sa.Text, nullable=False),
    sa.Column("content", sa.Text, nullable=False),
    sa.Column("reasoning", sa.Text),
    sa.Column("tool_calls", sa.JSON, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)  # fmt: skip

_NEW_IN_2 = sa.MetaData()
_users.to_metadata(_NEW_IN_2)
sa.Table(
    "recorded_bytes", _NEW_IN_2,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.Boolean, nullable=False),
)  # fmt: skip
sa.Table(
    "sign_in_limits", _NEW_IN_2,
    sa.Column("key", sa.Text, primary_key=True),
    sa.Column("full_us", sa.BigInteger, nullable=False, index=True),
)  # fmt: skip
sa.Table(
    "known_addresses", _NEW_IN_2,
    _of_user(primary_key=True),
    sa.Column("network", sa.Text, primary_key=True),
    sa.Column("seen_us", sa.BigInteger, nullable=False),
)  # fmt: skip
sa.Table(
    "approvals", _NEW_IN_2,
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("subject_id", sa.Text),
    sa.Column("subject", sa.Text, nullable=False),
    sa.Column("roles_before", sa.Text, nullable=False),
    sa.Column("roles", sa.Text, nullable=False),
    sa.Column("end_keys", sa.Boolean, nullable=False),
    sa.Column("requester_id", sa.Text, nullable=False),
    sa.Column("requester", sa.Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Text, nullable=False, index=True),
    sa.Column("decided_by", sa.Text),
)  # fmt: skip
_TO_2 = (
    "ALTER TABLE users ADD COLUMN vouched_by TEXT",
    "ALTER TABLE users ADD COLUMN admin_ended_us BIGINT",
    "ALTER TABLE links ADD COLUMN ended TEXT",
    "ALTER TABLE links ADD COLUMN made_by TEXT",
    "ALTER TABLE api_keys ADD COLUMN expires_us BIGINT",
    "UPDATE api_keys SET expires_us = created_us + 31536000000000",
    "DROP TABLE IF EXISTS sign_in_failures",
)

KEY_MADE_US = 1_795_398_974_000_000


def make_earlier(url: str, version: int) -> None:
    """Make the database of an earlier release at `url`, with five events."""
    engine = sa.create_engine(sa.make_url(url).set(drivername=_driver(url)))
    with engine.begin() as connection:
        _1.create_all(connection)
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(AUDIT_WORDS_SQLITE)
        else:
            audit_words_postgresql.create(connection)
        ada = {"id": "1", "name": "ada", "display_name": "Ada", "roles": "user", "disabled": False, "created_us": 0}
        connection.execute(_users.insert().values(ada))
        key = {"id": "k", "user_id": "1", "label": "x", "secret_hash": b"x", "created_us": KEY_MADE_US}
        connection.execute(_api_keys.insert().values(key))
        talk = {"id": "c", "user_id": "1", "title": "Talk", "pinned": False, "created_us": 1, "updated_us": 1}
        connection.execute(_conversations.insert().values(talk))
        said = {"id": "m", "conversation_id": "c", "role": "user", "content": "An earlier question"}
        more = {"tool_calls": [], "details": {}, "created_us": 1}
        connection.execute(_1.tables["messages"].insert().values(**said, **more))
        connection.execute(_settings.insert().values(name="schema", value=str(version)))
        if version == 2:
            _NEW_IN_2.create_all(connection)
            for statement in _TO_2:
                connection.exec_driver_sql(statement)
    engine.dispose()
    database = open_as_it_is(url)
    fill(AuditLog(database), 5)
    database.close()


def open_as_it_is(url: str) -> Database:
    """The database of an earlier release, which is not upgraded."""
    return open_database(url, upgrade=lambda _: None)


def everything_in(url: str) -> dict[str, Any]:
    """The columns and rows of every table; what must be the same after an upgrade that did not happen."""
    engine = sa.create_engine(sa.make_url(url).set(drivername=_driver(url)))
    with engine.connect() as connection:
        tables = sa.inspect(connection)
        found = {}
        for name in sorted(tables.get_table_names()):
            columns = [str((column["name"], str(column["type"]))) for column in tables.get_columns(name)]
            rows = connection.exec_driver_sql(f'SELECT * FROM "{name}"').all()  # noqa: S608 - a table's own name
            found[name] = columns, sorted(map(repr, rows))
    engine.dispose()
    return found


def sqlite_file(url: str) -> Path:
    return Path(url.removeprefix("sqlite:///"))


def _driver(url: str) -> str:
    return "sqlite" if url.startswith("sqlite") else "postgresql+psycopg"
