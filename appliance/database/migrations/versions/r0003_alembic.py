"""Alembic keeps the revision from here on."""

import sqlalchemy as sa
from alembic import op

from appliance.database.schema import SINCE_ALEMBIC

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    # Some databases of the schema 2 have this table: it came without a number of its own.
    op.create_table(
        "recorded_bytes",
        sa.Column("user_id", sa.Text, primary_key=True),
        sa.Column("day", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("bytes", sa.BigInteger, nullable=False),
        sa.Column("refused", sa.Boolean, nullable=False),
        if_not_exists=True,
    )
    with op.batch_alter_table("recorded_bytes") as recorded_bytes:  # it was narrower in some of them
        recorded_bytes.alter_column("day", type_=sa.BigInteger, existing_nullable=False)
    settings = sa.table("settings", sa.column("name"), sa.column("value"))
    op.execute(settings.update().where(settings.c.name == "schema").values(value=SINCE_ALEMBIC))
