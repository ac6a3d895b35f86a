"""What Alembic runs: the upgrade happens on the connection, and in the transaction, that `upgrade` was given."""

from __future__ import annotations

from alembic import context

context.configure(connection=context.config.attributes["connection"], render_as_batch=True)
context.run_migrations()
