"""The tables of the database as this release uses them; `migrations/` turns those of an earlier release into these.

Times are integers, microseconds since 1970-01-01 UTC. Text is stored in a form that every database takes (`storable`).
"""

from __future__ import annotations

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import TSVECTOR

from appliance.database.stored_values import check_what_is_read

SCHEMA = "0015"  # the revision that `metadata` is, the newest in migrations/versions


def storable(text: str) -> str:
    """`text` without NUL and halves of surrogate pairs, which some database cannot hold; U+FFFD takes their place."""
    text = text.replace("\0", "\N{REPLACEMENT CHARACTER}")
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


class _Text(sa.types.TypeDecorator[str]):
    """Text that every database takes, in stored values and in the values of a query."""

    impl = sa.Text
    cache_ok = True

    def process_bind_param(self, value: str | None, _dialect: sa.Dialect) -> str | None:
        return None if value is None else storable(value)


metadata = sa.MetaData()
_Key = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # INTEGER PRIMARY KEY is SQLite's row id

settings = sa.Table(
    "settings", metadata,
    sa.Column("name", _Text, primary_key=True),
    sa.Column("value", _Text, nullable=False),
)  # fmt: skip

audit_events = sa.Table(
    "audit_events", metadata,
    sa.Column("sequence", _Key, primary_key=True, autoincrement=False),
    sa.Column("time_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("actor_id", _Text, nullable=False),
    sa.Column("actor_name", _Text, nullable=False, index=True),
    sa.Column("via", _Text, nullable=False),
    sa.Column("address", _Text, nullable=False),
    sa.Column("action", _Text, nullable=False),
    sa.Column("outcome", _Text, nullable=False),
    sa.Column("subject", _Text, nullable=False, index=True),
    sa.Column("commitment", sa.LargeBinary),
    # 32-byte hashes of the complete subtrees that end with this event, the leaf itself first (audit/merkle.py).
    sa.Column("subtrees", sa.LargeBinary, nullable=False),
)  # fmt: skip

audit_contents = sa.Table(
    "audit_contents", metadata,
    sa.Column("sequence", _Key, primary_key=True, autoincrement=False),
    sa.Column("salt", sa.LargeBinary, nullable=False),
    sa.Column("text", _Text, nullable=False),
    sa.Column("details", _Text, nullable=False),
)  # fmt: skip

audit_checkpoints = sa.Table(
    "audit_checkpoints", metadata,
    sa.Column("size", _Key, primary_key=True, autoincrement=False),
    sa.Column("note", _Text, nullable=False),
)  # fmt: skip

# The bytes that each person has recorded on each day (days since 1970 UTC). ``refused``: the record has the day's one
# event about the limit.
recorded_bytes = sa.Table(
    "recorded_bytes", metadata,
    sa.Column("user_id", _Text, primary_key=True),
    sa.Column("day", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("bytes", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.Boolean, nullable=False),
)  # fmt: skip

# How much may be used: by a person, by each member of a group, or by everybody, for whom holder_id is "". A limit that
# is NULL does not exist (people/quotas.py).
quotas = sa.Table(
    "quotas", metadata,
    sa.Column("kind", _Text, primary_key=True),
    sa.Column("holder_id", _Text, primary_key=True),
    sa.Column("tokens_per_day", sa.BigInteger),
    sa.Column("requests_per_day", sa.BigInteger),
    sa.Column("concurrent_turns", sa.BigInteger),
)  # fmt: skip

# The running turns of people with a quota, and the process of each (people/turn_places.py).
turn_places = sa.Table(
    "turn_places", metadata,
    sa.Column("turn_id", _Text, primary_key=True),
    sa.Column("user_id", _Text, nullable=False, index=True),
    sa.Column("process", _Text, nullable=False),
)  # fmt: skip

# What each person has used on each day, through the chat (key "") and through each API key (people/usage.py).
usage_by_day = sa.Table(
    "usage_by_day", metadata,
    sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("user_id", _Text, primary_key=True),
    sa.Column("key_id", _Text, primary_key=True),
    sa.Column("requests", sa.BigInteger, nullable=False),
    sa.Column("refused", sa.BigInteger, nullable=False),
    sa.Column("failed", sa.BigInteger, nullable=False),
    sa.Column("tokens_in", sa.BigInteger, nullable=False),
    sa.Column("tokens_out", sa.BigInteger, nullable=False),
    sa.Column("timed", sa.BigInteger, nullable=False),
    sa.Column("first_us", sa.BigInteger, nullable=False),  # sums over the timed answers
    sa.Column("whole_us", sa.BigInteger, nullable=False),
    sa.Column("first_most_us", sa.BigInteger, nullable=False),
    sa.Column("whole_most_us", sa.BigInteger, nullable=False),
)  # fmt: skip

users = sa.Table(
    "users", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False, unique=True),
    sa.Column("display_name", _Text, nullable=False),
    sa.Column("roles", _Text, nullable=False),
    sa.Column("password_hash", _Text),
    sa.Column("disabled", sa.Boolean, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("vouched_by", _Text),  # the id of the user whose one-time link set the password (four_eyes.py)
    sa.Column("admin_ended_us", sa.BigInteger),  # when another administrator took its administration away
    sa.Column("signed_in_us", sa.BigInteger),  # when a browser was last signed in
)  # fmt: skip

# Groups of people (people/groups.py). A person may be in several.
people_groups = sa.Table(
    "people_groups", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False, unique=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)  # fmt: skip
group_members = sa.Table(
    "group_members", metadata,
    sa.Column("group_id", _Text, sa.ForeignKey("people_groups.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
)  # fmt: skip

# How much of each allowance for wrong passwords is used up (sign_in_limits.py).
sign_in_limits = sa.Table(
    "sign_in_limits", metadata,
    sa.Column("key", _Text, primary_key=True),
    sa.Column("full_us", sa.BigInteger, nullable=False, index=True),
)  # fmt: skip

# The networks from which an account was signed in to before (sign_in_limits.py).
known_addresses = sa.Table(
    "known_addresses", metadata,
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("network", _Text, primary_key=True),
    sa.Column("seen_us", sa.BigInteger, nullable=False),
)  # fmt: skip

# Requests of one administrator that another one has to confirm (four_eyes.py).
approvals = sa.Table(
    "approvals", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("kind", _Text, nullable=False),
    sa.Column("subject_id", _Text),  # None for an account that is still to be made
    sa.Column("subject", _Text, nullable=False),
    sa.Column("roles_before", _Text, nullable=False),
    sa.Column("roles", _Text, nullable=False),
    sa.Column("end_keys", sa.Boolean, nullable=False),
    sa.Column("requester_id", _Text, nullable=False),
    sa.Column("requester", _Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("state", _Text, nullable=False, index=True),
    sa.Column("decided_by", _Text),
)  # fmt: skip

sessions = sa.Table(
    "sessions", metadata,
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("address", _Text, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("seen_us", sa.BigInteger, nullable=False),
)  # fmt: skip

api_keys = sa.Table(
    "api_keys", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("label", _Text, nullable=False),
    sa.Column("secret_hash", sa.LargeBinary, nullable=False, unique=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("used_us", sa.BigInteger),
    sa.Column("revoked_us", sa.BigInteger),
    sa.Column("expires_us", sa.BigInteger),  # None: never
    sa.Column("scopes", _Text),  # None: all, also those of later releases (key_rights.py)
    sa.Column("requests_per_minute", sa.BigInteger),  # None: no limit
    sa.Column("tokens_per_day", sa.BigInteger),  # None: no limit
)  # fmt: skip

# What keys with limits have used: when the requests of a minute are all there again, and the tokens of one day, in days
# since 1970 UTC (key_use.py).
api_key_use = sa.Table(
    "api_key_use", metadata,
    sa.Column("key_id", _Text, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("full_us", sa.BigInteger, nullable=False),
    sa.Column("day", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger, nullable=False),
)  # fmt: skip

links = sa.Table(
    "links", metadata,
    sa.Column("token_hash", sa.LargeBinary, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE")),
    sa.Column("roles", _Text, nullable=False),
    sa.Column("first_admin", sa.Boolean, nullable=False),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("ended", _Text),  # why it no longer works (links.py)
    sa.Column("made_by", _Text),
)  # fmt: skip

# What a site's conversations can be marked as (people/markings.py); the level 0 is the lowest.
markings = sa.Table(
    "markings", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("name", _Text, nullable=False, unique=True),
    sa.Column("level", sa.Integer, nullable=False),
    sa.Column("style", _Text, nullable=False),
)  # fmt: skip

conversations = sa.Table(
    "conversations", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("title", _Text, nullable=False),
    sa.Column("pinned", sa.Boolean, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
    sa.Column("leaf_id", _Text),  # the last message of the branch that is shown
    sa.Column("archived_us", sa.BigInteger),  # None: it is in the list
    sa.Column("folder", _Text),  # None: it lies in none
    sa.Column("marking_id", _Text),  # None: not set
    sa.Column("sampling", sa.JSON(none_as_null=True)),  # people/sampling.py
    sa.Column("without_instructions", sa.Boolean),  # its owner's instructions are not used
    sa.Index("conversations_by_user", "user_id", "updated_us"),
)  # fmt: skip

# What a person has the model read before every conversation (people/instructions.py).
instructions = sa.Table(
    "instructions", metadata,
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    sa.Column("text", _Text, nullable=False),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
)  # fmt: skip

# Texts to be used again (people/prompts.py); without a user_id they are shared with everybody.
prompts = sa.Table(
    "prompts", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), index=True),
    sa.Column("title", _Text, nullable=False),
    sa.Column("text", _Text, nullable=False),
    sa.Column("updated_us", sa.BigInteger, nullable=False),
)  # fmt: skip

conversation_tags = sa.Table(
    "conversation_tags", metadata,
    sa.Column(
        "conversation_id", _Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("tag", _Text, primary_key=True),
)  # fmt: skip

# Who else may read a conversation (people/shares.py).
shares = sa.Table(
    "shares", metadata,
    sa.Column(
        "conversation_id", _Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True
    ),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)  # fmt: skip

messages = sa.Table(
    "messages", metadata,
    sa.Column("number", _Key, primary_key=True),
    sa.Column("id", _Text, nullable=False, unique=True),
    sa.Column(
        "conversation_id", _Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), nullable=False, index=True
    ),
    sa.Column("parent_id", _Text),
    sa.Column("role", _Text, nullable=False),
    sa.Column("content", _Text, nullable=False),
    sa.Column("reasoning", _Text),
    sa.Column("tool_calls", sa.JSON, nullable=False),
    sa.Column("details", sa.JSON, nullable=False),
    sa.Column("created_us", sa.BigInteger, nullable=False),
)  # fmt: skip

# Files that people attach to questions (people/attachments.py). One without a conversation waits for its question.
attachments = sa.Table(
    "attachments", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False, index=True),
    sa.Column("conversation_id", _Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("tokens", sa.BigInteger),
    sa.Column("facts", sa.JSON, nullable=False),
    sa.Column("text", _Text, nullable=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
    sa.Column("marking_id", _Text),  # None: that of its conversation
)  # fmt: skip

message_attachments = sa.Table(
    "message_attachments", metadata,
    sa.Column("message_id", _Text, sa.ForeignKey("messages.id", ondelete="CASCADE"), primary_key=True),
    sa.Column(
        "attachment_id", _Text, sa.ForeignKey("attachments.id", ondelete="CASCADE"), primary_key=True, index=True
    ),
    sa.Column("place", sa.Integer, nullable=False),
)  # fmt: skip

# What programs can read again by its id, and go on from (people/responses.py). ``input`` and ``response`` are JSON.
# ``running``: its turn is not over, and ``response`` is what was answered at once.
kept_responses = sa.Table(
    "kept_responses", metadata,
    sa.Column("id", _Text, primary_key=True),
    sa.Column("user_id", _Text, sa.ForeignKey("users.id", ondelete="CASCADE"), nullable=False),
    sa.Column("previous_id", _Text),
    sa.Column("created_us", sa.BigInteger, nullable=False, index=True),
    sa.Column("size_bytes", sa.BigInteger, nullable=False),
    sa.Column("input", _Text, nullable=False),
    sa.Column("response", _Text, nullable=False),
    sa.Column("running", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("kept_responses_by_user", "user_id", "created_us"),
)  # fmt: skip

check_what_is_read(
    settings, recorded_bytes, users, sign_in_limits, known_addresses, approvals, sessions, api_keys, api_key_use, links,
    people_groups, group_members, usage_by_day, quotas, turn_places,
)  # fmt: skip

# The search index holds words and no text: an FTS5 table on SQLite (DDL below), rows of word vectors on PostgreSQL.
# A long text has several rows, because a vector is limited to 1 MiB.
audit_words_postgresql = sa.Table(
    "audit_words", sa.MetaData(),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("words", TSVECTOR, nullable=False),
    sa.Index("audit_words_index", "words", postgresql_using="gin"),
)  # fmt: skip
AUDIT_WORDS_SQLITE = (
    "CREATE VIRTUAL TABLE audit_words USING fts5(words, content='', tokenize='unicode61 remove_diacritics 2')"
)

# Alembic's own table, with one row: the revision of this database.
alembic_version = sa.Table(
    "alembic_version", sa.MetaData(),
    sa.Column("version_num", sa.String(32), nullable=False),
    sa.PrimaryKeyConstraint("version_num", name="alembic_version_pkc"),
)  # fmt: skip
