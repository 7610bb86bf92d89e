"""How much each person and API key uses on each day. It begins with the upgrade: earlier turns stay in the record."""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"

_FIGURES = (
    "requests", "refused", "failed", "tokens_in", "tokens_out", "timed", "first_us", "whole_us", "first_most_us",
    "whole_most_us",
)  # fmt: skip


def upgrade() -> None:
    op.create_table(
        "usage_by_day",
        sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("key_id", sa.Text, primary_key=True),
        *(sa.Column(name, sa.BigInteger, nullable=False) for name in _FIGURES),
    )
