"""What is promised has grown: a budget of bytes, a bound of slow-down, what to do on a miss, the ladder that is climbed.

All of it stands in the JSON of what was asked for, which an older Segue would read past: it would lead such a migration, or
take it up, and keep none of it. So the tables stay as they are, and the revision tells it to leave them alone.
"""

from __future__ import annotations

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Nothing changes in the tables: what older Segues wrote lacks the new fields, and has their defaults."""
