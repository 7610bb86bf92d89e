"""Alembic runs this file, which runs the migrations on the connection, and in the transaction, of `migrate`.

It has to act when it is loaded: that is alembic's contract.
"""

from alembic import context

context.configure(
    connection=context.config.attributes["connection"],
    # Alembic calls SQLite's DDL non-transactional because Python's driver used to commit before it. Ours does not:
    # `Database` begins transactions itself.
    transactional_ddl=True,
)
context.run_migrations()
