"""Quotas of people and groups, and the running turns of those who have one."""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.create_table(
        "quotas",
        sa.Column("kind", sa.Text, primary_key=True),
        sa.Column("holder_id", sa.Text, primary_key=True),
        sa.Column("tokens_per_day", sa.BigInteger),
        sa.Column("requests_per_day", sa.BigInteger),
        sa.Column("concurrent_turns", sa.BigInteger),
    )
    op.create_table(
        "turn_places",
        sa.Column("turn_id", sa.Text, primary_key=True),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("process", sa.Text, nullable=False),
    )
    op.create_index("ix_turn_places_user_id", "turn_places", ["user_id"])
