"""The schema 1, of release 0.1.0. No database is made by this: it only gives that schema a revision."""

revision = "0001"
down_revision = None


def upgrade() -> None:
    """The tables are there."""
