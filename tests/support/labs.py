"""Names for the labs of tests, so that the tests of two checkouts can run on one machine at the same time."""

from __future__ import annotations

import os

_TAG = os.environ.get("SEGUE_TEST_LAB", "")


def lab_name(name: str) -> str:
    """The lab of that name for this run: its own where ``$SEGUE_TEST_LAB`` (up to six letters) tells runs apart."""
    return f"{name}{_TAG}"
