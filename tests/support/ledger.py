"""An action log that keeps what it is told, for driving attempts without an engine."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from segue.core.record import Action, Step


class Ledger:
    """Every action that was surrounded, and how it ended, in order."""

    def __init__(self) -> None:
        self.lines: list[tuple[Action, Step]] = []

    @contextlib.asynccontextmanager
    async def acting(self, action: Action, detail: str = "") -> AsyncIterator[None]:  # noqa: ARG002
        self.lines.append((action, Step.INTENT))
        try:
            yield
        except BaseException:
            self.lines.append((action, Step.FAILED))
            raise
        self.lines.append((action, Step.DONE))
