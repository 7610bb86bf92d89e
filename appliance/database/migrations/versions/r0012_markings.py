"""Markings of conversations and of attached files."""

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"


def upgrade() -> None:
    op.create_table(
        "markings",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("level", sa.Integer, nullable=False),
        sa.Column("style", sa.Text, nullable=False),
    )
    op.add_column("conversations", sa.Column("marking_id", sa.Text))
    op.add_column("attachments", sa.Column("marking_id", sa.Text))
