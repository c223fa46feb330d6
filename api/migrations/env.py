"""Alembic's entry: it works on the connection that api.store.upgrade_schema opened, in its transaction."""
from alembic import context

from api.schema import metadata

context.configure(connection=context.config.attributes["connection"], target_metadata=metadata, render_as_batch=True)
context.run_migrations()
