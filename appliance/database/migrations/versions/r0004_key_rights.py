"""API keys have scopes and limits. The keys that exist have every scope and no limit: their columns are empty."""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("api_keys", sa.Column("scopes", sa.Text))
    op.add_column("api_keys", sa.Column("requests_per_minute", sa.BigInteger))
    op.add_column("api_keys", sa.Column("tokens_per_day", sa.BigInteger))
    op.create_table(
        "api_key_use",
        sa.Column("key_id", sa.Text, sa.ForeignKey("api_keys.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("full_us", sa.BigInteger, nullable=False),
        sa.Column("day", sa.BigInteger, nullable=False),
        sa.Column("tokens", sa.BigInteger, nullable=False),
    )
