"""Responses are kept while their turns run. What is kept until now is over."""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("kept_responses", sa.Column("running", sa.Boolean, nullable=False, server_default=sa.false()))
