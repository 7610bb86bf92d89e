"""The schema 2: keys that end, one-time links that say why they no longer work, a second administrator, and allowances
for wrong passwords in place of a count of failures."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"

_YEAR_US = 365 * 24 * 3600 * 1_000_000


def upgrade() -> None:
    for table, name, kind in (
        ("users", "vouched_by", sa.Text),
        ("users", "admin_ended_us", sa.BigInteger),
        ("links", "ended", sa.Text),
        ("links", "made_by", sa.Text),
        ("api_keys", "expires_us", sa.BigInteger),
    ):
        op.add_column(table, sa.Column(name, kind))
    # Keys made without an end get one, a year after they were made.
    op.execute(f"UPDATE api_keys SET expires_us = created_us + {_YEAR_US}")  # noqa: S608 - a number of ours
    op.drop_table("sign_in_failures")
    op.create_table(
        "sign_in_limits",
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("full_us", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_sign_in_limits_full_us", "sign_in_limits", ["full_us"])
    op.create_table(
        "known_addresses",
        sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("network", sa.Text, primary_key=True),
        sa.Column("seen_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "approvals",
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
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("decided_by", sa.Text),
    )
    op.create_index("ix_approvals_state", "approvals", ["state"])
