"""Conversations that are filed away, in folders, with tags, and an index of what is said in them."""

import sqlalchemy as sa
from alembic import op
from sqlalchemy.dialects.postgresql import TSVECTOR

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("conversations", sa.Column("archived_us", sa.BigInteger))
    op.add_column("conversations", sa.Column("folder", sa.Text))
    op.create_table(
        "conversation_tags",
        sa.Column("conversation_id", sa.Text, sa.ForeignKey("conversations.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("tag", sa.Text, primary_key=True),
    )
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            "CREATE VIRTUAL TABLE message_words USING fts5(content, content='messages', content_rowid='number', "
            "tokenize='unicode61 remove_diacritics 2')"
        )
        op.execute("INSERT INTO message_words(message_words) VALUES ('rebuild')")
        return
    op.create_table(
        "message_words",
        sa.Column(
            "number", sa.BigInteger, sa.ForeignKey("messages.number", ondelete="CASCADE"), primary_key=True,
            autoincrement=False,
        ),
        sa.Column("part", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("words", TSVECTOR, nullable=False),
    )  # fmt: skip
    op.create_index("message_words_index", "message_words", ["words"], postgresql_using="gin")
    op.execute(
        "INSERT INTO message_words (number, part, words) "
        "SELECT number, part, to_tsvector('simple', substr(content, part * 99000 + 1, 100000)) "
        "FROM messages CROSS JOIN LATERAL generate_series(0, (length(content) - 1) / 99000) AS part"
    )
