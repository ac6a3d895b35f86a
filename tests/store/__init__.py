"""Where migrations are written down: one suite on SQLite and on a real PostgreSQL."""
