"""Alembic runs this file. It migrates through the connection that `migrate` has opened."""

from alembic import context

attributes = context.config.attributes
context.configure(connection=attributes["connection"], **attributes["options"])
context.run_migrations()
