"""A person's instructions to the model, and what a conversation has of its own: sampling, and whether they are used."""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    op.create_table(
        "instructions",
        sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
    )
    op.add_column("conversations", sa.Column("sampling", sa.JSON))
    op.add_column("conversations", sa.Column("without_instructions", sa.Boolean))
