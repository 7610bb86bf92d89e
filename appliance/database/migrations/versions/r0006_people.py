"""Groups of people, and when each account was last signed in to.

The time of the accounts that exist comes from the record's own events.
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

_LAST_SIGN_IN = """
UPDATE users SET signed_in_us = (
    SELECT MAX(time_us) FROM audit_events
    WHERE actor_name = users.name AND actor_id = users.id AND action = 'sign_in' AND outcome = 'ok'
)
"""


def upgrade() -> None:
    op.add_column("users", sa.Column("signed_in_us", sa.BigInteger))
    op.execute(_LAST_SIGN_IN)  # the index of actor_name finds each person's events
    op.create_table(
        "people_groups",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("name", sa.Text, nullable=False, unique=True),
        sa.Column("created_us", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "group_members",
        sa.Column("group_id", sa.Text, sa.ForeignKey("people_groups.id", ondelete="CASCADE"), primary_key=True),
        sa.Column("user_id", sa.Text, sa.ForeignKey("users.id", ondelete="CASCADE"), primary_key=True),
    )
    op.create_index("ix_group_members_user_id", "group_members", ["user_id"])
